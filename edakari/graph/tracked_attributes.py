"""Integer attributes of modules that remember where they come from while a network is traced."""

from __future__ import annotations

from torch import nn

from edakari.core.modules import modules_of
from edakari.graph.held import OWN, PLAIN, containers, held, with_item
from edakari.graph.tracked_ints import Attribute, tracked
from edakari.graph.widths import width_attributes

__all__ = ["OPAQUE", "is_known", "track_attributes"]

KNOWN = "torch.nn.modules"
"""Package of torch's own modules, whose attributes the table of `graph/module_attributes.py` knows, except those in
OPEN. Of their attributes, only those that other code may read are tracked."""

OPEN = (nn.Unflatten, nn.GroupNorm)

OPAQUE = (nn.MultiheadAttention,)
"""Modules that are replaced by one of edakari's when they are cut, whatever their own code computes."""


def is_known(module: nn.Module) -> bool:
    """Whether a module is one of torch's own whose attributes the table updates."""
    return type(module).__module__.startswith(KNOWN) and not isinstance(module, OPEN)


def track_attributes(copy: nn.Module, model: nn.Module) -> None:
    """Make the integer attributes of a network's modules remember their origin.

    Args:
        copy: copy of the network; it changes.
        model: network; objects that the copy shares with it, such as a library's settings, do not change.
    """
    shared = {
        id(each)
        for _, module in modules_of(model)
        for value in vars(module).values()
        if type(value) not in PLAIN
        for each in containers(value)
    }
    for path, module in modules_of(copy):
        if isinstance(module, OPAQUE):
            continue
        names = [name for name, _ in width_attributes(module)] if is_known(module) else _names(module)
        for name in names:
            value = getattr(module, name)
            if any(id(each) in shared and not isinstance(each, tuple) for each in containers(value)):
                continue
            for full, item in list(held(value, name)):
                if type(item) is int and item > 1:
                    value = with_item(value, full.split(".")[1:], tracked(item, Attribute(path, full)))
                    vars(module)[name] = value


def _names(module: nn.Module) -> list[str]:
    """Attributes of a module's own code, including those of its class."""
    classes = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    of_class = {name: None for cls in classes for name, value in vars(cls).items() if type(value) is int}
    return [name for name in {**of_class, **vars(module)} if name not in OWN and not name.startswith("__")]

"""Teachers of tasks that are said in Python."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.arguments import found_as, require_methods
from edakari.core.comparing import Compare, Kept, captured, compare_features, compare_outputs
from edakari.core.feeding import moved_to
from edakari.core.modes import eval_mode
from edakari.core.protocols import Batch
from edakari.errors import DataError, WrongArgument

__all__ = ["Features", "Teacher", "Teaching", "teaching_of"]

Teacher = nn.Module | Callable[[Batch], Any]
"""A network, or a function from a batch to outputs."""
Features = Mapping[str, float] | Sequence[str]
"""Modules whose outputs are compared, with weights; without weights, each counts 1."""
Feed = Callable[[nn.Module, Batch], Any]


@dc.dataclass(frozen=True)
class Teaching:
    """Who teaches a network, and what is compared.

    Args:
        teacher: the teacher; None is the network as it was before pruning, which a run knows.
        compare: comparison of the outputs; None compares features alone.
        features: weight of each module whose outputs are compared.
        kept: what a cut kept of the teacher's features.
        itself: whether the teacher is the network before pruning.
    """

    teacher: Teacher | None
    compare: Compare | None
    features: Mapping[str, float] = dc.field(default_factory=dict)
    kept: Kept = dc.field(default_factory=dict)
    itself: bool = False

    def terms(self, own: Any, features: Mapping[str, list[torch.Tensor]], batch: Batch, feed: Feed) -> Any:
        """Compute the loss terms of a batch.

        Args:
            own: outputs of the network; unused if only features are compared.
            features: features of the network by module.
            batch: the batch, where the network is.
            feed: function that gives a network the inputs of a batch.

        Returns:
            "distillation" if outputs are compared, and "features.MODULE" for each module.

        Raises:
            DataError: the teacher is not known yet, or the outputs cannot be compared.
            ModelError: the features cannot be compared.
            WrongArgument: `distill` gives something else than a tensor.
        """
        aims, seen = self._asked(batch, feed)
        terms = {}
        if self.compare is not None:
            found = self.compare(own, aims, batch)
            if not isinstance(found, torch.Tensor) or found.numel() != 1:
                raise WrongArgument(
                    "Task.of: distill(outputs, teacher_outputs, batch) gives a tensor with one value, but gave "
                    + (f"a tensor {list(found.shape)}" if isinstance(found, torch.Tensor) else found_as(found))
                )
            terms["distillation"] = found
        return {**terms, **compare_features(features, seen, self.features, self.kept)}

    def _asked(self, batch: Batch, feed: Feed) -> tuple[Any, Mapping[str, list[torch.Tensor]]]:
        teacher = self.teacher
        if teacher is None:
            raise DataError(
                "the teacher of this task is the network before pruning, which edakari.prune and edakari.run know; "
                'elsewhere, pass that network: Task.of(..., teacher=network) in place of teacher="dense"'
            )
        with torch.no_grad(), captured(teacher, self.features) as seen:
            if not isinstance(teacher, nn.Module):
                return teacher(batch), seen
            device = next((tensor.device for tensor in _tensors(batch)), None)
            if device is not None:
                teacher.to(device)
            with eval_mode(teacher):
                return feed(teacher, moved_to(teacher, batch)), seen


def _tensors(batch: Batch) -> list[torch.Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]


def teaching_of(
    call: str,
    teacher: Teacher | Literal["dense"] | None,
    distill: Compare | Literal["kl", "mse"] | None,
    features: Features,
) -> Teaching | None:
    """Check and join the parts of a teaching; None without a teacher.

    Raises:
        WrongArgument: a part is of another kind than what belongs there.
        DataError: there is something to compare, but no teacher.
        UnknownName: the teacher has no such module.
    """
    named = {features: 1.0} if isinstance(features, str) else features
    weights = dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, 1.0)
    wrong = [
        name for name, weight in weights.items() if isinstance(weight, bool) or not isinstance(weight, int | float)
    ]
    if wrong or not all(isinstance(name, str) for name in weights) or not all(each > 0 for each in weights.values()):
        raise WrongArgument(f"{call}: features takes names of modules with weights above 0, but got {features!r}")
    if teacher is None:
        if distill is not None or weights:
            raise DataError(f"{call}: distill and features compare with a teacher; give one: teacher=network")
        return None
    if isinstance(teacher, str) and teacher != "dense":
        raise WrongArgument(f'{call}: teacher takes a network, a function of a batch, or "dense", but got {teacher!r}')
    if not isinstance(teacher, str):
        require_methods(call, "teacher", teacher, ("__call__",))
        with captured(teacher, weights):  # names of modules are wrong now, not hours later
            pass
    if isinstance(distill, str) and distill not in COMPARISONS:
        raise WrongArgument(f'{call}: distill takes a function, "kl" or "mse", but got {distill!r}')
    if distill is not None and not isinstance(distill, str):
        require_methods(call, "distill", distill, ("__call__",))
    compare = COMPARISONS[distill] if isinstance(distill, str) else distill
    if compare is None and not weights:
        compare = COMPARISONS["kl"]
    return Teaching(None if isinstance(teacher, str) else teacher, compare, weights)


def _compared(outputs: Any, aims: Any, batch: Batch, *, logits: bool) -> torch.Tensor:
    return compare_outputs(outputs, aims, logits=logits)


COMPARISONS: Mapping[str, Compare] = {
    "kl": functools.partial(_compared, logits=True),
    "mse": functools.partial(_compared, logits=False),
}
"""Comparisons by name; see `edakari.core.comparing.compare_outputs`."""

"""A cache of module outputs, reused while only later modules change."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.stand_ins import put_stand_in, take_stand_in_off

__all__ = ["Reuse"]


@dc.dataclass(slots=True)
class _Record:
    """One call of a module: its start and end, and its output, which is valid until it is overwritten."""

    start: int
    end: int = -1
    output: torch.Tensor | None = None
    version: int = 0

    @property
    def valid(self) -> bool:
        return self.output is not None and self.output._version == self.version


class Reuse:
    """A cache of the outputs of a network's modules, by forward pass; run state.

    A pass is recorded once. Later passes over the same inputs, in which some modules have changed, reuse the outputs of
    modules that finished before the first changed module started.

    Args:
        model: the network.
        limit: largest size of the cache in bytes; outputs beyond it are computed in every pass.
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        self.model, self.limit = model, limit
        self._passes: dict[Any, dict[str, list[_Record]]] = {}
        self._bytes = 0

    def forget(self) -> None:
        """Drop all records."""
        self._passes, self._bytes = {}, 0

    @contextlib.contextmanager
    def recording(self, key: Any) -> Iterator[None]:
        """Record the forward pass that runs inside the context.

        Args:
            key: name of the pass.
        """
        records: dict[str, list[_Record]] = {}
        clock = iter(range(1 << 62))
        handles: list[Any] = []
        for name, module in self.model.named_modules():
            if name:
                own = records.setdefault(name, [])
                handles.append(module.register_forward_pre_hook(_begun(own, clock)))
                handles.append(module.register_forward_hook(self._ended(own, clock)))
        try:
            yield
            self._passes[key] = records
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def reusing(self, key: Any, changed: Collection[str]) -> Iterator[None]:
        """Reuse recorded outputs in the forward pass that runs inside the context.

        Args:
            key: name of the recorded pass; if there is none, everything is computed.
            changed: names of modules that have changed since the pass was recorded.
        """
        records = self._passes.get(key, {})
        starts = [record.start for name in changed for record in records.get(name, ())]
        replaced: list[tuple[nn.Module, Any]] = []
        try:
            if starts and "" not in changed:
                self._replace(self.model, "", records, min(starts), replaced)
            yield
        finally:
            for module, before in replaced:
                take_stand_in_off(module, before=before)

    def _replace(
        self,
        module: nn.Module,
        name: str,
        records: dict[str, list[_Record]],
        until: int,
        replaced: list[tuple[nn.Module, Any]],
    ) -> None:
        for child, below in module.named_children():
            path = f"{name}.{child}" if name else child
            own = records.get(path, [])
            if own and all(record.valid and record.end < until for record in own):
                replaced.append((below, put_stand_in(below, _replayed([record.output for record in own]))))
            else:
                self._replace(below, path, records, until, replaced)

    def _ended(self, own: list[_Record], clock: Iterator[int]) -> Callable[[nn.Module, Any, Any], None]:
        def ended(module: nn.Module, args: Any, output: Any) -> None:
            record = next(record for record in reversed(own) if record.end < 0)
            record.end = next(clock)
            if isinstance(output, torch.Tensor) and self._bytes + output.nbytes <= self.limit:
                # a container and its last module return the same tensor, so this counts some tensors twice
                self._bytes += output.nbytes
                record.output, record.version = output.detach(), output._version

        return ended


def _begun(own: list[_Record], clock: Iterator[int]) -> Callable[[nn.Module, Any], None]:
    def begun(module: nn.Module, args: Any) -> None:
        own.append(_Record(next(clock)))

    return begun


def _replayed(outputs: list[torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
    """Return a forward function that returns the recorded outputs, call by call."""
    calls = iter(outputs)

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        return next(calls)

    return forward

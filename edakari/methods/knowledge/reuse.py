"""What a network's modules gave is kept, and handed out again where a change further on cannot have altered it."""

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
    """One call of a module: when it began and ended, and what it gave, as long as nothing has written over it."""

    start: int
    end: int = -1
    output: torch.Tensor | None = None
    version: int = 0

    @property
    def valid(self) -> bool:
        return self.output is not None and self.output._version == self.version


class Reuse:
    """Outputs of a network's modules, pass by pass; run state.

    A pass is recorded once. In later passes over the same inputs, in which some modules compute otherwise, whatever was
    finished before the first of them began is handed out instead of computed.

    Args:
        model: the network.
        limit: bytes that records may take; what comes later in a pass is computed each time.
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        self.model, self.limit = model, limit
        self._passes: dict[Any, dict[str, list[_Record]]] = {}
        self._bytes = 0

    def forget(self) -> None:
        """Let go of all records."""
        self._passes, self._bytes = {}, 0

    @contextlib.contextmanager
    def recording(self, key: Any) -> Iterator[None]:
        """Record the pass that is made inside, under a name."""
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
    def handing_out(self, key: Any, changed: Collection[str]) -> Iterator[None]:
        """Inside, the pass of a name is made again with some modules changed.

        Args:
            key: of the recorded pass; where there is none, everything is computed.
            changed: names of modules that compute otherwise than when it was recorded.
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
                replaced.append((below, put_stand_in(below, _given([record.output for record in own]))))
            else:
                self._replace(below, path, records, until, replaced)

    def _ended(self, own: list[_Record], clock: Iterator[int]) -> Callable[[nn.Module, Any, Any], None]:
        def ended(module: nn.Module, args: Any, output: Any) -> None:
            record = next(record for record in reversed(own) if record.end < 0)
            record.end = next(clock)
            if isinstance(output, torch.Tensor) and self._bytes + output.nbytes <= self.limit:
                # containers give out what the last module in them gave, which is counted twice: a limit, not a measure
                self._bytes += output.nbytes
                record.output, record.version = output.detach(), output._version

        return ended


def _begun(own: list[_Record], clock: Iterator[int]) -> Callable[[nn.Module, Any], None]:
    def begun(module: nn.Module, args: Any) -> None:
        own.append(_Record(next(clock)))

    return begun


def _given(outputs: list[torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
    """A forward that gives out what each call gave."""
    calls = iter(outputs)

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        return next(calls)

    return forward

"""The mode in which every operator that torch runs is handed to a callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OperatorMode"]


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch does not annotate its hook of subclasses
    """Hands every operator to a callback in place of running it.

    Args:
        handle: is given an operator, its positional and its named arguments, and returns what the operator would.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would wrap the method below, which costs more than the method; nothing compiles it

    def __init__(self, handle: Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # nor its constructor
        self.handle = handle

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.handle(func, args, kwargs or {})

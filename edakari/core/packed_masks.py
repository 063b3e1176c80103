"""Masks of single weights as packed bits: eight weights a byte, and a digest that names them."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import math

import numpy as np
import numpy.typing as npt

from edakari.errors import PlanError

__all__ = ["PackedMask"]


@dc.dataclass(frozen=True, slots=True)
class PackedMask:
    """Mask of a parameter's weights as bits.

    Args:
        shape: shape of the parameter.
        bits: one bit per weight in row-major order, the first one highest in its byte; 1 keeps the weight.
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> PackedMask:
        """Pack a mask."""
        return cls(tuple(map(int, mask.shape)), np.packbits(mask, axis=None).tobytes())

    @property
    def digest(self) -> str:
        """SHA-256 of shape and bits."""
        return hashlib.sha256(str(self.shape).encode() + self.bits).hexdigest()

    @property
    def count(self) -> int:
        """Number of weights that stay."""
        return int(self.array().sum())

    def array(self) -> npt.NDArray[np.bool_]:
        """Return the mask, bool [*shape]; True keeps the weight."""
        size = math.prod(self.shape)
        flat = np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=size)
        return flat.astype(np.bool_).reshape(self.shape)

    def checked(self, parameter: str, digest: str) -> PackedMask:
        """Return the mask itself if its digest is this one.

        Raises:
            PlanError: the bits are others than those that the plan names; the message names the parameter.
        """
        if len(self.bits) != -(-math.prod(self.shape) // 8) or self.digest != digest:
            raise PlanError(
                f"the bits of the mask of {parameter!r} are not those that the plan was made with; was their file "
                "damaged, or replaced by that of another plan?"
            )
        return self

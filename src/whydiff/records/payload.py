"""A full tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """A full tensor on the host, bit for bit.

    Attributes:
        bits: C-contiguous numpy array of ``spec.shape``. Its numpy dtype is the true one where numpy has it,
            else the unsigned integer of the same width (bfloat16 → uint16, float8 → uint8).
        dtype: the true dtype's name.
    """

    bits: np.ndarray[Any, Any]
    dtype: str

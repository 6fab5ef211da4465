"""A full tensor, and how a tensor looks at its memory."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape, dtype, device and layout of a tensor.

    Attributes:
        shape: sizes, outermost first.
        dtype: framework-neutral name: ``"float32"``, ``"bfloat16"``, ``"float8_e4m3fn"``, ``"int64"`` …
        device: ``"cpu"``, ``"cuda:0"`` …
        strides: in elements (not bytes); empty for a contiguous tensor of unknown layout.
        offset: first element within its storage, in elements.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    strides: tuple[int, ...] = ()
    offset: int = 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie in row-major order, one beside the other; so where no layout is known."""
        sizes = self.shape[::-1]
        inner = itertools.accumulate(sizes, operator.mul, initial=1)  # elements of all inner dimensions
        known = zip(sizes, self.strides[::-1], inner, strict=False)  # no strides: nothing is known
        return all(stride == step for size, stride, step in known if size > 1)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


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

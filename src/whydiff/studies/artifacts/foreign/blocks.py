"""Block-quantised tensors of GGUF as a line of float32 numbers, unpacked share by share by the library that owns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whydiff.studies.artifacts.sources import FileRange

Array = np.ndarray[Any, Any]


def block_bytes(packed: str, numbers: int) -> int:
    """Bytes of so many numbers.

    Raises:
        ValueError: they fill no whole number of blocks.
    """
    each, size = _layout(packed)
    if numbers % each:
        raise ValueError(f"{numbers} numbers are no whole number of {packed} blocks of {each}")
    return numbers // each * size


class Blocks:
    """Numbers in blocks that share a scale; a `whydiff.studies.artifacts.sources.Source` of float32."""

    def __init__(self, bytes_: FileRange, packed: str, numbers: int) -> None:
        self._bytes, self._packed, self._numbers = bytes_, packed, numbers
        self._each, self._size = _layout(packed)

    def line(self, start: int, stop: int) -> Array:
        """Numbers ``[start, stop)``."""
        first, last = start // self._each, -(-stop // self._each)
        return self._unpacked(first, last)[start - first * self._each : stop - first * self._each]

    def rows(self, indices: Sequence[int], width: int) -> Array:
        """Rows of ``width`` numbers each."""
        return np.stack([np.array(self.line(index * width, (index + 1) * width)) for index in indices])

    def release(self) -> None:
        """Give back what can be read again."""
        self._bytes.release()

    def _unpacked(self, first: int, last: int) -> Array:
        from gguf import GGMLQuantizationType, quants

        blocks = np.array(self._bytes.line(first * self._size, last * self._size)).reshape(-1, self._size)
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale
            found: Array = quants.dequantize(blocks, GGMLQuantizationType[self._packed])
        return found.astype(np.float32, copy=False).reshape(-1)


def _layout(packed: str) -> tuple[int, int]:
    """Numbers and bytes of one block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    each, size = GGML_QUANT_SIZES[GGMLQuantizationType[packed]]
    return int(each), int(size)

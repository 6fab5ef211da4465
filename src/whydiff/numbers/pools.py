"""Pooling in one form, carried out in numpy: the largest or the mean of each window of some axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.numbers.windows import Window, is_same_padding, other_paddings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Pooling:
    """How windows of a tensor become one number each.

    Attributes:
        axes: along which windows lie.
        sizes, stride, dilation: per such axis, elements of a window, steps between windows, steps inside one.
        padding: per axis, places before and after the tensor.
        mean: the mean of a window; otherwise its largest element.
        counted: a mean counts the places of the padding, as zeros.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    mean: bool = False
    counted: bool = True

    def says(self, shape: Sequence[int]) -> str:
        """In words, for an operand of this shape."""
        pads = "×".join(f"({lo}, {hi})" for lo, hi in self.padding)
        window, data, kernel, _ = _as_window(self, shape, shape)
        same = " (SAME)" if is_same_padding(window, self.padding, data, kernel) else ""
        counts = f", {'counts' if self.counted else 'does not count'} the padding" if self.mean and _pads(self) else ""
        return f"takes the {'mean' if self.mean else 'largest'} of windows, pads {pads}{same}{counts}"


def pooled(way: Pooling, x: Array) -> Array:
    """The result in float64."""
    around = [(0, 0)] * x.ndim
    for axis, pair in zip(way.axes, way.padding, strict=True):
        around[axis] = pair
    padded = np.pad(np.asarray(x, np.float64), around, constant_values=0.0 if way.mean else -np.inf)
    total = _over(way, padded, np.add if way.mean else np.maximum)
    if not way.mean:
        return total
    inside = np.pad(np.ones(x.shape), around, constant_values=1.0 if way.counted else 0.0)
    return np.asarray(total / _over(way, inside, np.add))


def _over(way: Pooling, padded: Array, join: np.ufunc) -> Array:
    counts = [
        (padded.shape[a] - d * (k - 1) - 1) // s + 1
        for a, k, s, d in zip(way.axes, way.sizes, way.stride, way.dilation, strict=True)
    ]
    whole: Array | None = None
    for place in itertools.product(*map(range, way.sizes)):
        part = [slice(None)] * padded.ndim
        for axis, p, s, d, m in zip(way.axes, place, way.stride, way.dilation, counts, strict=True):
            part[axis] = slice(p * d, p * d + s * (m - 1) + 1, s)
        shown = padded[tuple(part)]
        whole = shown if whole is None else join(whole, shown)
    assert whole is not None
    return whole


def others(way: Pooling, shape: Sequence[int], out: Sequence[int]) -> Iterator[Pooling]:
    """Other ways that give a result of the same shape, the likeliest first."""
    paddings = [pads for pads in other_paddings(*_as_window(way, shape, out)) if all(min(pair) >= 0 for pair in pads)]
    if way.mean and _pads(way):
        yield replace(way, counted=not way.counted)
    yield from (replace(way, padding=padding) for padding in paddings)
    yield replace(way, mean=not way.mean)
    if way.mean:
        yield from (replace(way, padding=padding, counted=not way.counted) for padding in paddings)
    elif _pads(way):
        yield replace(way, mean=True, counted=False)


def _pads(way: Pooling) -> bool:
    return any(map(any, way.padding))


def _as_window(
    way: Pooling, shape: Sequence[int], out: Sequence[int]
) -> tuple[Window, list[int], list[int], list[int]]:
    """The same windows as those of a convolution of one channel, and its operand's, kernel's and result's shapes."""
    axes = tuple(range(len(way.axes) + 2))
    window = Window(
        data=axes,
        kernel=axes,
        out=axes,
        stride=way.stride,
        padding=way.padding,
        spread=(1,) * len(way.axes),
        dilation=way.dilation,
    )
    return window, [1, 1, *(shape[a] for a in way.axes)], [1, 1, *way.sizes], [1, 1, *(out[a] for a in way.axes)]

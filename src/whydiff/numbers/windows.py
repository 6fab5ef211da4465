"""Convolutions of every kind in one form, and carried out in numpy: what frameworks spell each in their own way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution as a correlation of a spread and padded operand.

    Attributes:
        data: axes of the operand in the order batch, channels, space.
        kernel: axes of the kernel in the order output channels, input channels of one group, space.
        out: axes of the result in the order batch, channels, space.
        stride: per axis of space, steps between outputs.
        padding: per axis, zeros before and after the operand; negative: cut off.
        spread: per axis, 1 + the zeros between the operand's elements (a transposed convolution's stride).
        dilation: per axis, steps between the kernel's elements.
        groups: into how many groups the channels fall.
        turned: the kernel is read backwards along every axis of space, as a transposed convolution does.
        bias: which read is added per output channel; -1: none.
    """

    data: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    turned: bool = False
    bias: int = -1


def convolved(window: Window, reads: Sequence[Array]) -> Array:
    """The result in float64, with the axes that the window says; ``reads``: operand, kernel and perhaps a bias."""
    x = reads[0].transpose(window.data)
    kernel = reads[1].transpose(window.kernel)
    if window.turned:
        kernel = kernel[(slice(None), slice(None), *(slice(None, None, -1),) * (kernel.ndim - 2))]
    x = _padded(_spread(x, window.spread), window.padding)
    sizes = tuple(
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], kernel.shape[2:], window.stride, window.dilation, strict=True)
    )
    grouped = x.reshape(x.shape[0], window.groups, -1, *x.shape[2:])
    weights = kernel.reshape(window.groups, -1, *kernel.shape[1:])
    total = np.zeros((x.shape[0], window.groups, weights.shape[1], *sizes))
    for place in itertools.product(*map(range, kernel.shape[2:])):
        part = tuple(
            slice(p * d, p * d + s * (m - 1) + 1, s)
            for p, d, s, m in zip(place, window.dilation, window.stride, sizes, strict=True)
        )
        shown = grouped[(slice(None), slice(None), slice(None), *part)]
        here: Any = (..., *place)
        total += np.einsum("ngi...,goi->ngo...", shown, weights[here])
    whole = total.reshape(x.shape[0], -1, *sizes)
    if window.bias >= 0:
        whole = whole + reads[window.bias].reshape(1, -1, *(1,) * len(sizes))
    return whole.transpose(np.argsort(window.out))


def _spread(x: Array, steps: Sequence[int]) -> Array:
    if max(steps, default=1) == 1:
        return x
    shape = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], steps, strict=True)]
    wide = np.zeros((*x.shape[:2], *shape))
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in steps))] = x
    return wide


def _padded(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    kept = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape[2:], padding, strict=True))
    zeros = [(0, 0), (0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in padding)]
    return np.pad(x[(slice(None), slice(None), *kept)], zeros)


def other_paddings(
    window: Window, data: Sequence[int], kernel: Sequence[int], out: Sequence[int]
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Paddings with which the result has the same shape: first those moved alike along every axis, then all others.

    Args:
        window: whose own padding is left out.
        data, kernel, out: shapes of operand, kernel and result.
    """
    options = []
    for axis, stride in enumerate(window.stride):
        size = (data[window.data[axis + 2]] - 1) * window.spread[axis] + 1
        reach = (kernel[window.kernel[axis + 2]] - 1) * window.dilation[axis] + 1
        needed = (out[window.out[axis + 2]] - 1) * stride + reach - size
        options.append({lo: (lo, needed - lo) for lo in range(reach)})
    own = tuple(lo for lo, _ in window.padding)
    alike = [tuple(lo + step for lo in own) for step in (-1, 1, -2, 2, -3, 3)]
    rest = itertools.product(*options) if math.prod(map(len, options)) <= _MOST else ()
    seen = {own}
    for chosen in (*alike, *rest):
        if chosen not in seen and all(lo in some for lo, some in zip(chosen, options, strict=True)):
            seen.add(chosen)
            yield tuple(some[lo] for lo, some in zip(chosen, options, strict=True))


def other_dilations(
    window: Window, data: Sequence[int], kernel: Sequence[int], out: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
    """Other dilations, alike along every axis, with the paddings around the middle that keep the result's shape."""
    for step in range(1, _DILATION + 1):
        dilation = (step,) * len(window.stride)
        if dilation == window.dilation:
            continue
        padding = []
        for axis, stride in enumerate(window.stride):
            size = (data[window.data[axis + 2]] - 1) * window.spread[axis] + 1
            reach = (kernel[window.kernel[axis + 2]] - 1) * step + 1
            whole = (out[window.out[axis + 2]] - 1) * stride + reach - size
            lo, hi = window.padding[axis]
            before = (whole + lo - hi) // 2  # as far from the middle as its own
            padding.append((before, whole - before))
        yield dilation, tuple(padding)


_DILATION = 4
_MOST = 81
"""Paddings that are tried at most (a size, not a tolerance)."""


def is_same_padding(
    window: Window, padding: Sequence[tuple[int, int]], data: Sequence[int], kernel: Sequence[int]
) -> bool:
    """Whether this is SAME padding: ceil(size / stride) outputs, the odd zero behind (XLA's rule)."""
    for axis, (lo, hi) in enumerate(padding):
        size, stride = data[window.data[axis + 2]], window.stride[axis]
        reach = (kernel[window.kernel[axis + 2]] - 1) * window.dilation[axis] + 1
        whole = max((-(-size // stride) - 1) * stride + reach - size, 0)
        if window.spread[axis] != 1 or (lo, hi) != (whole // 2, whole - whole // 2):
            return False
    return True

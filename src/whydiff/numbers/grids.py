"""Resampling of images along axes: which grid, which kernel, which edge; carried out by one matrix per axis.

Sources: PyTorch, ``aten/src/ATen/native/UpSample.h``; JAX, ``jax/_src/image/scale.py``; ONNX, operator Resize.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Grid = Literal["half pixels", "aligned corners", "asymmetric"]
Kernel = Literal["nearest", "linear", "cubic"]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How one tensor is made larger or smaller.

    Attributes:
        axes: which are resampled.
        kernel: of what is read between two elements.
        grid: where an output element lies: ``half pixels`` (i + 0.5) / s - 0.5, ``aligned corners``
            i (n - 1) / (m - 1), ``asymmetric`` i / s.
        scales: per axis, given by the program; empty: output size / input size.
        cubic: the cubic kernel's coefficient (-0.75 in PyTorch, -0.5 in JAX).
        nearest: of the two nearest elements: ``down`` (floor) or ``near`` (halves down).
        widened: the kernel grows with the step when the image shrinks (antialiasing).
        left_out: what lies outside has no weight (JAX); otherwise the edge is repeated.
    """

    axes: tuple[int, ...]
    kernel: Kernel
    grid: Grid = "half pixels"
    scales: tuple[float, ...] = ()
    cubic: float = -0.75
    nearest: Literal["down", "near"] = "down"
    widened: bool = False
    left_out: bool = False

    def __str__(self) -> str:
        how = {"cubic": f" ({self.cubic:g})", "nearest": f" ({self.nearest})", "linear": ""}[self.kernel]
        return f"{self.kernel}{how} on {self.grid}" + (", antialiased" if self.widened else "")


def resampled(way: Resampling, x: Array, shape: tuple[int, ...]) -> Array:
    """A tensor of another shape in float64."""
    for number, axis in enumerate(way.axes):
        scale = way.scales[number] if way.scales else shape[axis] / x.shape[axis]
        weights = _matrix(way, x.shape[axis], shape[axis], scale)
        x = np.moveaxis(np.tensordot(weights, x, axes=(1, axis)), 0, axis)
    return x


def others(way: Resampling) -> Iterator[Resampling]:
    """Other ways that are taken for this one: the grid, the kernel, its coefficient, the edge."""
    kernels: list[dict[str, Any]] = [
        {"kernel": "nearest", "nearest": "down"},
        {"kernel": "nearest", "nearest": "near"},
        {"kernel": "linear"},
        {"kernel": "cubic", "cubic": -0.75},
        {"kernel": "cubic", "cubic": -0.5},
    ]
    grids: tuple[Grid, ...] = ("half pixels", "aligned corners", "asymmetric")
    own = [k for k in kernels if k["kernel"] == way.kernel]
    seen = {way}
    for some in (own, kernels):
        for edge in (way.left_out, not way.left_out):
            for widened in (way.widened, not way.widened):
                for grid in grids:
                    for kernel in some:
                        found = dataclasses.replace(way, grid=grid, left_out=edge, widened=widened, scales=(), **kernel)
                        if found not in seen:
                            seen.add(found)
                            yield found


def _matrix(way: Resampling, size: int, wanted: int, scale: float) -> Array:
    where = _places(way, size, wanted, scale)
    matrix = np.zeros((wanted, size))
    if way.kernel == "nearest":
        nearest = np.floor(where) if way.nearest == "down" else np.ceil(where - 0.5)
        matrix[np.arange(wanted), np.clip(nearest, 0, size - 1).astype(int)] = 1
        return matrix
    width = max(1.0, 1 / scale) if way.widened else 1.0
    reach = int(np.ceil((1 if way.kernel == "linear" else 2) * width))
    form = _triangle if way.kernel == "linear" else functools.partial(_cubic, a=way.cubic)
    for i, place in enumerate(where):
        taps = np.arange(int(np.floor(place)) - reach, int(np.floor(place)) + reach + 2)
        weights = form(np.abs(place - taps) / width)
        if way.left_out or way.widened:
            inside = (taps >= 0) & (taps < size)
            taps, weights = taps[inside], weights[inside]
        total = weights.sum()
        np.add.at(matrix[i], np.clip(taps, 0, size - 1), weights / (total if total else 1.0))
    return matrix


def _places(way: Resampling, size: int, wanted: int, scale: float) -> Array:
    index = np.arange(wanted, dtype=np.float64)
    if way.grid == "aligned corners":
        return index * ((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
    if way.grid == "asymmetric":
        return index / scale
    return (index + 0.5) / scale - (0.0 if way.kernel == "nearest" and way.nearest == "down" else 0.5)


def _triangle(distance: Array) -> Array:
    return np.asarray(np.maximum(0.0, 1 - distance))


def _cubic(distance: Array, a: float) -> Array:
    """Keys, Cubic convolution interpolation for digital image processing, IEEE ASSP 29, 1981."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))

"""Torch's convolutions and resamplings in the form that all frameworks share."""

from __future__ import annotations

from typing import Any

from whydiff.numbers.grids import Resampling
from whydiff.numbers.pools import Pooling
from whydiff.numbers.windows import Window
from whydiff.records import Call

_SPACE = {"1d": 1, "2d": 2, "3d": 3}
_KERNELS: dict[str, dict[str, Any]] = {
    "upsample_nearest": {"kernel": "nearest", "grid": "asymmetric"},
    "_upsample_nearest_exact": {"kernel": "nearest"},
    "upsample_linear": {"kernel": "linear"},
    "upsample_bilinear": {"kernel": "linear"},
    "upsample_trilinear": {"kernel": "linear"},
    "upsample_bicubic": {"kernel": "cubic"},
    "_upsample_bilinear": {"kernel": "linear", "widened": True},
    "_upsample_bicubic": {"kernel": "cubic", "cubic": -0.5, "widened": True},
}


def window_of(call: Call) -> Window | None:
    """A call to ``aten::convolution``; None for other calls and for grouped transposed ones."""
    if call.site.op != "convolution" or call.arguments[1]:
        return None
    _, _, bias, stride, padding, dilation, transposed, beyond, groups = call.arguments[0]
    axes = tuple(range(len(call.reads[0].spec.shape)))
    sizes = call.reads[1].spec.shape[2:]
    space = len(sizes)
    stride, padding, dilation, beyond = (_each(some, space) for some in (stride, padding, dilation, beyond))
    if len(axes) != space + 2 or (transposed and groups > 1):
        return None
    added = 2 if bias is not None else -1
    if not transposed:
        return Window(
            data=axes,
            kernel=axes,
            out=axes,
            stride=stride,
            padding=tuple((p, p) for p in padding),
            spread=(1,) * space,
            dilation=dilation,
            groups=groups,
            bias=added,
        )
    around = [d * (k - 1) - p for d, k, p in zip(dilation, sizes, padding, strict=True)]
    return Window(
        data=axes,
        kernel=(1, 0, *axes[2:]),
        out=axes,
        stride=(1,) * space,
        padding=tuple((p, p + more) for p, more in zip(around, beyond, strict=True)),
        spread=stride,
        dilation=dilation,
        turned=True,
        bias=added,
    )


def _each(given: Any, space: int) -> tuple[int, ...]:
    return tuple(given) * space if len(given) == 1 else tuple(given)


def resampling_of(call: Call) -> Resampling | None:
    """A call to one of ``aten::upsample_*``; None for other calls."""
    name = call.site.op
    smooth = name.endswith("_aa")
    stem, space = name.removesuffix("_aa")[:-2], _SPACE.get(name.removesuffix("_aa")[-2:])
    how = _KERNELS.get(stem)
    if how is None or space is None or smooth != how.get("widened", False):
        return None
    given = list(call.arguments[0][2:])
    if how["kernel"] != "nearest" and given.pop(0):
        how = {**how, "grid": "aligned corners"}
    scales = given[:space] if len(given) >= space and all(isinstance(s, float) for s in given[:space]) else ()
    return Resampling(axes=tuple(range(2, space + 2)), scales=tuple(scales), **how)


def pooling_of(call: Call) -> Pooling | None:
    """A call to one of ``aten::max_pool*`` and ``aten::avg_pool*``; None for other calls and windows over the end."""
    name = call.site.op.removesuffix("_with_indices")
    mean, space = name.startswith("avg_pool"), _SPACE.get(name[-2:])
    if space is None or name not in (f"max_pool{space}d", f"avg_pool{space}d") or call.arguments[1]:
        return None
    given = call.arguments[0][1:]
    defaults: list[Any] = [None, [], [0], False, True, None] if mean else [None, [], [0], [1], False]
    filled = [*given, *defaults[len(given) :]]
    sizes, stride, padding = filled[:3]
    dilation, beyond = ([1], filled[3]) if mean else filled[3:5]
    if beyond or (mean and filled[5] is not None):
        return None
    sizes, pads = _each(sizes, space), _each(padding, space)
    rank = len(call.reads[0].spec.shape)
    return Pooling(
        axes=tuple(range(rank - space, rank)),
        sizes=sizes,
        stride=_each(stride, space) if stride else sizes,
        padding=tuple((p, p) for p in pads),
        dilation=_each(dilation, space),
        mean=mean,
        counted=bool(filled[4]) if mean else True,
    )

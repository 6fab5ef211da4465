"""ONNX's convolutions and resizes in the form that all frameworks share."""

from __future__ import annotations

from typing import Any

from whydiff.numbers.grids import Resampling
from whydiff.numbers.pools import Pooling
from whydiff.numbers.windows import Window
from whydiff.records import Call


def window_of(call: Call) -> Window | None:
    """A Conv or ConvTranspose with its pads written out; None for other calls and for grouped transposed ones."""
    if call.site.op not in ("Conv", "ConvTranspose"):
        return None
    given = call.arguments[1]
    axes = tuple(range(len(call.reads[0].spec.shape)))
    sizes = call.reads[1].spec.shape[2:]
    space, groups = len(sizes), given.get("group", 1)
    stride, dilation = (tuple(given.get(name, (1,) * space)) for name in ("strides", "dilations"))
    bias = 2 if len(call.reads) > 2 else -1
    pads = given.get("pads", (0,) * 2 * space)
    automatic = given.get("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID") or "output_shape" in given:
        return None
    around = tuple(zip(pads[:space], pads[space:], strict=True))
    if call.site.op == "Conv":
        return Window(
            data=axes,
            kernel=axes,
            out=axes,
            stride=stride,
            padding=around,
            spread=(1,) * space,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
    if groups > 1:
        return None
    beyond = given.get("output_padding", (0,) * space)
    turned = [
        (d * (k - 1) - lo, d * (k - 1) - hi + more)
        for d, k, (lo, hi), more in zip(dilation, sizes, around, beyond, strict=True)
    ]
    return Window(
        data=axes,
        kernel=(1, 0, *axes[2:]),
        out=axes,
        stride=(1,) * space,
        padding=tuple(turned),
        spread=stride,
        dilation=dilation,
        turned=True,
        bias=bias,
    )


def resampling_of(call: Call) -> Resampling | None:
    """A Resize whose grid and kernel are known; None for other calls."""
    if call.site.op != "Resize":
        return None
    given = call.arguments[1]
    how: dict[str, Any] = {"kernel": given.get("mode", "nearest"), "cubic": given.get("cubic_coeff_a", -0.75)}
    grids = {
        "half_pixel": "half pixels",
        "pytorch_half_pixel": "half pixels",
        "align_corners": "aligned corners",
        "asymmetric": "asymmetric",
    }
    grid = grids.get(given.get("coordinate_transformation_mode", "half_pixel"))
    rounding = given.get("nearest_mode", "round_prefer_floor")
    if grid is None or (how["kernel"] == "nearest" and rounding not in ("floor", "round_prefer_floor")):
        return None
    shapes = call.reads[0].spec.shape, call.writes[0].spec.shape
    return Resampling(
        axes=tuple(axis for axis, (one, other) in enumerate(zip(*shapes, strict=True)) if one != other),
        grid=grid,  # type: ignore[arg-type]
        nearest="down" if rounding == "floor" and grid == "asymmetric" else "near",
        widened=bool(given.get("antialias", 0)),
        left_out=bool(given.get("exclude_outside", 0)),
        **how,
    )


def pooling_of(call: Call) -> Pooling | None:
    """A MaxPool or AveragePool with its pads written out; None for other calls and for windows that run over the end."""
    if call.site.op not in ("MaxPool", "AveragePool"):
        return None
    given = call.arguments[1]
    sizes = tuple(given.get("kernel_shape", ()))
    space, rank = len(sizes), len(call.reads[0].spec.shape)
    if not space or given.get("ceil_mode") or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = given.get("pads", (0,) * 2 * space)
    return Pooling(
        axes=tuple(range(rank - space, rank)),
        sizes=sizes,
        stride=tuple(given.get("strides", (1,) * space)),
        padding=tuple(zip(pads[:space], pads[space:], strict=True)),
        dilation=tuple(given.get("dilations", (1,) * space)),
        mean=call.site.op == "AveragePool",
        counted=bool(given.get("count_include_pad", 0)),
    )

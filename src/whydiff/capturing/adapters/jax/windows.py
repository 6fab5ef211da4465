"""JAX's convolutions in the form that all frameworks share."""

from __future__ import annotations

from whydiff.numbers.pools import Pooling
from whydiff.numbers.windows import Window
from whydiff.records import Call


def window_of(call: Call) -> Window | None:
    """A ``conv_general_dilated``; None for other calls and for grouped batches."""
    if call.site.op != "conv_general_dilated" or call.arguments[1]["batch_group_count"] != 1:
        return None
    given = call.arguments[1]
    axes = given["dimension_numbers"]["$record"][1]
    return Window(
        data=tuple(axes["lhs_spec"]),
        kernel=tuple(axes["rhs_spec"]),
        out=tuple(axes["out_spec"]),
        stride=tuple(given["window_strides"]),
        padding=tuple((lo, hi) for lo, hi in given["padding"]),
        spread=tuple(given["lhs_dilation"]),
        dilation=tuple(given["rhs_dilation"]),
        groups=given["feature_group_count"],
    )


def pooling_of(call: Call) -> Pooling | None:
    """A ``reduce_window_max``; None for other calls (a mean is a sum and a division here) and for spread operands."""
    if call.site.op != "reduce_window_max":
        return None
    given = call.arguments[1]
    sizes, stride = given["window_dimensions"], given["window_strides"]
    if any(step != 1 for step in given["base_dilation"]):
        return None
    axes = tuple(axis for axis, (size, step) in enumerate(zip(sizes, stride, strict=True)) if size > 1 or step > 1)
    return Pooling(
        axes=axes,
        sizes=tuple(sizes[axis] for axis in axes),
        stride=tuple(stride[axis] for axis in axes),
        padding=tuple((given["padding"][axis][0], given["padding"][axis][1]) for axis in axes),
        dilation=tuple(given["window_dilation"][axis] for axis in axes),
    )

"""JAX's convolutions in the form that all frameworks share."""

from __future__ import annotations

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

"""Which parts JAX's primitives play."""

from __future__ import annotations

from whydiff.capturing.adapters.roles import Role

NAMES: dict[Role, tuple[str, ...]] = {
    Role.MATRIX: ("dot_general",),
    Role.SUM: ("cumsum",),
    Role.SCAN: ("cumsum",),
    Role.TERMS: ("reduce_sum", "cumsum", "dot_general", "conv_general_dilated", "scatter-add"),
    Role.SCORED: ("exp",),
    Role.ELEMENTWISE: (
        *("tanh", "exp", "log", "log1p", "expm1", "rsqrt", "sqrt", "sin", "cos", "tan", "atan", "pow", "square"),
        *("add", "sub", "mul", "div", "neg", "abs", "erf", "clamp", "copy"),
    ),
    Role.CAST: ("convert_element_type", "copy"),
    Role.CARRIES: (
        *("transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "stop_gradient"),
        *("convert_element_type", "copy", "scan_slice"),
    ),
    Role.JOINS: ("concatenate",),
    Role.REVERSES: ("rev",),
    Role.LIMITS: ("min", "max", "clamp"),
    Role.TABLE: ("gather",),
    Role.CHOOSES: ("sort", "top_k", "argmax", "argmin"),
    Role.DRAWS: ("random_bits",),
    Role.ANGLE: ("cos", "sin"),
    Role.ROOT: ("rsqrt", "sqrt", "pow", "div"),
    Role.DIFFERENCE: ("sub",),
    Role.PLUS: ("add", "add_any"),
    Role.TIMES: ("mul",),
    Role.DIVIDES: ("div",),
}

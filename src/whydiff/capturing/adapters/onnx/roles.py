"""Which parts ONNX's operators play, and where they take what."""

from __future__ import annotations

from whydiff.capturing.adapters.contract import Place
from whydiff.capturing.adapters.roles import Role

NAMES: dict[Role, tuple[str, ...]] = {
    Role.CONVOLUTION: ("Conv", "ConvTranspose"),
    Role.SUM: ("ReduceSum", "ReduceMean", "CumSum"),
    Role.MEAN: ("ReduceMean", "GlobalAveragePool"),
    Role.SCAN: ("CumSum",),
    Role.SOFTMAX: ("Softmax", "LogSoftmax"),
    Role.LOGARITHMIC: ("LogSoftmax",),
    Role.SCORED: ("Softmax", "Exp"),
    Role.ELEMENTWISE: (
        *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Tanh"),
        *("Sigmoid", "Relu", "LeakyRelu", "Elu", "Gelu", "Softplus", "Mish", "HardSwish", "HardSigmoid", "Clip"),
        *("Sin", "Cos", "Max", "Min", "Where", "Cast"),
    ),
    Role.GELU: ("Gelu",),
    Role.CAST: ("Cast", "Identity"),
    Role.CARRIES: (
        *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Identity", "Cast", "CastLike"),
        *("DequantizeLinear",),
    ),
    Role.REPEATS: ("Tile",),
    Role.JOINS: ("Concat",),
    Role.LIMITS: ("Clip", "Min", "Max"),
    Role.TABLE: ("Gather", "GatherElements", "GatherND"),
    Role.CHOOSES: ("TopK", "ArgMax", "ArgMin"),
    Role.ANGLE: ("Cos", "Sin"),
    Role.ROOT: ("Sqrt", "Div", "Reciprocal", "Pow"),
    Role.DIFFERENCE: ("Sub",),
    Role.PLUS: ("Add",),
    Role.TIMES: ("Mul",),
    Role.DIVIDES: ("Div",),
    Role.SHAPE_ONLY: ("Shape", "ConstantOfShape", "Size"),
}

PLACES: dict[str, dict[str, Place]] = {
    "Softmax": {"axis": (None, "axis")},
    "LogSoftmax": {"axis": (None, "axis")},
    "Gelu": {"form": (None, "approximate")},
}
"""Operator → meaning → (position, attribute). Source: ONNX's operator schemas."""

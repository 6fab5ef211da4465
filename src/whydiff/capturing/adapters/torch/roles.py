"""Which parts ATen's operators play, and where they take what."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from whydiff.capturing.adapters.contract import Place
from whydiff.capturing.adapters.roles import Role
from whydiff.records import Call
from whydiff.records.hole import OUTSIDE

NAMES: dict[Role, tuple[str, ...]] = {
    Role.PRODUCT: ("mm", "bmm", "mv", "dot", "matmul", "linear", "addmm", "baddbmm", "addmv"),
    Role.ROWS: ("linear",),
    Role.MATRIX: ("mm", "addmm", "bmm", "baddbmm"),
    Role.CONVOLUTION: (
        *("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"),
        *("conv1d", "conv2d", "conv3d"),
    ),
    Role.TERMS: (
        *("sum", "mean", "cumsum", "nansum", "mm", "addmm", "bmm", "baddbmm", "mv", "dot", "linear", "convolution"),
        *("index_add", "index_add_", "scatter_add", "scatter_add_", "var", "std", "var_mean", "std_mean", "logsumexp"),
    ),
    Role.SUM: ("sum", "mean", "cumsum", "nansum"),
    Role.MEAN: ("mean",),
    Role.SCAN: ("cumsum",),
    Role.NORM: ("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm"),
    Role.BATCH_NORM: (
        *("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"),
    ),
    Role.GROUP_NORM: ("native_group_norm",),
    Role.SPREAD: ("std", "var", "std_mean", "var_mean"),
    Role.SOFTMAX: ("_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax"),
    Role.LOGARITHMIC: ("_log_softmax", "log_softmax"),
    Role.SCORED: ("softmax", "_softmax", "_safe_softmax", "exp"),
    Role.ELEMENTWISE: (
        *("gelu", "silu", "sigmoid", "tanh", "relu", "relu_", "softplus", "mish", "leaky_relu", "elu", "hardtanh"),
        *("hardswish", "exp", "log", "log1p", "expm1", "rsqrt", "sqrt", "reciprocal", "sin", "cos", "tan", "atan"),
        *("pow", "square", "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "neg", "abs", "erf"),
        *("clamp", "maximum", "minimum", "where", "addcmul", "addcdiv", "lerp", "logit"),
        *("_to_copy", "copy", "copy_", "clone", OUTSIDE),
    ),
    Role.GELU: ("gelu",),
    Role.SILU: ("silu",),
    Role.CANCELS: ("gelu", "mish"),
    Role.CAST: ("_to_copy", "copy", "copy_", "clone"),
    Role.CARRIES: (
        *("t", "transpose", "permute", "reshape", "view", "_unsafe_view", "expand", "unsqueeze", "squeeze", "alias"),
        *("contiguous", "detach", "_to_copy", "copy", "clone"),
    ),
    Role.REPEATS: ("repeat", "tile", "repeat_interleave"),
    Role.JOINS: ("cat", "concat"),
    Role.REVERSES: ("flip",),
    Role.LIMITS: ("hardtanh", "hardtanh_", "relu6", "clamp", "clamp_", "clamp_min", "clamp_max", "minimum", "maximum"),
    Role.TABLE: ("embedding", "index", "index_select", "gather", "take", "take_along_dim"),
    Role.CHOOSES: ("sort", "argsort", "topk", "argmax", "argmin", "max", "min", "kthvalue"),
    Role.ANGLE: ("cos", "sin"),
    Role.ROOT: ("rsqrt", "sqrt", "pow", "reciprocal", "div", "sqrt_", "rsqrt_"),
    Role.DIFFERENCE: ("sub", "sub_"),
    Role.PLUS: ("add", "add_"),
    Role.TIMES: ("mul", "mul_"),
    Role.DIVIDES: ("div", "div_"),
}


@functools.cache
def roles(op: str) -> frozenset[Role]:
    """Parts that an operator plays; attention kernels and factories are told by ATen's way of naming them."""
    found = {role for role, names in NAMES.items() if op in names}
    if "scaled_dot_product" in op:
        found |= {Role.ATTENTION, Role.SCORED}
    if op.endswith("_like") or op.startswith(("new_", "empty")):
        found.add(Role.SHAPE_ONLY)
    return frozenset(found)


def _product(left: int, right: int, bias: int | None = None) -> dict[str, Place]:
    added: dict[str, Place] = {} if bias is None else {"bias": (bias, "bias")}
    return {"left": (left, "self"), "right": (right, "mat2"), **added, "alpha": (None, "alpha"), "beta": (None, "beta")}


def _attention(mask: int | None, causal: int) -> dict[str, Place]:
    return {
        "query": (0, "query"),
        "key": (1, "key"),
        "value": (2, "value"),
        "mask": (mask, "attn_mask"),
        "dropout": (causal - 1, "dropout_p"),
        "causal": (causal, "is_causal"),
        "scale": (None, "scale"),
    }


def _norm(bias: int | None, eps: int) -> dict[str, Place]:
    added: dict[str, Place] = {} if bias is None else {"bias": (bias, "bias")}
    return {"over": (1, "normalized_shape"), "weight": (2, "weight"), **added, "eps": (eps, "eps")}


_CONVOLUTION: dict[str, Place] = {"bias": (2, "bias"), "transposed": (6, "transposed")}
_CORRECTION: dict[str, Place] = {"correction": (None, "correction")}
_AXIS: dict[str, Place] = {"axis": (1, "dim")}
_BATCH_NORM: dict[str, Place] = {
    "weight": (1, ""),
    "bias": (2, ""),
    "mean": (3, ""),
    "variance": (4, ""),
    "training": (5, ""),
    "momentum": (6, ""),
}

PLACES: dict[str, dict[str, Place]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "matmul"), _product(0, 1)),
    "linear": _product(0, 1, 2),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _product(1, 2, 0)),
    "_scaled_dot_product_flash_attention_for_cpu": _attention(None, 4),
    "_scaled_dot_product_flash_attention": _attention(None, 4),
    "_scaled_dot_product_efficient_attention": _attention(3, 6),
    "_scaled_dot_product_cudnn_attention": _attention(3, 6),
    "_scaled_dot_product_fused_attention_overrideable": _attention(3, 5),
    "scaled_dot_product_attention": _attention(3, 5),
    **dict.fromkeys(("native_layer_norm", "layer_norm"), _norm(3, 4)),
    **dict.fromkeys(("_fused_rms_norm", "rms_norm"), _norm(None, 3)),
    "native_group_norm": {"weight": (1, "weight"), "bias": (2, "bias"), "groups": (6, "group"), "eps": (7, "eps")},
    **dict.fromkeys(NAMES[Role.CONVOLUTION], _CONVOLUTION),
    **dict.fromkeys(NAMES[Role.BATCH_NORM], _BATCH_NORM),
    **dict.fromkeys((*NAMES[Role.SOFTMAX], *NAMES[Role.SCAN]), _AXIS),
    **dict.fromkeys(NAMES[Role.SPREAD], _CORRECTION),
    "gelu": {"form": (1, "approximate")},
}
"""Operator → meaning → (position, keyword) of the argument. Source: ``native_functions.yaml``."""


def choices_of(call: Call) -> Mapping[int | str, Sequence[Any]]:
    """The axis of a softmax and the form of a GELU, with all values that they could have."""
    op, given = call.site.op, call.arguments
    if op in NAMES[Role.SOFTMAX] and call.reads:
        return {1: tuple(range(len(call.reads[0].spec.shape)))}
    if op == "gelu":
        return {1 if len(given[0]) > 1 else "approximate": ("none", "tanh")}
    return {}

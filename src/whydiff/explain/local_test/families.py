"""What rounding may do to an op's output: reduction length, error scale, units of its roundings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whydiff.capturing.adapters import Role
from whydiff.explain.local_test import formulas
from whydiff.explain.local_test.exact import payload_of
from whydiff.explain.local_test.operation import Array, Operation, sample_of
from whydiff.numbers.formats import FORMATS
from whydiff.numbers.tolerance import LOCAL_STEPS, LOCAL_STEPS_NARROW, UNIT_ROUNDOFF

Kind = Literal["product", "convolution", "sum", "norm", "spread", "softmax", "attention", "elementwise", "region"]

_DIRECTIONS = 8
"""Evaluations that the sensitivity of an op takes at most: inputs beyond these share them."""
ROUNDED = ("float64", "float32", "float16", "bfloat16")
"""Output dtypes that the oracle is rounded to; others are compared with the exact value."""
_KINDS: dict[Role, Kind] = {
    Role.CONVOLUTION: "convolution",
    Role.SUM: "sum",
    Role.NORM: "norm",
    Role.SPREAD: "spread",
    Role.SOFTMAX: "softmax",
    Role.ELEMENTWISE: "elementwise",
}


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """What the outputs should be and how far rounding may move them, at the sampled outputs.

    Attributes:
        kind: family of the op.
        index: flat indices of the judged outputs.
        exact: R, the op in float64 on the exact inputs.
        size: S, the first-order error scale: one relative error u everywhere inside moves an output by u * S.
        scale: denominator of the precision class: √Σa²b² for products and sums, S for the rest.
        terms: n, terms accumulated into one output.
        steps: roundings besides the accumulation.
        unit: u of the dtype that sums are accumulated in by design.
        inner: u of the dtype that other intermediate values are stored in by design.
    """

    kind: Kind
    index: Array
    exact: Array
    size: Array
    scale: Array
    terms: int
    steps: int
    unit: float
    inner: float


def kind_of(op: Operation) -> Kind:
    """The family of an op; several ops, and ops that no table names, are ``"region"``."""
    if op.calls == 1 and Role.PRODUCT in op.roles and formulas.product(op) is not None:
        return "product"
    if op.calls == 1 and formulas.is_attention(op):
        return "attention"
    kind: Kind = next((kind for role, kind in _KINDS.items() if role in op.roles), "region")
    if kind == "norm" and not formulas.is_norm(op):
        return "region"
    return kind if op.calls == 1 else "region"


def terms_of(op: Operation, kind: Kind) -> int:
    """n, how many terms are accumulated into one output."""
    if kind == "product":
        parts = formulas.product(op)
        return 1 if parts is None else parts.left.shape[-1] + (parts.bias is not None)
    if kind == "convolution":
        weight = op.reads[1]
        transposed = bool(op.argument("transposed", False))
        per_output = math.prod(weight.shape[2:]) * weight.shape[0 if transposed else 1]
        return int(per_output) + (op.read_at("bias") is not None)
    if kind == "attention":
        return int(op.reads[1].shape[2] + op.reads[0].shape[-1])
    if kind == "elementwise":
        return 1
    if kind == "softmax":
        return int(op.reads[0].shape[int(op.argument("axis", -1))]) if op.reads[0].ndim else 1
    if kind == "norm":
        return math.prod(op.argument("over"))
    if Role.SCAN in op.roles:
        return int(op.reads[0].shape[int(op.argument("axis", 0))]) if op.reads[0].ndim else 1
    largest = max((payload_of(op.reads, i).bits.size for i in op.floats()), default=1)
    return max(1, largest // max(1, math.prod(op.shape)))


def roundings_of(op: Operation, kind: Kind) -> tuple[float, float, int]:
    """(u of accumulations, u of other intermediate values, how many of these) by design.

    16-bit ops compute in float32 inside, mostly.

    Attention keeps probabilities, softmax shifted inputs, and elementwise kernels' scalar tails intermediate
    results in the input's dtype; a region stores values in the dtypes of its ops.
    """
    names = [op.dtypes[i] for i in op.floats()] + [op.dtype]
    units = [UNIT_ROUNDOFF[name] for name in names if name in UNIT_ROUNDOFF]
    single = UNIT_ROUNDOFF["float32"]
    if units and max(units) < single:
        return max(units), max(units), LOCAL_STEPS[kind] * op.calls
    if kind in ("attention", "softmax", "elementwise", "region"):
        inner = max(single, min(units, default=single), UNIT_ROUNDOFF.get(op.inner, 0.0))
        return single, inner, (LOCAL_STEPS_NARROW if inner > single else LOCAL_STEPS[kind]) * op.calls
    return single, single, LOCAL_STEPS[kind] * op.calls


def oracle_of(op: Operation, index: Array | None = None, also: Array | None = None) -> Oracle:
    """R, S and the rest for an operation.

    Args:
        op: what both sides were asked to compute.
        index: judged outputs; by default `sample_of` its shape.
        also: outputs that such a sample is to have.

    Raises:
        whydiff.errors.ReplayError: the op cannot be executed in float64.
    """
    kind = kind_of(op)
    if index is None:
        index = sample_of(op.shape, rows=kind == "attention", also=also)
    if kind == "product":
        exact, size, scale = _product(op, index)
    else:
        exact = evaluate(op, index, kind)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            size, scale = _sizes(op, index, kind, exact)
    tiny = smallest_step(op.dtype)
    size = np.maximum(size, tiny)
    scale = np.maximum(scale, tiny)
    unit, inner, steps = roundings_of(op, kind)
    return Oracle(
        kind=kind,
        index=index,
        exact=exact,
        size=size,
        scale=scale,
        terms=terms_of(op, kind),
        steps=steps,
        unit=unit,
        inner=inner,
    )


def evaluate(op: Operation, index: Array, kind: Kind | None = None) -> Array:
    """R at flat output indices, float64 (the sampled formula where there is one, else the whole op)."""
    kind = kind or kind_of(op)
    if kind == "product":
        parts = formulas.product(op)
        assert parts is not None
        return formulas.product_at(parts, index) + formulas.bias_at(parts, index)
    if kind == "attention":
        return formulas.attention_at(op, index, scaled=False)[0]
    if op.run_at is not None:
        return op.run_at(op.reads, index)
    return op.run(op.reads, op.arguments).reshape(-1)[index]


def _product(op: Operation, index: Array) -> tuple[Array, Array, Array]:
    """(R, S, scale) of a matrix product at the judged outputs."""
    parts = formulas.product(op)
    assert parts is not None
    bias = formulas.bias_at(parts, index)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        exact, absolute, squares = formulas.sums_at(parts, index)
        return exact + bias, np.abs(absolute) + np.abs(bias), np.sqrt(squares * parts.alpha + bias**2)


def _sizes(op: Operation, index: Array, kind: Kind, exact: Array) -> tuple[Array, Array]:
    """(S, scale) at the judged outputs of what is no product."""
    if kind in ("convolution", "sum"):
        size = np.abs(evaluate(op.mapped(np.abs), index, kind))
        squares = np.abs(evaluate(op.mapped(np.square), index, kind))
        if Role.MEAN in op.roles:
            squares = squares / terms_of(op, kind)
        return size, np.sqrt(squares)
    if kind == "norm":
        size = formulas.norm(op)[1].reshape(-1)[index]
    elif kind == "softmax":
        whole = np.zeros(op.shape).reshape(-1)
        whole[index] = exact
        size = formulas.softmax_scale(op, whole.reshape(op.shape)).reshape(-1)[index]
    elif kind == "attention":
        size = formulas.attention_at(op, index)[1]
    elif kind == "spread":
        x = op.reads[0]
        variance = max(float(np.var(x)), np.finfo(np.float64).tiny)
        size = np.abs(exact) * (1 + float(np.mean(x**2)) / variance) + float(np.abs(x).mean())
    else:
        size = _sensitivity(op, index, kind, exact)
    return size, size


def _sensitivity(op: Operation, index: Array, kind: Kind, exact: Array) -> Array:
    """How far a relative error of the inputs moves the outputs, from finite differences; plus |R|.

    Elementwise: each input alone, every element by the same factor: the exact condition. Region: random
    signs, levelled over the outputs; of many inputs several at once, whose squared effects add up.
    """
    step = 2.0**-20
    size = np.abs(exact) + 0.0
    generator = np.random.default_rng(20250)
    spread = np.zeros(exact.size)
    reads = op.floats()
    for number in range(min(len(reads), _DIRECTIONS)):
        group = reads[number::_DIRECTIONS]
        if kind == "elementwise":
            moved = evaluate(op.mapped(lambda v: v * (1 + step), group), index, kind)
            size += np.nan_to_num(np.abs(moved - exact) / step, posinf=0.0)
        else:
            moved = evaluate(
                op.mapped(lambda v: v * (1 + generator.choice((-step, step), v.shape)), group), index, kind
            )
            spread += np.nan_to_num(np.square((moved - exact) / step), posinf=0.0)
    if kind == "elementwise":
        if Role.CANCELS in op.roles:
            size += np.abs(op.reads[0].reshape(-1)[index])
        return size
    level = np.mean(spread) if spread.size else 0.0
    return np.asarray(size + np.sqrt(spread + level))


def smallest_step(dtype: str) -> float:
    """An absolute error that underflow alone may cause: the smallest normal number (kernels may flush)."""
    return FORMATS[dtype if dtype in ROUNDED else "float32"].smallest_normal

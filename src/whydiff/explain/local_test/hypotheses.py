"""Hypothesis replay: what else could have been computed? The float64 result under each, against the outputs.

`HYPOTHESES` is the list: adding a hypothesis is adding a row. A hypothesis is accepted (`explain`) if the
outputs are at rounding level to it and at least `whydiff.numbers.tolerance.HYPOTHESIS_MARGIN` times nearer than to
the next one; those that cannot be told apart on this data are named together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from whydiff.capturing.adapters import Role
from whydiff.explain.activations import gelu
from whydiff.explain.local_test import formulas
from whydiff.explain.local_test.families import Oracle, evaluate
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.numbers.formats import FORMATS, round_to
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN, HYPOTHESIS_MISMATCH
from whydiff.records import Verdict

Replay = Callable[[Operation, Oracle, Array], Iterator[tuple[str, Array]]]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One row: a name, the verdict it stands for, and what the outputs would be.

    Attributes:
        code: kebab-case, stable, for machines.
        verdict: ``precision`` (same formula, fewer bits) or ``semantic`` (another formula).
        replay: (op, oracle, outputs) → (name, float64 outputs) pairs; nothing if it does not apply.
        final: the replayed outputs are what is stored (truncated, double-rounded), not rounded once more.
        operands: the op shortens what it reads, which kernels do in sums of products only.
    """

    code: str
    verdict: Verdict
    replay: Replay
    final: bool = False
    operands: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """An accepted hypothesis.

    Attributes:
        codes: those that explain the outputs; more than one if this data cannot tell them apart.
        text: their names, joined by "or".
        verdict: the hypothesis' verdict.
        distance: rms((X - H) / scale), or the share of mismatches for 16-bit outputs.
        runner_up: the same of the next hypothesis (the plain oracle included).
        runner_up_text: its name.
        mismatch: True if the distances are shares of mismatches.
        side: whose outputs it explains.
    """

    codes: tuple[str, ...]
    text: str
    verdict: Verdict
    distance: float
    runner_up: float
    runner_up_text: str
    mismatch: bool
    side: str = "candidate"


# --------------------------------------------------------------------------------------------- replays


def _inputs(name: str, truncate: bool, op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    if Role.CAST in op.roles:
        return  # the input is the output
    change = functools.partial(round_to, dtype=name, truncate=truncate)
    how = f"{_SPOKEN[name]} {'rounding' if op.name == 'value' else 'inputs'}" + (", truncated" if truncate else "")
    if any(_changes(op, i, name, change) for i in op.floats()):
        yield how, evaluate(op.mapped(change), oracle.index, oracle.kind)


def _one_input(name: str, op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    change = functools.partial(round_to, dtype=name)
    moved = [i for i in op.floats() if _changes(op, i, name, change)] if op.calls == 1 else []
    if len(moved) < 2:
        return  # the same as rounding all of them, or one of many values between many ops
    parts = formulas.product(op) if oracle.kind == "product" else None
    weight = parts.weight if parts else 1 if oracle.kind == "convolution" else -1
    for read in moved:
        what = f"read {read}" if read != weight else "weight"
        yield (f"{_SPOKEN[name]} {what} only", evaluate(op.mapped(change, only=(read,)), oracle.index, oracle.kind))


def _split(op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    parts = formulas.product(op) if oracle.kind == "product" else None
    if parts is None or not any(_changes(op, i, "bfloat16", _bfloat16) for i in op.floats()):
        return
    pieces = ((_bfloat16, _bfloat16), (_bfloat16, _remainder), (_remainder, _bfloat16))
    total = sum((formulas.product_at(parts, oracle.index, changes) for changes in pieces), np.zeros(oracle.index.size))
    yield "bfloat16x3 products", total + formulas.bias_at(parts, oracle.index)


def _truncated_output(op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    if op.dtype in ("bfloat16", "float16"):
        yield f"output truncated to {op.dtype}", round_to(oracle.exact, op.dtype, truncate=True)


def _rounded_output(op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    for name in () if op.name == "value" else ("bfloat16", "float16", "tf32"):
        if op.dtype in FORMATS and FORMATS[name].precision < FORMATS[op.dtype].precision:
            yield f"output rounded to {_SPOKEN[name]}", round_to(oracle.exact, name)


def _gelu(form: str, op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    if Role.GELU in op.roles and op.argument("form", "none") != form:
        at = op.reads[0].reshape(-1)[oracle.index]
        yield f"{'erf' if form == 'none' else form} GELU", gelu(at, form)


def _gelu_for_silu(op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    if Role.SILU in op.roles:
        yield "quick GELU", gelu(op.reads[0].reshape(-1)[oracle.index], "quick")


def _eps(op: Operation, oracle: Oracle, values: Array) -> Iterator[tuple[str, Array]]:
    if oracle.kind != "norm":
        return
    own = formulas.norm_eps(op) or 0.0
    replayed = functools.partial(_norm_at, op, oracle)
    eps = _fitted(replayed, max(own, 1e-12), values, oracle)
    if eps is not None and eps > 0:
        near = _plain_number(eps)
        if near is not None:
            yield f"eps {near:g} instead of {own:g}", replayed(near)
        else:
            yield f"eps {eps:.3g} instead of {own:g}", replayed(eps)


def _norm_at(op: Operation, oracle: Oracle, eps: float) -> Array:
    return formulas.norm(op, eps=eps)[0].reshape(-1)[oracle.index]


def _plain_number(value: float) -> float | None:
    """A power of ten (or 5 times one) within 20 % of a fitted value, as people write eps."""
    decade = 10.0 ** np.floor(np.log10(value))
    candidates = (factor * decade for factor in (1, 5, 10))
    near = [float(f"{plain:.0e}") for plain in candidates if abs(value / plain - 1) < 0.2]
    return near[0] if near else None


def _scale(op: Operation, oracle: Oracle, values: Array) -> Iterator[tuple[str, Array]]:
    if oracle.kind != "attention":
        return
    own = formulas.attention_scale(op)

    def at(scale: float) -> Array:
        return formulas.attention_at(op, oracle.index, scale, scaled=False)[0]

    scale = _fitted(at, own, values, oracle)
    if scale is not None:
        replayed = at(scale)
        yield f"attention scale {scale:.6g} instead of {own:.6g}", replayed


def _fitted(replayed: Callable[[float], Array], start: float, values: Array, oracle: Oracle) -> float | None:
    """The parameter whose replay is nearest in least squares (Gauss-Newton on its logarithm), if any."""
    log, known = np.log(start), np.isfinite(values)
    for _ in range(40):
        with np.errstate(over="ignore", invalid="ignore"):
            here, beyond = replayed(float(np.exp(log))), replayed(float(np.exp(log + 1e-3)))
        slope = ((beyond - here) / 1e-3 / oracle.scale)[known]
        left = ((values - here) / oracle.scale)[known]
        power = float(slope @ slope)
        if not np.isfinite(power) or power == 0:
            return None
        move = float(np.clip(slope @ left / power, -2.5, 2.5))
        log += move
        if not -50 < log < 10:
            return None
        if abs(move) < 1e-9:
            break
    return float(np.exp(log))


def _correction(op: Operation, oracle: Oracle, _: Array) -> Iterator[tuple[str, Array]]:
    if oracle.kind == "norm":
        yield "unbiased variance (n - 1)", formulas.norm(op, correction=1)[0].reshape(-1)[oracle.index]
    keyword = op.at.get("correction", (None, ""))[1]
    if oracle.kind != "spread" or keyword not in op.arguments[1]:
        return
    own = op.argument("correction")
    other = 0 if (1 if own is None else own) else 1
    changed = [op.arguments[0], {**op.arguments[1], keyword: other}]
    spoken = ("biased (n)", "unbiased (n - 1)")
    yield (
        f"{spoken[other]} instead of {spoken[1 - other]}",
        evaluate(replace(op, arguments=changed), oracle.index, oracle.kind),
    )


def _changes(op: Operation, read: int, name: str, change: Callable[[Array], Array]) -> bool:
    """Whether rounding what is read to a format changes it; a narrower dtype's numbers are not looked at one by one."""
    known = FORMATS.get(op.dtypes[read])
    if known is not None and FORMATS[name].holds(known):
        return False
    values = op.reads[read]
    return bool(np.any(change(values) != values))


def _bfloat16(values: Array) -> Array:
    return round_to(values, "bfloat16")


def _remainder(values: Array) -> Array:
    return round_to(values - _bfloat16(values), "bfloat16")


_EXACT = frozenset({Role.PLUS, Role.DIFFERENCE, Role.TIMES})
"""No kernel shortens what these read."""
_SPOKEN = {"tf32": "TF32", "bfloat16": "bfloat16", "float16": "float16"}
_P, _S = Verdict.PRECISION, Verdict.SEMANTIC

HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis("tf32-inputs", _P, functools.partial(_inputs, "tf32", False), operands=True),
    Hypothesis("tf32-inputs-truncated", _P, functools.partial(_inputs, "tf32", True), operands=True),
    Hypothesis("bfloat16-inputs", _P, functools.partial(_inputs, "bfloat16", False), operands=True),
    Hypothesis("bfloat16-inputs-truncated", _P, functools.partial(_inputs, "bfloat16", True), operands=True),
    Hypothesis("float16-inputs", _P, functools.partial(_inputs, "float16", False), operands=True),
    Hypothesis("tf32-one-input", _P, functools.partial(_one_input, "tf32"), operands=True),
    Hypothesis("bfloat16-one-input", _P, functools.partial(_one_input, "bfloat16"), operands=True),
    Hypothesis("float16-one-input", _P, functools.partial(_one_input, "float16"), operands=True),
    Hypothesis("bfloat16x3", _P, _split),
    Hypothesis("output-truncated", _P, _truncated_output, final=True),
    Hypothesis("output-rounded", _P, _rounded_output),
    Hypothesis("gelu-erf", _S, functools.partial(_gelu, "none")),
    Hypothesis("gelu-tanh", _S, functools.partial(_gelu, "tanh")),
    Hypothesis("gelu-quick", _S, functools.partial(_gelu, "quick")),
    Hypothesis("gelu-quick-for-silu", _S, _gelu_for_silu),
    Hypothesis("other-eps", _S, _eps),
    Hypothesis("other-variance-correction", _S, _correction),
    Hypothesis("other-attention-scale", _S, _scale),
)
"""In order of how often they are met. Formulas: see `whydiff.explain.local_test.formulas` and `formats`."""


# ------------------------------------------------------------------------------------------- deciding


def explain(op: Operation, oracle: Oracle, values: Array, level: float, *, exact: bool = False) -> Explanation | None:
    """The hypothesis that explains outputs; None if none does, or if the plain oracle does as well.

    Args:
        op: what should have been computed.
        oracle: its oracle.
        values: outputs at ``oracle.index``, float64.
        level: rms((X - H) / scale) that rounding explains (for 16-bit outputs, shares of mismatches are
            compared instead).
        exact: the values are another oracle's, not rounded to the output's dtype.
    """
    mismatch = not exact and op.dtype in ("bfloat16", "float16")
    plain = _distance(values, oracle.exact, oracle, op, mismatch, False)
    found = [(("oracle",), "the op as it is", _S, plain)]
    kept_whole = not exact and oracle.kind == "elementwise" and bool(_EXACT & op.roles)
    for row in HYPOTHESES:
        if (exact and row.final) or (kept_whole and row.operands):
            continue
        for text, replayed in row.replay(op, oracle, values):
            distance = _distance(values, replayed, oracle, op, mismatch, row.final)
            found.append(((row.code,), text, row.verdict, distance))
    best = min(distance for *_, distance in found)
    if best > (HYPOTHESIS_MISMATCH if mismatch else level):
        return None
    least = level if exact else 0.5 / max(values.size, 1) if mismatch else 0.0
    limit = max(HYPOTHESIS_MARGIN / 3 * best, least)
    near = [row for row in found if row[3] <= limit]
    far = [row for row in found if row[3] > limit]
    if not far or near[0][0] == ("oracle",):
        return None
    runner = min(far, key=lambda row: row[3])
    if runner[3] < HYPOTHESIS_MARGIN * best or len({row[2] for row in near}) > 1:
        return None
    near.sort(key=lambda row: row[3])
    codes = tuple(dict.fromkeys(code for row in near for code in row[0]))
    return Explanation(
        codes=codes,
        text=" or ".join(dict.fromkeys(row[1] for row in near)),
        verdict=near[0][2],
        distance=best,
        runner_up=runner[3],
        runner_up_text=runner[1],
        mismatch=mismatch,
    )


def _distance(values: Array, replayed: Array, oracle: Oracle, op: Operation, mismatch: bool, final: bool) -> float:
    known = np.isfinite(values) & np.isfinite(replayed)
    if not known.any():
        return float("inf")
    if mismatch:
        stored = replayed if final else round_to(replayed, op.dtype)
        return float(np.mean((stored != values)[known]))
    return float(np.sqrt(np.mean(np.square((values[known] - replayed[known]) / oracle.scale[known]))))

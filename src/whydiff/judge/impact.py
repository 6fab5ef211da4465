"""What the user sees: differences of the outputs in their own terms.

Which output holds scores is decided by evidence, not by name. A run that reads integers of shape [..., T]
and returns floats of shape [..., T, V] with V above every one of those integers returns *logits over tokens*.
A run that reads no integers and returns a single floating tensor, of shape [N, C] with C at least 2, returns
*scores of C classes*. Of anything else only plain differences are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.scaling import Scaling
from whydiff.judge.noise_floor import Floor, NoiseFloor
from whydiff.judge.outputs import Anchor, Compared
from whydiff.judge.parting import generated, is_choice, partings
from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.metrics import is_integer, values
from whydiff.records import Measurement, Payload, Slot

Array = np.ndarray[Any, Any]
_METRICS = {"max_abs": max, "mean_abs": max, "rel_l2": max, "different": max, "cosine": min}
"""Metric → which of several outputs' is shown."""
_BLOCK = 1 << 20
"""Scores of either side that are looked at together."""
TOP = 5
"""Alternatives whose set is compared besides the first."""


@dataclass(frozen=True, slots=True)
class Scores:
    """An output that ranks alternatives.

    Attributes:
        slot: of the output.
        reference, candidate: floats [rows, alternatives]; rows are positions in row-major order. Of dtypes that numpy does
            not know, their bits.
        length: positions per sequence; 1 for class scores.
        tokens: int64 [rows], what was read at each position; None for class scores.
        dtypes: of the reference's and the candidate's.
    """

    slot: Slot
    reference: Array
    candidate: Array
    length: int = 1
    tokens: Array | None = None
    dtypes: tuple[str, str] = ("float64", "float64")


def impact(
    case: Case, returned: Anchor, floor: NoiseFloor | None = None, scaling: Scaling | None = None
) -> tuple[Measurement, ...]:
    """Measurements over the returned tensors; ``per`` names the tensor or what a share is taken of.

    Args:
        case: the pair of runs.
        returned: the outputs as they were.
        floor: adds what rounding alone explains, and the tolerance that it justifies.
        scaling: adds how the error without any rounding depends on the position.
    """
    compared = [one for one in returned.outputs if one.numbers is not None and not is_choice(one)]
    found = [
        Measurement(metric, value, str(slot))
        for metric, worst in _METRICS.items()
        if (numbers := _of(compared, metric))
        for value, slot in [worst(numbers)]
    ]
    for parting in partings(returned):
        found.append(Measurement("parts_at", float(parting.position), f"{parting.slot}, of {parting.length}"))
        number = generated(case, returned, parting)
        if number is not None:
            found.append(Measurement("parts_at_generated", float(number), str(parting.slot)))
    scores = scores_of(case, returned)
    if scores is not None:
        found += choices(scores) + by_position(position_errors(scores), scores.slot)
        lifted = scaling.profiles.get(scores.slot, ()) if scaling else ()
        if len(lifted) == scores.length:
            found += by_position(np.array(lifted), scores.slot, "lifted_")
    one = main_floor(floor, scores)
    if one is not None:
        found += [
            Measurement("mean_abs_floor", one.mean_abs, str(one.slot)),
            Measurement("justified_rtol", one.tolerance.rtol, str(one.slot)),
            Measurement("justified_atol", one.tolerance.atol, str(one.slot)),
        ]
    return tuple(found)


def _of(outputs: Sequence[Compared], metric: str) -> list[tuple[float, Slot]]:
    return [
        (value, one.slot) for one in outputs if (value := one.comparison.value(metric)) is not None and value == value
    ]


def main_floor(floor: NoiseFloor | None, scores: Scores | None) -> Floor | None:
    """The floor of the output that holds scores, else of the first floating output."""
    floors = floor.floors if floor else ()
    return next((one for one in floors if scores and one.slot == scores.slot), floors[0] if floors else None)


def justified(case: Case, returned: Anchor, floor: NoiseFloor) -> tuple[str, ...]:
    """A note with the tolerance that rounding alone justifies, ready to paste, and what it rests on."""
    one = main_floor(floor, scores_of(case, returned))
    if one is None:
        return ()
    tolerance = one.tolerance
    found = next((x.comparison for x in returned.outputs if x.slot == one.slot), None)
    difference = found.value("mean_abs") if found else None
    beside = sum(found.value(name) or 0.0 for name in ("nan_mismatch", "inf_mismatch")) if found else 0.0
    text = (
        f"rounding alone justifies rtol={tolerance.rtol:.1e}, atol={tolerance.atol:.1e} for {one.slot}: "
        f"{tolerance.source}"
    )
    if difference is not None and not beside:
        where = "over" if difference > one.mean_abs else "within"
        text += f"; the mean abs error, {difference:.1e}, is {where} what rounding may make, {one.mean_abs:.1e}"
    notes = [text]
    if tolerance.atol > one.magnitude:
        notes.append(
            f"that tolerance is larger than {one.slot} itself (root mean square {one.magnitude:.1e}): "
            "rounding is amplified so much here that no tolerance on the outputs can tell a defect"
        )
    return tuple(notes)


def scores_of(case: Case, returned: Anchor) -> Scores | None:
    """The output that ranks alternatives by the table above, in whatever dtypes; None if its shapes differ."""
    floats = [
        (one.slot, *one.numbers)
        for one in returned.outputs
        if one.numbers is not None
        and not any(is_integer(number.dtype) or number.bits.dtype.kind == "c" for number in one.numbers)
        and one.numbers[0].bits.shape == one.numbers[1].bits.shape
    ]
    inputs = _integers_read(case)
    for slot, ours, theirs in floats:
        shape = ours.bits.shape
        tokens = next((x for x in inputs if x.shape == shape[:-1] and x.size and x.max() < shape[-1]), None)
        if len(shape) >= 2 and tokens is not None and shape[-1] >= 2:
            return _scores(slot, ours, theirs, shape[-2], tokens.reshape(-1))
    if not inputs and len(floats) == 1:
        slot, ours, theirs = floats[0]
        if ours.bits.ndim == 2 and ours.bits.shape[1] >= 2 and ours.bits.size:
            return _scores(slot, ours, theirs)
    return None


def _integers_read(case: Case) -> list[Array]:
    found = []
    for leaf in case.reference.leaves:
        if leaf.role == "input" and is_integer(leaf.spec.dtype) and leaf.spec.dtype != "bool":
            payload = case.reference.payload(leaf.payload) if leaf.payload else None
            if payload is not None:
                found.append(payload.bits.astype(np.int64))
    return found


def _scores(slot: Slot, ours: Payload, theirs: Payload, length: int = 1, tokens: Array | None = None) -> Scores:
    rows = [payload.bits.reshape(-1, payload.bits.shape[-1]) for payload in (ours, theirs)]
    return Scores(slot, rows[0], rows[1], length, tokens, (ours.dtype, theirs.dtype))


def choices(scores: Scores) -> list[Measurement]:
    """Flips of the first choice and of the first `TOP`, their margins, KL divergence and perplexity.

    ``kl_mean`` and ``kl_max``: KL(reference ‖ candidate) of the softmax, in nats, over positions.
    ``top1_margin_flipped``: the largest lead of the reference's first choice where the choice flips.
    ``top1_margin_smallest``: the smallest lead anywhere. ``perplexity_change``: candidate's over reference's
    perplexity of the tokens that were read, minus 1. ``first_flip``: position of the first other choice, at
    which decoding greedily would part if it came that far; -1: none.
    """
    per = "positions" if scores.tokens is not None else "rows"
    found_of = _in_blocks(scores, lambda ours, theirs, part: _of_rows(scores, ours, theirs, part))
    usable, flips, margin, changed, finite, divergence, ours, theirs = found_of.T
    flips = (flips > 0) & (usable > 0)
    found = [Measurement("top1_flips", float(flips.mean()), per)]
    if flips.any():
        found.append(Measurement("top1_margin_flipped", float(margin[flips].max()), str(scores.slot)))
    found.append(Measurement("top1_margin_smallest", float(margin.min()), str(scores.slot)))
    if scores.reference.shape[1] > TOP:
        found.append(Measurement(f"top{TOP}_changes", float(changed.mean()), per))
    if finite.all():
        found += [
            Measurement("kl_mean", float(max(divergence.mean(), 0.0)), "nats"),
            Measurement("kl_max", float(max(divergence.max(), 0.0)), "nats"),
        ]
        found += _perplexity(scores, (ours, theirs))
    if scores.tokens is not None:
        flipped = np.flatnonzero(flips)
        first = int((flipped % scores.length).min()) if flipped.size else -1
        found.append(Measurement("first_flip", float(first), "position"))
        last = np.arange(scores.length - 1, len(flips), scores.length)
        found.append(Measurement("next_token_flips", float(flips[last].mean()), "sequences"))
    return found


def _of_rows(scores: Scores, ours: Array, theirs: Array, part: slice) -> Array:
    """What `choices` asks of some rows, float64 ``[rows, 8]``.

    Whether both have a finite score; whether the first choices differ; the lead of the reference's; whether the first `TOP`
    differ; whether all is finite; KL divergence; logarithms of the probability of the token that was read next, on both sides.
    """
    finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    usable = np.isfinite(ours).any(axis=1) & np.isfinite(theirs).any(axis=1)
    two = np.partition(ours, -2, axis=1)[:, -2:]
    changed, following = np.zeros(len(ours)), np.zeros(len(ours), np.int64)
    if ours.shape[1] > TOP:
        sets = [np.sort(np.argpartition(x, -TOP, axis=1)[:, -TOP:], axis=1) for x in (ours, theirs)]
        changed = (sets[0] != sets[1]).any(axis=1)
    if scores.tokens is not None:
        following = np.append(scores.tokens[part.start + 1 : part.stop + 1], 0)[: len(ours)]
    with np.errstate(invalid="ignore", over="ignore"):
        logs = [log_softmax(x) for x in (ours, theirs)]
        divergence = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
    flips = ours.argmax(axis=1) != theirs.argmax(axis=1)
    next_token = [x[np.arange(len(x)), following] for x in logs]
    return np.column_stack([usable, flips, two[:, 1] - two[:, 0], changed, finite, divergence, *next_token])


def _in_blocks(scores: Scores, work: Callable[[Array, Array, slice], Array]) -> Array:
    """What is made of both sides' rows in float64, some rows at a time, on all usable cores."""
    rows, width = scores.reference.shape
    step = max(1, _BLOCK // width)
    parts = [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]

    def one(part: slice) -> Array:
        sides = zip((scores.reference, scores.candidate), scores.dtypes, strict=True)
        ours, theirs = (values(side[part], dtype).astype(np.float64, copy=False) for side, dtype in sides)
        return work(ours, theirs, part)

    return np.concatenate(spread(one, [(part,) for part in parts]))


def log_softmax(scores: Array) -> Array:
    """Logarithm of the softmax over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _perplexity(scores: Scores, following: Sequence[Array]) -> list[Measurement]:
    if scores.tokens is None or scores.length < 2:
        return []
    rows = np.arange(len(scores.tokens))
    rows = rows[rows % scores.length < scores.length - 1]
    ours, theirs = (math.exp(min(-float(x[rows].mean()), 700.0)) for x in following)
    return [
        Measurement("perplexity_reference", ours, "tokens read"),
        Measurement("perplexity_change", theirs / ours - 1, "abs(reference)"),
    ]


def position_errors(scores: Scores) -> Array:
    """Mean absolute difference at each position, over sequences and alternatives; float64 [length]."""

    def mean(ours: Array, theirs: Array, part: slice) -> Array:
        with np.errstate(invalid="ignore"):
            error = np.abs(theirs - ours)
        return np.asarray(np.where(np.isfinite(error), error, 0.0).mean(axis=1))

    result: Array = _in_blocks(scores, mean).reshape(-1, scores.length).mean(axis=0)
    return result


def by_position(errors: Array, slot: Slot, prefix: str = "") -> list[Measurement]:
    """Whether the error grows with the position: mean over the first and the last quarter, and correlation.

    ``position_correlation`` is Spearman's: 1 if every position is worse than the one before. With the prefix
    ``lifted_`` the errors are those of the float64 runs: a defect that grows with the length shows there also
    where 16-bit rounding hides it.

    Args:
        errors: mean absolute difference at each position, float64 [length].
        slot: name of the output.
        prefix: of the metrics' names.
    """
    if len(errors) < 2:
        return []
    part = max(1, len(errors) // 4)
    found = [
        Measurement(f"{prefix}mean_abs_first_positions", float(errors[:part].mean()), f"{slot}, first {part}"),
        Measurement(f"{prefix}mean_abs_last_positions", float(errors[-part:].mean()), f"{slot}, last {part}"),
    ]
    if len(errors) >= 3 and errors.std() > 0:
        found.append(Measurement(f"{prefix}position_correlation", _rank_correlation(errors), "positions ranked"))
    return found


def _rank_correlation(errors: Array) -> float:
    ranks = np.argsort(np.argsort(errors, kind="stable"), kind="stable")
    return float(np.corrcoef(ranks, np.arange(len(errors)))[0, 1])

"""Why did a code (a centroid id) change? Because two codebook rows were nearly equally near.

Method: a code is the index of the codebook row that is nearest to an embedding, by dot product or by
distance. Which arrays made the codes is found by shapes (codes [N], codebook [K, D], embeddings [N, D])
and by value: for sampled rows the stored code must be the nearest row, computed in float64. A changed code
is a near tie if the margin between the two rows in the reference's arrays is not larger than what the two
scores moved between the trees, plus what rounding to the stored dtype may move them: abs(fl(e)·fl(c) -
e·c) <= (2u + u²) Σ abs(e_i c_i) (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed.,
section 3.1), u the unit roundoff.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.numbers.metrics import values
from whydiff.numbers.tolerance import ASSIGNMENT_SAMPLE, ASSIGNMENT_SHARE, UNIT_ROUNDOFF
from whydiff.studies.artifacts.records import ChangedCode, CodeExplanation
from whydiff.studies.artifacts.sources import Stored

Array = np.ndarray[Any, Any]
MAX_CODEBOOK = 1 << 25
"""Numbers in the largest codebook that is tried (held in memory as float64: 256 MiB)."""
MAX_EXAMINED = 4096
"""Changed rows that are examined per array; the rest is counted."""
_EXAMPLES = 5
_BLOCK = 1 << 22
RULES = ("largest dot product", "smallest distance")


@dataclass(frozen=True, slots=True, eq=False)
class Both:
    """One tensor that both trees have, under ``file: name``."""

    where: str
    reference: Stored
    candidate: Stored


def explain_codes(codes: Both, others: Sequence[Both], differing: int = 0) -> CodeExplanation:
    """Explain an integer array whose values changed.

    Args:
        codes: equal shapes on both sides.
        others: every other tensor of both trees with equal shapes on both sides.
        differing: how many elements differ, for an array that is not looked into.
    """
    shape = codes.reference.shape
    if len(shape) != 1 or not shape[0]:
        return CodeExplanation(
            codes.where, differing, codes.reference.numbers, reason="only one code per row is looked at"
        )
    ours, theirs = (side.source.rows([0], shape[0])[0].astype(np.int64) for side in (codes.reference, codes.candidate))
    changed = np.flatnonzero(ours != theirs)
    known: dict[str, Any] = {"codes": codes.where, "changed": len(changed), "rows": shape[0]}
    if ours.min() < 0 or theirs.min() < 0:
        return CodeExplanation(**known, reason="negative numbers are no codes")
    top = int(max(ours.max(), theirs.max()))
    pairs = list(_candidates(shape[0], top, others))
    if not pairs:
        return CodeExplanation(
            **known,
            reason=f"no float arrays [K, D] with K > {top} and [{shape[0]}, D] lie in both trees: keep the "
            "embeddings beside the codes to have them explained",
        )
    best = max(
        ((*_evidence(ours, book, rows, rule), book, rows, rule) for book, rows in pairs for rule in RULES),
        key=lambda found: found[0],
    )
    share, typical, book, rows, rule = best
    if share < ASSIGNMENT_SHARE:
        return CodeExplanation(
            **known,
            evidence=share,
            reason=f"no arrays in the tree made these codes: the best, {book.where} and {rows.where} "
            f"by {rule}, "
            f"agree with {share:.1%} of the sampled rows",
        )
    examined = changed[:MAX_EXAMINED]
    found = [_examined(int(row), int(ours[row]), int(theirs[row]), book, rows, rule) for row in examined]
    found.sort(key=lambda one: (one.near_tie, -one.margin))
    return CodeExplanation(
        **known,
        codebook=book.where,
        embeddings=rows.where,
        rule=rule,
        evidence=share,
        typical_margin=typical,
        near_ties=sum(one.near_tie for one in found),
        examined=len(found),
        examples=tuple(found[:_EXAMPLES]),
    )


def _candidates(rows: int, top: int, others: Sequence[Both]) -> Iterator[tuple[Both, Both]]:
    floats = [
        o
        for o in others
        if len(o.reference.shape) == 2
        and not o.reference.is_integer
        and o.reference.order == "C"
        and not o.reference.dtype.startswith("complex")
    ]
    for book in floats:
        if not top < book.reference.shape[0] or book.reference.numbers > MAX_CODEBOOK:
            continue
        for embedded in floats:
            if embedded is not book and embedded.reference.shape == (rows, book.reference.shape[1]):
                yield book, embedded


def _matrix(stored: Stored, indices: Sequence[int]) -> Array:
    """Rows in float64."""
    return values(stored.source.rows(indices, stored.shape[1]), stored.dtype).astype(np.float64)


def _whole(stored: Stored) -> Array:
    return values(stored.source.rows([0], stored.numbers)[0], stored.dtype).astype(np.float64).reshape(stored.shape)


def _scores(embedded: Array, book: Array, rule: str) -> Array:
    """Larger is nearer: e·c, or 2 e·c - c² (the distance without its constant part)."""
    product = embedded @ book.T
    return product if rule == RULES[0] else 2 * product - (book * book).sum(1)


def _evidence(codes: Array, book: Both, rows: Both, rule: str) -> tuple[float, float]:
    """(share of sampled rows whose code is the nearest, median margin between the two nearest)."""
    count = min(len(codes), ASSIGNMENT_SAMPLE)
    picked = np.unique(np.linspace(0, len(codes) - 1, count).astype(np.int64))
    centres = _whole(book.reference)
    embedded = _matrix(rows.reference, picked.tolist())
    agree, margins = 0, []
    step = max(1, _BLOCK // max(1, len(centres)))
    for at in range(0, len(picked), step):
        scores = _scores(embedded[at : at + step], centres, rule)
        nearest = scores.argmax(1)
        agree += int((nearest == codes[picked[at : at + step]]).sum())
        if scores.shape[1] > 1:
            two = np.partition(scores, -2, axis=1)[:, -2:]
            margins.append(two[:, 1] - two[:, 0])
    return agree / len(picked), float(np.median(np.concatenate(margins))) if margins else 0.0


def _examined(row: int, ours: int, theirs: int, book: Both, rows: Both, rule: str) -> ChangedCode:
    scores, rounding = [], 0.0
    for side in ("reference", "candidate"):
        stored_book, stored_rows = getattr(book, side), getattr(rows, side)
        embedded, centres = _matrix(stored_rows, [row]), _matrix(stored_book, [ours, theirs])
        scores.append(_scores(embedded, centres, rule)[0])
        roundoff = max(UNIT_ROUNDOFF.get(stored.dtype, 0.0) for stored in (stored_book, stored_rows))
        size = (np.abs(embedded) @ np.abs(centres).T)[0]
        size = size if rule == RULES[0] else 2 * size + (centres * centres).sum(1)
        rounding = max(rounding, float((2 * roundoff + roundoff**2) * size.sum()))
    margin = float(scores[0][0] - scores[0][1])
    moved = float(np.abs(scores[1] - scores[0]).sum())
    return ChangedCode(row, ours, theirs, margin, moved, rounding, margin <= moved + rounding)

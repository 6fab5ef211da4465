"""The token-by-token table: bits, choices and what each position's difference does when the precision grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from whydiff.errors import UsageError
from whydiff.explain.scale import Scale, difference
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer, values
from whydiff.records import Payload, Verdict
from whydiff.studies.decoding.records import Token

Lifted = Mapping[tuple[str, str], Payload]
"""(dtype, casts) as in `whydiff.records.Lift` → scores [B, T, V]; empty if the run could not be lifted."""


def joined(parts: Sequence[Payload], shape: tuple[int, ...]) -> Payload:
    """Scores of all positions [B, T, V] from those of the pieces.

    Args:
        parts: [B, t, V] each, or [t, V] of a single sequence; dtypes agree.
        shape: (B, T) of the token ids.

    Raises:
        UsageError: these are no scores of every position.
    """
    whole = [p if p.bits.ndim == 3 else replace(p, bits=p.bits[None]) for p in parts if p.bits.ndim in (2, 3)]
    fits = {(p.dtype, p.bits.shape[0], p.bits.shape[2]) for p in whole}
    found = (whole[0].bits.shape[0], sum(p.bits.shape[1] for p in whole)) if whole else ()
    if len(whole) != len(parts) or len(fits) != 1 or found != shape or is_integer(whole[0].dtype):
        raise UsageError(
            "This way does not return the scores of every position.",
            actual=", ".join(f"{p.dtype}{list(p.bits.shape)}" for p in parts[:4]) or "no tensor",
            expected=f"floats [{shape[0]}, {shape[1]}, alternatives], whole or in pieces of positions",
        )
    return Payload(np.ascontiguousarray(np.concatenate([p.bits for p in whole], axis=1)), whole[0].dtype)


def table(
    ids: Payload,
    kept: Payload | None,
    pieces: Sequence[int],
    reference: Payload,
    candidate: Payload,
    lifted: tuple[Lifted, Lifted] = ({}, {}),
) -> tuple[Token, ...]:
    """Every position that counts.

    Args:
        ids: integers [B, T].
        kept: [B, T], 0 where a position is padding; None: every position counts.
        pieces: positions of each call, if known.
        reference, candidate: scores [B, T, V] as recorded.
        lifted: the same carried out in float32 and float64, of either side.

    Raises:
        UsageError: the two sides score different numbers of alternatives.
    """
    if reference.bits.shape != candidate.bits.shape:
        raise UsageError(
            "The two sides score different numbers of alternatives.",
            actual=str(candidate.bits.shape),
            expected=str(reference.bits.shape),
        )
    piece = np.repeat(np.arange(len(pieces)), pieces) if pieces else np.full(ids.bits.shape[1], -1)
    stays = _stays_with_casts(*lifted)
    found = []
    for sequence, position in np.ndindex(*ids.bits.shape):
        if kept is None or kept.bits[sequence, position]:
            place = sequence, position
            rows = _row(reference, place), _row(candidate, place)
            scale, cast = (_scale(lifted, place, casts) for casts in ("lifted", "kept"))
            compared = compare_payloads(*rows)
            changed, most, mean = (compared.value(metric) or 0.0 for metric in ("different", "max_abs", "mean_abs"))
            verdict = _verdict(compared.status == "agrees", any(map(_special, rows)), scale, cast if stays else None)
            margin, first = _choices(*rows)
            found.append(
                Token(
                    sequence,
                    position,
                    int(piece[position]),
                    int(ids.bits[sequence, position]),
                    verdict,
                    changed,
                    most,
                    mean,
                    scale.single.mean if scale else None,
                    scale.double.mean if scale else None,
                    margin,
                    first,
                )
            )
    return tuple(found)


def hidden(ids: Payload, tokens: Sequence[Token], lifted: tuple[Lifted, Lifted]) -> int:
    """Positions whose recorded bits agree although the difference stays at any precision."""
    return sum(
        token.verdict is Verdict.IDENTICAL
        and (scale := _scale(lifted, (token.sequence, token.position), "lifted")) is not None
        and scale.nature == "stays"
        for token in tokens
    )


def _verdict(agrees: bool, special: bool, lifted: Scale | None, kept: Scale | None) -> Verdict:
    if agrees:
        return Verdict.IDENTICAL
    if special and (lifted is None or not lifted.double.special):
        return Verdict.UNSTABLE
    if lifted is None or lifted.nature == "between":
        return Verdict.INCONCLUSIVE
    if lifted.nature == "stays":
        return Verdict.SEMANTIC
    return Verdict.PRECISION if kept is not None and kept.nature == "stays" else Verdict.ROUNDING


def _stays_with_casts(ours: Lifted, theirs: Lifted) -> bool:
    """Whether the difference of all positions together stays while casts to narrower dtypes are kept.

    Of a single position such a difference may be one value that fell on the other side of a rounding boundary.
    """
    scale = _of({key: (ours[key], theirs[key]) for key in ours if key in theirs}, "kept")
    return scale is not None and scale.nature == "stays"


def _scale(lifted: tuple[Lifted, Lifted], place: tuple[int, int], casts: str) -> Scale | None:
    ours, theirs = lifted
    pairs = {key: (_row(ours[key], place), _row(theirs[key], place)) for key in ours if key in theirs}
    return _of(pairs, casts)


def _of(pairs: Mapping[tuple[str, str], tuple[Payload, Payload]], casts: str) -> Scale | None:
    found = [difference(*pairs[dtype, casts]) for dtype in ("float32", "float64") if (dtype, casts) in pairs]
    return Scale(found[0], found[1]) if len(found) == 2 and found[0] and found[1] else None


def _row(scores: Payload, place: tuple[int, int]) -> Payload:
    return Payload(np.ascontiguousarray(scores.bits[place]), scores.dtype)


def _special(row: Payload) -> bool:
    return not np.isfinite(values(row.bits, row.dtype)).all()


def _choices(reference: Payload, candidate: Payload) -> tuple[float, tuple[int, int]]:
    ours, theirs = (values(row.bits, row.dtype).astype(np.float64) for row in (reference, candidate))
    two = np.partition(ours, -2)[-2:] if ours.size > 1 else np.repeat(ours, 2)
    with np.errstate(invalid="ignore"):
        return float(two[1] - two[0]), (int(ours.argmax()), int(theirs.argmax()))

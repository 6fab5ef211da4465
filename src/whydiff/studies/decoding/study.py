"""The study: run every way, lift it, tabulate it, and ask for the cause of what is no rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import Progress, Recorded, Run, for_target, replayable
from whydiff.errors import UsageError, WhydiffError
from whydiff.explain.scaling import float64_throughout
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.pair.align import align
from whydiff.pair.replay import replay
from whydiff.pipeline import Options, compare
from whydiff.records import Count, Lift, Payload, Trace, Verdict
from whydiff.studies.decoding.records import Token, Way
from whydiff.studies.decoding.report import Decoding
from whydiff.studies.decoding.tokens import Lifted, hidden, joined, table
from whydiff.studies.decoding.ways import (
    IDS,
    MASK,
    Decode,
    Given,
    even,
    ids_of,
    in_one_pass,
    in_pieces,
    split,
    takes_cache,
)
from whydiff.takes import COUNT, WAYS, takes

ONE_PASS = "one pass"
_COUNTED = "(counted from 0, the prompt included)"
_RIGHT = (Verdict.IDENTICAL, Verdict.ROUNDING)


@dataclass(slots=True)
class _Side:
    """One way that was run."""

    name: str
    decode: Decode
    pieces: tuple[int, ...]
    run: Run
    trace: Trace
    scores: Payload
    deterministic: bool | None
    note: str
    counts: list[Count]
    lifted: Lifted


@takes(chunk=COUNT, prompt=COUNT, ways=WAYS)
def compare_decoding(
    model: Any,
    inputs: Given,
    *,
    chunk: int | None = None,
    prompt: int | None = None,
    ways: Mapping[str, Decode] | None = None,
    diagnose: bool = True,
    progress: Progress | None = None,
) -> Decoding:
    """Decode one text in pieces and compare it, token by token, with one pass over the whole text.

    Two ways are made of a model that takes a cache as transformers' decoders do: *chunked prefill* (pieces of
    ``chunk`` positions) and *cache* (``prompt`` positions, then one at a time). The caller's own ways come after
    them. A position is judged by the scaling test: both runs are carried out in float32 and in float64 with the
    same values, and a difference of its scores that shrinks with the precision is ``rounding``, one that stays is
    ``semantic``. Causes of the latter are looked for against the most similar way that is right, whose ops
    correspond one to one.

    Args:
        model: a module or callable: scores of every position from ``inputs``.
        inputs: token ids, integers [B, T], or a mapping with ``input_ids`` and what goes with them. Positions
            whose ``attention_mask`` is 0 are left out, and counted.
        chunk: positions of a piece; a quarter of them if None.
        prompt: positions that are read at once before one at a time; half of them if None.
        ways: name → function from ``inputs`` to scores [B, T, V], or to a sequence of [B, t, V].
        diagnose: look for the cause of what is no rounding (several more runs).
        progress: called with (stage, done, total).

    Returns:
        A `Decoding`; ``.print()``, ``.to_dict()``.

    Raises:
        whydiff.errors.UsageError: no token ids, fewer than two positions, pieces that do not fit, or a way that
            does not return the scores of every position.
        whydiff.errors.TargetError: the model or a way raised.
    """
    given = dict(inputs) if isinstance(inputs, Mapping) else inputs
    shape = tuple(int(size) for size in ids_of(given).shape)
    planned = _planned(model, shape[1], chunk, prompt, dict(ways or {}))
    adapter = for_target(model, (given,))
    every = [(ONE_PASS, in_one_pass(model), (shape[1],)), *planned]
    sides = []
    for number, (name, decode, pieces) in enumerate(every):
        if progress is not None:
            progress(f"run {name}", number, len(every))
        sides.append(_ran(adapter, given, shape, name, decode, pieces))
    ids, kept = adapter.to_payload(ids_of(given)), _kept(adapter, given, shape)
    everything = all(float64_throughout(side.trace, side.trace) for side in sides)
    _lift(adapter, sides, shape, everything, progress)
    found = [_judged(ids, kept, sides[0], side) for side in sides[1:]]
    if diagnose:
        found = [_explained(given, sides, found, number, progress) for number in range(len(found))]
    worst = max(found, key=lambda way: way.verdict.severity)
    return Decoding(tuple(found), worst.verdict, f"{worst.name}: {worst.reason}", adapter.environment())


def _planned(
    model: Any, length: int, chunk: int | None, prompt: int | None, own: dict[str, Decode]
) -> list[tuple[str, Decode, tuple[int, ...]]]:
    chunk, prompt = (-(-length // 4) if chunk is None else chunk), (length // 2 if prompt is None else prompt)
    if length < 2 or not 0 < chunk < length or not 0 < prompt < length:
        raise UsageError(
            "The text cannot be cut like this.",
            actual=f"{length} positions, chunk={chunk}, prompt={prompt}",
            expected="two positions at least, chunk and prompt from 1 to one less than them",
        )
    found: list[tuple[str, Decode, tuple[int, ...]]] = []
    if takes_cache(model) or not own:
        chunks, single = even(length, chunk), (prompt, *(1,) * (length - prompt))
        found = [
            (f"prefill in chunks of {chunk}", in_pieces(model, chunks), chunks),
            (f"cache from position {prompt} on", in_pieces(model, single), single),
        ]
    twice = [name for name in own if name in {ONE_PASS, *(name for name, *_ in found)}]
    if twice:
        raise UsageError("A way of this name is there already.", actual=", ".join(twice))
    return [*found, *((name, decode, ()) for name, decode in own.items())]


def _ran(
    adapter: Recorded, given: Given, shape: tuple[int, ...], name: str, decode: Decode, pieces: tuple[int, ...]
) -> _Side:
    run = adapter.run(decode, (given,), {})
    trace = run.capture()
    check = run.check(trace)
    parts = [adapter.to_payload(value) for _, value in run.plain()]
    scores = joined(parts, shape)
    if not pieces and len(parts) > 1:
        pieces = tuple(part.bits.shape[-2] for part in parts)
    note = check.note if check.deterministic is False or check.unchanged is False else ""
    return _Side(name, decode, pieces, run, trace, scores, check.deterministic, note, [], {})


def _kept(adapter: Recorded, given: Given, shape: tuple[int, ...]) -> Payload | None:
    mask = given.get(MASK) if isinstance(given, Mapping) else None
    return adapter.to_payload(mask) if mask is not None and tuple(mask.shape) == shape else None


def _lift(
    adapter: Recorded, sides: Sequence[_Side], shape: tuple[int, ...], everything: bool, progress: Progress | None
) -> None:
    """Carry every way out in float32 and float64; what cannot be is counted.

    Casts are kept in further runs only where there are some, and where they can matter: bits differ.
    """
    narrowing = any(_narrows(side.trace) for side in sides)
    differing = [side for side in sides[1:] if side.scores.bits.tobytes() != sides[0].scores.bits.tobytes()]
    for side in sides:
        lifted: dict[tuple[str, str], Payload] = {}
        why = replayable(side.trace)
        twice = narrowing and bool(differing) and (side is sides[0] or side in differing)
        try:
            if why:
                raise WhydiffError("A run cannot be carried out at another precision.", actual=why)
            for casts in ("lifted", "kept") if twice else ("lifted",):
                for dtype in ("float32", "float64"):
                    lift = Lift(dtype, casts, everything)
                    executor = adapter.executor(side.trace, lift=lift)
                    stage = f"lift {side.name} to {dtype}, casts {casts}"
                    found = replay(executor, progress=progress, stage=stage)
                    lifted[dtype, casts] = joined(list(found.outputs.values()), shape)
                    side.counts += executor.counts()
                    side.counts += [
                        Count(
                            what="calls not run in float64",
                            reason=f"{dtype}: {why}",
                            count=1,
                            examples=(str(call.site),),
                        )
                        for call, why in found.failed
                    ]
        except WhydiffError as error:
            lifted = {}
            side.counts.append(Count("scaling test", f"{error.what} {error.actual}".strip(), 1))
        side.lifted = lifted


def _narrows(trace: Trace) -> bool:
    """Whether any op writes a floating dtype narrower than one that it reads."""
    return any(
        UNIT_ROUNDOFF.get(e.spec.dtype, 0.0)
        > min((UNIT_ROUNDOFF.get(r.spec.dtype, 1.0) for r in call.reads), default=1.0)
        for call in trace.calls
        if call.kind == "compute"
        for e in call.writes
    )


def _judged(ids: Payload, kept: Payload | None, reference: _Side, side: _Side) -> Way:
    counts = list(dict.fromkeys((*reference.counts, *side.counts)))
    if kept is not None and not kept.bits.all():
        counts.append(Count("positions", "the attention mask leaves them out", int((kept.bits == 0).sum())))
    notes = tuple(f"{one.name}: {one.note}" for one in (reference, side) if one.note)
    unsteady = next((one for one in (reference, side) if one.deterministic is False), None)
    if unsteady is not None:
        reason = f"{unsteady.name} does not repeat itself: {unsteady.note}"
        return Way(side.name, side.pieces, Verdict.NONDETERMINISTIC, reason, (), not_compared=tuple(counts))
    lifted = reference.lifted, side.lifted
    tokens = table(ids, kept, side.pieces, reference.scores, side.scores, lifted)
    if not tokens:
        raise UsageError("The attention mask leaves no position to compare.")
    unseen = hidden(ids, tokens, lifted)
    if unseen:
        notes += (f"at {unseen} positions the bits agree here although the two ways are not the same function",)
    verdict = max((token.verdict for token in tokens), key=lambda one: one.severity)
    return Way(
        side.name, side.pieces, verdict, _reason(verdict, tokens), tokens, not_compared=tuple(counts), notes=notes
    )


def _reason(verdict: Verdict, tokens: Sequence[Token]) -> str:
    if verdict is Verdict.IDENTICAL:
        return f"zero bits of the scores differ at {len(tokens)} positions"
    flips = sum(token.flips for token in tokens)
    differing = sum(token.verdict is not Verdict.IDENTICAL for token in tokens)
    changed = f"scores differ at {differing} of {len(tokens)} positions, {flips} first choices flip"
    first = next(token for token in tokens if token.verdict is verdict)
    worst = max((t for t in tokens if t.verdict is verdict), key=lambda token: token.double or 0.0)
    numbers = (
        f"{worst.single:.1e} in float32, {worst.double:.1e} in float64" if worst.single is not None else "not measured"
    )
    how = {
        Verdict.ROUNDING: f"and every difference shrinks with the precision (at most {numbers})",
        Verdict.PRECISION: "by casts to a narrower dtype: without them the two agree up to rounding",
        Verdict.SEMANTIC: f"another function from position {first.position} on {_COUNTED}: there the difference stays at any "
        f"precision ({numbers})",
        Verdict.UNSTABLE: f"NaN or infinity at position {first.position} {_COUNTED}",
        Verdict.INCONCLUSIVE: f"undecided from position {first.position} on {_COUNTED} ({numbers})",
    }
    return f"{changed}, {how[verdict]}"


def _explained(
    given: Given, sides: Sequence[_Side], found: Sequence[Way], number: int, progress: Progress | None
) -> Way:
    """The way with its causes, found against the right way (or else the pass) whose calls it resembles most."""
    way, side = found[number], sides[number + 1]
    if way.verdict not in (Verdict.SEMANTIC, Verdict.PRECISION, Verdict.UNSTABLE):
        return way
    right = [sides[0], *(one for one, other in zip(sides[1:], found, strict=True) if other.verdict in _RIGHT)]
    closest = min(right, key=lambda one: _unpaired(one.trace, side.trace))
    pieces = (side.pieces or closest.pieces) if closest is sides[0] else (closest.pieces or side.pieces)
    ours, theirs = (split(one.decode, pieces) if pieces else one.decode for one in (closest, side))
    diagnosis = compare(ours, theirs, given, options=Options(progress=progress))
    live = (cause for cause in diagnosis.causes if cause.status != "refuted" and not cause.inert)
    causes = tuple(cause for cause in live if cause.verdict not in _RIGHT)  # another kernel makes no other function
    notes = () if causes else (f"no known cause fits; against {closest.name}: {diagnosis.reason}",)
    return replace(way, against=closest.name, causes=causes, notes=(*way.notes, *notes))


def _unpaired(reference: Trace, candidate: Trace) -> int:
    found = align(reference, candidate)
    return len(found.unpaired_reference) + len(found.unpaired_candidate)


__all__ = ["IDS", "ONE_PASS", "compare_decoding"]

"""Compare two dumps: pair their values, compare them, find the first place that differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

from whydiff.capturing.adapters import Progress, silent
from whydiff.errors import UsageError
from whydiff.records import Count
from whydiff.studies.artifacts.content import forget_spooled
from whydiff.studies.artifacts.items import compare_tensors
from whydiff.studies.dumps.pairing import Match, matched, of_tokens
from whydiff.studies.dumps.readers import read_dump
from whydiff.studies.dumps.records import Dump, Entry, Place, Start, Status
from whydiff.studies.dumps.report import DumpComparison
from whydiff.studies.dumps.tokens import Paired, by_context
from whydiff.studies.dumps.values import place_of
from whydiff.takes import PATH, takes

_ORDER: tuple[Status, ...] = ("identical", "same summary", "within tolerance", "not compared", "differs")


@takes(reference=PATH, candidate=PATH)
def compare_dumps(
    reference: str | os.PathLike[str], candidate: str | os.PathLike[str], *, progress: Progress | None = None
) -> DumpComparison:
    """Where do two runs part first, by what another tool dumped of them?

    Read are dumps of msprobe, SGLang's dumper, torch's DebugMode (its text), transformers' model debugger, and plain folders
    of tensors named by module; the two sides may be of two tools. Nothing is unpickled.

    Args:
        reference: the trusted run's dump.
        candidate: the one under suspicion.
        progress: called with (stage, done, total).

    Raises:
        UsageError: a dump is not there or of no known tool, or nothing corresponds.
        TraceFormatError: an index is damaged.
    """
    tell = progress or silent
    try:
        ours, theirs = read_dump(reference), read_dump(candidate)
        paired = by_context(ours.entries, theirs.entries)
        if paired is not None:
            matches, missing, extra = of_tokens(paired, ours.entries, theirs.entries)
        else:
            matches, missing, extra = matched(ours.entries, theirs.entries)
            matches, extra = _with_residuals(matches, extra, "candidate")
            matches, missing = _with_residuals(matches, missing, "reference")
            missing = _without_copies([one for match in matches for one in match.reference], missing)
            extra = _without_copies([one for match in matches for one in match.candidate], extra)
        if not matches:
            raise UsageError(
                "Nothing corresponds in the two dumps.",
                where=f"{ours.source} and {theirs.source}",
                actual=f"{_example(ours)} and {_example(theirs)}",
                next_step="dump the same modules on both sides",
            )
        places = []
        for number, match in enumerate(matches):
            tell("compare places", number, len(matches))
            places.append(place_of(match))
        places.sort(key=lambda place: place.order)
        return _found(ours, theirs, tuple(places), missing, extra, paired)
    finally:
        forget_spooled()


def _example(dump: Dump) -> str:
    return dump.entries[0].name if dump.entries else "nothing"


def _with_residuals(matches: list[Match], lone: list[Entry], side: str) -> tuple[list[Match], list[Entry]]:
    """A second output of a module that the other side has one of: (hidden, residual), whose sum is the other's output.

    Only where the two have one shape; the match is replaced if the sum is nearer than the first value alone.
    """
    waiting = {(e.scope, e.op, e.during): e for e in lone if e.role == "output" and e.stored is not None}
    found: list[Match] = []
    used: set[int] = set()
    for match in matches:
        own = match.candidate if side == "candidate" else match.reference
        other = waiting.get((own[0].scope, own[0].op, own[0].during)) if len(own) == 1 else None
        stored = own[0].stored
        right = other is not None and stored is not None and own[0].role == "output" and own[0].part != other.part
        if not right or other is None or other.stored is None or stored is None or other.stored.shape != stored.shape:
            found.append(match)
            continue
        both = (own[0], other)
        summed = Match(match.reference, both, "sum") if side == "candidate" else Match(both, match.candidate, "sum")
        nearer = (place_of(summed).relative or 0.0) < (place_of(match).relative or 0.0)
        found.append(summed if nearer else match)
        used |= {id(other)} if nearer else set()
    return found, [entry for entry in lone if id(entry) not in used]


def _without_copies(paired: Sequence[Entry], lone: Sequence[Entry]) -> list[Entry]:
    """What no other rank's paired value of the same call equals, bit for bit: copies are compared with the one."""
    known: dict[object, list[Entry]] = {}
    for entry in paired:
        known.setdefault(_call(entry), []).append(entry)
    return [
        entry
        for entry in lone
        if not any(one.rank != entry.rank and _equal(one, entry) for one in known.get(_call(entry), []))
    ]


def _call(entry: Entry) -> tuple[str, ...]:
    return entry.scope, entry.op, entry.part, entry.role, entry.around


def _equal(one: Entry, other: Entry) -> bool:
    return one.stored is not None and other.stored is not None and compare_tensors(one.stored, other.stored) is None


def _found(
    ours: Dump,
    theirs: Dump,
    places: tuple[Place, ...],
    missing: Sequence[Entry],
    extra: Sequence[Entry],
    paired: Paired | None = None,
) -> DumpComparison:
    lone = [
        Count(
            what="values", reason=f"only the {side} has them", count=len(left), examples=tuple(e.name for e in left[:3])
        )
        for side, left in (("reference", missing), ("candidate", extra))
        if left
    ]
    lone += [
        Count(what="tokens", reason=f"only the {side} has them after what came before them", count=count, examples=())
        for side, count in zip(("reference", "candidate"), paired.lone if paired else (0, 0), strict=True)
        if count
    ]
    skipped = [
        Count(what="files or tensors", reason=f"{side}: {why}", count=len(names), examples=names[:3])
        for side, dump in (("reference", ours), ("candidate", theirs))
        for why, names in dump.skipped.items()
    ]
    worst: Status = max((place.status for place in places), key=_ORDER.index)
    status: Status = "not compared" if (lone or skipped) and worst in ("identical", "same summary") else worst
    return DumpComparison(
        reference=ours.source,
        candidate=theirs.source,
        tools=(ours.tool, theirs.tool),
        status=status,
        start=_start(places, [entry.scope for entry in (*missing, *extra)]) if ours.ordered else _unordered(places),
        ordered=ours.ordered,
        places=places,
        unknown=tuple(dict.fromkeys((*ours.unknown, *theirs.unknown, *(paired.partly if paired else ())))),
        not_paired=(*lone, *skipped),
    )


def _start(places: Sequence[Place], lone: Sequence[str]) -> Start | None:
    """The first output that differs and whose module's inputs do not; else the first that differs."""
    when = _complete(places)
    differing = sorted((place for place in places if place.status == "differs" and place.role == "output"), key=when)
    if not differing:
        first = next((place for place in places if place.status == "differs"), None)
        return None if first is None else Start(place=first, inputs="unknown")
    chosen = next((place for place in differing if _inputs(place, places) == "agree"), differing[0])
    agreeing = [p for p in places if p.role == "output" and p.status != "differs" and when(p) < when(chosen)]
    before = max(agreeing, key=when, default=None)
    between = [scope for scope in dict.fromkeys(lone) if scope and before is not None]
    return Start(
        place=chosen,
        inputs=_inputs(chosen, places),
        before="" if before is None else before.reference,
        between=tuple(between[:5]),
    )


def _unordered(places: Sequence[Place]) -> Start | None:
    """Without an order: an output that differs and whose module's inputs agree, if inputs were dumped."""
    differing = [place for place in places if place.status == "differs" and place.role == "output"]
    first = next((place for place in differing if _inputs(place, places) == "agree"), None)
    return None if first is None else Start(place=first, inputs="agree")


def _complete(places: Sequence[Place]) -> Callable[[Place], tuple[int, int]]:
    """When an output is complete: a module's after those of the modules inside it, whenever the tool wrote it."""
    last: dict[str, int] = {}
    around: set[str] = set()
    for place in places:
        words = place.scope.split(".") if place.scope else []
        scopes = [".".join(words[:n]) for n in range(1, len(words) + 1)]
        around |= {*scopes[:-1]}
        for scope in scopes:
            last[scope] = max(last.get(scope, 0), place.order)

    def when(place: Place) -> tuple[int, int]:
        return (last[place.scope] if place.scope in around else place.order, -place.scope.count("."))

    return when


def _inputs(place: Place, places: Sequence[Place]) -> Literal["agree", "differ", "unknown"]:
    call = place.scope, place.call
    own = [other for other in places if other.role == "input" and (other.scope, other.call) == call]
    if not own or all(other.status == "not compared" for other in own):
        return "unknown"
    return "differ" if any(other.status == "differs" for other in own) else "agree"

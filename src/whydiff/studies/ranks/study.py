"""Check one run of several ranks, from what each of them recorded; nothing is executed."""

from __future__ import annotations

import os

from whydiff.capturing.store import DiskTrace, RankedTrace, open_side
from whydiff.errors import UsageError
from whydiff.records import Verdict
from whydiff.studies.ranks.meetings import last, mismatches
from whydiff.studies.ranks.replicas import Replicas, replicas
from whydiff.studies.ranks.report import RanksReport


def check_ranks(path: str | os.PathLike[str]) -> RanksReport:
    """Do the ranks of one run call the same collectives, and do replicas stay equal?

    Read are fingerprints and what ranks noted of every collective before it began, so that it works for a trace without
    full tensors (``payloads="none"``), and for a run that hung or was killed.

    Args:
        path: what `whydiff.capture` made of several ranks.

    Raises:
        UsageError: it is the trace of one process.
        TraceFormatError: a rank's part is damaged.
    """
    side = open_side(path)
    if isinstance(side, DiskTrace):
        raise UsageError(
            "This is no trace of several ranks.",
            where=str(path),
            actual="the trace of one process",
            next_step="capture under a launcher: whydiff capture -o run.trace -- torchrun --nproc-per-node 2 train.py",
        )
    exchanges = {rank: trace.exchanges for rank, trace in side.parts.items()}
    ended = frozenset(rank for rank, trace in side.parts.items() if trace.complete)
    met = mismatches(exchanges, ended)
    held = replicas(side.parts)
    whole = len(ended) == len(side.parts) and not side.missing
    return RanksReport(
        verdict=_verdict(bool(met or held.drifts), held, bool(any(exchanges.values())), whole),
        ranks=tuple(sorted(side.parts)),
        mismatches=met,
        replicas=held,
        collectives=tuple(len(calls) for _, calls in sorted(exchanges.items())),
        stands=() if whole else last(exchanges),
        ends=tuple((rank, _end(side, rank)) for rank in sorted({*side.parts, *side.missing}) if rank not in ended),
        notes=tuple(_same_rows(side, held)),
    )


def _verdict(wrong: bool, held: Replicas, met: bool, whole: bool) -> Verdict:
    if wrong:
        return Verdict.SEMANTIC
    return Verdict.IDENTICAL if whole and (met or held.steps) else Verdict.INCONCLUSIVE


def _end(side: RankedTrace, rank: int) -> str:
    if rank in side.parts:
        return side.parts[rank].note or "not complete"
    return side.unreadable.get(rank, "it left nothing")


def _same_rows(side: RankedTrace, held: Replicas) -> list[str]:
    """A note where every rank holds the whole model, exchanges something, and computes the same as the others."""
    given = [
        [event.fingerprint for call in trace.calls if call.kind == "return" for event in call.reads]
        for trace in side.parts.values()
    ]
    alike = bool(given[0]) and all(one == given[0] and None not in one for one in given)
    if alike and held.equal and not held.never and any(trace.exchanges for trace in side.parts.values()):
        return ["in every step the model gives the same on every rank: are the rows not split over the ranks?"]
    return []

"""Check one run of several ranks, from what each of them recorded; nothing is executed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from whydiff.capturing.ranks import parts
from whydiff.capturing.steps import FILE, StepLog, ranked, read_steps
from whydiff.capturing.store import DiskTrace, RankedTrace, open_side
from whydiff.errors import TraceFormatError, UsageError
from whydiff.records import Verdict
from whydiff.studies.ranks.meetings import last, mismatches
from whydiff.studies.ranks.replicas import Replicas, logged, replicas
from whydiff.studies.ranks.report import RanksReport
from whydiff.takes import PATH, takes


@takes(path=PATH)
def check_ranks(path: str | os.PathLike[str]) -> RanksReport:
    """Do the ranks of one run call the same collectives, and do replicas stay equal?

    Read are fingerprints and what ranks noted of every collective before it began, so that it works for a trace without
    full tensors (``payloads="none"``), and for a run that hung or was killed. A log of steps (``level="step"``) tells of
    parameters and buffers, and of no collective.

    Args:
        path: what `whydiff.capture` made of several ranks.

    Raises:
        UsageError: it is the trace of one process.
        TraceFormatError: a rank's part is damaged.
    """
    if ranked(path):
        return _of_logs(path)
    if (Path(path) / FILE).is_file():
        raise _one_process(path, "the log of one process")
    side = open_side(path)
    if isinstance(side, DiskTrace):
        raise _one_process(path, "the trace of one process")
    exchanges = {rank: trace.exchanges for rank, trace in side.parts.items()}
    ended = frozenset(rank for rank, trace in side.parts.items() if trace.complete)
    met = mismatches(exchanges, ended)
    held = replicas(side.parts)
    whole = len(ended) == len(side.parts) and not side.missing
    return RanksReport(
        verdict=_verdict(bool(met or held.drifts), held, met=bool(any(exchanges.values())), whole=whole),
        ranks=tuple(sorted(side.parts)),
        mismatches=met,
        replicas=held,
        collectives=tuple(len(calls) for _, calls in sorted(exchanges.items())),
        stands=() if whole else last(exchanges),
        ends=tuple((rank, _end(side, rank)) for rank in sorted({*side.parts, *side.missing}) if rank not in ended),
        notes=tuple(_same_rows(side, held)),
    )


def _one_process(path: str | os.PathLike[str], actual: str) -> UsageError:
    return UsageError(
        "This is no trace of several ranks.",
        where=str(path),
        actual=actual,
        next_step="capture under a launcher: whydiff capture -o run.trace -- torchrun --nproc-per-node 2 train.py",
    )


def _of_logs(path: str | os.PathLike[str]) -> RanksReport:
    """The report of logs of steps."""
    logs, ends = dict[int, StepLog](), dict[int, str]()
    folders = parts(path)
    for rank, folder in folders.items():
        try:
            logs[rank] = read_steps(folder)
        except TraceFormatError as error:
            ends[rank] = f"{error.what} {error.actual}".strip()
    size = max((log.ranks for log in logs.values()), default=0)
    ends |= {rank: "it left nothing" for rank in range(size) if rank not in folders}
    ends |= {rank: log.note or "not complete" for rank, log in logs.items() if not log.complete}
    held = logged(logs)
    return RanksReport(
        verdict=_verdict(bool(held.drifts), held, met=False, whole=not ends and len(logs) > 1),
        ranks=tuple(logs),
        mismatches=(),
        replicas=held,
        collectives=(),
        ends=tuple(sorted(ends.items())),
        notes=tuple(_given(logs, held)),
    )


def _given(logs: Mapping[int, StepLog], held: Replicas) -> Iterator[str]:
    """What ranks were given and drew: notes, since only the user knows whether it is meant."""
    by_rank = [{step.number: step for step in log.steps} for log in logs.values()]
    shared = sorted(set.intersection(*map(set, by_rank))) if by_rank else []
    looks = [[steps[number] for steps in by_rank] for number in shared]
    batches = [seen for looked in looks if (seen := {step.batch for step in looked}) != {""}]  # "": nobody saw it
    if held.equal and not held.never and batches and all(len(seen) == 1 for seen in batches):
        yield "every rank is given the same batch in every step: are the rows not split over the ranks?"
    for name in looks[0][0].random if looks else ():
        same = [len({step.random.get(name) for step in looked}) == 1 for looked in looks]
        if same[0] and not all(same):
            parts_at = shared[same.index(False)]
            yield f"the random numbers of {name} are the same on every rank until step {parts_at}, and others from it on"


def _verdict(wrong: bool, held: Replicas, *, met: bool, whole: bool) -> Verdict:
    if wrong:
        return Verdict.SEMANTIC
    compared = met or held.equal or held.partly
    return Verdict.IDENTICAL if whole and compared and not held.parted else Verdict.INCONCLUSIVE


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

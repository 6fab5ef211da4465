"""Golden traces: what a program gave once, small enough to commit, with the tolerance that rounding justifies.

A golden trace is a trace with the fingerprint of every value, the full tensors of the outputs alone, and, in what the
manifest calls ``captured``, how much rounding may make of each output (`whydiff.judge.noise_floor`, measured when it
was recorded). On the machine that recorded it, the outputs have to be bit-equal or the difference explained; elsewhere
kernels differ, and what the fingerprints leave undecided is decided by that tolerance.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whydiff.capturing.adapters import for_target
from whydiff.capturing.process import as_found
from whydiff.capturing.sink import manifest_of, send
from whydiff.capturing.store import TraceWriter, open_trace
from whydiff.errors import CaptureError, UsageError
from whydiff.explain.case import Case
from whydiff.judge.noise_floor import noise_floor
from whydiff.judge.outputs import Compared, between
from whydiff.locate.localization import Localization
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import Tolerance
from whydiff.records import Alignment, ByTolerance, Diagnosis, Output, Payload, RecordedTrace, Verdict

JUSTIFIED = "justified"
"""Key of `TraceWriter`'s ``captured``: output's slot → rtol, atol and the reference's root mean square."""
LARGEST = 1 << 20
"""Bytes that the outputs of a golden trace may take, if nobody says otherwise."""

OPEN = (Verdict.INCONCLUSIVE, Verdict.INCOMPARABLE)
"""Verdicts that leave open what the outputs' tolerance can tell; other ops may compute the same."""
_EXCUSED = (Verdict.ROUNDING, Verdict.PRECISION, Verdict.INCONCLUSIVE)
"""Verdicts of causes that are no other function; a part of the environment that may be why says none of its own."""


@dataclass(frozen=True, slots=True)
class Golden:
    """What was recorded.

    Attributes:
        path: the trace.
        size: bytes on disk.
        notes: sentences worth reading: outputs whose tolerance can tell no defect.
    """

    path: Path
    size: int
    notes: tuple[str, ...] = ()


def record(path: str | os.PathLike[str], target: Any, *args: Any, largest: int = LARGEST, **kwargs: Any) -> Golden:
    """Run a program and write its golden trace, replacing an older one at once.

    Args:
        path: folder of the trace; those above it are made.
        target: a module or callable.
        args, kwargs: its inputs.
        largest: bytes that its outputs may take.

    Raises:
        UsageError: the program differs from itself, returns nothing that can be compared, or too much of it.
        whydiff.errors.TargetError: the program raised.
    """
    with as_found():
        run = for_target(target, args).run(target, args, kwargs)
        run.anchor()
        trace = run.capture()
        trace = replace(trace, observer=run.check(trace))
        held = [output.payload for output in trace.outputs or () if output.payload is not None]
        _refuse(trace, held, largest)
        floors = noise_floor(_alone(trace)).floors
    justified = {
        str(one.slot): {"rtol": one.tolerance.rtol, "atol": one.tolerance.atol, "magnitude": one.magnitude}
        for one in floors
    }
    path = Path(path)
    _replaced(path, trace, {JUSTIFIED: justified})
    size = sum(file.stat().st_size for file in path.iterdir())
    notes = [
        f"rounding is amplified so much that no tolerance on {slot} can tell a defect; only equal bits pass"
        for slot, one in justified.items()
        if one["atol"] > one["magnitude"]
    ]
    return Golden(path, size, tuple(notes))


def decided(diagnosis: Diagnosis, path: str | os.PathLike[str], outputs: Sequence[Output]) -> Diagnosis:
    """A golden trace's diagnosis in which the justified tolerance decides what the evidence leaves open.

    Where something suggests another function (weights that differ, another formula), no tolerance excuses it. That the
    environment is another one suggests none: its kernels are what the tolerance is for.

    Args:
        diagnosis: of the golden trace against a program.
        path: the golden trace.
        outputs: what the program gives back when it runs plainly.
    """
    with open_trace(path) as trace:
        if diagnosis.verdict not in OPEN or JUSTIFIED not in trace.captured:
            return diagnosis
        justified: Mapping[str, Mapping[str, float]] = trace.captured[JUSTIFIED]
        compared = [one for one in between(trace.outputs or (), outputs).outputs if one.found != "left_out"]
    if not compared:
        return diagnosis
    suspects = (c for c in diagnosis.causes if c.status != "refuted" and not c.inert and c.verdict not in _EXCUSED)
    found = [origin for origin in diagnosis.origins if origin.kind in ("state", "input")]
    worst = max(compared, key=lambda one: (_beyond(one, justified), one.comparison.value("max_abs") or 0.0))
    known = justified.get(str(worst.slot), {})
    told = ByTolerance(
        slot=str(worst.slot),
        rtol=known.get("rtol"),
        atol=known.get("atol"),
        within=not _beyond(worst, justified),
        others=tuple(dict.fromkeys(name for origin in found for name in origin.leaves)),
        suspect=next((c.says or c.name for c in suspects), ""),
    )
    if not told.within or found or told.suspect:
        return replace(diagnosis, by_tolerance=told)
    reason = "every output is within what rounding may make of it, as measured when the golden trace was recorded"
    notes = (diagnosis.reason, *diagnosis.notes)
    return replace(diagnosis, verdict=Verdict.ROUNDING, reason=reason, notes=notes, by_tolerance=told)


def is_golden(path: str | os.PathLike[str]) -> bool:
    """Whether a trace was written by `record`.

    Raises:
        whydiff.errors.TraceError: it cannot be opened.
    """
    with open_trace(path) as trace:
        return JUSTIFIED in trace.captured


def _beyond(one: Compared, justified: Mapping[str, Mapping[str, float]]) -> float:
    """Which share of an output's elements exceeds its tolerance; 1 where that cannot be told."""
    if one.found == "equal":
        return 0.0
    known = justified.get(str(one.slot))
    if one.found != "values" or one.numbers is None or known is None or known["atol"] > known["magnitude"]:
        return 1.0
    reference, candidate = one.numbers
    if reference.dtype != candidate.dtype:
        return 1.0
    allowed = Tolerance(known["rtol"], known["atol"], "justified when it was recorded")
    share = compare_payloads(reference, candidate, tolerance=allowed).value("mismatched")
    return 1.0 if share is None else share


def _refuse(trace: RecordedTrace, held: Sequence[Payload], largest: int) -> None:
    size = sum(payload.bits.nbytes for payload in held)
    if trace.observer.deterministic is False:
        raise UsageError(
            "A program that differs from itself makes no golden trace.",
            actual=trace.observer.note,
            next_step="seed it, or use deterministic kernels",
        )
    if not trace.outputs or not held:
        raise UsageError("There is nothing to keep.", actual="the program returned nothing that holds numbers")
    if size > largest:
        raise UsageError(
            "The outputs are too large to be committed.",
            actual=f"{size} bytes",
            expected=f"at most {largest} bytes",
            next_step="return less (a slice, a smaller input), or raise whydiff_golden_max in pytest's settings",
        )


def _alone(trace: RecordedTrace) -> Case:
    """A program compared with itself, as far as the noise floor looks."""
    returned = tuple((o.slot, o.payload, o.payload) for o in trace.outputs or () if o.payload is not None)
    return Case(trace, trace, Alignment(()), Localization(returned=returned))


def _replaced(path: Path, trace: RecordedTrace, captured: Mapping[str, Any]) -> None:
    """Write beside the place, then rename: a reader finds the old trace or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with TraceWriter(
            folder / "new",
            framework=trace.framework,
            level=trace.level,
            environment=trace.environment,
            captured=captured,
        ) as writer:
            send(trace, writer, [])  # no tensors but the outputs
            writer.close(**manifest_of(trace), complete=trace.complete)
        if path.exists():
            path.rename(folder / "old")
        (folder / "new").rename(path)
    except OSError as error:
        raise CaptureError("The golden trace cannot be written.", where=str(path), actual=str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)

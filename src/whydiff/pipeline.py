"""align → compare → localize → diagnose → verify, in one readable function."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from whydiff import registry
from whydiff.capturing.adapters import Progress, Run, for_target, replayable
from whydiff.capturing.apart.comparing import compared, denied, rehearse, strange
from whydiff.capturing.limits import Limits
from whydiff.capturing.process import as_found
from whydiff.capturing.store import DiskTrace, RankedTrace, ending, open_side
from whydiff.errors import Failures, Interrupted, TraceError, WhydiffError, attempted, collecting
from whydiff.explain.alike import alike
from whydiff.explain.case import Case
from whydiff.explain.causes import detectors, proposed
from whydiff.explain.local_test import examine
from whydiff.explain.scaling import Modes, Scaling, measure_scaling
from whydiff.judge.anchor import anchored, inside
from whydiff.judge.beside import Beside, beside_a_cast
from whydiff.judge.each_origin import heeded, judge_origins, needs_local_test
from whydiff.judge.impact import impact, justified
from whydiff.judge.left_out import left_out, not_tested, notes_on, seeded_alike
from whydiff.judge.listing import listing, taken, with_lines
from whydiff.judge.noise_floor import NoiseFloor, in_question, noise_floor
from whydiff.judge.outputs import Anchor, anchor
from whydiff.judge.outside import outside, unobserved
from whydiff.judge.parting import partings, with_margins
from whydiff.judge.ranked import compare_ranked, rank
from whydiff.judge.verdict import judge
from whydiff.judge.verify import verify
from whydiff.judge.weighing import weighed
from whydiff.locate.by_fingerprint import from_fingerprints
from whydiff.locate.localize import localize
from whydiff.numbers.comparison import same
from whydiff.numbers.kernels import hurried
from whydiff.pair.align import align
from whydiff.pair.scripts import with_ends
from whydiff.records import Cause, Count, Diagnosis, Evidence, Measurement, Picture, Side, Trace, Verdict
from whydiff.takes import instance, options_apart, takes

_Side = Run | DiskTrace | RankedTrace
_Sides = tuple[_Side, ...]
_NO_IMPACT: tuple[Measurement, ...] = ()
_NO_NOTES: tuple[str, ...] = ()
_NO_PICTURES: tuple[Picture, ...] = ()
_ONE_PROGRAM = "both sides are the same one: this shows only whether it repeats itself"


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare.

    Attributes:
        level: ``"op"`` or ``"module"`` (cheaper: no replay, no resynchronising).
        rename: (pattern, replacement) rules for the candidate's scopes, see `whydiff.pair.align`.
        check: run both programs plainly, twice, to prove that observing changed nothing.
        progress: called with (stage, done, total) during long work.
        rows: which rows of the outputs to compare: the name of an input that is such a mask (nonzero: compare), or
            the mask itself, of the outputs' leading axes; None: padding is found by experiment
            (`whydiff.locate.padding`).
        trust: replay traces that this process did not write as it replays its own: here, without limits, and naming any
            registered operator. Otherwise that is done in a process of its own (``docs/explanation/trust.md``).
        limits: what such a process may take; None: `whydiff.capturing.limits.Limits`.
    """

    level: str = "op"
    rename: Sequence[tuple[str, str]] = ()
    check: bool = True
    progress: Progress | None = None
    rows: Any = None
    trust: bool = False
    limits: Limits | None = None

    def told(self) -> dict[str, Any]:
        """What another process that compares has to know."""
        return {"level": self.level, "rename": self.rename, "rows": self.rows}


@takes(options=instance(Options))
def compare(reference: Any, candidate: Any, *args: Any, options: Options | None = None, **kwargs: Any) -> Diagnosis:
    """Say where and why two runs of the same model differ, and whether it matters.

    Args:
        reference: the trusted run: a module or callable that is called with ``*args, **kwargs``, or the path of
            a trace.
        candidate: the run under suspicion, likewise.
        args, kwargs: inputs, given to every live side (each gets its own copy).
        options: see `Options`.

    Returns:
        The `Diagnosis`, the one document that every reporter renders.

    Raises:
        whydiff.errors.TargetError: a target raised while it ran.
        whydiff.errors.TraceError: a trace cannot be opened, or says what no program does.
        whydiff.errors.UsageError: a side is neither a callable nor a trace.
        whydiff.errors.Interrupted: Ctrl-C, after both sides were captured.
    """
    options = options or Options()
    given = (reference, candidate)
    notes = (_ONE_PROGRAM,) if _is_same(reference, candidate) else ()
    with as_found():
        if not options.trust and any(map(strange, given)) and all(isinstance(s, (str, os.PathLike)) for s in given):
            found: Diagnosis = compared(given, options.told(), options.limits, options.progress)
            return replace(found, notes=(*notes, *found.notes))
        with options_apart(Options, kwargs, given), ending(_runs(*given, args, kwargs, options)) as sides:
            return _collected(sides, options, notes)


def compare_opened(sides: tuple[DiskTrace, DiskTrace], **options: Any) -> Diagnosis:
    """Two traces that were opened already; see `compare` and, for its options, `Options`."""
    return _collected(sides, Options(**options), ())


def _collected(sides: _Sides, options: Options, notes: tuple[str, ...]) -> Diagnosis:
    """The diagnosis with what failed on the way and what was not executed."""
    with _strange_traces(sides), registry.blamed(), collecting() as failures:

        def written(found: Diagnosis) -> Diagnosis:
            counts = (*found.not_compared, *_failed(failures), *denied(sides))
            return replace(found, not_compared=counts, notes=(*notes, *found.notes))

        try:
            return written(_compared(sides, options))
        except Interrupted as stop:
            raise Interrupted(written(stop.found)) from stop


def _is_same(reference: Any, candidate: Any) -> bool:
    paths = all(isinstance(side, (str, os.PathLike)) for side in (reference, candidate))
    return bool(os.path.realpath(reference) == os.path.realpath(candidate)) if paths else reference is candidate


def _compared(given: _Sides, options: Options) -> Diagnosis:
    whole = [side for side in given if not isinstance(side, RankedTrace)]
    if len(whole) < len(given):
        return compare_ranked(given, options.rename, options.progress)
    sides = tuple(side if isinstance(side, DiskTrace) else side.at_home() for side in whole)
    for side in (side for side in sides if not isinstance(side, DiskTrace)):
        side.anchor()  # both plainly, before whydiff touches anything
    ours, theirs = (_trace(side, options, n) for side, n in zip(sides, ("reference", "candidate"), strict=True))
    strangers = [t for t in (ours, theirs) if isinstance(t, DiskTrace) and not t.trusted and not replayable(t)]
    if strangers and not all(isinstance(side, DiskTrace) for side in sides):
        rehearse((ours, theirs), options.told() | {"rows": None}, options.progress)
    ours, theirs, alignment = with_ends(ours, theirs, align(ours, theirs, rename=options.rename))
    live = [None if isinstance(side, DiskTrace) else side for side in sides]
    try:
        local, notes = localize(ours, theirs, alignment, options.progress, options.rows, (live[0], live[1]))
    except KeyboardInterrupt as stop:
        recorded = from_fingerprints(ours, theirs, alignment, same)
        raise Interrupted(_so_far(Case(ours, theirs, alignment, recorded, (live[0], live[1])))) from stop
    case = Case(ours, theirs, alignment, local, (live[0], live[1]), options.progress)
    with closing(case):
        return diagnose(case, notes, options.progress)


def diagnose(case: Case, notes: Sequence[str] = (), progress: Progress | None = None) -> Diagnosis:
    """Why: detect causes, verify them by experiment, judge, and write the document.

    Raises:
        whydiff.errors.Interrupted: Ctrl-C.
    """
    try:
        return _explained(case, notes, progress)
    except KeyboardInterrupt as stop:
        causes = stop.found if isinstance(stop, Interrupted) else ()
        raise Interrupted(_so_far(case, notes, causes)) from stop


@hurried()
def _so_far(case: Case, notes: Sequence[str] = (), causes: Sequence[Cause] = ()) -> Diagnosis:
    """What is known of a pair whose comparison was interrupted."""
    local = case.localization
    return _written(
        case,
        anchor(case.reference, case.candidate, case.alignment, local.axes, local.rows),
        verdict=Verdict.INCONCLUSIVE,
        reason="because it was interrupted; this is what was found until then",
        origins=local.origins,
        causes=tuple(sorted(causes, key=rank)),
        impact=_NO_IMPACT,
        not_compared=(Count("experiments and the verdict", "the comparison was interrupted", 1, code="interrupted"),),
        notes=(*notes, *notes_on(case)),
    )


def _explained(case: Case, notes: Sequence[str], progress: Progress | None) -> Diagnosis:
    local = case.localization
    returned = anchor(case.reference, case.candidate, case.alignment, local.axes, local.rows)
    if returned.equal and local.origins and not local.silent and case.repeats:
        return _refactored(case, returned, notes)
    beside = attempted("what is beside a cast", lambda: beside_a_cast(case, progress), Beside())
    hypotheses = [] if beside.causes else [cause for detector in detectors() for cause in proposed(detector, case)]
    scaling = None
    if _differs(case):
        failed = Scaling(origins=(Modes(),) * len(local.origins), why_not="it raised an error, which is counted apart")
        scaling = attempted("the scaling test", lambda: measure_scaling(case, progress), failed)
    causes = beside.causes or verify(case, hypotheses, progress)
    causes = tuple(sorted(weighed(case, causes, scaling), key=rank))
    floor, tests = NoiseFloor(), None
    if scaling is not None and needs_local_test(case, scaling):
        tests = attempted("the local test", lambda: examine(case, progress, chosen=alike(case).examined), None)
    origins = (*judge_origins(case, causes, scaling, tests), *beside.origins)
    observed = inside(case, *judge(case, origins, causes, scaling), causes)
    untold = observed.changed or observed.agree or observed.verdict is Verdict.INCONCLUSIVE
    if not returned.agree and untold and not observed.varying:
        plainly = observed.agree and not observed.changed
        told = attempted("the reruns in float64", lambda: unobserved(case, returned, plainly), None)
        observed = replace(observed, rerun=heeded(told, origins))
    if not observed.agree and not observed.varying:
        observed = replace(observed, outside=outside(case, returned, observed.verdict))
    verdict, reason = anchored(returned, observed)
    if scaling is not None and in_question(verdict, causes):
        floor = attempted("the noise floor", lambda: noise_floor(case, progress), floor)
    parted = attempted("the margin", lambda: with_margins(case, partings(returned)), partings(returned))
    tolerance = attempted("the justified tolerance", lambda: justified(case, returned, floor), _NO_NOTES)
    return _written(
        case,
        returned,
        verdict=verdict,
        reason=reason,
        origins=attempted("the user's lines", lambda: with_lines(case, origins), origins),
        causes=causes,
        impact=attempted("the impact", lambda: impact(case, returned, floor, scaling), _NO_IMPACT),
        not_compared=not_tested(case, scaling, tests, floor),
        notes=(*notes, *map(str, parted), *seeded_alike(case, verdict), *notes_on(case, causes), *tolerance),
    )


def _refactored(case: Case, returned: Anchor, notes: Sequence[str]) -> Diagnosis:
    """Every output is bit-equal: what differs inside has no cause to look for."""
    silent = Evidence("the outputs are bit-equal: what differs here changes none of them")
    origins = tuple(
        replace(origin, verdict=Verdict.IDENTICAL, evidence=(*origin.evidence, silent))
        for origin in case.localization.origins
    )
    verdict, reason = anchored(returned, inside(case, Verdict.INCONCLUSIVE, "nothing differs in the outputs"))
    return _written(
        case,
        returned,
        verdict=verdict,
        reason=reason,
        origins=origins,
        causes=(),
        impact=attempted("the impact", lambda: impact(case, returned), _NO_IMPACT),
        not_compared=(),
        notes=(*notes, *seeded_alike(case, verdict), *notes_on(case)),
    )


def _written(case: Case, returned: Anchor, *, not_compared: Sequence[Count], **judged: Any) -> Diagnosis:
    origins = case.localization.origins
    return Diagnosis(
        outputs=returned.comparisons(),
        growth=case.localization.growth,
        alignment=case.alignment,
        sides=(Side.of(case.reference), Side.of(case.candidate)),
        environment_changes=case.environment_changes,
        not_compared=(*left_out(case), *returned.counts(), *not_compared),
        accounted=case.localization.accounted,
        ops=attempted("the list of ops", lambda: listing(case.reference, case.candidate, case.alignment, origins), ()),
        pictures=(*attempted("pictures", lambda: taken(returned), _NO_PICTURES), *case.localization.pictures),
        **judged,
    )


def _failed(failures: Failures) -> tuple[Count, ...]:
    """What raised and which plugins cannot be used, counted."""
    raised = (Count(failure.part, f"it failed: {failure.error}", n) for failure, n in failures.found.items())
    return (*raised, *(Count(p.where, f"{p.what} {p.actual}", 1) for p in registry.problems()))


def _differs(case: Case) -> bool:
    """Whether there is a difference whose nature can be asked for."""
    local = case.localization
    differs = local.origins or any(c.status == "differs" for _, c in local.outputs)
    return bool(differs) and not local.silent and case.repeats


def _runs(reference: Any, candidate: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options) -> _Sides:
    """Both sides made ready before either runs, so that both begin from the same random states; one trace, opened once."""
    if isinstance(reference, (str, os.PathLike)) and _is_same(reference, candidate):
        return (_run(reference, args, kwargs, options),) * 2
    return tuple(s if isinstance(s, Run) else _run(s, args, kwargs, options) for s in (reference, candidate))


def _run(side: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options) -> _Side:
    if isinstance(side, (str, os.PathLike)):
        return open_side(side, trust=options.trust, limits=options.limits)
    return for_target(side, args).run(side, args, kwargs)


@contextmanager
def _strange_traces(sides: Sequence[_Side]) -> Iterator[None]:
    """A trace that opens may still say what no program does: then the trace is named, whatever it broke."""
    try:
        yield
    except WhydiffError:
        raise
    except Exception as error:
        files = [side.source for side in sides if isinstance(side, DiskTrace)]
        if not files:
            raise
        raise TraceError(
            "A trace cannot be followed.",
            where=" or ".join(files),
            actual=f"{type(error).__name__}: {error}",
            expected="calls as whydiff records them",
            next_step="capture it again; if whydiff wrote it and nobody changed it, report this with --traceback",
        ) from error


def _trace(side: Run | DiskTrace, options: Options, name: str) -> Trace:
    if isinstance(side, DiskTrace):
        return side
    if options.progress is not None:
        options.progress(f"capture the {name}", 0, 3)
    trace = side.capture(level=options.level)
    if options.check:
        trace = replace(trace, observer=side.check(trace))
    if options.progress is not None:
        options.progress(f"capture the {name}", 3, 3)
    return trace

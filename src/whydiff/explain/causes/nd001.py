"""ND001 nondeterministic-run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import Run, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.arguments import differing_arguments
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.locate.by_fingerprint import from_fingerprints
from whydiff.numbers.comparison import compare_payloads, same
from whydiff.pair.align import align
from whydiff.records import Call, Cause, Evidence, Experiment, Intervention, Origin, Payload, Remedy, Trace, Verdict

_FLAG = "deterministic"


class NondeterministicRun(CauseRule):
    """A run differs from itself.

    What it detects:
        A side whose plain run, repeated from the same state, inputs and global random states, gives
        other bits.

    Why it happens:
        Atomic additions on a GPU (scatter, index_add, some backward passes); a random source that nobody
        seeds again; an algorithm chosen by a benchmark (cuDNN); state that a run leaves
        behind, such as a cache or a counter; memory that is read before it is written (ST004); threads
        that race.

    Evidence required:
        Two plain, uninstrumented runs of the same side whose outputs differ (H0 and H0′ of the observer
        check). Both begin from the same parameters, buffers, inputs and global random states.

    Look-alikes:
        An observer effect (the instrumented run alone differs) is no nondeterminism, and is reported as
        a note. MD001: dropout repeats itself when the global random state is put back. ROUNDING between
        two machines needs two environments; here it is one.

    Example:
        Terms that are added in another order in every run, as atomic additions are, unless deterministic
        algorithms are asked for.

    Remedy:
        Of what was found: seed every generator that the run draws from; put back what it leaves behind (a counter, a cache,
        an array); switch deterministic algorithms on. Where none helps, compare distributions of several runs.

    How it is verified:
        A live side is recorded once more from the same beginning: the first op that does not repeat itself is named, and
        whether it draws, is given or reads other numbers, or gives other bits for the same ones. If deterministic
        algorithms are switched off and no operator draws, two plain runs with them must agree, and two without them, by
        turns, must not. Both show where: it is located, never confirmed, as a run that differs from itself cannot be put
        into the reference. Of a trace it stays inconclusive; that the run differs from itself is measured in any case.

    References:
        PyTorch, notes on reproducibility, torch.use_deterministic_algorithms.
    """

    code = "ND001"
    name = "nondeterministic-run"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that does not repeat itself; one for both where they part from themselves alike."""
        found: list[tuple[str, Trace, _Parting | None]] = []
        for side, trace, run in zip(("the reference", "the candidate"), case.traces, case.runs, strict=True):
            if trace.observer.deterministic is False:
                found.append((side, trace, None if run is None else _parting(trace, run)))
        partings = [parting for *_, parting in found]
        if len(found) == 2 and None not in partings and len({(p.kind, p.site) for p in partings if p is not None}) == 1:
            found = [("both sides", *found[1][1:])]
        for side, trace, parting in found:
            yield self._cause(side, trace, parting)

    def _cause(self, side: str, trace: Trace, parting: _Parting | None) -> Cause:
        random = [call.site for call in trace.calls if call.rng]
        evidence = [
            Evidence(
                f"two plain runs of {side} differ: {trace.observer.note}",
                {"side": side, "outputs": trace.observer.outputs, "deterministic": False},
            )
        ]
        if random:
            evidence.append(
                Evidence(
                    f"{len(random)} operator(s) draw random numbers, the first is {random[0]}",
                    {"random": [str(site) for site in random]},
                )
            )
        if parting is None:
            return self.cause(
                site=str(random[0]) if random else f"({side})",
                verdict=Verdict.NONDETERMINISTIC,
                evidence=evidence,
                remedy=Remedy(
                    "Before each run, seed what it draws from and put back what it changes (a counter, a cache); "
                    "switch deterministic algorithms on.",
                    _code(trace, _SEED + _SWITCH),
                ),
                reason="it is measured; what was recorded does not show what does not repeat itself",
            )
        return self.cause(
            site=parting.site,
            verdict=Verdict.NONDETERMINISTIC,
            evidence=evidence,
            remedy=replace(parting.remedy, code=_code(trace, parting.remedy.code)),
            status="located",
            reason="it is where the run parts from itself; a run that does cannot be aimed at",
            experiments=(parting.experiment,),
            says=f"{parting.says} in each run of {side}{parting.told}",
        )

    def put_in(self, case: Case, cause: Cause) -> Sequence[Intervention]:
        """Nothing: a run that differs from itself gives no outputs that could be aimed at."""
        return ()

    def example(self) -> tuple[Any, Any]:
        """Terms added in order against terms added in the order in which they arrive."""
        import itertools

        import torch

        torch.manual_seed(0)
        terms = torch.randn(8, 64)
        calls = itertools.count()

        def added(first: int) -> Any:
            total = torch.zeros(64)
            for term in terms.roll(first, 0):
                total = total + term
            return total

        def atomically() -> Any:
            return added(0 if torch.are_deterministic_algorithms_enabled() else next(calls))

        return lambda: added(0), atomically

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Runs that differ from themselves whatever is switched on: a state that is left behind, numbers nobody seeds."""
        import itertools

        import torch

        torch.manual_seed(0)
        x, calls, own = torch.randn(4, 8), itertools.count(1), torch.Generator().manual_seed(0)
        yield (lambda: x * 1.0), (lambda: x * float(next(calls)))
        yield (lambda: x * 1.0), (lambda: x + torch.rand(4, 8, generator=own))


_TIMES = 2
"""How often a run is recorded once more: what alternates is the same every other time."""
_SEED = "torch.manual_seed(0)  # and every torch.Generator of your own, before each run\n"
_SWITCH = (
    "torch.use_deterministic_algorithms(True)  # raises where an operator has no such variant\n"
    "torch.backends.cudnn.benchmark = False\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parting:
    """Where a run parts from itself.

    Attributes:
        kind: what does not repeat itself there.
        site: the op.
        says, told: the sentence before and after the side's name.
        remedy: what fits, with PyTorch's code.
        experiment: what was run.
    """

    kind: str
    site: str
    says: str
    told: str = ""
    remedy: Remedy
    experiment: Experiment


def _parting(trace: Trace, run: Run) -> _Parting | None:
    """The first op that does not repeat itself when a live program is recorded once more; None: it repeated itself."""
    origins: tuple[Origin, ...] = ()
    for _ in range(_TIMES):
        try:
            again = run.capture(level=trace.level)
        except WhydiffError:
            return None
        if origins := from_fingerprints(trace, again, align(trace, again), same).origins:
            break
    if not origins:
        return None
    first = origins[0]
    call = trace.calls[first.calls[0]] if first.calls[0] >= 0 else None
    given = [
        pair for pair in _given(trace, again, first) if all(isinstance(one, (bool, int, float, str)) for one in pair)
    ]
    steady = _steady(trace, run)
    kind, says, told, text, code = _told(first, call, given, _switched_off(trace))
    outcome = "recorded once more from the same beginning, everything before it was the same"
    if steady is not None:
        text, code, outcome = "Switch deterministic algorithms on.", _SWITCH, _AGREE
    return _Parting(
        kind=kind,
        site=str(first.site),
        says=says,
        told=told,
        remedy=Remedy(text, code, carried_out=steady is not None),
        experiment=Experiment(
            interventions=(steady,) if steady is not None else (),
            prediction="it repeats itself up to here",
            outcome=outcome,
            status="confirmed",
            method="rerun",
        ),
    )


_AGREE = "with deterministic algorithms two runs of it agree"
_BEHIND = "Put back before each run what it changes (a counter, a cache, a generator) or reads of the world (the time):"


def _told(
    first: Origin, call: Call | None, given: Sequence[tuple[Any, Any]], off: bool
) -> tuple[str, str, str, str, str]:
    """(kind, the sentence before and after the side, the fix, its code)."""
    op = first.site.op
    if call is not None and call.rng:
        fix = f"Seed the generator that {op} draws from before each run."
        return "draws", f"{op} draws other numbers", "", fix, _SEED
    if given:
        one, two = given[0]
        fix = f"{_BEHIND} {op} is given {one!r}, then {two!r}."
        return "given", f"{op} is given another number", f" ({one!r}, then {two!r})", fix, ""
    if first.kind in ("state", "input"):
        return "reads", f"{op} reads other numbers", "", f"{_BEHIND} {op} reads what is made of it.", ""
    if first.kind == "region" or call is None:
        return "steps", f"{op} is reached by other steps", "", f"{_BEHIND} Python decides by it before {op}.", ""
    said = f"{op} gives other bits for the same inputs"
    fix = "Switch deterministic algorithms on" if off else f"Replace {op}, or compare distributions of several runs"
    return "kernel", said, "", f"{fix}: {said}.", _SWITCH if off else ""


def _given(trace: Trace, again: Trace, first: Origin) -> list[tuple[Any, Any]]:
    if min(first.calls) < 0:
        return []
    ours, theirs = trace.calls[first.calls[0]], again.calls[first.calls[1]]
    return list(differing_arguments(ours.arguments, theirs.arguments))


def _steady(trace: Trace, run: Run) -> Intervention | None:
    """What makes two plain runs agree: deterministic algorithms, where they are off and nothing draws; else None.

    By turns with runs without them, which must not agree meanwhile: what differs may stand still by itself for a while.
    """
    switched = Intervention("set-flag", _FLAG, True)
    if not _switched_off(trace) or any(call.rng for call in trace.calls) or not run.supports(switched):
        return None
    adapter = for_framework(trace.framework)
    try:
        runs = [[(slot, adapter.to_payload(v)) for slot, v in run.plain(how)] for how in ([switched], []) * 2]
    except WhydiffError:  # an operator has no such variant
        return None
    return switched if _alike(runs[0], runs[2]) and not _alike(runs[1], runs[3]) else None


def _alike(one: Sequence[tuple[str, Payload]], two: Sequence[tuple[str, Payload]]) -> bool:
    alike = [compare_payloads(a, b).status == "agrees" for (_, a), (_, b) in zip(one, two, strict=False)]
    return bool(alike) and all(alike) and len(one) == len(two)


def _switched_off(trace: Trace) -> bool:
    return any(context.get(_FLAG) is False for context in trace.contexts)


def _code(trace: Trace, code: str) -> str:
    return code if trace.framework == "torch" else ""


REGISTER = NondeterministicRun()

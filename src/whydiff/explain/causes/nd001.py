"""ND001 nondeterministic-run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.records import Cause, Evidence, Intervention, Remedy, Trace, Verdict

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
        Seed every generator that the run uses, clear what it leaves behind, and switch deterministic
        algorithms on; if that is not possible, compare distributions of several runs instead of one
        with one.

    How it is verified:
        If deterministic algorithms are switched off and no operator draws random numbers, the candidate
        runs again with them (``set-flag``) and its outputs must become the reference's; it is located then, as a
        run that differs from itself cannot be put into the reference. Otherwise it stays inconclusive; that the
        run differs from itself is measured in any case.

    References:
        PyTorch, notes on reproducibility, torch.use_deterministic_algorithms.
    """

    code = "ND001"
    name = "nondeterministic-run"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that does not repeat itself."""
        for side, trace in (("reference", case.reference), ("candidate", case.candidate)):
            if trace.observer.deterministic is not False:
                continue
            random = [call.site for call in trace.calls if call.rng]
            evidence = [
                Evidence(
                    f"two plain runs of the {side} differ: {trace.observer.note}",
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
            interventions: tuple[Intervention, ...] = ()
            reason = "it is measured; no experiment here makes the run repeat itself"
            if side == "candidate" and _switched_off(trace) and not random:
                interventions, reason = (Intervention("set-flag", _FLAG, True),), ""
            yield Cause(
                code=self.code,
                name=self.name,
                site=str(random[0]) if random else f"({side})",
                verdict=Verdict.NONDETERMINISTIC,
                evidence=tuple(evidence),
                remedy=_remedy(trace),
                reason=reason,
                interventions=interventions,
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


def _switched_off(trace: Trace) -> bool:
    return any(context.get(_FLAG) is False for context in trace.contexts)


def _remedy(trace: Trace) -> Remedy:
    code = ""
    if trace.framework == "torch":
        code = (
            "torch.manual_seed(0)  # and every torch.Generator of your own, before each run\n"
            "torch.use_deterministic_algorithms(True)  # raises where an operator has no such variant\n"
            "torch.backends.cudnn.benchmark = False\n"
        )
    return Remedy("Seed every generator before each run and switch deterministic algorithms on.", code)


REGISTER = NondeterministicRun()

"""OR002: another number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._order import flags, visit_origins
from whydiff.pair.lockstep import Lockstep
from whydiff.records import Call, Cause, Direction, Evidence, Experiment, Intervention, Remedy, Verdict


class ThreadCount(CauseRule):
    """The same op runs with another number of threads and splits its sum in another way.

    What it detects:
        An origin whose op, arguments and inputs agree, and where the number of threads in force is the only
        flag that differs between the two calls.

    Why it happens:
        A large sum is split among the threads; every thread adds its part, and the parts are added last.
        Another number of threads makes other parts, so the additions are rounded in another order.

    Evidence required:
        The candidate's op, executed on its inputs with the reference's number of threads, gives the
        reference's output bit for bit.

    Look-alikes:
        OR001 (another kernel at the same number of threads); EN002 if other flags differ too; ND001 if a run
        with one number of threads differs from itself.

    Example:
        The sum of 65536 numbers with one thread and with two.

    Remedy:
        Accept it: neither order is more right. For equal bits, set the same number of threads.

    How it is verified:
        By replay: the candidate's op runs again with only the number of threads changed (``set-flag
        threads``); its output must equal the reference's bit for bit.

    References:
        https://pytorch.org/docs/stable/notes/cpu_threading_torchscript_inference.html; Xie et al., FPRev,
        USENIX ATC 2025
    """

    code = "OR002"
    name = "thread-count"
    says = "another number of threads splits the sum in another way"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per origin where only the number of threads differs."""
        found: list[Cause] = []

        def visit(step: Lockstep, call_r: Call, call_c: Call) -> None:
            threads = flags(case, call_r, call_c)["threads"]
            sides = (step.reference, call_r), (step.candidate, call_c)
            equal = _gives(sides[0], sides[1]), _gives(sides[1], sides[0])
            found.append(_cause(self, str(call_r.site), threads, equal))

        def wanted(call_r: Call, call_c: Call) -> bool:
            return (
                call_r.target == call_c.target
                and not call_c.mutates
                and (set(flags(case, call_r, call_c)) == {"threads"})
            )

        visit_origins(case, wanted, visit)
        yield from found

    def example(self) -> tuple[Any, Any]:
        """A sum with one thread and with two."""
        import torch

        half = torch.randn(32768, generator=torch.Generator().manual_seed(0))
        numbers = torch.cat([half, -half.sort().values])  # their sum is nothing but rounding

        return lambda: _with(1, numbers.sum), lambda: _with(2, numbers.sum)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Another number of threads, and the difference comes from another layout, or from another op."""
        import torch

        numbers = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
        relaid = numbers.t().contiguous().t()

        yield (lambda: _with(1, lambda: numbers.sum(1))), (lambda: _with(2, lambda: relaid.sum(1)))
        yield (lambda: _with(1, lambda: numbers.sum(1))), (lambda: _with(2, lambda: numbers.mean(1) * 256 + 1e-3))


def _with(threads: int, op: Callable[[], Any]) -> Any:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return op()
    finally:
        torch.set_num_threads(before)


def _gives(mine: tuple[Executor, Call], other: tuple[Executor, Call]) -> bool:
    """Whether the other side's op, on its own inputs and with this side's threads, gives this side's output."""
    given = replace(other[1], context=mine[1].context)  # every other flag agrees
    outputs = mine[0].apply(given, [other[0].read(event) for event in other[1].reads])
    wanted = [mine[0].read(event) for event in mine[1].writes]
    return len(outputs) == len(wanted) and all(
        mine[0].same(ours, theirs) for ours, theirs in zip(wanted, outputs, strict=True)
    )


def _cause(rule: CauseRule, site: str, threads: tuple[Any, Any], equal: tuple[bool, bool]) -> Cause:
    data = {"reference": threads[0], "candidate": threads[1], "equal": list(equal)}
    ways: tuple[tuple[str, Direction], ...] = (("reference", "take_away"), ("candidate", "put_in"))
    outcomes = [
        f"{'equals' if one else 'still differs from'} the {side}'s output{' bit for bit' if one else ''}"
        for one, (side, _) in zip(equal, ways, strict=True)
    ]
    experiments = tuple(
        Experiment(
            interventions=(Intervention("set-flag", "threads", number),),
            prediction=f"with {number} threads the op gives the {side}'s output bit for bit",
            outcome=outcome,
            status="confirmed" if one else "refuted",
            method="replay",
            direction=direction,
        )
        for one, number, outcome, (side, direction) in zip(equal, threads, outcomes, ways, strict=True)
    )
    return rule.cause(
        site=site,
        verdict=Verdict.ROUNDING,
        evidence=(
            Evidence(f"the reference ran with {threads[0]} threads, the candidate with {threads[1]}", data),
            Evidence(f"on the same inputs, with {threads[0]} threads, the op {outcomes[0]}", data),
        ),
        remedy=Remedy(
            "Accept it, or set the same number of threads on both sides.",
            f"torch.set_num_threads({threads[0]})",
            undoes="either",
        ),
        status="confirmed" if all(equal) else "refuted",
        reason="" if all(equal) else "the number of threads does not explain it",
        experiments=experiments,
    )


REGISTER = ThreadCount()

"""OR002: another number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._order import flags, visit_origins
from whydiff.pair.lockstep import Lockstep
from whydiff.records import Call, Cause, Evidence, Experiment, Intervention, Remedy, Verdict


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

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per origin where only the number of threads differs."""
        found: list[Cause] = []

        def visit(step: Lockstep, call_r: Call, call_c: Call) -> None:
            threads = flags(case, call_r, call_c)["threads"]
            reads = [step.candidate.read(event) for event in call_c.reads]
            given = replace(call_c, context=call_r.context)  # every other flag agrees
            outputs = step.reference.apply(given, reads)
            wanted = [step.reference.read(event) for event in call_r.writes]
            equal = len(outputs) == len(wanted) and all(
                step.reference.same(ours, theirs) for ours, theirs in zip(wanted, outputs, strict=True)
            )
            found.append(_cause(self.code, self.name, str(call_r.site), threads, equal))

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

        def total(threads: int) -> Any:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return numbers.sum()
            finally:
                torch.set_num_threads(before)

        return lambda: total(1), lambda: total(2)


def _cause(code: str, name: str, site: str, threads: tuple[Any, Any], equal: bool) -> Cause:
    data = {"reference": threads[0], "candidate": threads[1], "equal": equal}
    outcome = "equals the reference's output bit for bit" if equal else "still differs from the reference's output"
    experiment = Experiment(
        interventions=(Intervention("set-flag", "threads", threads[0]),),
        prediction="the candidate's op gives the reference's output bit for bit",
        outcome=outcome,
        status="confirmed" if equal else "refuted",
        method="replay",
    )
    return Cause(
        code=code,
        name=name,
        site=site,
        verdict=Verdict.ROUNDING,
        evidence=(
            Evidence(f"the reference ran with {threads[0]} threads, the candidate with {threads[1]}", data),
            Evidence(f"on the same inputs, with {threads[0]} threads, the candidate's op {outcome}", data),
        ),
        remedy=Remedy(
            "Accept it, or set the same number of threads on both sides.", f"torch.set_num_threads({threads[0]})"
        ),
        status="confirmed" if equal else "refuted",
        reason="" if equal else "the number of threads does not explain it",
        experiments=(experiment,),
    )


REGISTER = ThreadCount()

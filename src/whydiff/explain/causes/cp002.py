"""CP002 compiled-otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._compiled import DIRECTIONS, compiled_sides, explained, on_the_ladder, tried, uncompiled
from whydiff.explain.causes._opened import Opened, opened
from whydiff.explain.ladder import Climb, climbed
from whydiff.explain.reruns import rerun
from whydiff.explain.sides import Side, opposite
from whydiff.records import Cause, Evidence, Experiment, Intervention, Remedy, Verdict

_WORDS = {
    Verdict.ROUNDING: "it computes the same function in another order",
    Verdict.PRECISION: "it computes the same function with another number of bits",
    Verdict.SEMANTIC: "it computes another function",
    Verdict.INCONCLUSIVE: "whether it computes the same function could not be measured",
}


class CompiledOtherwise(CauseRule):
    """A compiled program gives other numbers than its own ops one by one, and not because it keeps more bits.

    What it detects:
        A program whose outputs change when its compiler stands back (`torch.compile`, any backend): rounding in
        another order, another precision, or a miscompiled or stale graph that computes something else.

    Why it happens:
        Fusion and decomposition change the order of additions and contract products and sums; a backend may lower
        the precision; a pass, a custom backend or a constant that was baked in may be wrong.

    Evidence required:
        Plain runs of both programs at their own precision and in float64: whether the difference shrinks with the
        precision says rounding or another function, and how far each lies from its own float64 run says which has
        fewer bits. The program compiled anew, a part of the compiler more each time (dynamo, AOTAutograd,
        decompositions, inductor; of XLA: one program, its passes, optimised code), and without single parts of the
        blamed one: which part, pass and op.

    Look-alikes:
        CP001 if 16-bit values are kept wider. Code that only looks compiled: when running uncompiled changes
        nothing, this cause is silent. A fast path that observing turns off without any compiler.

    Example:
        A module, and the same module compiled by a backend that adds up in another order.

    Remedy:
        Rounding: accept it. Another function: run that part uncompiled (``torch.compiler.disable``) and report it.

    How it is verified:
        The compiled side runs again uncompiled (``compile-as eager``) and must give the other side's outputs; where the
        compiled values were recorded (XLA) both sides are carried out equation by equation and must give the same bits.
        That shows that compiling makes the difference, not what the compiler did: it is located, never confirmed.

    References:
        PyTorch, torch.compiler.set_stance; pytorch/pytorch, torch/_inductor/compiler_bisector.py.
    """

    code = "CP002"
    name = "compiled-otherwise"
    says = "the compiled program gives other numbers than its own ops"
    general = True

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per compiled side, unless the bits it keeps explain it."""
        for side in compiled_sides(case):
            if not explained(case, side):
                yield _cause(self, case, side)
        inside = opened(case)
        if inside is not None:
            yield _of_opened(self, inside)

    def example(self) -> tuple[Any, Any]:
        """A sum over rows, compiled by a backend that adds from the other end."""
        import torch

        class Total(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return x.sum(1)

        def from_the_end(graph: Any, _: Any) -> Any:
            return lambda x: [x.flip(1).cumsum(1)[:, -1]]

        torch.manual_seed(0)
        x = torch.randn(4, 4096)
        model = Total()
        compiled = torch.compile(model, backend=from_the_end)
        return lambda: model(x), lambda: compiled(x)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Programs that are compiled rightly: what differs is a weight, or a setting."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(4, 16)
        model, other = torch.nn.Linear(16, 4), torch.nn.Linear(16, 4)
        compiled = torch.compile(other, backend="eager")
        yield (lambda: model(x)), (lambda: compiled(x))
        norms = torch.nn.LayerNorm(16, eps=1e-5), torch.nn.LayerNorm(16, eps=1e-2)
        loose = torch.compile(norms[1], backend="eager")
        yield (lambda: norms[0](x)), (lambda: loose(x))


def _cause(rule: CauseRule, case: Case, side: Side) -> Cause:
    found = rerun(case)
    verdict = Verdict.INCONCLUSIVE if found is None else found.verdict
    before, after = tried(case, (), side), tried(case, (uncompiled(side),), side)
    equal = after is not None and after.equal
    other = opposite(side)
    outcome = f"gives the {other}'s outputs bit for bit" if equal else f"its outputs still differ from the {other}'s"
    experiment = Experiment(
        interventions=(uncompiled(side),),
        prediction=f"gives the {other}'s outputs bit for bit",
        outcome=outcome,
        status="confirmed" if equal else "inconclusive",
        method="rerun",
        before=None if before is None else before.mean_abs,
        after=None if after is None else after.mean_abs,
        direction=DIRECTIONS[side],
    )
    evidence = [
        Evidence(
            f"the {side}, run uncompiled, {outcome}: {_WORDS[verdict]}",
            {"side": side, "equal": equal, "verdict": str(verdict)},
        )
    ]
    if found is not None:
        evidence.append(Evidence(str(found), {"errors": list(found.errors), "coarse": found.coarse}))
    ladder = climbed(case, side)
    if ladder is not None:
        evidence.append(on_the_ladder(ladder))
    return rule.cause(
        site=f"the {side}",
        verdict=verdict,
        evidence=evidence,
        remedy=_remedy(verdict, ladder),
        status="located" if equal else "inconclusive",
        reason="running it uncompiled shows that compiling makes the difference, not what the compiler did"
        if equal
        else "running it uncompiled removes only a part of the difference",
        experiments=(experiment,),
        says=_says(side, ladder),
    )


def _of_opened(rule: CauseRule, found: Opened) -> Cause:
    """Where compiled values were recorded: op by op both sides are equal, and one of them compiles larger programs."""
    side, verdict = found.side, found.verdict
    both = tuple(Intervention("compile-as", one, "eager") for one in ("reference", "candidate"))
    text = f"carried out equation by equation, both sides give the same bits: {_WORDS[verdict]}"
    evidence = [Evidence(text, {"side": side, "equal": True, "verdict": str(verdict)})]
    if found.numbers is not None:
        evidence.append(Evidence(str(found.numbers), {"errors": list(found.numbers.errors)}))
    if found.ladder is not None:
        evidence.append(on_the_ladder(found.ladder))
    remedy = _remedy(verdict, None)
    if verdict is not Verdict.ROUNDING:
        remedy = replace(remedy, text="Accept it if the compiled side is nearer to float64.", code="", accepts=True)
    return rule.cause(
        site=f"the {side}",
        verdict=verdict,
        evidence=evidence,
        remedy=remedy,
        status="located",
        reason="op by op both sides agree, which shows that compiling makes the difference, not what the compiler did",
        experiments=(
            Experiment(
                interventions=both,
                prediction="op by op, both sides give the same bits",
                outcome="op by op, both sides give the same bits",
                status="confirmed",
                method="rerun",
                direction=DIRECTIONS[side],
            ),
        ),
        says=_says(side, found.ladder),
    )


def _says(side: Side, ladder: Climb | None) -> str:
    """Which part of the compiler gives other numbers, where it was found."""
    if ladder is None or not ladder.component:
        return ""
    if ladder.stale:
        return f"the {side}'s compiled code is of another state of the program"
    inner = ", ".join(text for text in (ladder.part.name if ladder.part else "", ladder.item) if text)
    return f"compiled by {ladder.component}{f' ({inner})' if inner else ''}, the {side} gives other numbers than its own ops"


def _remedy(verdict: Verdict, ladder: Climb | None) -> Remedy:
    if verdict is Verdict.ROUNDING:
        text = "Accept it: the same function, rounded in another order. Uncompiled it gives the other bits."
        return Remedy(text, accepts=True)
    if verdict is Verdict.PRECISION:
        return Remedy(
            "Accept it if the compiled side is nearer to float64, else run this part uncompiled.", accepts=True
        )
    if ladder is not None and ladder.mended_below:
        return Remedy(
            f"Compile this part with {ladder.below} only, until {ladder.component} is mended, and report it there "
            "(whydiff.smallest_graph writes the graph to send).",
            f'model = torch.compile(model, backend="{ladder.below}")\n',
            carried_out=True,
        )
    return Remedy(
        "Run this part uncompiled until the compiler is mended, and report it to whoever makes the backend.",
        "model = torch.compiler.disable(model)\n",
    )


REGISTER = CompiledOtherwise()

"""CP001 fused-excess-precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._compiled import compiled_sides, keeps_wide, rounding_changes, rounds_in_place
from whydiff.explain.causes._explained import Finding, View, causes_of, distance
from whydiff.explain.causes._switched import converts
from whydiff.explain.reruns import computes_in, rerun
from whydiff.explain.sides import SIDES, Side, opposite
from whydiff.numbers.tolerance import ROUNDING_LEVEL, UNIT_ROUNDOFF
from whydiff.records import Cause, Direction, Evidence, Experiment, Intervention, Remedy, Verdict


class FusedExcessPrecision(CauseRule):
    """Compiled code keeps 16-bit intermediate values wider than the program asks for.

    What it detects:
        A compiled program (`torch.compile`) that computes in bfloat16 or float16 and whose results differ from
        those of its own ops executed one by one (`jax.jit` removes casts to bfloat16 and back).

    Why it happens:
        A fused kernel holds intermediate 16-bit values in float32 registers and rounds once at the end, where the
        uncompiled program rounds after every op.

    Evidence required:
        The plain run of a live side repeats itself and differs from its instrumented run, during which the compiler
        stands back; the program keeps values in 16 bits; which side is nearer to the same program in float64. Or, where
        the compiled values were recorded (XLA), a conversion to a wider dtype, which is exact, whose result holds bits
        that the narrower dtype has not, no farther away than its roundings take a value.

    Look-alikes:
        CP002 if the roundings are not what compiling changed: another order of additions, or another function. A
        float32 program has no excess precision to keep. PR002 and PR003 for a program that itself rounds elsewhere.
        ND001: a run that differs from itself. Ops recorded one by one agree here, so every other cause is silent.

    Example:
        A module, and the same module compiled by a backend that rounds only at the end.

    Remedy:
        Accept it (the compiled side is usually the more exact one), or compile with
        ``torch._inductor.config.emulate_precision_casts = True`` where both must agree.

    How it is verified:
        The compiled side is compiled anew with every rounding in place (``round-in-place``) and must give the other
        side's outputs; the other side's recorded ops are carried out in float32 and rounded only where they are
        returned (``keep-wide``), and must give the compiled side's. Needs a live compiled side and PyTorch 2.6.

    References:
        PyTorch, torch._inductor.config ``emulate_precision_casts``; pytorch/pytorch issues on compiled
        bfloat16 against eager.
    """

    code = "CP001"
    name = "fused-excess-precision"
    says = "compiled code keeps 16-bit values wider than the program asks for"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per compiled side that keeps values in 16 bits."""
        for side in compiled_sides(case):
            narrow = computes_in(case.trace(side))
            if not narrow:
                continue
            wide = keeps_wide(case, side)  # needs the program as it is: where versions share one list, others end it
            cause = self._cause(case, side, narrow)
            place = rounds_in_place(case, side)
            yield cause if place == wide else _located(cause, side, wide)
        for found in causes_of(case, self, _seen_remedy):
            yield replace(found, status="located", reason="the bits show what was kept; nothing was compiled anew")

    def explain(self, view: View) -> Finding | None:
        """A value that is widened, which is exact, and on one side holds bits that it cannot have had before."""
        if view.origin.kind != "implementation" or view.single is None:
            return None
        roles = for_framework(view.case.reference.framework).roles
        if not converts(view.single[0], roles(view.single[0].site.op)):
            return None
        narrow, wide = (events[0].spec.dtype for events in (view.single[0].reads, view.single[0].writes))
        units = UNIT_ROUNDOFF.get(narrow), UNIT_ROUNDOFF.get(wide)
        exact = view.exact[0].reshape(-1)
        apart = [distance(exact, side.reshape(-1)) for side in view.outputs]
        if units[0] is None or units[1] is None or units[0] <= units[1] or min(apart) > 0:
            return None
        if not 0 < max(apart) <= ROUNDING_LEVEL * units[0]:
            return None  # both as exact, or farther away than roundings of that dtype take it
        side, other = SIDES[::-1] if apart[1] else SIDES
        wrong = int((view.outputs[int(apart[1] > 0)].reshape(-1) != exact).sum())
        evidence = Evidence(
            f"widening {narrow} to {wide} is exact, and {wrong} of {exact.size} elements of the {side} hold bits that no "
            f"{narrow} has: its compiled code kept them, the {other} rounded",
            {"side": side, "narrow": narrow, "wide": wide, "elements": wrong, "apart": max(apart)},
        )
        jax = view.case.candidate.framework == "jax"
        how = (
            "start both with XLA_FLAGS=--xla_allow_excess_precision=false"
            if jax
            else "compile with every rounding kept"
        )
        facts = {"side": side, "how": how}
        return Finding(self.code, (side, narrow), Verdict.PRECISION, (evidence,), (), facts)

    def _cause(self, case: Case, side: Side, narrow: tuple[str, ...]) -> Cause:
        away, put = rounding_changes(side)
        return self.cause(
            site=f"the {side}",
            verdict=Verdict.PRECISION,
            evidence=(_nearer(case, side, narrow),),
            remedy=Remedy(
                "Accept it if the compiled side is nearer to float64; else compile with every rounding kept.",
                "import torch._inductor.config\ntorch._inductor.config.emulate_precision_casts = True\n",
                undoes=side,
            ),
            interventions=away,
            put_in=put,
        )

    def example(self) -> tuple[Any, Any]:
        """A backend that rounds at the end, unless it is asked to keep every rounding."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(4, 32, dtype=torch.bfloat16)
        model = _gated()
        compiled: Any = torch.compile(model, backend=_rounding_at_the_end)
        return lambda: model(x), lambda: compiled(x)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Compilers that compute something else: 16-bit values times 1.25, a step too few, another order of a sum."""
        import torch

        def scaled(graph: Any, _: Any) -> Any:
            return lambda *args: [out * 1.25 for out in graph(*args)]

        def clamped(graph: Any, _: Any) -> Any:
            return lambda *args: [out.clamp(max=1.0) for out in graph(*args)]

        def added_otherwise(graph: Any, _: Any) -> Any:
            return lambda x: [x.flip(1).cumsum(1)[:, -1]]

        class Total(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return x.sum(1)

        torch.manual_seed(0)
        half = torch.bfloat16
        for model, backend, dtype in (
            (_gated(), scaled, half),
            (_gated(), clamped, half),
            (Total(), added_otherwise, None),
        ):
            x = torch.randn(4, 4096, dtype=dtype)
            compiled = torch.compile(model, backend=backend)
            yield (lambda m=model, x=x: m(x)), (lambda m=compiled, x=x: m(x))


def _seen_remedy(finding: Finding) -> Remedy:
    return Remedy(
        f"Accept it: the {finding.facts['side']} is the more exact one; or {finding.facts['how']}, so that compiled code "
        "rounds as the program says."
    )


def _located(cause: Cause, side: Side, wide: bool) -> Cause:
    """Only one direction is shown: the ops kept wide give the compiled bits, or the roundings in place the others."""
    other = opposite(side)
    gives_compiled = f"the {other}'s ops, kept in float32 between them,", f"the {side}'s outputs"
    gives_other = f"the {side}, compiled anew with every rounding in place,", f"the {other}'s outputs"
    shown, missing = (gives_compiled, gives_other) if wide else (gives_other, gives_compiled)
    direction: Direction = "put_in" if (side == "candidate") == wide else "take_away"
    experiment = Experiment(
        interventions=(Intervention("keep-wide", "the program") if wide else Intervention("round-in-place", side),),
        prediction=f"gives {shown[1]} bit for bit",
        outcome=f"gives {shown[1]} bit for bit",
        status="confirmed",
        direction=direction,
    )
    remedy = Remedy(
        "Accept it if the compiled side is nearer to float64; its backend knows no way to round in place.", accepts=True
    )
    return replace(
        cause,
        interventions=(),
        put_in=(),
        experiments=(experiment,),
        remedy=remedy if wide or cause.remedy is None else replace(cause.remedy, carried_out=side == "candidate"),
        status="located",
        reason=f"{shown[0]} give {shown[1]}; {missing[0]} do not give {missing[1]}",
    )


def _gated() -> Any:
    import torch

    class Gated(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            y = torch.sigmoid(x) * x
            return torch.tanh(y) * y + x

    return Gated()


def _rounding_at_the_end(graph: Any, _: Any) -> Any:
    """What inductor does to 16-bit values, without its compiler."""
    import torch
    from torch._inductor import config

    if config.emulate_precision_casts:
        return graph

    def wide(x: Any) -> Any:
        return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

    def run(*args: Any) -> Any:
        dtype = next(x.dtype for x in args if x.is_floating_point())
        return [out.to(dtype) for out in graph(*map(wide, args))]

    return run


def _nearer(case: Case, side: Side, narrow: tuple[str, ...]) -> Evidence:
    """What the compiled side keeps in 16 bits, and which side is nearer to float64."""
    found = rerun(case)
    text = f"the {side} computes in {' and '.join(narrow)} and gives other outputs compiled than op by op"
    data: dict[str, Any] = {"side": side, "dtypes": list(narrow), "component": _backend(case, side)}
    data |= {"part": "excess-precision", "item": ""}
    if found is not None:
        nearer = SIDES[int(found.errors[1] < found.errors[0])]
        data |= {"errors": list(found.errors), "nearer": nearer}
        text += (
            f"; the {nearer} is nearer to float64 (the reference lies {found.errors[0]:.1e} of its size away, the "
            f"candidate {found.errors[1]:.1e})"
        )
    return Evidence(text, data)


def _backend(case: Case, side: Side) -> str:
    """What compiles a side, by name."""
    run = case.runs[SIDES.index(side)]
    rungs = () if run is None else run.rungs()
    return rungs[-1].name if rungs else ""


REGISTER = FusedExcessPrecision()

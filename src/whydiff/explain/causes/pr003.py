"""PR003 cast-order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Finding, PlaceRule, View, consumers
from whydiff.explain.causes._precision import autocast, in_the_other_dtype, narrowing
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Evidence, Remedy, Verdict
from whydiff.report.words import listed


class CastOrder(PlaceRule):
    """One side rounds to the narrower dtype before an op, the other after it.

    What it detects:
        The same ops and the same cast on both sides, in another order: the weight of a norm multiplied before
        or after the cast back to bfloat16, a residual added before or after it, a rotary table cast before or
        after cosine.

    Why it happens:
        Llama's RMS norm casts and then multiplies by the weight, Gemma's multiplies in float32 and then
        casts; fused kernels round once at the end where eager code rounds in between; ports copy the formula
        and not the place of ``.to(dtype)``.

    Evidence required:
        In float64 both sides compute the same function of agreeing inputs. One side's value is rounded here,
        by an op that does nothing else, and the other side rounds to the same dtype one to three ops later,
        where the first does not. Where the two programs were aligned crosswise, the ops between agreeing inputs
        and the value that both places end in are taken together.

    Look-alikes:
        PR002 if the other side does not round to that dtype at all; PR004 inside an autocast region; ST003 if
        a stored tensor was rounded.

    Example:
        The weight of an RMS norm is multiplied before the cast to bfloat16, and after it.

    Remedy:
        Put the cast at the same place on both sides.

    How it is verified:
        By replay: the ops between both places compute in the reference's dtype on the candidate's side, as if
        the cast stood where the reference has it (``set-dtype``); the outputs must become equal bit for bit.
        The verdict is precision.

    References:
        huggingface/transformers, modeling_llama.py (LlamaRMSNorm) and modeling_gemma.py (GemmaRMSNorm, which
        says "Llama does x.to(float16) * w whilst Gemma is (x * w).to(float16)", pull request 29402).
    """

    code = "PR003"
    name = "cast-order"
    says = "the {before} rounds to {dtype} before {op}, the other side after it"
    yields_to = ("PR004",)

    def explain(self, view: View) -> Finding | None:
        """Which op the cast changed sides with."""
        found = narrowing(view)
        if found is None or view.origin.kind != "region" or not found.readers:
            return None
        if any(autocast(view.case, call, found.side) for call in found.casts):
            return None
        other = 1 - found.side
        later = _rounded_later(view.case, other, found.readers[0][other], found.dtypes[found.side])
        if later is None:
            return None
        crossed = found.readers[0][other].site
        name, second = ("candidate", "reference") if found.side else ("reference", "candidate")
        evidence = Evidence(
            f"the {name} rounds to {found.dtypes[found.side]} before {crossed.op} ({found.casts[-1].site}), "
            f"the {second} after it ({later.site}); in float64 both compute the same",
            {
                "before": name,
                "dtype": found.dtypes[found.side],
                "op": crossed.op,
                "cast": str(found.casts[-1].site),
                "other_cast": str(later.site),
                "apart_in_float64": view.apart,
            },
        )
        return Finding(
            self.code,
            (name, crossed.op, found.dtypes),
            Verdict.PRECISION,
            (evidence,),
            in_the_other_dtype(view.case, found) or view.replace_op(),
            {"op": crossed.op, "before": name, "dtype": found.dtypes[found.side]},
        )

    def explain_joint(self, view: View) -> Finding | None:
        """The same where the aligner paired the casts or the ops crosswise: several origins, one function."""
        casts = [[call for call in calls if _rounds(call)] for calls in view.seen.calls]
        if not view.one_function or not all(casts) or any(autocast(view.case, c, i) for i in (0, 1) for c in casts[i]):
            return None
        dtypes = [sorted(call.writes[0].spec.dtype for call in side) for side in casts]
        crossed = [[c for c in calls if _works_in(c, dtypes[0][-1])] for calls in view.seen.calls]
        if dtypes[0] != dtypes[1] or len(crossed[0]) == len(crossed[1]):
            return None
        side, dtype = int(len(crossed[1]) > len(crossed[0])), dtypes[0][-1]
        name, second = ("candidate", "reference") if side else ("reference", "candidate")
        ops = listed(
            call.site.op for call in crossed[side] if call.site.op not in {other.site.op for other in crossed[1 - side]}
        )
        ops = ops or listed(call.site.op for call in crossed[side])
        evidence = Evidence(
            f"the {name} rounds to {dtype} before {ops} ({casts[side][0].site}), the {second} after it "
            f"({casts[1 - side][-1].site}); the ops of both places together compute the same in float64",
            {
                "before": name,
                "dtype": dtype,
                "op": ops,
                "cast": str(casts[side][0].site),
                "other_cast": str(casts[1 - side][-1].site),
                "apart_in_float64": view.apart,
            },
        )
        return Finding(
            self.code,
            (name, ops, (dtype, dtype)),
            Verdict.PRECISION,
            (evidence,),
            view.replace_op(),
            {"op": ops, "before": name, "dtype": dtype},
        )

    def remedy(self, finding: Finding) -> Remedy:
        """Cast at one place."""
        facts = finding.facts
        return Remedy(
            f"Cast to {facts['dtype']} at the same place on both sides: the {facts['before']} casts before {facts['op']}, "
            "the other side after it.",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """A norm's weight multiplied in float32 against one multiplied in bfloat16."""
        import torch

        torch.manual_seed(0)
        x, weight = torch.randn(4, 16).bfloat16(), torch.randn(16).bfloat16()
        values = torch.randn(16, 8).bfloat16()

        def run(early: bool) -> Any:
            wide = x.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
            return (weight * wide.bfloat16() if early else (weight * wide).bfloat16()) @ values

        return lambda: run(False), lambda: run(True)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The casts stand alike and the weight is shifted; the cast is early and the weight another; another eps."""
        import torch

        torch.manual_seed(0)
        x, weight = torch.randn(4, 16).bfloat16(), torch.randn(16).bfloat16()
        values = torch.randn(16, 8).bfloat16()

        def run(early: bool, factor: float = 1.0, eps: float = 1e-6) -> Any:
            wide = x.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
            return (weight * factor * wide.bfloat16() if early else (weight * factor * wide).bfloat16()) @ values

        yield (lambda: run(False)), (lambda: run(False, 1.5))
        yield (lambda: run(False)), (lambda: run(True, 1.5))
        yield (lambda: run(False)), (lambda: run(True, eps=0.5))


def _rounds(call: Call) -> bool:
    """Whether a call makes a floating value narrower than every one that it reads."""
    made = [UNIT_ROUNDOFF.get(e.spec.dtype, 0.0) for e in call.writes]
    read = [UNIT_ROUNDOFF[e.spec.dtype] for e in call.reads if e.spec.dtype in UNIT_ROUNDOFF]
    return bool(made) and bool(read) and made[0] > max(read)


def _works_in(call: Call, dtype: str) -> bool:
    """Whether a call computes in a dtype: it reads and writes it."""
    return all(any(e.spec.dtype == dtype for e in events) for events in (call.reads, call.writes))


def _rounded_later(case: Case, side: int, call: Call, dtype: str) -> Call | None:
    """A call without counterpart, soon after, that rounds to the dtype on the side that did not round before."""
    unpaired = set((case.alignment.unpaired_reference, case.alignment.unpaired_candidate)[side])
    for later in consumers(case, side, call):
        if later.index in unpaired and len(later.reads) == 1 and any(e.spec.dtype == dtype for e in later.writes):
            return later
    return None


REGISTER = CastOrder()

"""PR002 narrower-dtype."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of, distance
from whydiff.explain.causes._precision import in_the_other_dtype, narrowing, to_be_allowed, whole_cast
from whydiff.explain.restoring import HELD
from whydiff.numbers.casts import Cast
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict
from whydiff.report.words import listed


class NarrowerDtype(CauseRule):
    """One side carries out the same formula in a narrower dtype.

    What it detects:
        Ops that compute the same function of agreeing inputs, while one side works or stores its values with
        fewer bits: a softmax, norm, router, rotary table or logits in bfloat16 instead of float32.

    Why it happens:
        One implementation widens to float32 for a sensitive part (softmax, norm statistics, router, loss)
        and the other does not; a kernel takes 16-bit inputs and a fallback needs a cast; a rewrite dropped
        ``.float()``.

    Evidence required:
        In float64, on the recorded inputs, both sides give the same result; the dtypes of the values
        differ (of several ops, those of the values between them), and the narrower side is farther from the float64
        result.

    Look-alikes:
        PR003 if both sides round to the narrower dtype, before and after an op; PR004 inside an autocast
        region; PR001 if the dtypes agree and the op itself drops bits; ST003 if a stored tensor was rounded.

    Example:
        The logits of a router in float32 against logits in bfloat16.

    Remedy:
        Widen before the op and round after it on both sides, or on neither.

    How it is verified:
        By replay: the candidate's ops compute in the reference's dtypes, until both sides' dtypes agree again
        (``set-dtype``); or the reference's ops take their place (``replace-op``). The outputs must become
        equal bit for bit. Of a side that is the other, cast as a whole (``model.half()``), all dtypes are changed,
        and state and inputs given back with them. The verdict is precision: the formula is the same. What else is wrong
        in such a side is looked for with the cast undone, and both are proven together.

    References:
        Micikevicius et al., Mixed Precision Training, arXiv:1710.03740, section 3; Fedus et al., Switch
        Transformers, arXiv:2101.03961, section 2.4 (selective precision).
    """

    code = "PR002"
    name = "narrower-dtype"
    says = "the {side} computes in {narrow}, the other side in {wide}"
    yields_to = ("PR003",)

    def explain(self, view: View) -> Finding | None:
        """Which side has fewer bits here."""
        if not view.one_function:
            return None
        found = narrowing(view)
        if found is not None:
            ops = [reader[found.side].site.op for reader in found.readers[:1]]
            side, dtypes = found.side, found.dtypes
            interventions = in_the_other_dtype(view.case, found) or view.replace_op()
        else:
            inner = [_narrowest(view, side) for side in (0, 1)]
            units = [UNIT_ROUNDOFF.get(name, 0.0) for name in inner]
            if not all(units) or units[0] == units[1]:
                return None
            side, dtypes = int(units[1] > units[0]), (inner[0], inner[1])
            ops = [call.site.op for call in view.seen.calls[side]]
            interventions = view.replace_op()
        errors = [distance(exact, output) for exact, output in zip(view.exact, view.outputs, strict=True)]
        if errors[side] <= errors[1 - side]:
            return None
        name, other = ("candidate", "reference") if side else ("reference", "candidate")
        evidence = Evidence(
            f"the {name} works in {dtypes[side]} where the {other} works in {dtypes[1 - side]} ({', '.join(ops[:4])}); "
            f"in float64 both compute the same, from which the reference is {errors[0]:.1e} of the size away and the "
            f"candidate {errors[1]:.1e}",
            {
                "side": name,
                "reference_dtype": dtypes[0],
                "candidate_dtype": dtypes[1],
                "ops": ops,
                "reference_error": errors[0],
                "candidate_error": errors[1],
            },
        )
        return Finding(
            self.code,
            (name, dtypes, tuple(ops)),
            Verdict.PRECISION,
            (evidence,),
            interventions,
            {"side": name, "wide": dtypes[1 - side], "narrow": dtypes[side]},
        )

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side, dtypes and ops; one in all where a side is the other, cast as a whole."""
        found = whole_cast(case)
        if found is None:
            yield from causes_of(case, self, _remedy)
            return
        yield self.of_whole(case, *found)

    def of_whole(self, case: Case, cast: Cast, interventions: tuple[Intervention, ...]) -> Cause:
        """A side that is the other, cast as a whole, as one cause; ``interventions`` take that away."""
        named = [item.target for item in interventions if item.name not in ("set-dtype", HELD)]
        ops = sum(item.name == "set-dtype" for item in interventions)
        return self.cause(
            site=str(next((one.place.at("") for one in case.localization.origins), named[0])),
            verdict=Verdict.PRECISION,
            evidence=(
                Evidence(
                    f"{len(named)} tensors of the {cast.rounded} are the other side's, rounded from {cast.wide} to "
                    f"{cast.narrow}: {listed(named)}; it computes in {cast.narrow} where the other does in {cast.wide}, "
                    f"at {ops} places",
                    {"side": cast.rounded, "wide": cast.wide, "narrow": cast.narrow, "names": named, "ops": ops},
                ),
            ),
            remedy=to_be_allowed(cast.narrow, cast.wide),
            interventions=interventions,
            says=f"the {cast.rounded}'s state and arithmetic are {cast.narrow}, the other side's {cast.wide}",
        )

    def example(self) -> tuple[Any, Any]:
        """Logits of a router in float32 against logits in bfloat16."""
        import torch

        torch.manual_seed(0)
        x, weight = torch.randn(4, 16).bfloat16(), torch.randn(16, 8).bfloat16()
        return (lambda: torch.softmax(x.float() @ weight.float(), -1), lambda: torch.softmax((x @ weight).float(), -1))

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A narrower dtype that is not what differs: another weight, another temperature, a bias."""
        import torch

        torch.manual_seed(0)
        x, weight = torch.randn(4, 16).bfloat16(), torch.randn(16, 8).bfloat16()
        wide, narrow = weight.float(), weight * 1.25
        yield (lambda: torch.softmax(x.float() @ wide, -1)), (lambda: torch.softmax((x @ narrow).float(), -1))
        yield (lambda: torch.softmax(x.float() @ wide, -1)), (lambda: torch.softmax((x @ weight).float() * 0.8, -1))
        yield (
            (lambda: torch.softmax((x @ weight).float(), -1)),
            (lambda: torch.softmax((x @ weight).float() + x[:, :8], -1)),
        )


def _narrowest(view: View, side: int) -> str:
    """The narrowest dtype between a side's ops: of one op, what it writes; of several, what the result is made from."""
    last = view.seen.results[side].producer
    calls = [call for call in view.seen.calls[side] if call.index != last] or view.seen.calls[side]
    dtypes = [e.spec.dtype for call in calls for e in call.writes if e.spec.dtype in UNIT_ROUNDOFF]
    return max(dtypes, key=UNIT_ROUNDOFF.__getitem__, default="")


def _remedy(finding: Finding) -> Remedy:
    facts = finding.facts
    return Remedy(
        f"Compute this part in {facts['wide']} in the {facts['side']} too, and round afterwards if a later part wants "
        f"{facts['narrow']}.",
        undoes=facts["side"],
    )


REGISTER = NarrowerDtype()

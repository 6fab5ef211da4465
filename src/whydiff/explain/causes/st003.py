"""ST003 state-cast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView
from whydiff.explain.causes._differs import reading
from whydiff.explain.causes._impostors import changed, other_activation
from whydiff.explain.causes._precision import to_be_allowed, whole_cast
from whydiff.explain.causes._remedy import copy_over, keep_through, reachable
from whydiff.explain.causes._state import Difference, bundles, differences, interventions_of, site_of
from whydiff.explain.read_alike import cast_of
from whydiff.explain.sides import opposite
from whydiff.numbers.casts import Cast
from whydiff.numbers.metrics import is_integer
from whydiff.records import Cause, Evidence, Remedy, Verdict
from whydiff.report.words import listed


class StateCast(CauseRule):
    """One side's state is the other's, rounded to a narrower dtype.

    What it detects:
        A parameter, buffer or attribute whose values on one side are exactly the other side's values
        rounded to nearest, ties to even, in a narrower floating-point dtype; whether it is still kept
        in the narrow dtype or was cast back to a wide one afterwards. Either side may be the rounded
        one.

    Why it happens:
        ``model.to(dtype)`` and ``model.half()`` cast every floating-point buffer along with the
        parameters, also tables (rotary frequencies, position biases, running statistics) that a loader
        given ``dtype=`` keeps in float32. Computing with a table later in float32 does not bring the
        bits back.

    Evidence required:
        Proof on the values: every element equals the rounding of the other side's element, bit for bit
        (float64 that went through float32 on its way is recognised). If both sides have the same dtype,
        so many elements must have changed by so much that chance cannot explain it.

    Look-alikes:
        ST001 and ST002 if a single element is not the rounding, for example a change of one unit in the
        last place; a table multiplied by a constant. IN001 if an input was rounded. PR002 if a side is the other, cast
        as a whole, arithmetic with it. A cast inside the
        program (the state is equal, an operator casts it) is no cause of this family.

    Example:
        A model with a float32 table that is not in the state dict is built in bfloat16 in two ways:
        parameters alone, or by ``.to(torch.bfloat16)``, which also rounds the table.

    Remedy:
        Give the dtype to the loader (``dtype=``) instead of casting afterwards, or put the table back
        after the cast; the code names the tensors.

    How it is verified:
        The candidate runs again with the reference's unrounded tensor in its place (``restore-state``);
        the outputs must become equal bit for bit, or the origins that read the tensor must vanish. The
        verdict is precision: the formula is the same and only a rounding differs.

    References:
        IEEE 754-2019, section 4.3.1 (rounding to nearest, ties to even); huggingface/transformers
        issues 25681 and 30709 (rotary tables cast along with the model).
    """

    code = "ST003"
    name = "state-cast"

    def explain_state(self, view: StateView) -> Cast | None:
        """Every element is the other side's, rounded."""
        return None if view.payloads is None else cast_of(view.case, view.reference, view.candidate)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per rounded tensor; those cast in the same way are one if they are many, or a model's parameters."""
        if whole_cast(case) is not None:  # with the arithmetic, and of no effect without it
            return
        kinds: dict[Any, list[Difference]] = {}
        for difference in differences(case, self.code):
            cast: Cast = difference.proof
            kinds.setdefault((cast.rounded, cast.wide, cast.narrow, cast.stored), []).append(difference)
        for alike in kinds.values():
            whole = _whole(case, alike)
            for bundle in (*([whole] if whole else []), *bundles([d for d in alike if d not in whole])):
                yield self.cause(
                    site=site_of(bundle),
                    verdict=Verdict.PRECISION,
                    evidence=(*_evidence(bundle), *reading(case, bundle)),
                    remedy=_remedy(case, bundle),
                    interventions=interventions_of(bundle),
                    says=_says(bundle),
                )

    def example(self) -> tuple[Any, Any]:
        """A table in float32 against the same table rounded by casting the whole model."""
        import copy

        import torch

        class Rotated(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = torch.nn.Linear(8, 8)
                self.frequencies: torch.Tensor
                self.register_buffer("frequencies", 1e4 ** -(torch.arange(8) / 8), persistent=False)

            def forward(self, x: Any) -> Any:
                angles = torch.arange(4)[:, None] * 8.0 * self.frequencies.float()
                return self.linear(x) * torch.cos(angles).to(x.dtype)

        torch.manual_seed(0)
        built = Rotated()
        reference = copy.deepcopy(built)
        reference.linear.to(torch.bfloat16)
        candidate = copy.deepcopy(built).to(torch.bfloat16)
        x = torch.randn(4, 8, dtype=torch.bfloat16)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A table that was rounded and changed, one scaled by nearly one, a rounded one that nothing reads."""

        def changed_too(candidate: Any) -> None:
            candidate.table = candidate.table.bfloat16().float()
            candidate.table[0] += 0.5

        def scaled(candidate: Any) -> None:
            candidate.table = candidate.table * (1 + 2**-8)

        def unread(candidate: Any) -> None:
            candidate.spare = candidate.spare.bfloat16().float()
            other_activation(candidate)

        yield changed(changed_too)
        yield changed(scaled)
        yield changed(unread)


def _whole(case: Case, alike: Sequence[Difference]) -> tuple[Difference, ...]:
    """The parameters of one cast, if they are the rounded side's every parameter that has digits to lose; else none."""
    rounded = alike[0].proof.rounded
    cast = tuple(d for d in alike if d.reference.role == "parameter")
    names = {name for d in cast for name in (d.names if rounded == "reference" else d.targets)}
    trace = case.trace(rounded)
    floats = {x.name for x in trace.leaves if x.role == "parameter" and not is_integer(x.spec.dtype)}
    return cast if len(cast) > 1 and floats <= names else ()


def _says(bundle: Sequence[Difference]) -> str:
    cast: Cast = bundle[0].proof
    what = f"{len(bundle)} tensors were" if len(bundle) > 1 else f"{bundle[0].name.rpartition('.')[2]} was"
    return f"{what} rounded to {cast.narrow} in the {cast.rounded}"


def _evidence(bundle: Sequence[Difference]) -> Iterator[Evidence]:
    if len(bundle) > 1:
        names = [d.name for d in bundle]
        yield Evidence(f"{len(bundle)} tensors are the other side's, rounded: {listed(names)}", {"names": names})
    for difference in bundle:
        yield Evidence(_statement(difference, difference.proof), difference.data | _data(difference.proof))


def _statement(difference: Difference, cast: Cast) -> str:
    other = opposite(cast.rounded)
    via = f" by way of {cast.via}" if cast.via else ""
    back = f" and cast back to {cast.stored}" if cast.stored != cast.narrow else ""
    changed = f"the cast changed {cast.changed} of them, by up to {cast.max_rel:.2e} relative"
    if not cast.changed:
        changed = "the cast changed no value, only the dtype"
    return (
        f"{' = '.join(difference.names)} of the {cast.rounded} is the {other}'s, rounded from {cast.wide} to "
        f"{cast.narrow}{via}{back}: all {cast.elements} elements have the bits of the rounding; {changed}"
    )


def _data(cast: Cast) -> dict[str, Any]:
    return {
        "rounded": cast.rounded,
        "wide": cast.wide,
        "narrow": cast.narrow,
        "stored": cast.stored,
        "via": cast.via,
        "elements": cast.elements,
        "changed": cast.changed,
        "cast_max_rel": cast.max_rel,
    }


def _remedy(case: Case, bundle: Sequence[Difference]) -> Remedy:
    names = reachable(case, bundle)
    cast: Cast = bundle[0].proof
    if cast.rounded == "reference":
        return Remedy(
            "The reference holds the rounded values, the candidate the more exact ones. Keep the candidate, "
            "or round it in the same way if it must follow the reference.",
            copy_over(case, names),
            undoes="either",
        )
    if cast.stored == cast.narrow and _whole(case, bundle):
        return to_be_allowed(cast.narrow, cast.wide)
    if all(d.reference.role == "parameter" for d in bundle):
        text = f"Load both sides with the same dtype ({cast.wide} or {cast.narrow})."
        return Remedy(text, copy_over(case, names), undoes="either")
    return Remedy(
        f"from_pretrained(path, dtype=torch.{cast.narrow}) instead of .to(torch.{cast.narrow}), or keep the "
        f"{'tensor' if len(bundle) == 1 else 'tensors'} in {cast.wide}.",
        keep_through(names, cast.narrow),
        undoes="either",
    )


REGISTER = StateCast()

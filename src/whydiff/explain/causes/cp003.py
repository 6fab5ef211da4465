"""CP003 fused-multiply-add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._opened import contracted
from whydiff.explain.contraction import Contraction
from whydiff.explain.sides import SIDES
from whydiff.numbers.tolerance import CANCELLED_SHARE
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict

_BITS = 24
"""Significant bits of float32."""


class FusedMultiplyAdd(CauseRule):
    """A compiler contracts a product and a sum into one instruction, so that the product is never rounded.

    What it detects:
        An addition or subtraction whose recorded result on one side is that of a fused multiply-add of its own
        recorded operands, and on the other side that of the rounded product.

    Why it happens:
        Compilers contract ``a * b + c`` where the processor has an instruction for it: XLA under ``jax.jit`` on a
        CPU, GPU compilers by default. It rounds once instead of twice. Where ``a * b − c * d`` cancels, what is left
        is the rounding of one product, and 0 becomes 1.

    Evidence required:
        On one side the recorded value equals the fused result bit for bit and differs from that of the op alone; how
        many bits the operands cancel there.

    Look-alikes:
        PR001 for products of matrices whose operands are rounded; OR001 for sums of many terms; CP001 for 16-bit
        values that are kept wider.

    Example:
        ``a * b − c * d`` under ``jax.jit`` and without.

    Remedy:
        Accept it where nothing cancels. Where it cancels, write the difference so that it does not (difference of
        products, Kahan), or compile without contraction.

    How it is verified:
        The op alone, on the rounded product, takes the fused one's place (``round-product``) and gives the other
        side's outputs; on the other side the product is not rounded there (``fuse``), which gives this side's.

    References:
        IEEE 754-2019, section 10.4; jax-ml/jax issue 18507; Jeannerod, Louvet and Muller, "Further analysis of Kahan's
        algorithm for the accurate computation of 2×2 determinants", Mathematics of Computation 82, 2013.
    """

    code = "CP003"
    name = "fused-multiply-add"
    says = "the compiler joins a product and a sum, and rounds once instead of twice"
    precedes = ("PR001",)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that contracts where the other does not."""
        if not _asked(case):
            return
        found = {side: {one.call: one for one in contracted(case, side)} for side in SIDES}
        pairs = case.partners[0].items()
        for number, side in enumerate(SIDES):
            other = found[SIDES[1 - number]]
            places = [
                (found[side][pair[number]], pair[1 - number])
                for pair in pairs
                if pair[number] in found[side] and pair[1 - number] not in other
            ]
            if places:
                yield _cause(self, case, side, places)

    def example(self) -> tuple[Any, Any]:
        """A difference of two equal products: 0 op by op, the product's rounding if one of them is fused."""
        import jax
        import jax.numpy as jnp

        a, b = jnp.array([2396747.0, 2396749.0, 1.5]), jnp.array([7.0, 9.0, 2.0])

        def cross(a: Any, b: Any, c: Any, d: Any) -> Any:
            return a * d - b * c

        return lambda: cross(a, a, b, b), lambda: jax.jit(cross)(a, a, b, b)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The same difference with another number, and with operands that are rounded to fewer bits."""
        import jax
        import jax.numpy as jnp

        a, b = jnp.array([2396747.0, 2396749.0, 1.5]), jnp.array([7.0, 9.0, 2.0])

        def cross(a: Any, b: Any, c: Any, d: Any, other: float = 1.0) -> Any:
            return a * d * other - b * c

        def narrow(a: Any, b: Any, c: Any, d: Any) -> Any:
            return a.astype(jnp.bfloat16).astype(jnp.float32) * d - b * c

        yield (lambda: cross(a, a, b, b)), (lambda: cross(a, a, b, b, 1.0000001))
        yield (lambda: cross(a, a, b, b)), (lambda: narrow(a, a, b, b))
        yield (lambda: jax.jit(cross)(a, a, b, b)), (lambda: jax.jit(narrow)(a, a, b, b))


def _asked(case: Case) -> bool:
    """Whether a difference starts at a sum of two operands that agree."""
    if not case.replayable:
        return False
    roles = for_framework(case.candidate.framework).roles
    return any(
        origin.kind in ("implementation", "region") and {Role.PLUS, Role.DIFFERENCE} & roles(origin.candidate_site.op)
        for origin in case.localization.origins
    )


def _cause(rule: CauseRule, case: Case, side: str, places: list[tuple[Contraction, int]]) -> Cause:
    mine, theirs = case.traces if side == "reference" else (case.candidate, case.reference)
    alone = tuple(Intervention("round-product", str(mine.calls[one.call].site)) for one, _ in places)
    fused = tuple(Intervention("fuse", str(theirs.calls[other].site), one.product) for one, other in places)
    away, put = (alone, fused) if side == "candidate" else (fused, alone)
    worst = max((one for one, _ in places), key=lambda one: one.cancelled)
    elements = sum(one.elements for one, _ in places)
    text = (
        f"at {len(places)} places the {side}'s result is that of a fused multiply-add of its own operands, bit for bit, "
        f"and not that of the rounded product ({elements} elements differ)"
    )
    data = {"side": side, "sites": [str(mine.calls[one.call].site) for one, _ in places], "elements": elements}
    evidence = [Evidence(text, data)]
    if worst.cancelled > CANCELLED_SHARE * _BITS:
        evidence.append(
            Evidence(
                f"at {mine.calls[worst.call].site} the operands cancel: {worst.cancelled:.0f} of {_BITS} bits are lost, so "
                "that the rounding of the product is what is left",
                {"cancelled": worst.cancelled, "bits": _BITS},
            )
        )
    return rule.cause(
        site=str(case.reference.calls[places[0][1] if side == "candidate" else places[0][0].call].site),
        verdict=Verdict.ROUNDING,
        evidence=evidence,
        remedy=_remedy(mine.framework, worst.cancelled > CANCELLED_SHARE * _BITS),
        interventions=away,
        put_in=put,
    )


def _remedy(framework: str, cancels: bool) -> Remedy:
    text = "Accept it: a fused multiply-add is the more exact one."
    if cancels:
        text = "Write the difference so that it does not cancel; no order of roundings is right there."
    if framework == "jax":
        return Remedy(
            f"{text} For the bits of the ops one by one, compile without contraction.",
            'f = jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})  # on a CPU\n',
        )
    return Remedy(text)


REGISTER = FusedMultiplyAdd()

"""OR001: the same sum in another order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.capturing.adapters import Role, for_framework
from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._order import flags, single_regions, visit_origins
from whydiff.explain.reduction import Proof, prove
from whydiff.explain.scale import Scale
from whydiff.explain.sides import SIDES
from whydiff.pair.lockstep import Lockstep
from whydiff.records import Call, Cause, Direction, Evidence, Experiment, Remedy, Verdict
from whydiff.report.words import listed

MOST_PROOFS = 8
"""Kinds of call (op, shapes, strides) that are proven in one case; each takes about a second."""

_ALIGNMENT = 64
"""Elements after which an address is aligned like the first, whatever the dtype."""

_PROVENANCE = ("versions", "hardware", "flags", "variables")


class ReductionOrder(CauseRule):
    """Both sides add the same terms; their kernels add them in another order.

    What it detects:
        An origin at a sum, mean, matrix product or convolution whose terms agree and whose shapes and
        layouts do too, or which is one op on one side and another op on the other (``dot`` and ``mm``).

    Why it happens:
        Floating-point addition is not associative. One kernel adds in 4 lanes, another in blocks of 192,
        and every order rounds differently.

    Evidence required:
        The accumulation order of both calls is revealed by probing them at their true shape, strides,
        address alignment and flags. Each order, replayed in software on the recorded inputs, must give its
        side's bits in every replayed output, also on terms that cancel, where every order shows; trees with
        shuffled terms must fail there. Up to 4096 outputs are replayed, and one call of every shape.

    Look-alikes:
        SH001, SH002 and SH003 if sizes or layouts differ, which chose the kernel; OR002 if the number of
        threads differs; EN001, EN002 and EN004 if versions, flags or instruction sets
        differ. Other terms (another weight, a cast, TF32) fail the replay. A sum that the replay does not
        reproduce is listed as inconclusive, and so are sums in other steps of programs that agree in float64.

    Example:
        The same scalar product of two vectors by ``dot`` and by ``mm``.

    Remedy:
        Accept it: neither order is more right. For equal bits, call the same op on both sides.

    How it is verified:
        By replay: the reference's order on the candidate's inputs must give the reference's bits, and the
        candidate's order on the reference's inputs the candidate's.

    References:
        Xie et al., "FPRev: Revealing the Order of Floating-Point Summation in Software and Hardware
        Implementations", USENIX ATC 2025; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
        chapter 4; https://pytorch.org/docs/stable/notes/numerical_accuracy.html
    """

    code = "OR001"
    name = "reduction-order"
    says = "the two sides add the same terms in another order"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per kind of call whose order differs, proven or inconclusive."""
        if any(what.split(".")[0] in _PROVENANCE for what, _, _ in case.environment_changes):
            return
        proofs: dict[Any, tuple[str, Proof | None]] = {}
        alike: dict[Any, int] = {}
        kinds: set[Any] = set()

        def visit(step: Lockstep, call_r: Call, call_c: Call) -> None:
            key = _kind(call_r), _kind(call_c)
            if key in proofs or len(proofs) == MOST_PROOFS:
                alike[key] = alike.get(key, 0) + 1
                return
            try:
                sides = ((step.reference, call_r), (step.candidate, call_c))
                reads = [[executor.read(event) for event in call.reads] for executor, call in sides]
            except PayloadError:  # what cannot be executed again made it: nothing is shown
                return
            proof = prove(step.reference, call_r, reads[0], step.candidate, call_c, reads[1])
            proofs[key] = str(call_r.site), proof

        def wanted(call_r: Call, call_c: Call) -> bool:
            key = _kind(call_r), _kind(call_c)
            if key[0][1] != key[1][1] or flags(case, call_r, call_c):
                return False
            kinds.add(key)
            return True

        def seen() -> bool:  # what is left is only counted
            return len(proofs) == MOST_PROOFS or kinds <= proofs.keys()

        if not case.localization.axes:
            for call_r, call_c in visit_origins(case, wanted, visit, seen):
                key = _kind(call_r), _kind(call_c)
                alike[key] = alike.get(key, 0) + 1
        for site, (executor_r, call_r, reads_r), (executor_c, call_c, reads_c) in single_regions(case):
            key = _kind(call_r), _kind(call_c)
            if key not in proofs and len(proofs) < MOST_PROOFS and not flags(case, call_r, call_c):
                proofs[key] = site, prove(executor_r, call_r, reads_r, executor_c, call_c, reads_c)
        for key, (site, proof) in proofs.items():
            if proof is not None and proof.differing and proof.revealed:
                yield _cause(self, site, proof, alike.get(key, 0))

    def example(self) -> tuple[Any, Any]:
        """A scalar product as ``dot`` and as ``mm``; its exact value is 0, so that the order shows."""
        import torch

        generator = torch.Generator().manual_seed(0)
        left, right = torch.randn(2, 512, generator=generator)
        order = torch.randperm(512, generator=generator)
        left, right = torch.cat([left, left[order]]), torch.cat([right, -right[order]])
        return lambda: torch.dot(left, right), lambda: torch.mm(left[None], right[:, None])[0, 0]

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Another op of the same terms and another of them; a sum that leaves one out; a product without its bias."""
        import torch

        generator = torch.Generator().manual_seed(0)
        left, right = torch.randn(2, 512, generator=generator)
        other = right.clone()
        other[7] = torch.nextafter(other[7], torch.tensor(9.0))
        yield (lambda: torch.dot(left, right)), (lambda: torch.mm(left[None], other[:, None])[0, 0])
        yield (lambda: torch.dot(left, right)), (lambda: torch.mm(left[None, 1:], right[1:, None])[0, 0])
        yield (lambda: torch.dot(left, right)), (lambda: torch.dot(left.double(), right.double()).float())


def of_program(case: Case, numbers: Scale) -> Cause | None:
    """The cause where sums are spelt out in several steps, whose order together is not revealed: told, not proven.

    Args:
        case: a pair whose outputs agree in float64, for which nothing else was found.
        numbers: that measurement.

    Returns:
        None: no sum stands among the steps in which the programs differ.
    """
    sums: dict[str, list[str]] = {}
    sides = ((case.reference, case.alignment.unpaired_reference), (case.candidate, case.alignment.unpaired_candidate))
    for number, (name, (trace, unpaired)) in enumerate(zip(SIDES, sides, strict=True)):
        roles = for_framework(trace.framework).roles
        steps = {*unpaired, *(origin.calls[number] for origin in case.localization.origins)}
        found = [trace.calls[at].site for at in sorted(steps) if at >= 0]
        sums[name] = [str(site) for site in found if Role.TERMS in roles(site.op)]
    if not any(sums.values()):
        return None
    said = "; ".join(f"in the {name} {listed(sites) or 'none'}" for name, sites in sums.items())
    return REGISTER.cause(
        site=str(case.localization.origins[0].site.at("")),
        verdict=Verdict.INCONCLUSIVE,
        evidence=(
            Evidence(
                f"in float64 the outputs agree ({numbers}); of the steps that differ, these add up terms: {said}", sums
            ),
        ),
        remedy=Remedy("Accept it: neither order is more right. For equal bits, write the sums in the same steps."),
        reason="the sums are spelt out in other steps, and their order together is not revealed",
        says=REGISTER.says,
    )


def _kind(call: Call) -> Any:
    """Op, and the shape, strides, alignment and dtype of everything it reads."""
    specs = [event.spec for event in call.reads]
    return call.target, tuple((s.shape, s.strides, s.offset % _ALIGNMENT, s.dtype) for s in specs)


def _ways(proof: Proof) -> tuple[tuple[str, str, int, Direction], ...]:
    """(whose order, on whose inputs, outputs reproduced, direction): replayed in the candidate's place, and the other's."""
    return (
        ("reference", "candidate", proof.matched[0], "take_away"),
        ("candidate", "reference", proof.matched[1], "put_in"),
    )


def _cause(rule: CauseRule, site: str, proof: Proof, alike: int) -> Cause:
    remedy = Remedy(
        "Accept it: neither order is more right. For equal bits, call the same op on "
        "the same shapes and layouts on both sides."
    )
    experiments = tuple(
        Experiment(
            interventions=(),
            prediction=f"the {side}'s order, replayed on the {other}'s inputs, gives the {side}'s bits",
            outcome=f"{matched} of {proof.replayed} outputs bit for bit" if proof.proved else proof.reason,
            status="confirmed" if proof.proved else "inconclusive",
            method="replay",
            direction=direction,
        )
        for side, other, matched, direction in _ways(proof)
    )
    more = f"{alike} more origins are the same op at the same shapes and layouts; they were not replayed"
    return rule.cause(
        site=site,
        verdict=Verdict.ROUNDING if proof.proved else Verdict.INCONCLUSIVE,
        evidence=(*proof.evidence, Evidence(more, {"alike": alike})) if alike else proof.evidence,
        remedy=remedy,
        status="confirmed" if proof.proved else "inconclusive",
        reason="" if proof.proved else proof.reason,
        experiments=experiments,
    )


REGISTER = ReductionOrder()

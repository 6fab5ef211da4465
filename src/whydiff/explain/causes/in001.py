"""IN001 input-differs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._differs import factor_of, reading, statement
from whydiff.explain.causes._entering import entering_epsilons, entering_number
from whydiff.explain.causes._environment import new_folder
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._state import Difference, touched
from whydiff.explain.read_alike import given_instead
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import CANCELLED_SHARE, ROUNDING_LEVEL, UNIT_ROUNDOFF
from whydiff.records import Cause, Comparison, Evidence, Leaf, Origin, Remedy, Verdict


class InputDiffers(CauseRule):
    """The two runs were given other inputs.

    What it detects:
        An input of the run (a tensor argument) whose values, shape or dtype differ between the sides.
        Two live targets always get copies of the same arguments, so this concerns runs that were
        recorded apart. Or a tensor that enters a run from Python or numpy on the way (a constant, what numpy
        computed in the middle), if everything before it agrees.

    Why it happens:
        Another tokenizer, prompt template, padding side or special token; another preprocessing of
        images or audio; random data without a common seed; positions or masks that one caller builds
        and the other does not; a batch that was shuffled.

    Evidence required:
        The fingerprints of the input differ, with the number of differing elements and their size where
        the values were kept, or the two shapes or dtypes. What Python or numpy made and differs by no more than half of
        its digits is called another precision: nothing can tell more.

    Look-alikes:
        IN002 and IN003 if what enters are positions or a mask, FO002 if it is a norm's epsilon, FO008 if it is another
        single number: a part of the formula, which JAX gives to an op as it gives a tensor. A value that numpy made
        from tensors that differ before is their consequence: it is not reported. ST002 for a tensor that the callable
        holds rather than receives. An input that was rounded or padded on one side still differs: everything after it
        follows.

    Example:
        Two recordings of one model, one with another element in its input.

    Remedy:
        Save the inputs once and give both sides the same file.

    How it is verified:
        The candidate runs again with the reference's input (``restore-input``); the outputs must become
        equal bit for bit. If the shapes differ there is no such experiment.

    References:
        huggingface/transformers, padding and truncation; PyTorch, notes on reproducibility.
    """

    code = "IN001"
    name = "input-differs"
    says = "the two runs were given other inputs"
    yields_to = ("IN002", "IN003")
    precedes = ("FO007", "FO008")

    def explain(self, view: View) -> Finding | None:
        """Tensors that no recorded op made, that differ, and before which nothing does."""
        steps = view.give_constants()
        if not steps or _differs_before(view.case, view.origin) or entering_epsilons(view) is not None:
            return None
        faint = [_share(view.case, *pair) for pair in view.constants]
        if all(share <= 0.0 for share in faint):
            return None  # rounded otherwise by Python or numpy: no other input
        verdict = Verdict.PRECISION if max(faint) <= CANCELLED_SHARE else Verdict.SEMANTIC
        if verdict is Verdict.SEMANTIC and entering_number(view) is not None:
            return None  # one number is a part of the formula
        evidence = [one for pair in view.constants for one in _entering(view.case, *pair, str(view.origin.site.at("")))]
        key = tuple(str(step) for step in steps)
        return Finding(self.code, key, verdict, tuple(evidence), steps, {"at": str(view.origin.site.at(""))})

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per differing input, and per place where others enter."""
        yield from causes_of(case, self, _remedy)
        for reference, candidate in case.differing_leaves:
            if reference.role != "input" or candidate.role != "input":
                continue
            difference = _difference(case, reference, candidate)
            alike = reference.spec.shape == candidate.spec.shape and reference.spec.dtype == candidate.spec.dtype
            yield self.cause(
                site=reference.name,
                verdict=Verdict.SEMANTIC,
                evidence=(Evidence(statement(difference), difference.data), *reading(case, [difference])),
                remedy=Remedy(
                    "Give both runs the same input: save it once and load it on both sides.",
                    _code(case, candidate.name),
                    undoes="either",
                ),
                reason="" if alike else "an input of another shape or dtype cannot take the other's place",
                interventions=(given_instead(reference, candidate),) if alike else (),
            )

    def example(self) -> tuple[Any, Any]:
        """Two recordings of one module; the paths of their traces."""
        import torch

        from whydiff.capturing.adapters import for_target
        from whydiff.capturing.store import save

        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4)
        x = torch.randn(2, 8)
        other = x.clone()
        other[1, 5] += 0.25
        folder = new_folder()
        for name, value in (("reference", x), ("candidate", other)):
            save(for_target(model).run(model, (value,), {}).capture(), folder / f"{name}.trace")
        return folder / "reference.trace", folder / "candidate.trace"

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """What numpy makes of a value that differs before: by a weight, a setting, an activation; numbers of the formula."""
        import copy

        import torch

        torch.manual_seed(0)
        x = torch.randn(3, 8)

        class Through(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second, self.factor = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4), 1.0

            def forward(self, x: Any, activation: Any) -> Any:
                hidden = activation(self.first(x)).detach().numpy() * self.factor
                return self.second(torch.from_numpy(hidden))

        def pair(one: Any, other: Any, activation: Any = torch.tanh) -> tuple[Any, Any]:
            return lambda: one(x, torch.tanh), lambda: other(x, activation)

        reference = Through()
        weight, setting = copy.deepcopy(reference), copy.deepcopy(reference)
        with torch.no_grad():
            weight.first.weight[0, 0] += 0.1
        setting.factor = 1.5
        yield pair(reference, weight)
        yield pair(reference, setting)
        yield pair(reference, reference, torch.sigmoid)

        def norm(eps: float) -> Any:
            return 0.01 * x * torch.rsqrt((0.01 * x).square().mean(-1, keepdim=True) + torch.tensor(eps)) @ x.mT

        yield (lambda: norm(1e-6)), (lambda: norm(1e-5))
        yield (lambda: torch.tanh(x + torch.tensor(0.5)) @ x.mT), (lambda: torch.tanh(x + torch.tensor(0.75)) @ x.mT)


def _differs_before(case: Case, origin: Origin) -> bool:
    """Whether a foreign library may have taken up something that differs before an origin.

    That is an origin before it, state, an input, or what only one run computes and no recorded op reads.
    """
    others = (one for one in case.localization.origins if one.calls[1] < origin.calls[1])
    if case.differing_leaves or any(not _constant(case, one) for one in others):
        return True
    sides = ((case.reference, case.alignment.unpaired_reference), (case.candidate, case.alignment.unpaired_candidate))
    for (trace, unpaired), end in zip(sides, origin.calls, strict=True):
        read = {(event.producer, event.storage) for call in trace.calls if call.kind != "view" for event in call.reads}
        alone = (trace.calls[index] for index in unpaired if index < end)
        if any((call.index, event.storage) not in read for call in alone for event in call.writes):
            return True
    return False


def _constant(case: Case, origin: Origin) -> bool:
    roles = {leaf.name: leaf.role for leaf in case.candidate.leaves}
    return bool(origin.leaves) and all(roles.get(name) == "constant" for name in origin.leaves)


def _share(case: Case, ours: Leaf, theirs: Leaf) -> float:
    """The share of its digits by which what enters differs: 0 is rounding, 1 all of them, or not known.

    What Python and numpy do cannot be carried out in float64, so that nothing tells more. A narrower dtype on the way
    takes half of the digits.
    """
    comparison = _difference(case, ours, theirs).comparison
    apart = None if comparison is None else comparison.value("rel_l2")
    unit = UNIT_ROUNDOFF.get(ours.spec.dtype)
    if apart is None or unit is None or not 0 < apart < 1:
        return 1.0
    return 0.0 if apart <= ROUNDING_LEVEL * unit else 1.0 - math.log(apart) / math.log(unit)


def _entering(case: Case, ours: Leaf, theirs: Leaf, at: str) -> Iterator[Evidence]:
    """What enters there on both sides."""
    difference = _difference(case, ours, theirs)
    yield Evidence(
        f"what enters at {at} from outside of the recorded program differs: {statement(difference)}",
        difference.data | {"at": at},
    )
    yield from factor_of(case, difference)


def _remedy(_: Finding) -> Remedy:
    text = "Make the same numbers on both sides before they enter: a constant, numpy's result, a batch, a draw."
    return Remedy(text, undoes="either")


def _difference(case: Case, reference: Leaf, candidate: Leaf) -> Difference:
    comparison: Comparison | None = None
    with suppress(PayloadError):  # then its numbers were not kept, which is said
        comparison = case.shared(
            f"input {reference.name}",
            lambda: compare_payloads(case.payload(reference, "reference"), case.payload(candidate, "candidate")),
        )
    read = candidate.storage in touched(case)[1]
    return Difference((reference.name,), (candidate.name,), reference, candidate, read, "IN001", comparison=comparison)


def _code(case: Case, name: str) -> str:
    if case.candidate.framework != "torch" or not name.isidentifier():
        return ""
    return f'torch.save({name}, "{name}.pt")  # once\n{name} = torch.load("{name}.pt", weights_only=True)\n'


REGISTER = InputDiffers()

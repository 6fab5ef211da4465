"""ST005 untied-weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView
from whydiff.explain.causes._differs import reading, statement
from whydiff.explain.causes._impostors import changed
from whydiff.explain.causes._remedy import literal, plain_path, standing_for
from whydiff.explain.causes._state import Difference, differences, interventions_of
from whydiff.explain.changed import UNTIE
from whydiff.explain.sides import Side
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict


class UntiedWeights(CauseRule):
    """Tensors that are one on one side are two on the other, and no longer equal.

    What it detects:
        A group of state names that share one storage on one side only, while the values of at least one
        of them differ between the sides.

    Why it happens:
        The output layer shares the embedding's weight, the checkpoint stores it once, and the loader of
        one side neither tied it again nor found a key, so that it kept its initial values;
        ``to_empty``, a ``deepcopy`` of parts or a wrapper broke the sharing and an optimizer then moved
        the two apart; or one configuration says tied and the other does not.

    Evidence required:
        The recorded groups of names that share storage on each side, and the measured difference of the
        tensor that no longer follows.

    Look-alikes:
        ST001 if both sides tie the tensors and the values differ. Sharing that was lost while the
        values stayed equal changes no number and is not reported.

    Example:
        The output layer of the candidate is a separate tensor with other values.

    Remedy:
        Tie the tensors again after loading.

    How it is verified:
        The candidate runs again with the reference's values in every tensor of the group
        (``restore-state``); the outputs must become equal bit for bit. In the other direction the reference, which ties
        them, is replayed with the candidate's value under the one name alone (``untie``). If it is the candidate that ties
        them, it is untied so, and the reference is given the one value.

    References:
        Press and Wolf, Using the Output Embedding to Improve Language Models, arXiv:1608.05859.
    """

    code = "ST005"
    name = "untied-weights"
    yields_to = ("ST003", "ST004")

    def explain_state(self, view: StateView) -> tuple[str, tuple[str, ...]] | None:
        """(the side that ties it, the names), unless the other side's copies are equal: then only their values differ."""
        if view.tied is None:
            return None
        side, names = view.tied
        leaves = [view.case.leaves[name][0 if side == "candidate" else 1] for name in names]
        values = {leaf.fingerprint for leaf in leaves if leaf is not None}
        return None if len(values) == 1 and None not in values else view.tied

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per group that only one side ties."""
        groups: dict[tuple[str, tuple[str, ...]], list[Difference]] = {}
        for difference in differences(case, self.code):
            groups.setdefault(difference.proof, []).append(difference)
        for (side, names), found in groups.items():
            yield self._cause(case, side, names, found)

    def _cause(self, case: Case, side: str, names: tuple[str, ...], found: list[Difference]) -> Cause:
        other = "candidate" if side == "reference" else "reference"
        evidence = [
            Evidence(
                f"{' and '.join(names)} are one tensor in the {side} and separate ones in the {other}",
                {"tied_in": side, "names": list(names)},
            ),
            *(Evidence(statement(difference), difference.data) for difference in found),
            *reading(case, found),
        ]
        restored = interventions_of(found)
        return self.cause(
            site=found[0].name,
            verdict=Verdict.SEMANTIC,
            evidence=evidence,
            remedy=_remedy(case, side, names),
            interventions=restored if side == "reference" else _untied(found, "candidate"),
            put_in=_untied(found, "reference") if side == "reference" else _mirrored(case, restored),
        )

    def example(self) -> tuple[Any, Any]:
        """An output layer that shares the embedding's weight against one that lost it."""
        import copy

        import torch

        class Tied(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = torch.nn.Embedding(16, 8)
                self.head = torch.nn.Linear(8, 16, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, ids: Any) -> Any:
                return self.head(torch.tanh(self.embed(ids)))

        torch.manual_seed(0)
        reference = Tied()
        candidate = copy.deepcopy(reference)
        candidate.head.weight = torch.nn.Parameter(torch.randn(16, 8))
        ids = torch.tensor([[1, 5, 3, 7]])
        return lambda: reference(ids), lambda: candidate(ids)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Other weights, tied on both sides; other weights of which the tie was lost and both copies are equal."""

        def other(candidate: Any) -> None:
            candidate.embed.weight.mul_(1.5)

        def two_copies(candidate: Any) -> None:
            candidate.embed.weight.mul_(1.5)
            candidate.head.weight = type(candidate.head.weight)(candidate.embed.weight.clone())

        yield changed(other, tied=True)
        yield changed(two_copies, tied=True)


def _untied(found: Sequence[Difference], on: Side) -> tuple[Intervention, ...]:
    """Under each name alone a side has the other side's value."""
    names = [(one.targets[0], one.name) if on == "candidate" else (one.name, one.targets[0]) for one in found]
    return tuple(Intervention(UNTIE, mine, other) for mine, other in names)


def _mirrored(case: Case, restored: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    return case.experiments.mirrored(restored) or ()


def _remedy(case: Case, side: str, names: tuple[str, ...]) -> Remedy:
    if side == "candidate":
        return Remedy("Tie the tensors on both sides or on neither; the configuration should say which is meant.")
    code = ""
    if case.candidate.framework == "torch" and all(plain_path(name) for name in names):
        first = names[0]
        code = standing_for(case, "candidate")
        code += f"names = {literal(names)}\nshared = candidate.get_parameter({first!r})\nfor name in names[1:]:\n" + (
            '    owner, _, last = name.rpartition(".")\n    setattr(candidate.get_submodule(owner), last, shared)\n'
        )
    return Remedy("Tie the tensors again after loading (Hugging Face models: model.tie_weights()).", code)


REGISTER = UntiedWeights()

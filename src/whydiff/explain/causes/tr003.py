"""TR003 hyperparameter-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._impostors import resumed
from whydiff.explain.causes._optimizer import Step, differing_settings, settings_given, steps, update_given
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict
from whydiff.report.words import listed, ordinal

_SHOWN = 4


class HyperparameterDiffers(CauseRule):
    """The optimizer steps with another learning rate, weight decay or other hyperparameter.

    What it detects:
        Plain hyperparameters of an optimizer's parameter groups that differ between the two runs at a step that
        both take; also the switches between its variants (decoupled weight decay, Nesterov, AMSGrad).

    Why it happens:
        The learning rate's scheduler was not restored, or stepped once more or less; the run was resumed with a
        constructor's defaults; Adam was taken for AdamW; a group was built from another configuration.

    Evidence required:
        The recorded hyperparameters as each step begins, by group and name, at every step that both runs take.

    Look-alikes:
        TR002 if the moments or the count of steps differ. A loss that is scaled acts like another learning rate in
        SGD, and no hyperparameter differs then: FO003 or TR001. A rate that follows the loss (a plateau) may be a
        consequence; putting it back alone then does not help.

    Example:
        SGD with a learning rate of 0.1 and 0.05.

    Remedy:
        Save and load the scheduler's state too, or give both optimizers the same value.

    How it is verified:
        The candidate runs again, and every common step is taken with the reference's value (``set-hyperparameter``;
        it is put back after the step, so that a scheduler goes on from the program's own); the outputs must become
        equal bit for bit. In the other direction the reference steps with the candidate's. Two traces of which no other
        hyperparameter and no count of steps differ are replayed with the numbers that the other side's updates were given
        (``set-argument``), and with its ops where one side carries out more (``insert-step``, ``remove-step``).

    References:
        PyTorch, torch.optim.lr_scheduler (state_dict); Loshchilov and Hutter, Decoupled Weight Decay Regularization,
        arXiv:1711.05101.
    """

    code = "TR003"
    name = "hyperparameter-differs"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per hyperparameter; groups in which it differs alike are together."""
        alike: dict[tuple[str, Any], list[tuple[str, list[tuple[Step, Any, Any]]]]] = {}
        for target, found in differing_settings(case).items():
            key = tuple((step.numbers, ours, theirs) for step, ours, theirs in found)
            alike.setdefault((target.partition(".")[2], key), []).append((target, found))
        for (name, _), members in alike.items():
            yield self._cause(case, name, members)

    def _cause(self, case: Case, name: str, members: list[tuple[str, list[tuple[Step, Any, Any]]]]) -> Cause:
        _, found = members[0]
        first, reference, candidate = found[0]
        step = first.calls[0].site.step
        shown = listed(f"{ours} and {theirs} at step {one.calls[0].site.step}" for one, ours, theirs in found[:_SHOWN])
        more = f" and at {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        groups = [target.partition(".")[0] for target, _ in members]
        away, put_in = _given(case, members)
        evidence = Evidence(
            f"{name} of {first.calls[0].site.scope} differs at {len(found)} common step(s), reference and candidate: "
            f"{shown}{more} (parameter group {', '.join(groups)})",
            {"name": name, "groups": groups, "values": [[ours, theirs] for _, ours, theirs in found]},
        )
        return self.cause(
            site=str(first.calls[0].site),
            verdict=Verdict.SEMANTIC,
            evidence=(evidence,),
            remedy=_remedy(case, name, members),
            interventions=away,
            put_in=put_in,
            says=f"the candidate's optimizer has {name} {candidate}, the reference's {reference}"
            + (f", from step {step} on" if step else _from(case, found)),
        )

    def example(self) -> tuple[Any, Any]:
        """Two learning rates."""
        return _trained(0.1), _trained(0.05)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A scaled loss, which acts as another rate; other weights; momentum that was lost."""
        yield _trained(0.1), _trained(0.1, scale=0.5)
        yield _trained(0.1), _trained(0.1, weight=0.1)
        yield resumed(), resumed(moments=False)


def _given(
    case: Case, members: list[tuple[str, list[tuple[Step, Any, Any]]]]
) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
    """The steps with the other side's value; in traces, what follows from it, if nothing else differs."""
    if None in case.runs and len(differing_settings(case)) == len(members):
        numbers = update_given(case, [step for step, _, _ in members[0][1]])
        if numbers:
            return numbers, ()
    return tuple(
        tuple(settings_given(target, at, side) for target, at in members)
        for side in (1, 0)  # type: ignore[return-value]
    )


def _taken(case: Case, target: str) -> tuple[list[Any], list[Any]]:
    """The values that a hyperparameter takes over the common steps, of either side."""
    ours, theirs = (list(dict.fromkeys(step.settings[side][target] for step in steps(case))) for side in (0, 1))
    return ours, theirs


def _remedy(case: Case, name: str, members: list[tuple[str, list[tuple[Step, Any, Any]]]]) -> Remedy:
    """The same value on both sides; of two traces only what follows from it is carried out, not this."""
    target, found = members[0]
    groups = [one.partition(".")[0] for one, _ in members]
    taken = _taken(case, target)
    if max(map(len, taken)) == 1:
        value = taken[0][0]
        code = "".join(f"optimizer.param_groups[{group}][{name!r}] = {value!r}\n" for group in groups)
        text = f"Give both optimizers the same {name}; the reference has {value!r}."
        return Remedy(text, code, undoes="" if None in case.runs else "either")
    values = dict.fromkeys((ours, theirs) for _, ours, theirs in found)
    if _resumed(case):
        return Remedy(
            f"Restore what sets {name} step by step: the scheduler's state belongs into the checkpoint too.",
            'checkpoint["scheduler"] = scheduler.state_dict()\nscheduler.load_state_dict(checkpoint["scheduler"])\n',
        )
    later = _later(case, target)
    if later:
        return Remedy(
            f"Let the scheduler step at one place of the loop on both sides, after the optimizer: the candidate's {name} is "
            f"the reference's of one step {later}.",
            "optimizer.step()\nscheduler.step()\n",
        )
    if len(values) > 1:
        part = _from(case, found).replace(",", "") or f" at {len(found)} of the {len(steps(case))} steps that both take"
        return Remedy(f"Let one schedule set {name} on both sides: they part{part}.")
    ((value, _),) = values
    return Remedy(f"Give the candidate's optimizer {name} {value!r} too{_from(case, found).replace(',', '')}.")


def _resumed(case: Case) -> bool:
    """Whether one run begins where the other has taken steps already."""
    return bool(case.alignment.ahead) or any(step.numbers[0] != step.numbers[1] for step in steps(case))


def _later(case: Case, target: str) -> str:
    """Whether the candidate's values are the reference's of one step later or earlier; empty: neither, or only one value."""
    ours, theirs = ([step.settings[side].get(target) for step in steps(case)] for side in (0, 1))
    for word, shifted, other in (("later", ours[1:], theirs[:-1]), ("earlier", ours[:-1], theirs[1:])):
        if shifted == other and ours != theirs and any(value != shifted[0] for value in shifted):
            return word
    return ""


def _together(case: Case, found: list[tuple[Step, Any, Any]]) -> bool:
    """Whether the steps at which it differs are neighbours, and begin after a step at which it does not."""
    every = [step.numbers for step in steps(case)]
    first = every.index(found[0][0].numbers)
    return first > 0 and every[first : first + len(found)] == [step.numbers for step, _, _ in found]


def _from(case: Case, found: list[tuple[Step, Any, Any]]) -> str:
    """At which steps of the optimizer it differs, counted from 1; empty: at all, or here and there."""
    if not _together(case, found):
        return ""
    first, last = (ordinal(found[at][0].numbers[0] + 1) for at in (0, -1))
    if found[-1][0] == steps(case)[-1]:
        return f", from its {first} step on"
    return f", at its {first} step" if first == last else f", from its {first} to its {last} step"


def _trained(rate: float, *, scale: float = 1.0, weight: float = 0.0) -> Any:
    """The weights after two steps of SGD."""
    import copy

    import torch

    torch.manual_seed(0)
    data, goal, start = torch.randn(2, 8, 6), torch.randn(2, 8, 2), torch.nn.Linear(6, 2)

    def run() -> Any:
        model = copy.deepcopy(start)
        with torch.no_grad():
            model.bias.add_(weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for x, y in zip(data, goal, strict=True):
            optimizer.zero_grad()
            (torch.nn.functional.mse_loss(model(x), y) * scale).backward()
            optimizer.step()
        return model.weight.detach()

    return run


REGISTER = HyperparameterDiffers()

"""MD001 training-mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._impostors import changed, other_activation
from whydiff.explain.causes._modes import followed_by, in_another_mode, modes, module_name
from whydiff.explain.causes._remedy import module_at, standing_for
from whydiff.explain.draws import begun_alike
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict
from whydiff.report.words import listed


class TrainingMode(CauseRule):
    """A module is in training mode on one side and in evaluation mode on the other.

    What it detects:
        Modules whose training flag differs between the sides.

    Why it happens:
        ``model.eval()`` was forgotten: modules are built in training mode, and loaders differ in
        whether they switch it off. Or it was called before a part was added or replaced, or only on an
        inner module.

    Evidence required:
        The recorded flag of every module, and which operators run on one side only inside the modules
        whose flag differs (dropout draws random numbers, batch norm uses the batch's own statistics).

    Look-alikes:
        ST002: running statistics that moved earlier, while one side was trained. ND001: dropout makes a
        run depend on the random state, but a run that is repeated from the same state repeats itself. A
        flag that differs where no operator asks for it changes nothing and is called inert.

    Example:
        The candidate was not switched to evaluation mode and its dropout acts.

    Remedy:
        ``model.eval()`` (or ``train()``) on both sides, right before the run.

    How it is verified:
        The candidate runs again with the reference's mode set on the fewest modules that reach it
        (``set-mode``); the outputs must become equal bit for bit. Where the mode switches draws on and the program drew
        before, or was seeded in between, these begin from the other side's state (``draw-from``). Of two recorded runs, the
        ops that the mode is an argument of get the reference's, and the steps that it switches on are left out.

    References:
        PyTorch, torch.nn.Module.train; Srivastava et al., Dropout, JMLR 15, 2014; Ioffe and Szegedy,
        Batch Normalization, arXiv:1502.03167.
    """

    code = "MD001"
    name = "training-mode"
    says = "a module is in training mode on one side and in evaluation mode on the other"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause for all flags together."""
        wanted, now = modes(case)
        changed = list(in_another_mode(case))
        if not changed:
            return
        settings = smallest(wanted, now)
        mode = {True: "training", False: "evaluation"}
        shown = listed(path or "the root" for path, _ in settings)
        evidence = [
            Evidence(
                f"{len(changed)} of {len(wanted)} modules differ in mode: the reference is in "
                f"{mode[settings[0][1]]} mode at {shown}",
                {"modules": changed, "set": [[path, value] for path, value in settings]},
            )
        ]
        evidence += _operators(case, set(changed))
        yield self.cause(
            site=settings[0][0] or "(root)",
            verdict=Verdict.SEMANTIC,
            evidence=evidence,
            remedy=_remedy(case, settings, set(changed)),
            says=f"the candidate is in {mode[not settings[0][1]]} mode, the reference in {mode[settings[0][1]]} mode",
            interventions=tuple(followed_by(case).values())
            or tuple(Intervention("set-mode", module_name(case, path), value) for path, value in settings),
        )

    def example(self) -> tuple[Any, Any]:
        """Evaluation mode against a forgotten ``eval()``."""
        import copy

        import torch

        torch.manual_seed(0)
        reference = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4)).eval()
        candidate = copy.deepcopy(reference).train()
        x = torch.randn(4, 8)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Running statistics that moved; a mode that no op asks for beside another weight; a buffer beside it."""

        def moved(candidate: Any) -> None:
            candidate.batch.running_mean.add_(0.1)

        def weight(candidate: Any) -> None:
            candidate.linear.train()
            candidate.linear.weight[0, 0] += 0.1

        def activation(candidate: Any) -> None:
            candidate.norm.train()
            other_activation(candidate)

        yield changed(moved)
        yield changed(weight)
        yield changed(activation)


def smallest(wanted: Mapping[str, bool], now: Mapping[str, bool]) -> list[tuple[str, bool]]:
    """The fewest (module path, mode) that turn ``now`` into ``wanted``, if each sets its whole subtree.

    Parents come before children, and a child is listed only if it is not yet as wanted. (Going from the root
    downwards, a setting is kept only where the module itself differs, so none can be left out.)
    """
    state, settings = dict(now), []
    for path in sorted(wanted, key=lambda path: (path.count(".") + bool(path), path)):
        if path in state and state[path] != wanted[path]:
            settings.append((path, wanted[path]))
            for below in state:
                if not path or below == path or below.startswith(path + "."):
                    state[below] = wanted[path]
    return settings


def _operators(case: Case, changed: set[str]) -> Iterator[Evidence]:
    """Operators that run on one side only inside the modules whose mode differs."""
    counts: list[Counter[tuple[str, str]]] = []
    for trace, rename in ((case.reference, lambda name: name), (case.candidate, case.rename)):
        counts.append(
            Counter(
                (rename(call.site.scope), call.site.op)
                for call in trace.calls
                if call.kind == "compute" and rename(call.site.scope) in changed
            )
        )
    ours, theirs = counts
    for side, more, fewer in (("reference", ours, theirs), ("candidate", theirs, ours)):
        extra = more - fewer
        if extra:
            names = [f"{scope}:{op}" + (f" ×{n}" if n > 1 else "") for (scope, op), n in sorted(extra.items())]
            yield Evidence(f"in these modules only the {side} runs {listed(names)}", {side: names})


def _remedy(case: Case, settings: list[tuple[str, bool]], changed: set[str]) -> Remedy:
    code = ""
    if case.candidate.framework == "torch":
        code = standing_for(case, "candidate")
        for path, value in settings:
            code += f"{module_at(path and module_name(case, path))}.{'train' if value else 'eval'}()\n"
    remedy = Remedy("Put both sides into the same mode right before the run.", code, undoes="either")
    own = (case.reference.calls[index] for index in case.alignment.unpaired_reference)
    draws = any(call.rng and call.site.scope in changed for call in own)
    return begun_alike(remedy) if draws else remedy


REGISTER = TrainingMode()

"""ST006 config-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import argued, named
from whydiff.explain.causes._impostors import changed, other_activation
from whydiff.explain.causes._settings import enough, place, scalars, settable
from whydiff.explain.causes._state import target_name
from whydiff.explain.causes._switched import setting_back, switches
from whydiff.records import Cause, Evidence, Intervention, Origin, Remedy, Verdict
from whydiff.report.words import listed


class ConfigDiffers(CauseRule):
    """A setting of the model differs: epsilon, dropout, scale, attention implementation.

    What it detects:
        Plain numbers, strings and flags of modules that differ between the sides, grouped by attribute
        and values, and keys of the models' configurations that differ.

    Why it happens:
        A library changed a default between versions; a port used its own default (the epsilon of a
        norm, the kind of GELU, the dropout rate, the rotary base); a configuration file was edited or
        not found.

    Evidence required:
        The recorded attribute of both sides with its modules. A configuration key counts only together
        with something that acts: a module attribute with the same two values, or an operator's argument
        with the same two values at an origin. A key alone changes no number: it is not reported if
        nothing differs, as inert if state explains every origin, and as inconclusive where an origin is
        left that it might explain. Paths and addresses are no settings.

    Look-alikes:
        FO007 and FO008 if the setting is a flag or a name that switches between ops: setting it back exchanges the
        program, and what it does is the cause. MD001, the training flag. ST001 and ST002: the setting was already turned
        into a table or shape when the model was built (a rotary base), so that changing it now changes nothing.

    Example:
        The epsilon of a layer norm is 1e-3 instead of 1e-5.

    Remedy:
        Give both sides the same setting; the code sets it on the modules.

    How it is verified:
        The candidate runs again with the reference's value in every module of the group
        (``set-scalar``); the outputs must become equal bit for bit. From a trace, the operators of
        the module whose arguments show the value are executed again with the reference's; a value that
        no argument shows needs a live candidate and stays inconclusive.

    References:
        PyTorch, torch.nn.LayerNorm (eps), torch.nn.GELU (approximate); huggingface/transformers,
        PretrainedConfig.
    """

    code = "ST006"
    name = "config-differs"
    says = "a setting of the model differs"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per attribute and pair of values, per key with an argument, and the rest."""
        linked: set[str] = set()
        switched = [(one.attribute, one.ours, one.theirs) for one in switches(case)]
        for (attribute, ours, theirs), paths in scalars(case).items():
            keys = [key for key, values in case.config_changes.items() if _equal(values, (ours, theirs))]
            linked.update(keys)
            if (attribute, ours, theirs) not in switched:
                yield self._attribute(case, attribute, ours, theirs, paths, keys)
        alone = []
        for key, (ours, theirs) in case.config_changes.items():
            if key in linked or place(ours) or place(theirs):
                continue
            origins = [o for o in case.localization.origins if argued(case, o, ours, theirs)]
            if origins:
                yield self._argument(key, ours, theirs, origins)
            else:
                alone.append(key)
        if alone and len(named(case)) < len(case.localization.origins):
            yield self._alone(case, alone)

    def _attribute(
        self, case: Case, attribute: str, ours: Any, theirs: Any, paths: list[str], keys: list[str]
    ) -> Cause:
        targets = [target_name(case, path) for path in paths]
        evidence = [
            Evidence(
                f"{attribute} is {ours!r} in the reference and {theirs!r} in the candidate, in {len(paths)} "
                f"module(s): {listed(path.rpartition('.')[0] or 'the root' for path in paths)}",
                {"attribute": attribute, "reference": ours, "candidate": theirs, "paths": paths},
            )
        ]
        if keys:
            evidence.append(Evidence(f"the configuration says so: {listed(keys)}", {"config": keys}))
        for origin in case.localization.origins:
            if argued(case, origin, ours, theirs):
                evidence.append(Evidence(f"the value is an argument of {origin.site}", {"origin": str(origin.site)}))
        known = settable(ours, theirs)
        return self.cause(
            site=paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
            verdict=Verdict.SEMANTIC,
            evidence=evidence,
            remedy=setting_back(case, attribute, ours, targets, known=known),
            says=f"{attribute} is {theirs!r} in the candidate, {ours!r} in the reference",
            reason="" if known else "the recorded value cannot be set: only its text is known",
            interventions=tuple(Intervention("set-scalar", t, ours) for t in targets) if known else (),
        )

    def _argument(self, key: str, ours: Any, theirs: Any, origins: list[Origin]) -> Cause:
        sites = [str(origin.site) for origin in origins]
        return self.cause(
            site=str(origins[0].site),
            verdict=Verdict.SEMANTIC,
            evidence=(
                Evidence(
                    f"config {key} is {ours!r} in the reference and {theirs!r} in the candidate, and so is "
                    f"an argument of {listed(sites)}",
                    {"config": key, "reference": ours, "candidate": theirs, "origins": sites},
                ),
            ),
            remedy=Remedy(f"Give both configurations the same {key}."),
            reason="no module attribute carries the value, so it cannot be set back in a rerun",
        )

    def _alone(self, case: Case, keys: list[str]) -> Cause:
        changes = {key: [repr(value) for value in case.config_changes[key]] for key in keys}
        first = keys[0]
        evidence = Evidence(
            f"{len(keys)} configuration key(s) differ and nothing that acts carries the values: "
            f"{listed(keys)} ({first}: {changes[first][0]} in the reference, {changes[first][1]} in the "
            "candidate)",
            {"config": changes},
        )
        known = named(case)
        open_origins = [
            o
            for index, o in enumerate(case.localization.origins)
            if o.kind in ("implementation", "region", "arguments") and index not in known and not enough(case)
        ]
        reason = "a configuration key alone changes no number, and state and the ops explain every origin"
        if open_origins:
            reason = f"it might explain {open_origins[0].site}, but nothing recorded connects them"
        return self.cause(
            site=f"config.{first}",
            verdict=Verdict.SEMANTIC,
            evidence=(evidence,),
            remedy=Remedy("Build both sides from the same configuration."),
            status="inconclusive" if open_origins else "refuted",
            inert=not open_origins,
            reason=reason,
        )

    def example(self) -> tuple[Any, Any]:
        """The epsilon of a layer norm is a hundred times larger."""
        import copy

        import torch

        torch.manual_seed(0)
        reference: Any = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
        candidate = copy.deepcopy(reference)
        candidate[1].eps = 1e-3
        x = torch.randn(4, 8)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A setting that nothing reads beside another weight or activation, or a table made from it; a switch."""
        import torch

        class Switched(torch.nn.Module):
            def __init__(self, variant: Any) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.linear, self.variant = torch.nn.Linear(8, 8), variant

            def forward(self, x: Any) -> Any:
                hidden = self.linear(x)
                if self.variant in (True, "new"):
                    hidden = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
                return torch.tanh(hidden) @ hidden.mT

        def switched(*variants: Any) -> tuple[Any, Any]:
            x = torch.linspace(-1, 1, 32).reshape(4, 8)
            reference, candidate = map(Switched, variants)
            return lambda: reference(x), lambda: candidate(x)

        def weight(candidate: Any) -> None:
            candidate.revision = 2
            candidate.linear.weight[0, 0] += 0.1

        def activation(candidate: Any) -> None:
            candidate.revision = 2
            other_activation(candidate)

        def table(candidate: Any) -> None:
            candidate.revision = 2
            candidate.table = candidate.table * candidate.revision

        yield changed(weight)
        yield changed(activation)
        yield changed(table)
        yield switched(True, False)
        yield switched("old", "new")


def _equal(one: Any, other: Any) -> bool:
    return all(type(a) is type(b) and bool(a == b) for a, b in zip(one, other, strict=True))


REGISTER = ConfigDiffers()

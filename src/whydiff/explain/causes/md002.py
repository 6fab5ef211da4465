"""MD002 rng-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._draws import (
    drawn_in_another_order,
    drawn_otherwise,
    from_other_keys,
    from_the_same_key,
    makes_a_key,
)
from whydiff.explain.causes._explained import Finding, View, causes_of, explained_calls, grouped
from whydiff.explain.causes._flow import read_from, readers_of
from whydiff.explain.causes._settings import enough
from whydiff.explain.causes._switched import causes_of_switches
from whydiff.explain.draws import draws_alike
from whydiff.explain.keys import draws, takes_a_key
from whydiff.records import Call, Cause, Evidence, Origin, Remedy, Verdict
from whydiff.report.words import listed

_ONE_SIDE = ("one side", "one side, by key")
_REMEDIES = {
    "one side": "Draw on both sides or on neither: pass the module's mode on.",
    "one side, by key": "Draw on both sides or on neither: say of both whether they are trained or used (Equinox: "
    "`inference_mode`; Flax: `deterministic`).",
    "state": "Draw from the same state on both sides: seed right before, or restore the generator's state.",
    "size": "Draw at one size on both sides and take the part that is needed, or give every item its own generator.",
    "layout": "Draw for the axes in one order on both sides: before they are exchanged, or afterwards.",
    "dtype": "Draw in one dtype on both sides and cast the numbers afterwards.",
    "device": "Draw on one kind of device on both sides (the CPU's numbers can be moved to any) and move them.",
    "generator": "Draw with the same generator on both sides: the same version and the same settings of random numbers "
    "(JAX: `jax_threefry_partitionable`, `jax_default_prng_impl`).",
    "key": "Draw from the same keys on both sides: one seed, split in the same way, every key used once.",
    "order": "Draw in the same order on both sides.",
    "resumed": "Save the generators' states with the checkpoint, and restore them when the run is resumed.",
}
_CODE = {
    "one side": "F.dropout(x, p, training=self.training)\n",
    "resumed": 'checkpoint["rng"] = torch.get_rng_state()\ntorch.set_rng_state(checkpoint["rng"])\n',
    "dtype": "noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)\n",
    "size": "noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])\n",
}


class RngDiffers(CauseRule):
    """Random numbers are drawn on one side only, or so that other numbers come out.

    What it detects:
        An origin whose ops draw random numbers (from a generator or a key) on one side and not on the other, although
        no module's mode differs; or on both sides, from one distribution, but from other generator states, at another size, in
        another dtype or on another device; or in another order, so that each number is used in the other's place; or from
        the same key by another generator.

    Why it happens:
        ``F.dropout(x, p)`` acts in evaluation mode too, because its ``training`` defaults to true; a
        recomputed block (activation checkpointing) or a resumed run does not restore the generator's state; one
        rank or one side draws once more than the other before. One seed gives other numbers at another size (the
        CPU changes its algorithm at 16 elements), in another dtype and on another device.

    Evidence required:
        The recorded ops that draw, with arguments that are equal but for size, dtype and device, and the recorded
        state of the generator before each.

    Look-alikes:
        MD001 if a module's training flag differs where the numbers are drawn; ST006 if the rate differs, or if a setting
        switches to ops that do more than draw and take up what is drawn; FO008 for
        another distribution. ND001: a run that differs from itself. IN001 if numpy drew the numbers.

    Example:
        Dropout by the functional form, without the module's mode.

    Remedy:
        Pass ``training=self.training``; seed both sides alike right before the op; draw at one size and in one dtype.

    How it is verified:
        By replay: the candidate's op draws as the reference's does (``draw-as``: its generator's state, size and
        dtype), or what is drawn on one side only is removed or inserted (``remove-step``, ``insert-step``); of one
        key that gives other numbers only the numbers can be exchanged (``numbers-of``), which shows where; the
        outputs must become equal bit for bit. In the other direction the reference draws as the candidate.

    References:
        PyTorch, torch.nn.functional.dropout; torch.utils.checkpoint, ``preserve_rng_state``; notes on
        reproducibility.
    """

    code = "MD002"
    name = "rng-differs"
    precedes = ("FO", "IN", "PR", "TR")

    def explain(self, view: View) -> Finding | None:
        """Draws on one side only, or so that other numbers come out."""
        if makes_a_key(view.case, view.origin):
            return from_other_keys(view.case, self.code)
        sides = zip(view.case.traces, view.seen.calls, strict=True)
        ours, theirs = ([call for call in calls if draws(trace, call)] for trace, calls in sides)
        if not ours and not theirs:
            return self._in_another_order(view)
        if _mode_differs(view.case, [*ours, *theirs]):
            return None
        by_key = not all(call.rng for call in ours + theirs)
        if ours and theirs:
            pairs = list(zip(ours, theirs, strict=False))
            if by_key:
                return None
            ordered = drawn_in_another_order(view.case, self.code, pairs) if len(ours) == len(theirs) else None
            return ordered or drawn_otherwise(view.case, self.code, pairs)
        side = "candidate" if theirs else "reference"
        names = [str(call.site) for call in ours + theirs]
        text = f"only the {side} draws random numbers here: {listed(names)}; no module's mode differs"
        evidence = Evidence(text, {"side": side, "ops": names})
        facts = {"what": ("one side, by key" if by_key else "one side",)}
        says = f"only the {side} draws random numbers here"
        return Finding(self.code, side, Verdict.SEMANTIC, (evidence,), view.exchange_step(), facts, says=says)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that draws alone, and per way in which both draw otherwise."""
        resumed = bool(case.alignment.ahead)
        yield from causes_of(case, self, lambda finding: _remedy(finding, resumed))
        yield from causes_of_switches(case, self, "draws")
        yield from grouped(_by_other_generators(case), self, _remedy_at_once)
        if not (case.localization.axes or enough(case)):
            return
        known = explained_calls(case)
        keyed = from_other_keys(case, self.code)
        if keyed is not None and case.localization.origins:
            yield from grouped([[(case.localization.origins[0], keyed)]], self, _remedy_at_once)
        groups: dict[Any, list[tuple[Origin, Finding]]] = {}
        for origin in case.localization.origins:
            if min(origin.calls) < 0 or origin.calls in known:
                continue
            ours, theirs = case.calls_at(origin.calls)
            finding = drawn_otherwise(case, self.code, [(ours, theirs)]) if ours.rng and theirs.rng else None
            if finding is not None:
                groups.setdefault(finding.key, []).append((origin, finding))
        yield from grouped(groups.values(), self, lambda finding: _remedy(finding, resumed))

    def _in_another_order(self, view: View) -> Finding | None:
        """Two draws of one distribution that are used in each other's place."""
        case, origin = view.case, view.origin
        ours, theirs = case.calls_at(origin.calls)
        if origin.kind != "region" or origin.region or not (ours.rng and theirs.rng) or not draws_alike(ours, theirs):
            return None
        partner = case.partners[0]
        readers = list(readers_of(case, ours.index, theirs.index))
        if ours.index not in partner or theirs.index not in partner.values() or not readers:
            return None
        wanted = case.candidate.calls[partner[ours.index]]
        evidence = Evidence(
            f"{readers[0].site} uses what {theirs.site} drew, and {ours.site} in the reference: "
            "the same numbers are drawn and used in another order",
            {"uses": str(theirs.site), "reference_uses": str(ours.site)},
        )
        steps = tuple(read_from(wanted, event) for event in readers)
        return Finding(self.code, "order", Verdict.SEMANTIC, (evidence,), steps, {"what": ("order",)})

    def example(self) -> tuple[Any, Any]:
        """Dropout that acts in evaluation mode."""
        import torch

        torch.manual_seed(0)
        linear, x = torch.nn.Linear(8, 8).eval(), torch.randn(4, 8)

        def run(training: bool) -> Any:
            return linear(torch.nn.functional.dropout(torch.tanh(x), 0.25, training=training))

        return lambda: run(False), lambda: run(True)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Another rate, another distribution, another factor on the same numbers, a mask that is not random."""
        import torch

        torch.manual_seed(0)
        linear, x = torch.nn.Linear(8, 8).eval(), torch.randn(4, 8)
        mask = (torch.rand(4, 8) > 0.25).float() / 0.75

        def dropped(rate: float) -> Any:
            return linear(torch.nn.functional.dropout(torch.tanh(x), rate))

        def noisy(draw: Any, factor: float = 0.5) -> Any:
            return linear(x + factor * draw(4, 8, generator=torch.Generator().manual_seed(3)))

        def masked(mask: Any) -> Any:
            return linear(torch.tanh(x) if mask is None else torch.tanh(x) * mask)

        yield lambda: dropped(0.25), lambda: dropped(0.5)
        yield lambda: noisy(torch.randn), lambda: noisy(torch.rand)
        yield lambda: noisy(torch.randn), lambda: noisy(torch.randn, 0.75)
        yield lambda: masked(None), lambda: masked(mask)


def _by_other_generators(case: Case) -> list[list[tuple[Origin, Finding]]]:
    """Origins at which one key gives other numbers, all of one kind: no op that computes is looked at for them."""
    traces, found = case.traces, []
    for origin in case.localization.origins:
        if min(origin.calls) >= 0:
            ours, theirs = (trace.calls[at] for trace, at in zip(traces, origin.calls, strict=True))
            if takes_a_key(traces[0], ours) and takes_a_key(traces[1], theirs):
                finding = from_the_same_key(origin, RngDiffers.code, ours, theirs)
                found += [(origin, finding)] if finding is not None else []
    return [found] if found else []


def _mode_differs(case: Case, calls: list[Call]) -> bool:
    changed = [path.rpartition(".")[0] for path in case.scalar_changes if path.rpartition(".")[2] == "training"]
    scopes = {name for call in calls for name in (call.site.scope, case.rename(call.site.scope))}
    return any(not path or s == path or s.startswith(path + ".") for path in changed for s in scopes)


def _remedy(finding: Finding, resumed: bool) -> Remedy:
    what = finding.facts["what"]
    keys = ["resumed" if name == "state" and resumed else name for name in what]
    text = " ".join(_REMEDIES[key] for key in keys)
    tried = what[0] not in (*_ONE_SIDE, "generator")  # the setting was not changed, only what came of it
    return Remedy(text, "".join(_CODE.get(key, "") for key in keys), undoes="either" if tried else "")


def _remedy_at_once(finding: Finding) -> Remedy:
    return _remedy(finding, resumed=False)


REGISTER = RngDiffers()

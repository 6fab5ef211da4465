"""FO008 formula-differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.explain.arguments import ABSENT, as_value, differing_arguments, given_otherwise, left_out, one_overload
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._elsewhere import at_another_place, by_another_op
from whydiff.explain.causes._entering import entering_number
from whydiff.explain.causes._explained import Finding, View, causes_of, grouped, unjudged
from whydiff.explain.causes._given import other_number
from whydiff.explain.causes._settings import enough
from whydiff.explain.causes._switched import causes_of_switches
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF
from whydiff.records import Call, Cause, Evidence, Intervention, Remedy, Verdict
from whydiff.report.words import listed

_KINDS = ("arguments", "region")
_TIES = "the two sides choose by the same numbers, and take other ones of those that are equal"


class FormulaDiffers(CauseRule):
    """At one place the two sides compute different functions of the same values, and no known mistake names it.

    What it detects:
        An op that is given another argument in the code (a softmax over another axis, another slope, another
        correction), or ops in whose place the other side has other ones: a sigmoid for a softmax, a maximum for
        a mean, an epsilon outside the root. Or a step that both sides carry out, at different places: gradients
        that are clipped before and after they are unscaled. Or choices (the largest few) that fall otherwise among
        equal values. Or one number that Python made and an op takes up as it takes a tensor.

    Why it happens:
        A formula is written down from memory or from another paper, a default of a function is taken for what
        the model uses, an axis is counted from the other end.

    Evidence required:
        Inputs that agree bit for bit; both sides' ops carried out on them in float64, where rounding plays no
        part, give finite results that differ. The argument with both values is named, or the ops of both
        sides. Places that compute one function together (a factor before a product against one after it) are
        looked at together and left out.

    Look-alikes:
        All causes that know the mistake by name come first: FO001 to FO007, IN002 and IN003, TR001, MD002;
        ST006 if a setting of a module carries the argument (then setting it back is enough, and this cause is
        silent). Where one switches to other ops, both are said: the ops, and the setting.

    Example:
        A softmax over the keys against one over the queries.

    Remedy:
        Compute the same formula on both sides; the evidence names the place.

    How it is verified:
        By replay: the candidate's op gets the reference's argument (``set-argument``), or the reference's ops
        work on the candidate's inputs (``replace-op``), or the step is moved (``insert-step``, ``remove-step``); the
        outputs must become equal bit for bit. A setting that switches to other ops is set back (``set-scalar``).

    References:
        Vaswani et al., Attention Is All You Need, arXiv:1706.03762, section 3.2.1 (the softmax is over keys).
    """

    code = "FO008"
    name = "formula-differs"
    says = "the two sides compute different functions of the same values"
    general = True
    yields_to = ("FO006", "FO007")

    def explain(self, view: View) -> Finding | None:
        """Another argument, or other ops; or the same ops at another place."""
        moved = self._elsewhere(view)
        if moved is not None:
            return moved
        if (entering := entering_number(view)) is not None:
            one, other, op = entering
            text = f"{op} is given {one:.9g} in the reference and {other:.9g} in the candidate"
            found = self._finding(view, text, (op, one, other), view.give_constants())
            return replace(found, says=f"{op} is given {other:.9g} in the candidate, {one:.9g} in the reference")
        if view.origin.kind not in _KINDS or not _computes_otherwise(view):
            return None
        text, key = _arguments(view) if view.single is not None else _of_joint(view)
        return self._finding(view, text, key, view.give_argument() or view.replace_op()) if text else None

    def explain_joint(self, view: View) -> Finding | None:
        """Ops that give values of other shapes, so that they are compared where the shapes are equal again."""
        return self._finding(view, *_of_joint(view), view.replace_op()) if _computes_otherwise(view) else None

    def explain_number(self, view: View) -> Finding | None:
        """Whatever numbers they are: a slope, a base, a limit, or two of several kinds."""
        return other_number(view, self.code)

    def _finding(self, view: View, text: str, key: Any, away: tuple[Intervention, ...]) -> Finding:
        calls, tied = view.seen.calls, view.seen.result.tied
        if tied:
            text = f"{text}, and they choose otherwise among equal values"
        far = f"the results lie {view.apart:.2g} of their size apart in float64"
        evidence = Evidence(
            f"{text}; on the same inputs {far if np.isfinite(view.apart) else 'the reference gives nothing but zeros'}",
            {
                "reference": [str(call.site) for call in calls[0]],
                "candidate": [str(call.site) for call in calls[1]],
                "apart_in_float64": view.apart if np.isfinite(view.apart) else None,
            },
        )
        says = _TIES if tied else ""
        return Finding(self.code, key, Verdict.SEMANTIC, (evidence,), away, {"text": text}, general=True, says=says)

    def _elsewhere(self, view: View) -> Finding | None:
        """A step of one side alone that the other carries out too: at another place, or by another op."""
        found, other = at_another_place(view), by_another_op(view)
        calls = view.seen.calls[0] or view.seen.calls[1]
        if not (found or other) or not view.other_function or any(call.rng for call in calls):
            return None
        side = int(bool(view.seen.calls[1]))
        if other is not None and not found:
            return self._finding(view, *_ops([one] for one in (other[::-1] if side else other)), view.replace_op())
        ops = listed(call.site.op for call in calls)
        names = ("candidate", "reference") if side else ("reference", "candidate")
        evidence = Evidence(
            f"the {names[0]} carries out {ops} at {calls[-1].site}, the {names[1]} at {found[-1].site}"
            + (f" (in float64 the values lie {view.apart:.2g} of their size apart)" if np.isfinite(view.apart) else ""),
            {names[0]: [str(call.site) for call in calls], names[1]: [str(call.site) for call in found]},
        )
        return Finding(
            self.code,
            ("place", ops),
            Verdict.SEMANTIC,
            (evidence,),
            view.exchange_step(),
            {"ops": ops},
            general=True,
            says=f"the candidate carries out {ops} at another place than the reference",
        )

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per pair of arguments or of lists of ops, and per setting that exchanges ops for others."""
        yield from causes_of(case, self, _remedy)
        yield from causes_of_switches(case, self, "exchanges")
        if not enough(case):
            yield from self._unjudged(case)

    def _unjudged(self, case: Case) -> Iterator[Cause]:
        """Ops that float64 cannot judge (somebody's own, in numpy) and that are given one other argument.

        Only where the results lie farther apart than rounding or another precision can take them.
        """
        for number in sorted(unjudged(case)):
            origin = case.localization.origins[number]
            ours, theirs = case.calls_at(origin.calls)
            apart, changed = origin.comparison.value("rel_l2"), given_otherwise(ours, theirs)
            unit = max((UNIT_ROUNDOFF.get(event.spec.dtype, 1.0) for event in ours.writes), default=1.0)
            if origin.kind != "arguments" or len(changed) != 1 or apart is None or apart <= unit**CANCELLED_SHARE:
                continue
            which, one, other = changed[0]
            value = as_value(one)
            if value is None or as_value(other) is None:
                continue
            name = for_framework(case.reference.framework).argument(ours.target, which)
            text = f"{name} of {ours.site.op} is {_shown(one)} in the reference and {_shown(other)} in the candidate"
            finding = Finding(
                self.code,
                (ours.target, text),
                Verdict.SEMANTIC,
                (Evidence(f"{text}; the results lie {apart:.2g} of their size apart", {"apart": apart}),),
                (Intervention("set-argument", str(theirs.site), (which, *value)),),
                {"text": text},
                general=True,
            )
            yield from grouped([[(origin, finding)]], self, _remedy)

    def example(self) -> tuple[Any, Any]:
        """A softmax over the other axis."""
        import torch

        torch.manual_seed(0)
        scores, values = torch.randn(5, 5), torch.randn(5, 4)

        def run(axis: int) -> Any:
            return torch.softmax(scores, axis) @ values

        return lambda: run(-1), lambda: run(-2)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Arguments that are consequences: of a number measured before, of a setting, of another input, of draws."""
        import torch

        torch.manual_seed(0)
        x, weight = torch.randn(4, 8), torch.randn(8, 8)

        class Axis(torch.nn.Module):
            def __init__(self, axis: int) -> None:
                super().__init__()
                self.axis = axis

            def forward(self) -> Any:
                return torch.softmax(x[:, :4], self.axis) @ weight[:4]

        def clipped(values: Any) -> Any:
            return torch.clamp(x, max=float(torch.sigmoid(values).max())) @ weight

        def dropped(share: float) -> Any:
            torch.manual_seed(1)
            return torch.nn.functional.dropout(x, share) @ weight

        yield (lambda: clipped(x)), (lambda: clipped(x.abs() - 1))
        yield Axis(-1), Axis(-2)
        yield (lambda: dropped(0.25)), (lambda: dropped(0.5))


def _computes_otherwise(view: View) -> bool:
    """Whether both sides have ops, none that draws, whose results differ in float64."""
    calls = view.seen.calls
    if not view.other_function or not all(calls) or not (np.isfinite(view.apart) or _nothing(view)):
        return False
    return not any(call.rng for side in calls for call in side)


def _nothing(view: View) -> bool:
    """Whether the reference's result is zero everywhere: then a distance has no size to be measured by."""
    ours, theirs = view.exact
    return ours.shape == theirs.shape and not ours.any() and bool(np.isfinite(theirs).all())


def _arguments(view: View) -> tuple[str, Any]:
    assert view.single is not None
    ours, theirs = view.single
    if not one_overload(ours, theirs):
        return f"the reference computes {ours.target}, the candidate {theirs.target}", (ours.target, theirs.target)
    name = for_framework(view.case.reference.framework).argument
    found = [
        f"{name(ours.target, which)} is {_given(ours, which, a)} in the reference and "
        f"{_given(theirs, which, b)} in the candidate"
        for which, a, b in view.changed_arguments
    ]
    return (f"of {ours.site.op}, {'; '.join(found)}" if found else ""), (ours.target, *found)


def _given(call: Call, which: int | str, value: Any) -> str:
    """An argument in words; one that is left out is said to be the default."""
    if not left_out(call, which):
        return _shown(value)
    return "its default" if value is ABSENT or value is None else f"its default ({_shown(value)})"


def _of_joint(view: View) -> tuple[str, Any]:
    """Arguments in which paired ops of several differ, else the ops."""
    partner = view.case.partners[0]
    found = []
    for call in view.seen.calls[0]:
        other = view.case.candidate.calls[partner[call.index]] if call.index in partner else None
        if other is not None and one_overload(other, call):
            found += [
                f"{call.site.op} is given {_shown(a)} in the reference and {_shown(b)} in the candidate"
                for a, b in differing_arguments(call.arguments, other.arguments)
                if a is not ABSENT and b is not ABSENT
            ]
    if (
        len(view.seen.calls[0]) == len(view.seen.calls[1]) == sum(c.index in partner for c in view.seen.calls[0])
        and found
    ):
        return "; ".join(dict.fromkeys(found)), tuple(found)
    return _shapes(view) or _ops(view.seen.calls)


def _shapes(view: View) -> tuple[str, Any] | None:
    """The first of the same ops that is given one value in two shapes: a statistic over a group, and over the batch."""
    ours, theirs = view.seen.calls
    if [call.target for call in ours] != [call.target for call in theirs]:
        return None
    for one, other in zip(ours, theirs, strict=True):
        given = [[list(event.spec.shape) for event in call.reads] for call in (one, other)]
        if given[0] != given[1]:
            text = [", ".join(map(str, shapes)) for shapes in given]
            return f"{one.site.op} is given {text[0]} in the reference and {text[1]} in the candidate", tuple(text)
    return None


def _shown(argument: Any) -> str:
    if isinstance(argument, dict):
        return "a tensor"
    if not isinstance(argument, (list, tuple)):
        return str(argument)
    plain = argument and not any(isinstance(item, (list, tuple)) for item in argument)
    return ", ".join(map(_shown, argument)) if plain else _nested(argument)


def _nested(argument: Any) -> str:
    if not isinstance(argument, (list, tuple)):
        return _shown(argument)
    return f"[{', '.join(map(_nested, argument))}]"


def _ops(calls: Any) -> tuple[str, Any]:
    ours, theirs = (listed(call.site.op for call in side if isinstance(call, Call)) for side in calls)
    return f"the reference computes {ours} where the candidate computes {theirs}", (ours, theirs)


def _remedy(finding: Finding) -> Remedy:
    if "ops" in finding.facts:
        return Remedy(
            f"Carry out {finding.facts['ops']} at the same place on both sides: both have it, so it is moved, not added. "
            "The right place is the one that the weights were trained with, or that the paper names.",
            undoes="either",
        )
    return Remedy(f"Compute the same formula on both sides: {finding.facts['text']}.", undoes="either")


REGISTER = FormulaDiffers()

"""FO003 scale-differs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.explain.causes._elsewhere import at_another_place
from whydiff.explain.causes._explained import Finding, PlaceRule, View, distance
from whydiff.explain.causes._given import FACTORS, other_number
from whydiff.explain.causes._narrow_number import narrow_number
from whydiff.explain.causes._written import other_parts
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN, SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.records import Evidence, Remedy, Verdict

_ROUNDED = SAME_FUNCTION * UNIT_ROUNDOFF["float32"]


class ScaleDiffers(PlaceRule):
    """One side's result is the other's, times one constant.

    What it detects:
        An origin whose results on the two sides are in one constant ratio, element for element; and a fused
        attention op whose scores are multiplied by another factor.

    Why it happens:
        A factor is missing or made twice (embeddings times √d, attention by 1/√d of the wrong d, muP and
        residual multipliers, logit scales), stands in the code as a constant, or a temperature and a scale
        are confused.

    Evidence required:
        Both sides' ops are carried out in float64 on the recorded inputs. The factor is fitted by least
        squares, and what is left of the difference must be within float32 constants. For attention the
        factor on the scores is fitted and must explain the output ten times better than any other
        hypothesis.

    Look-alikes:
        ST006 if an attribute or configuration key carries the factor; ST001 if the weights themselves are
        scaled; PR006 if one side's factor is the other's, rounded to a narrower dtype. FO002: an epsilon scales each
        row differently. FO006 if equal ops read other parts of one tensor: a difference of parts that are exchanged is
        the other one times -1.

    Example:
        Scores times 0.25 against scores times 0.2 before a softmax.

    Remedy:
        Use one factor on both sides.

    How it is verified:
        By replay: the candidate's op gets the reference's factor (``set-argument``), or the reference's op
        works on the candidate's inputs (``replace-op``); the outputs must become equal bit for bit.

    References:
        Vaswani et al., arXiv:1706.03762, sections 3.2.1 and 3.4; Yang et al., arXiv:2203.03466.
    """

    code = "FO003"
    name = "scale-differs"
    says = "the candidate's result is the reference's times {factor}"
    yields_to = ("IN", "FO001")

    def explain(self, view: View) -> Finding | None:
        """The factor between both sides, if there is one."""
        if view.one_function or at_another_place(view) or narrow_number(view) is not None:
            return None
        if view.measures:  # one side takes a step that finds its factor in the run: it is that step that is missing
            return None
        for accepted in view.seen.result.hypotheses:
            if accepted.codes == ("other-attention-scale",):
                evidence = Evidence(
                    f"the candidate's attention op fits {accepted.text} (distance {accepted.distance:.1e}, "
                    f"{accepted.runner_up_text} {accepted.runner_up:.1e})",
                    {"distance": accepted.distance, "runner_up": accepted.runner_up, "text": accepted.text},
                )
                return self._finding(view, accepted.text, evidence)
        ours, theirs = (side.reshape(-1) for side in view.exact)
        if ours.shape != theirs.shape or np.unique(ours[:4096]).size < 4:
            return None
        power = float(ours @ ours)
        factor = float(ours @ theirs) / power if power and math.isfinite(power) else 0.0
        if (
            not factor
            or abs(factor - 1) <= _ROUNDED  # the same numbers in another shape
            or not math.isfinite(factor)
            or distance(factor * ours, theirs) > min(_ROUNDED, abs(factor - 1) / HYPOTHESIS_MARGIN**2)
        ):
            return None
        if view.other_function and any(other_parts(view)):  # the op is the same: what it reads makes the factor
            return None
        spoken = _spoken(factor)
        evidence = Evidence(
            f"the candidate's result is the reference's times {spoken}, element for element (in float64 the rest is "
            f"{distance(factor * ours, theirs):.1e} of its size)",
            {"factor": factor, "rest": distance(factor * ours, theirs), "elements": int(ours.size)},
        )
        return self._finding(view, spoken, evidence, factor)

    def _finding(self, view: View, spoken: str, evidence: Evidence, factor: float | None = None) -> Finding:
        away, put = view.give_number() if factor is None else view.give_factor(factor)
        facts = {"factor": spoken}
        return Finding(
            self.code, spoken, Verdict.SEMANTIC, (evidence,), away or view.exchange_step(), facts, put_in=put
        )

    def explain_number(self, view: View) -> Finding | None:
        """Factors, also what is divided by, or what an attention kernel makes of the width."""
        found = (other_number(view, self.code, (first, *FACTORS)) for first in FACTORS)
        return next((one for one in found if one is not None), None)

    def remedy(self, finding: Finding) -> Remedy:
        """Use one factor, or one number."""
        if "word" in finding.facts:
            return Remedy(
                f"Use the same {finding.facts['word']} on both sides: {finding.facts['text']}.", undoes="either"
            )
        return Remedy(
            f"Use the same factor on both sides: the candidate's result is {finding.facts['factor']} times the reference's.",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """Scores that are scaled by another constant."""
        import torch

        torch.manual_seed(0)
        q, k = torch.randn(2, 8, 16), torch.randn(2, 8, 16)

        def run(scale: float) -> Any:
            return torch.softmax(q @ k.mT * scale, -1)

        return lambda: run(0.25), lambda: run(0.2)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Factors that the program takes from its own numbers: by another statistic, or on one side only; one moved."""
        import torch

        torch.manual_seed(0)
        x, head = torch.randn(4, 8) * torch.arange(1.0, 5.0)[:, None], torch.randn(8, 4)
        yield (lambda: x / float(x.abs().max()) @ head), (lambda: x / float(x.abs().mean()) @ head)
        yield (lambda: x / x.abs().max() @ head), (lambda: x / x[0].abs().max() @ head)
        yield (lambda: x * (1 / x.norm()) @ head), (lambda: x @ head)
        yield (lambda: (x * 4).clamp(-1, 1) @ head), (lambda: x.clamp(-1, 1) * 4 @ head)
        low, factor = x.bfloat16(), torch.tensor(48**0.5, dtype=torch.bfloat16)
        yield (lambda: low * factor), (lambda: low * 48**0.5)


def _spoken(factor: float) -> str:
    """The factor, and as a root where it is the root of a whole number (or one over it)."""
    text = f"{factor:.9g}"
    for power, form in ((factor**2, "√{}"), (1 / factor**2, "1/√{}")):
        whole = round(power)
        if 1 < whole < 1 << 20 and math.isclose(power, whole, rel_tol=1e-6) and math.isqrt(whole) ** 2 != whole:
            return f"{text} ({'−' if factor < 0 else ''}{form.format(whole)})"
    return text


REGISTER = ScaleDiffers()

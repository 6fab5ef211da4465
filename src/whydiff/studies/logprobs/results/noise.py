"""What is left when nothing systematic is: a few tokens, and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from whydiff.numbers.tolerance import LOGPROB_Z
from whydiff.records import Verdict
from whydiff.report.words import number
from whydiff.studies.logprobs.results.base import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers(Result):
    """A few tokens are far off, the others are at the noise.

    Attributes:
        tokens, of: how many, of how many measurable ones.
        size: largest change of the log-odds.
        typical: robust change of all the others.
        examples: (id, position, change), the largest first.
        clustered: share of the outliers that follow another one of their sequence at once.
    """

    test: ClassVar[str] = "outliers"
    verdict: ClassVar[Verdict] = Verdict.INCONCLUSIVE
    advice: ClassVar[str] = (
        "compare the two sides' forward passes on one of these sequences (whydiff compare); in a mixture of experts "
        "replay the engine's routing in the trainer, or clip the ratio of these tokens"
    )
    tokens: int = 0
    of: int = 0
    size: float | None = None
    typical: float | None = None
    examples: tuple[tuple[Any, int, float], ...] = ()
    clustered: float = 0.0

    def says(self) -> str:
        """See `Result`."""
        return (
            f"{self.tokens} of {self.of} tokens are outliers (log-odds change by up to {number(self.size)}, "
            f"{number(self.typical)} elsewhere), as when a router chooses another expert"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise(Result):
    """What is left: its size against what a precision explains.

    Attributes:
        size: robust standard deviation of the log-odds' change.
        largest: its largest absolute value.
        tails: its root mean square over `size`; 1 for normal numbers.
        mean: of the log-odds' change, in standard errors.
        level: ``none`` (no bit differs) | ``float32`` | ``bfloat16`` | ``float8`` | ``larger``.
        allowed: what that level explains.
        growth: size in the last third of the positions over the first third.
        agreement: correlation of the log-odds.
        places, sizes: robust size from each of these positions to the next; empty: too few tokens.
    """

    test: ClassVar[str] = "noise"
    verdict: ClassVar[Verdict] = Verdict.INCONCLUSIVE
    size: float | None = None
    largest: float | None = None
    tails: float | None = None
    mean: float | None = None
    level: Literal["none", "float32", "bfloat16", "float8", "larger", ""] = ""
    allowed: float | None = None
    growth: float | None = None
    agreement: float | None = None
    places: tuple[int, ...] = ()
    sizes: tuple[float, ...] = ()

    def says(self) -> str:
        """See `Result`."""
        if self.level == "none":
            return "no bit differs"
        if self.level == "larger":
            scatter = abs(self.mean or 0) < LOGPROB_Z
            what = "scatter without a pattern" if scatter else "a difference to one side that no test explains"
            return (
                f"{what}, larger than rounding in 8 bits explains (log-odds change by {number(self.size)}, "
                f"correlation {number(self.agreement)}): other weights, another model, or other inputs"
            )
        return (
            f"benign rounding, no larger than {self.level}'s (log-odds change by {number(self.size)}, "
            f"at most {number(self.largest)})"
        )

    def fix(self) -> str:
        """See `Result`."""
        if self.level == "larger":
            return "compare the weights (whydiff artifacts), then one sequence's forward pass (whydiff compare)"
        return (
            "nothing; correct the ratio by importance weights if its tails matter"
            if self.level != "none"
            else "nothing"
        )

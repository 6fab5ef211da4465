"""How the two sides' values are related."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from whydiff.records import Verdict
from whydiff.report.words import percent
from whydiff.studies.logprobs.results.base import SIDES, Result, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit(Result):
    """The candidate's values are a function of the reference's that is none of a distribution.

    Attributes:
        kind: ``probabilities`` | ``negative`` | ``base 2`` | ``base 10`` | ``scaled``.
        side: which side has them; of ``scaled``: the candidate, relative to the reference.
        factor: candidate = factor * reference.
        residual: robust relative deviation from that.
        before: the same without a factor.
    """

    test: ClassVar[str] = "unit"
    verdict: ClassVar[Verdict] = Verdict.INCOMPARABLE
    advice: ClassVar[str] = "write natural logarithms of probabilities on both sides"
    kind: Literal["", "probabilities", "negative", "base 2", "base 10", "scaled"] = ""
    side: Side = "candidate"
    factor: float = 1.0
    residual: float | None = None
    before: float | None = None

    def says(self) -> str:
        """See `Result`."""
        who = SIDES[self.side]
        return {
            "probabilities": f"the {who}'s numbers are probabilities, not their logarithms",
            "negative": f"the {who}'s numbers are negative log-probabilities (a loss)",
            "base 2": f"the {who}'s logarithms have base 2",
            "base 10": f"the {who}'s logarithms have base 10",
        }.get(
            self.kind,
            f"the {who}'s log-probabilities are {self.factor:.4g} times the other's, without normalising again",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift(Result):
    """Values belong to the token ``by`` places earlier (positive: the candidate is late).

    Attributes:
        by: tokens; candidate[t] belongs to reference[t - by].
        agreement: correlation of the log-odds at that shift.
        before: the same unshifted.
    """

    test: ClassVar[str] = "shift"
    verdict: ClassVar[Verdict] = Verdict.INCOMPARABLE
    advice: ClassVar[str] = (
        "score token t with the logits of position t - 1 on both sides: "
        "logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])"
    )
    by: int = 0
    agreement: float | None = None
    before: float | None = None

    def says(self) -> str:
        """See `Result`."""
        how = "late" if self.by > 0 else "early"
        words = {1: "one token", 2: "two tokens", 3: "three tokens"}
        size = words.get(abs(self.by), f"{abs(self.by)} tokens")
        return f"the trainer is {size} {how}: it is shifted by {self.by:+d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature(Result):
    """The candidate's distribution is the reference's with another temperature.

    Attributes:
        value: T of candidate = softmax(log reference / T).
        error: its standard error.
        low, high: what single tokens allow for T, but for rounding; None: no token bounds it.
        sampled: whose distribution the tokens come from, by the mean of the ratio: a side, or empty.
        residual: root mean square by which log-odds break what any distribution allows at this T.
        before: root mean square of the change of the log-odds.
    """

    test: ClassVar[str] = "temperature"
    advice: ClassVar[str] = (
        "divide the trainer's logits by the sampling temperature before log_softmax, or take the engine's before it "
        "(vLLM: logprobs_mode=processed_logprobs or raw_logprobs; both sides the same)"
    )
    value: float = 1.0
    error: float | None = None
    low: float | None = None
    high: float | None = None
    sampled: Side | Literal[""] = ""
    residual: float | None = None
    before: float | None = None

    def says(self) -> str:
        """See `Result`."""
        size = f"{self.value:.3f}" + (f" ± {self.error:.3f}" if self.error is not None else "")
        return (
            f"temperature: T = {size} of the trainer against the engine ({self.value:.2f} was applied by the trainer "
            f"only, or {1 / self.value:.2f} by the engine only)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Result):
    """One side's distribution was cut (top-k, top-p, min-p) and normalised again.

    Attributes:
        side: the one that was cut.
        kept: mean probability that was kept, at tokens that both have.
        least: all but one in a hundred of them are at least this.
        certain: share of the tokens that this side gives probability 1 and the other does not.
        top_p: if the cut is a nucleus: its bound, from the tokens with probability 1; else None.
        outside: tokens that this side gives probability 0.
        residual, before: root mean square of changes in the wrong direction, and of all of them.
    """

    test: ClassVar[str] = "truncated"
    advice: ClassVar[str] = (
        "compare log-probabilities of the whole distribution (vLLM: logprobs_mode=raw_logprobs), or cut both alike"
    )
    side: Side = "reference"
    kept: float | None = None
    least: float | None = None
    certain: float = 0.0
    top_p: float | None = None
    outside: int = 0
    residual: float | None = None
    before: float | None = None

    def says(self) -> str:
        """See `Result`."""
        what = f"the {SIDES[self.side]}'s distribution was truncated and normalised again"
        how = f" (top-p near {self.top_p:.2f})" if self.top_p is not None else " (top-k, top-p or min-p)"
        lost = f"; {self.outside} tokens have probability 0" if self.outside else ""
        kept = f", {percent(self.kept)} of the probability kept on average" if self.kept is not None else ""
        return what + how + kept + lost

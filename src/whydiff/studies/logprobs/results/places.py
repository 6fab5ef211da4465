"""Where a difference is, when it is not everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from whydiff.report.words import number
from whydiff.studies.logprobs.results.base import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Result):
    """A few workers (or sequences, where no worker is named) are off; the others are not.

    Attributes:
        named: whether the files name workers; else ``names`` are ids of sequences.
        names: of those that are off.
        size, others: robust change of the log-odds of these, and of the others.
        inside: what the tests say of their tokens alone.
    """

    test: ClassVar[str] = "worker"
    named: bool = True
    names: tuple[Any, ...] = ()
    size: float | None = None
    others: float | None = None
    inside: tuple[Result, ...] = ()

    def says(self) -> str:
        """See `Result`."""
        kind = "worker" if self.named else "sequence"
        who = (
            f"{kind} {self.names[0]} alone is off"
            if len(self.names) == 1
            else f"{len(self.names)} {kind}s alone are off"
        )
        why = "; ".join(one.says() for one in self.inside if one.found)
        return f"{who} (log-odds change by {number(self.size)}, {number(self.others)} elsewhere)" + (
            f": {why}" if why else ""
        )

    def fix(self) -> str:
        """See `Result`."""
        found = next((one for one in self.inside if one.found), None)
        if found is not None:
            return f"there: {found.fix()}"
        return "compare the weights, version and settings of what made these with another's (whydiff artifacts for the weights)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale(Result):
    """The difference grows over the steps of training.

    Attributes:
        steps: in order.
        sizes: robust change of the log-odds at each.
        growth: last over first, each the mean of a third of the steps.
        rank: Spearman's correlation of size and step.
    """

    test: ClassVar[str] = "stale weights"
    advice: ClassVar[str] = (
        "send the trainer's weights to the engine after every step, empty its prefix cache then, and write the "
        "version beside each sample"
    )
    steps: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()
    growth: float | None = None
    rank: float | None = None

    def says(self) -> str:
        """See `Result`."""
        return (
            f"stale weights: the difference grows {self.growth or 0:.1f} times from step {self.steps[0]:g} to "
            f"{self.steps[-1]:g} (log-odds change by {number(self.sizes[0])}, then {number(self.sizes[-1])})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded(Result):
    """Sequences with padding are off, those without are not.

    Attributes:
        known: ``tokens``: padding was seen in the files; ``lengths``: shorter than the longest of all.
        size, others: robust change of the log-odds with padding, and without.
        rank: Spearman's correlation of a sequence's size with its padding.
    """

    test: ClassVar[str] = "padding"
    advice: ClassVar[str] = (
        "give the attention mask, and position ids that do not count padding (attention_mask.cumsum(-1) - 1)"
    )
    known: Literal["tokens", "lengths", ""] = ""
    size: float | None = None
    others: float | None = None
    rank: float | None = None

    def says(self) -> str:
        """See `Result`."""
        which = (
            "padded sequences are off"
            if self.known == "tokens"
            else "sequences shorter than the longest are off (padding)"
        )
        return f"{which} (log-odds change by {number(self.size)}, {number(self.others)} without padding)"

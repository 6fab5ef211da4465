"""The two runs as an experiment sees them: one is changed, and what it gives is held against the other's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from whydiff.capturing.adapters import Run
from whydiff.locate.rows import Rows
from whydiff.pair.beginning import CommonBeginning
from whydiff.pair.replay import Outputs
from whydiff.pair.slices import Axis
from whydiff.records import Alignment, Leaf, Slot, Trace

Side = Literal["reference", "candidate"]
SIDES: tuple[Side, Side] = ("reference", "candidate")


def opposite(side: Side) -> Side:
    """The other side."""
    return SIDES[1 - SIDES.index(side)]


@dataclass(frozen=True, slots=True)
class Sides:
    """A pair of runs of which the candidate is changed (`turned`: of which the reference is).

    Attributes:
        reference, candidate: traces.
        alignment: which calls correspond.
        differing_leaves: gives (reference's, candidate's) leaves whose values differ.
        runs: live runs; None for a side that is a trace on disk.
        axes: what the runs have different sizes of.
        rows: by the reference's outputs, which of their rows are compared; no entry: all.
        returned: their outputs as the plain walk gave them; None: it was not needed.
        beginning: what both traces begin with alike; None: nobody asks.

    Outputs stand under the numbers of the pair's reference, turned or not.
    """

    reference: Trace
    candidate: Trace
    alignment: Alignment
    differing_leaves: Callable[[], tuple[tuple[Leaf, Leaf], ...]]
    runs: tuple[Run | None, Run | None] = (None, None)
    axes: tuple[Axis, ...] = ()
    rows: Mapping[Slot, Rows] = field(default_factory=dict)
    returned: tuple[Outputs, Outputs] | None = None
    beginning: CommonBeginning | None = None

    def turned(self) -> Sides:
        """The same pair with the sides in each other's place."""
        return Sides(
            reference=self.candidate,
            candidate=self.reference,
            alignment=self.alignment.turned(),
            differing_leaves=lambda: tuple((theirs, ours) for ours, theirs in self.differing_leaves()),
            runs=(self.runs[1], self.runs[0]),
            axes=tuple(axis.turned() for axis in self.axes),
            rows=self.rows,
            returned=self.returned and (self.returned[1], self.returned[0]),
            beginning=self.beginning,
        )

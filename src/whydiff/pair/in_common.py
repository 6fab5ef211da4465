"""Two replays in step that carry out once what both programs compute alike.

Where both sides were brought together (at an origin the candidate took the reference's value), they are one program
until the next origin: the same calls with the same arguments under the same switches, on the same values. The candidate
takes what the reference made there, and nothing is computed twice. Where the programs part, both are carried out.
"""

from __future__ import annotations

from typing import Any

from whydiff.pair.lockstep import Lockstep, Look
from whydiff.records import Call, Event, Trace


class InCommon(Lockstep):
    """A lockstep of two replays in which nothing was changed, but for what is substituted on the way.

    Attributes:
        taken: how many calls the candidate did not carry out.
    """

    taken = 0

    def execute(self, reference: Call, candidate: Call, *, check: bool = False) -> None:
        """As `Lockstep.execute`; a call on values that are known to be equal is carried out by the reference alone."""
        if check or not self._one(reference, candidate):
            super().execute(reference, candidate, check=check)
            return
        self._run("reference", self.reference, reference, recorded=True)
        if self.candidate.take_over(candidate, self.reference, reference):
            self.taken += 1
            for er, ec in zip(reference.writes, candidate.writes, strict=True):
                self.note_equal(Look(er, ec, None, None, True))
        else:
            self._run("candidate", self.candidate, candidate, recorded=False)
        self._part(() if self.candidate.testifies(candidate) else reference.writes)

    def substitute(self, reference: Event, candidate: Event, reader: Call | None = None) -> bool:
        """As `Lockstep.substitute`; what reads the value later reads the same on both sides."""
        done = super().substitute(reference, candidate, reader)
        expanded = any(
            stride == 0 and size > 1 for size, stride in zip(candidate.spec.shape, candidate.spec.strides, strict=False)
        )
        if done and reader is None and not expanded:  # else one read alone may have got it
            self.note_equal(Look(reference, candidate, None, None, True))
        return done

    def _one(self, ours: Call, theirs: Call) -> bool:
        """Whether two calls compute the same of the same values, and change nothing that was there."""
        return (
            ours.kind == theirs.kind == "compute"
            and bool(ours.writes)
            and (ours.target, ours.arguments) == (theirs.target, theirs.arguments)
            and not (ours.mutates or theirs.mutates or ours.rng or theirs.rng)
            and _switches(self.reference.trace, ours) == _switches(self.candidate.trace, theirs)
            and [event.spec for event in ours.writes] == [event.spec for event in theirs.writes]
            and len(ours.reads) == len(theirs.reads)
            and all(self._equal(*pair) for pair in zip(ours.reads, theirs.reads, strict=True))
        )

    def _equal(self, er: Event, ec: Event) -> bool:
        if er.spec != ec.spec or er.storage < 0 or ec.storage < 0:
            return False
        if self._known_equal(er, ec):
            return True
        if er.producer != ec.producer:
            return False
        if er.producer == -1:
            key = er.storage, ec.storage, er.spec, ec.spec
            if key not in self._equal_leaves:
                self._equal_leaves[key] = self._equal_prints(er, ec)
            return self._equal_leaves[key]
        return er.producer < self.begun and er.storage == ec.storage

    def _equal_prints(self, er: Event, ec: Event) -> bool:
        """Whether the leaves that two events look at hold the same bits, as they were recorded."""
        ours, theirs = ([(leaf.spec, leaf.fingerprint) for leaf in self.leaves_of(*at)] for at in ((0, er), (1, ec)))
        return bool(ours) and ours == theirs and all(known is not None for _, known in ours)


def _switches(trace: Trace, call: Call) -> Any:
    return trace.contexts[call.context] if trace.contexts else None


__all__ = ["InCommon"]

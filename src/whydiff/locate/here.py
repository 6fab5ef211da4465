"""What a pair's ops give executed here: held against each other, never against what was recorded.

A replay takes what its run recorded wherever a call reads what it read there, and executes a call that was given
something else. Executed here it need not give the run's last bits: another processor rounds otherwise, and so does an op
of a compiled program that is executed alone. The reader would look like an origin. So recorded is held against recorded,
and what was executed on the candidate's side against the reference's op, executed on what the reference reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.capturing.adapters import Executor, Value
from whydiff.errors import WhydiffError
from whydiff.numbers.metrics import is_integer
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.records import Call

_FAILURES = (WhydiffError, RuntimeError, TypeError, ValueError, LookupError, IndexError)


class Here:
    """Both ops of one pair after the other, executed here on what the reference reads.

    Args:
        step: the walk; `before` is told of every pair before it is executed.
    """

    def __init__(self, step: Lockstep) -> None:
        self.step = step
        self._reads: list[Value] | None = None
        self._made: list[Value] | None = None

    def before(self, call_r: Call) -> None:
        """Keep what the reference's call is about to change in place, if what is recorded will stand there."""
        self._reads = self._made = None
        if call_r.mutates and any(event.payload for event in call_r.writes):
            self._reads = self._read(call_r)

    def candidate(self, call_r: Call, call_c: Call) -> list[Value] | None:
        """The candidate's op on the reference's inputs, before the pair is executed; None if it cannot be had."""
        if len(call_r.reads) != len(call_c.reads):  # one of them has a number where the other has a tensor
            return None
        both = zip(call_r.reads, call_c.reads, strict=True)
        if any(is_integer(ours.spec.dtype) != is_integer(theirs.spec.dtype) for ours, theirs in both):
            return None  # an op on whole numbers cannot be given others
        step = self.step
        try:
            reads = [step.take(step.reference.read(event)) for event in call_r.reads]
        except _FAILURES:
            return None
        reads = [step.candidate.copy(value) if i in call_c.mutates else value for i, value in enumerate(reads)]
        return _executed(step.candidate, call_c, reads)

    def reference(self, call_r: Call) -> list[Value] | None:
        """The reference's op on the same inputs, once the pair is executed.

        None if it cannot be had, and of an op in place whose values were not recorded: what it made is what stands there.
        """
        if self._made is None and not (call_r.mutates and self._reads is None):
            reads = self._read(call_r) if self._reads is None else self._reads
            self._made = None if reads is None else _executed(self.step.reference, call_r, reads)
        return self._made

    def looks(self, call_r: Call, call_c: Call, looks: Sequence[Look]) -> list[Look]:
        """Looks at what a pair wrote, with what its reference gives here where the candidate's was executed here."""
        recorded, executed = self.step.reference.testifies(call_r), not self.step.candidate.testifies(call_c)
        if not (recorded and executed) or all(look.agrees is not False for look in looks):
            return list(looks)
        made = self.reference(call_r)
        return list(looks) if made is None else [self._look(call_r, look, made) for look in looks]

    def gives_the_same(self, call_r: Call, looks: Sequence[Look], alone: Sequence[Value]) -> bool:
        """Whether the candidate's op, alone on the reference's inputs, gives what the reference's op does."""
        made = self.reference(call_r) if self.step.reference.testifies(call_r) else None
        asked = [look if look.candidate_value is None else replace(look, agrees=False) for look in looks]
        held = looks if made is None else [self._look(call_r, look, made) for look in asked]
        return all(
            look.reference_value is None or self.step.agree(look.reference_value, value)
            for look, value in zip(held, alone, strict=False)
        )

    def _look(self, call_r: Call, look: Look, made: Sequence[Value]) -> Look:
        at = next((i for i, event in enumerate(call_r.writes) if event is look.reference), len(made))
        if look.agrees is not False or at >= len(made):
            return look
        value = made[at]
        if tuple(value.shape) != look.reference.spec.shape:
            return look
        if look.map is not None and look.map.whole == "reference":
            value = look.map.part(value)
        return replace(look, reference_value=value, agrees=self.step.agree(value, look.candidate_value))

    def _read(self, call_r: Call) -> list[Value] | None:
        """What the reference's call reads, with copies of the memory that it changes."""
        executor = self.step.reference
        changed = {call_r.reads[i].storage for i in call_r.mutates}
        try:
            values = [executor.read(event) for event in call_r.reads]
        except _FAILURES:
            return None
        return [
            executor.copy(value) if event.storage in changed else value
            for event, value in zip(call_r.reads, values, strict=True)
        ]


def _executed(executor: Executor, call: Call, reads: Sequence[Value]) -> list[Value] | None:
    """What a call writes, given these; None if it cannot be executed."""
    try:
        return list(executor.apply(call, reads)) or [reads[i] for i in call.mutates]
    except _FAILURES:
        return None

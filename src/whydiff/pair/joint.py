"""The traces of several ranks, executed together on one machine: a collective is carried out on what they hold.

Nothing is sent anywhere. Ranks take turns: each runs until it meets a collective and goes on when all that take part are
there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import WhydiffError
from whydiff.pair.replay import returns
from whydiff.records import Call, Collective, Payload, Slot

Watch = Callable[[int, Executor, Call], None]
"""Told of a rank's call just before or just after it is executed."""


@dataclass(frozen=True, slots=True)
class Together:
    """What executing all ranks together gave.

    Attributes:
        outputs: rank → every returned value, in order.
        failed: (rank, call, why) of calls that could not be executed.
        stuck: rank → the collective at which it waits for others that never come; empty: all came to their end.
    """

    outputs: Mapping[int, Mapping[Slot, Payload]]
    failed: tuple[tuple[int, Call, str], ...] = ()
    stuck: Mapping[int, Collective] | None = None


class Joint:
    """Executes the calls of several ranks together, once.

    Args:
        executors: rank → a replay of its trace; all are used up.
        watch: called after every call.
        before: called before every call.
        meetings: calls before which ranks wait for each other although the program did not: rank → call index, each.
        meet: called with the position of a meeting when all are there.
    """

    def __init__(
        self,
        executors: Mapping[int, Executor],
        *,
        watch: Watch | None = None,
        before: Watch | None = None,
        meetings: Sequence[Mapping[int, int]] = (),
        meet: Callable[[int], None] | None = None,
    ) -> None:
        self._meetings = {(rank, index): n for n, m in enumerate(meetings) for rank, index in m.items()}
        self._expected, self._met, self._meet_at = meetings, set[int](), meet
        self.executors, self.watch, self.before = executors, watch, before
        self._at = dict.fromkeys(executors, 0)
        self._numbers = {rank: returns(executor.trace.calls) for rank, executor in executors.items()}
        self._outputs: dict[int, dict[Slot, Payload]] = {rank: {} for rank in executors}
        self._failed: list[tuple[int, Call, str]] = []
        self._sent: dict[tuple[int, int, int], deque[list[object]]] = {}

    def run(self) -> Together:
        """Execute every rank's calls as far as they go."""
        stuck: dict[int, Collective] = {}
        with ExitStack() as stack:
            for executor in self.executors.values():
                stack.enter_context(executor.running())
            while True:
                moved = [self._advance(rank) for rank in self.executors]
                moved.append(self._meet_without_exchange())
                stuck = {rank: told for rank in self.executors if (told := self._waits(rank)) is not None}
                if not (self._meet(stuck) or any(moved)):
                    break
        return Together(self._outputs, tuple(self._failed), stuck or None)

    def _next(self, rank: int) -> Call | None:
        calls = self.executors[rank].trace.calls
        return calls[self._at[rank]] if self._at[rank] < len(calls) else None

    def _waits(self, rank: int) -> Collective | None:
        call = self._next(rank)
        return None if call is None else Collective.of(call.arguments)

    def _advance(self, rank: int) -> bool:
        """Execute a rank's calls up to the next collective; whether there were any."""
        begin = self._at[rank]
        while (call := self._next(rank)) is not None:
            told = Collective.of(call.arguments)
            if self._meetings.get((rank, call.index), -1) not in {-1, *self._met}:
                break
            if told is not None and not self._passes(rank, call, told):
                break
            self._execute(rank, call)
        return self._at[rank] > begin

    def _meet_without_exchange(self) -> bool:
        """Hold one meeting for which everybody is there; whether there was one."""
        for number, expected in enumerate(self._expected):
            if number in self._met or any(self._at[rank] != index for rank, index in expected.items()):
                continue
            self._met.add(number)
            if self._meet_at is not None:
                self._meet_at(number)
            return True
        return False

    def _passes(self, rank: int, call: Call, told: Collective) -> bool:
        """Whether a rank need not wait here: it sends, or receives what was sent already, or is alone."""
        other = told.ranks[told.root] if 0 <= told.root < len(told.ranks) else -1
        if told.kind == "send":
            executor = self.executors[rank]
            values = [executor.copy(executor.read(event)) for event in call.reads]
            self._sent.setdefault((rank, other, 0), deque()).append(values)
            return True
        if told.kind == "recv":
            line = self._sent.get((other, rank, 0))
            if not line:
                return False
            self.executors[rank].receive(call, line.popleft())
            return True
        return False

    def _meet(self, waiting: Mapping[int, Collective]) -> bool:
        """Carry out one collective for which everybody is there; whether there was one."""
        for told in waiting.values():
            here = [rank for rank in told.ranks if rank in self.executors]
            if told.kind in ("send", "recv") or not here or any(waiting.get(rank) != told for rank in here):
                continue
            calls = {rank: self.executors[rank].trace.calls[self._at[rank]] for rank in here}
            self._exchange(told, calls)
            return True
        return False

    def _exchange(self, told: Collective, calls: Mapping[int, Call]) -> None:
        unknown = any(e.missing and not e.overwritten for call in calls.values() for e in call.reads)
        if len(calls) == len(told.ranks) and not unknown:  # else what was sent is not known
            try:
                reads = {r: self._given(r, call) for r, call in calls.items()}
                values = for_framework(self._framework).exchanged(calls, reads)
                for rank, call in calls.items():
                    self.executors[rank].receive(call, values[rank])
            except WhydiffError as error:
                self._failed += [(rank, call, f"taken as recorded: {error.what}") for rank, call in calls.items()]
        for rank, call in calls.items():
            self._execute(rank, call)

    @property
    def _framework(self) -> str:
        return next(iter(self.executors.values())).trace.framework

    def _given(self, rank: int, call: Call) -> Sequence[object]:
        executor = self.executors[rank]
        return [None if event.overwritten else executor.read(event) for event in call.reads]

    def _execute(self, rank: int, call: Call) -> None:
        executor = self.executors[rank]
        if self.before is not None:
            self.before(rank, executor, call)
        why = executor.execute(call)
        if why:
            self._failed.append((rank, call, why))
        if self.watch is not None:
            self.watch(rank, executor, call)
        if call.kind == "return":
            for event in call.reads:
                slot = Slot(self._numbers[rank][call.index], event.site.slot)
                self._outputs[rank][slot] = executor.payload(executor.read(event))
        executor.release(call)
        self._at[rank] += 1

"""One trace as the passes see it: its calls without views, and what may be compared about each."""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from whydiff.capturing.adapters import for_framework
from whydiff.pair.align.sequence import Block
from whydiff.records import Call, Event, Leaf, Trace

Names = Mapping[str, str]
"""Scope of the candidate → what the reference calls it."""

_FEW = 4
"""Operands of an op of which each says something of the others. A size, not a numerical tolerance."""

Part = tuple[str, str, int]
"""A scope in one phase of one step."""


@dataclass(frozen=True)
class Side:
    """One trace in the alignment.

    Attributes:
        trace: the trace.
        names: how its scopes are called for the alignment (a scope that is missing keeps its name).
        numbers: per call of the trace, its step (`whydiff.pair.align.steps.numbering`); empty: as it was recorded.
        alike: where both runs call the same functions in the same order, some of them in place on one side only.
        held: parameters that both runs begin with under one name, bit for bit (`common_parameters`).
    """

    trace: Trace
    names: Names = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    alike: frozenset[Part] = frozenset()
    held: frozenset[str] = frozenset()

    @functools.cached_property
    def calls(self) -> tuple[Call, ...]:
        """Every call that is not a view, in execution order."""
        return tuple(call for call in self.trace.calls if call.kind != "view")

    @functools.cached_property
    def scopes(self) -> tuple[str, ...]:
        """Per call, its scope as it is called for the alignment; a return belongs to no scope."""
        return tuple(
            "" if call.kind == "return" else self.names.get(call.site.scope, call.site.scope) for call in self.calls
        )

    @functools.cached_property
    def steps(self) -> tuple[int, ...]:
        """Per call, its step as the alignment counts them."""
        return tuple(self.numbers[call.index] if self.numbers else call.site.step for call in self.calls)

    @functools.cached_property
    def functions(self) -> tuple[str, ...]:
        """Per call, what its op computes: an op in place is the same function with another destination."""
        function = functools.cache(for_framework(self.trace.framework).function)
        return tuple(function(call.site.op) for call in self.calls)

    @functools.cached_property
    def keys(self) -> tuple[tuple[str | int, ...], ...]:
        """Per call, what must be equal for two calls to pair: scope, op (`alike`: function), kind, phase, step.

        Also the parameter of both runs that a call writes over: the update of one is no counterpart of another's. A trace
        is one rank's, and which rank it was says nothing about what it computed.
        """
        return tuple(
            (part[0], function if part in self.alike else call.site.op, call.kind, *part[1:], written)
            for part, function, call, written in zip(self.parts, self.functions, self.calls, self.updated, strict=True)
        )

    @functools.cached_property
    def updated(self) -> tuple[str, ...]:
        """Per call, the one of `held` that it writes over; empty: none, or several."""
        names = {leaf.storage: leaf.name for leaf in self.trace.leaves if leaf.storage >= 0 and leaf.name in self.held}
        if not names:
            return ("",) * len(self.calls)
        return tuple(
            names.get(call.reads[call.mutates[0]].storage, "") if len(call.mutates) == 1 else "" for call in self.calls
        )

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """Per call, where it is."""
        return tuple(
            (scope, call.site.phase, step)
            for scope, step, call in zip(self.scopes, self.steps, self.calls, strict=True)
        )

    def sequences(self, functions: bool) -> dict[Part, list[str]]:
        """Part → what is called there, in order: functions or ops."""
        found: dict[Part, list[str]] = {}
        for part, function, call in zip(self.parts, self.functions, self.calls, strict=True):
            found.setdefault(part, []).append(function if functions else call.site.op)
        return found

    @functools.cached_property
    def paths(self) -> tuple[Hashable, ...]:
        """Per call, its key and how many calls of this key came before (`Site.occurrence`)."""
        return tuple((key, call.site.occurrence) for key, call in zip(self.keys, self.calls, strict=True))

    @functools.cached_property
    def values(self) -> tuple[Hashable | None, ...]:
        """Per call, its key with every output bit for bit; None where an output has no fingerprint."""
        return tuple(
            None if (value := output_value(call)) is None else (key, value)
            for key, call in zip(self.keys, self.calls, strict=True)
        )

    @functools.cached_property
    def states(self) -> tuple[tuple[Hashable, ...], ...]:
        """Per call, the parameters, buffers and attributes that it reads, as bits (not as names)."""
        return self._read_of(lambda leaf: leaf.is_state)

    @functools.cached_property
    def weights(self) -> tuple[tuple[Hashable, ...], ...]:
        """Of `states`, what a model registered: data that a closure holds is an attribute too, and read in parts."""
        return self._read_of(lambda leaf: leaf.is_registered)

    def _read_of(self, wanted: Callable[[Leaf], bool]) -> tuple[tuple[Hashable, ...], ...]:
        known = {
            leaf.storage: (leaf.spec.dtype, leaf.spec.shape, leaf.fingerprint)
            for leaf in self.trace.leaves
            if wanted(leaf) and leaf.storage >= 0 and leaf.fingerprint is not None
        }
        return tuple(
            tuple(known[read.storage] for read in call.reads if read.producer < 0 and read.storage in known)
            for call in self.calls
        )

    @functools.cached_property
    def takers(self) -> tuple[tuple[Hashable, ...], ...]:
        """Per call, what takes up what it wrote, over views: functions, and as which of their operands."""
        return self._taken_up(lambda call, position: ())

    @functools.cached_property
    def company(self) -> tuple[tuple[Hashable, ...], ...]:
        """`takers`, and what these take up beside it, bit for bit; of ops with many operands nothing."""
        return self._taken_up(_others)

    def _taken_up(self, beside: Callable[[Call, int], Hashable]) -> tuple[tuple[Hashable, ...], ...]:
        found: dict[int, list[Hashable]] = {}
        for function, call in zip(self.functions, self.calls, strict=True):
            for position, read in enumerate(call.reads):
                if read.producer >= 0:
                    found.setdefault(read.producer, []).append((function, position, beside(call, position)))
        return tuple(tuple(found.get(call.index, ())) for call in self.calls)

    def shapes(self, common: frozenset[Hashable]) -> tuple[Hashable, ...]:
        """Per call, everything that a key says except the scope, with output shapes and ``common`` state."""
        return tuple(
            (
                call.site.op,
                call.kind,
                call.site.phase,
                step,
                tuple(event.spec.shape for event in call.writes),
                tuple(value for value in state if value in common),
            )
            for step, call, state in zip(self.steps, self.calls, self.states, strict=True)
        )


def common_parameters(reference: Trace, candidate: Trace) -> frozenset[str]:
    """Names under which both runs hold a parameter of the same bits as they begin."""
    ours, theirs = (
        {
            leaf.name: (leaf.spec.dtype, leaf.spec.shape, leaf.fingerprint)
            for leaf in trace.leaves
            if leaf.role == "parameter" and leaf.fingerprint is not None
        }
        for trace in (reference, candidate)
    )
    return frozenset(name for name, bits in ours.items() if theirs.get(name) == bits)


def by_function(first: Side, second: Side) -> tuple[Side, Side]:
    """Both sides, with ops in place paired with their other form where nothing else is called in another way.

    Where more differs (a fused kernel, written in place, against a formula), such pairs would say little.
    """
    ours, theirs = first.sequences(False), second.sequences(False)
    if not any(ours[part] != theirs[part] for part in ours.keys() & theirs.keys()):
        return first, second
    mine, others = first.sequences(True), second.sequences(True)
    alike = frozenset(p for p in mine.keys() & others.keys() if mine[p] == others[p] and ours[p] != theirs[p])
    return (replace(first, alike=alike), replace(second, alike=alike)) if alike else (first, second)


def output_value(call: Call) -> Hashable | None:
    """Dtype, shape and fingerprint of every output; None if one of them has no content fingerprint."""
    if not call.writes or not all(_readable(event) for event in call.writes):
        return None
    return tuple((event.spec.dtype, event.spec.shape, event.fingerprint) for event in call.writes)


def _others(call: Call, position: int) -> Hashable:
    if len(call.reads) > _FEW:
        return ()
    return tuple((e.spec.dtype, e.spec.shape, e.fingerprint) for n, e in enumerate(call.reads) if n != position)


def _readable(event: Event) -> bool:
    return event.fingerprint is not None and event.fingerprint.covers == "content"


def blocks(reference: Side, candidate: Side) -> list[Block]:
    """The common steps, each a block of its own; one block if steps do not follow each other."""
    steps = [list(side.steps) for side in (reference, candidate)]
    if any(side != sorted(side) for side in steps):
        return [(range(len(steps[0])), range(len(steps[1])))]
    first, second = (
        {step: range(bisect_left(side, step), bisect_right(side, step)) for step in dict.fromkeys(side)}
        for side in steps
    )
    return [(first[step], second[step]) for step in first if step in second]


def intern(*sequences: Sequence[Hashable]) -> list[list[int]]:
    """The same sequences with small integers in place of equal things."""
    numbers: dict[Hashable, int] = {}
    return [[numbers.setdefault(item, len(numbers)) for item in sequence] for sequence in sequences]

"""Named rewritings of one side, carried out in a replay: leaves that hold other numbers, steps that are computed otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.interventions import edits
from whydiff.numbers.metrics import is_integer
from whydiff.pair.replay import Replayed, Watch, replay
from whydiff.records import Call, Intervention, Leaf, Lift, Payload, Trace
from whydiff.studies.port.weights import numbers

Array = np.ndarray[Any, Any]
_FRESH = itertools.count(2)


@dataclass(frozen=True)
class Applied:
    """One call about to be executed.

    Attributes:
        executor: of the replay.
        call: which.
        values: what it reads, as the framework's.
        reads: the same as numbers (float64; integers as they are).
    """

    executor: Executor
    call: Call
    values: Sequence[Any]
    reads: Sequence[Array]

    def given(self, meaning: str, default: Any = None) -> Any:
        """A plain argument by what it means."""
        return argument(self.executor.framework, self.call, meaning, default)

    def tensor(self, meaning: str) -> Array | None:
        """The numbers of a tensor argument by what it means; None if it was not given."""
        found = self.given(meaning)
        return self.reads[found["$read"]] if isinstance(found, dict) and "$read" in found else None

    def again(self, arguments: Any = None, instead: Mapping[int, Array] | None = None) -> list[Array]:
        """What the op gives with other arguments, or with other numbers in some reads' places."""
        call = self.call if arguments is None else replace(self.call, arguments=arguments, index=-next(_FRESH))
        values = [*self.values]
        for position, array in (instead or {}).items():
            values[position] = self.executor.adopt_foreign(Payload(np.ascontiguousarray(array), "float64"))
        return [numbers(self.executor.payload(out)) for out in self.executor.apply(call, values)]


Formula = Callable[[Applied], Sequence[Array | None]]
"""What a call writes instead, in order; None: what it writes stays."""


def argument(framework: str, call: Call, meaning: str, default: Any = None) -> Any:
    """A call's argument by what it means; a tensor is ``{"$read": i}``."""
    place = for_framework(framework).places(call.site.op).get(meaning)
    if place is None:
        return default
    (args, kwargs), (position, name) = call.arguments, place
    if name in kwargs:
        return kwargs[name]
    return args[position] if position is not None and position < len(args) else default


@dataclass(frozen=True)
class Rewrite:
    """What is done otherwise in a replay of one side.

    Attributes:
        leaves: name → what its numbers are made into.
        calls: index → what the call writes instead.
        edits: arguments that calls get instead (``set-argument``).
    """

    leaves: Mapping[str, Callable[[Array], Array]] = field(default_factory=dict)
    calls: Mapping[int, Formula] = field(default_factory=dict)
    edits: tuple[Intervention, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leaves or self.calls or self.edits)

    def and_also(self, other: Rewrite) -> Rewrite | None:
        """Both at once; None if they rewrite one step in two ways."""
        if self.calls.keys() & other.calls.keys():
            return None
        leaves = dict(self.leaves)
        for name, make in other.leaves.items():
            first = leaves.get(name)
            leaves[name] = make if first is None else _one_after_another(first, make)
        return Rewrite(leaves, {**self.calls, **other.calls}, (*self.edits, *other.edits))


NOTHING = Rewrite()


def _one_after_another(first: Callable[[Array], Array], second: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda array: second(first(array))


@dataclass(frozen=True)
class Program:
    """One side, to be replayed lifted, under rewritings.

    Attributes:
        trace: its recording.
        inputs: leaf name → other numbers that it is run on.
        dtype: in which.
    """

    trace: Trace
    inputs: Mapping[str, Array] = field(default_factory=dict)
    dtype: Literal["float32", "float64"] = "float64"

    def run(
        self,
        rewrite: Rewrite = NOTHING,
        *,
        before: Watch | None = None,
        watch: Watch | None = None,
        until: int | None = None,
    ) -> Replayed:
        """Replay it; hooks as of `whydiff.pair.replay.replay`.

        Raises:
            WhydiffError: a rewriting cannot be carried out.
        """
        adapter = for_framework(self.trace.framework)
        plain = adapter.executor(self.trace)
        restore = {name: _adopted(plain, leaf, self.inputs[name]) for name, leaf in self._named(self.inputs)}
        for name, leaf in self._named(rewrite.leaves):
            before_it = numbers(plain.payload(plain.leaf_value(leaf)))
            restore[name] = _adopted(plain, leaf, rewrite.leaves[name](before_it))
        executor = adapter.executor(
            self.trace, restore=restore, lift=Lift(self.dtype), exchanged=edits(self.trace, rewrite.edits)
        )
        steps = _Steps(rewrite.calls, before, watch)
        return replay(executor, before=steps.before, watch=steps.watch, until=until)

    def _named(self, wanted: Mapping[str, Any]) -> list[tuple[str, Leaf]]:
        return [(leaf.name, leaf) for leaf in self.trace.leaves if leaf.name in wanted]


def _adopted(executor: Executor, leaf: Leaf, array: Array) -> Any:
    floating = not is_integer(leaf.spec.dtype)
    dtype = "float64" if floating else leaf.spec.dtype
    return executor.adopt_foreign(Payload(np.ascontiguousarray(array, np.dtype(dtype)), dtype))


class _Steps:
    """Hooks that carry rewritten calls out, around those of whoever looks on."""

    def __init__(self, calls: Mapping[int, Formula], before: Watch | None, watch: Watch | None) -> None:
        self.calls, self._before, self._watch = calls, before, watch
        self._made: Sequence[Array | None] = ()

    def before(self, executor: Executor, call: Call) -> None:
        if self._before is not None:
            self._before(executor, call)
        if call.index in self.calls:
            values = [executor.read(event) for event in call.reads]
            reads = [numbers(executor.payload(value)) for value in values]
            self._made = self.calls[call.index](Applied(executor, call, values, reads))

    def watch(self, executor: Executor, call: Call) -> None:
        if call.index in self.calls:
            for event, made in zip(call.writes, self._made, strict=False):
                if made is not None:
                    put(executor, event, made)
        if self._watch is not None:
            self._watch(executor, call)


def put(executor: Executor, event: Any, array: Array) -> bool:
    """Give a replay other numbers in an event's place; False if that cannot be."""
    if array.shape != event.spec.shape:
        return False
    with suppress(WhydiffError):
        return executor.overwrite(event, executor.adopt_foreign(Payload(np.ascontiguousarray(array), "float64")))
    return False

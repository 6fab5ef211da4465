"""Calls of which a part of the result depends on a known part of what they read, by the part they play in a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from whydiff.capturing.adapters import Executor, Recorded, Role, for_framework
from whydiff.explain.local_test.boxes import Box, whole
from whydiff.explain.local_test.looks import is_complex
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.explain.local_test.replays import _apply
from whydiff.numbers.metrics import is_integer
from whydiff.records import Call, Event


class Step(ABC):
    """One call that makes one value.

    Args:
        call: changes nothing, draws nothing, and writes one value.
        op: the call's arguments, without what it reads.
        lifted: executor of its trace, lifted to float64.

    Attributes:
        event: what it writes.
    """

    def __init__(self, call: Call, op: Operation, lifted: Executor) -> None:
        self.call, self.op, self.lifted = call, op, lifted
        self.event = _written(call)[0]
        self.shape = self.event.spec.shape

    @property
    @abstractmethod
    def known(self) -> bool:
        """Whether this is such a call, and its shapes are those of one."""

    @abstractmethod
    def needs(self, box: Box) -> list[Box]:
        """What of each read a box of the result depends on."""

    def gives(self, box: Box) -> Box:
        """What is computed of the result where a box of it is wanted: at least that."""
        return box

    def compute(self, arrays: Sequence[Array]) -> Array:
        """What is given, from the parts of the reads that it needs, in float64."""
        return _apply(self.call, arrays, self.lifted)[0]


class Source(Step):
    """It reads nothing (a range, a fill): all of it is made."""

    @property
    def known(self) -> bool:
        """As `Step.known`."""
        return not self.call.reads

    def needs(self, box: Box) -> list[Box]:
        """As `Step.needs`."""
        return []

    def gives(self, box: Box) -> Box:
        """All of it."""
        return whole(self.shape)


class ByPlace(Step):
    """Every element is made of the elements of what is read at its place, broadcast."""

    @property
    def known(self) -> bool:
        """As `Step.known`."""
        if not _adapter(self.lifted).by_place(self.call):
            return False
        return all(_broadcasts(event.spec.shape, self.shape) for event in self.call.reads)

    def needs(self, box: Box) -> list[Box]:
        """As `Step.needs`."""
        return [at_place(event.spec.shape, box) for event in self.call.reads]

    def compute(self, arrays: Sequence[Array]) -> Array:
        """As `Step.compute`; nothing is rounded in float64, so what carries floats on carries them as they are."""
        events = (*self.call.reads, self.event)
        carried = Role.CAST in self.op.roles and len(arrays) == 1 and not any(is_integer(e.spec.dtype) for e in events)
        return arrays[0] if carried else super().compute(arrays)


class AlongAxis(Step):
    """A softmax: every row along its axis by itself."""

    @property
    def known(self) -> bool:
        """As `Step.known`."""
        if Role.SOFTMAX not in self.op.roles or len(self.call.reads) != 1 or not self.shape:
            return False
        return self.call.reads[0].spec.shape == self.shape and -len(self.shape) <= self._axis < len(self.shape)

    @property
    def _axis(self) -> int:
        return int(self.op.argument("axis", -1))

    def needs(self, box: Box) -> list[Box]:
        """As `Step.needs`."""
        return [self.gives(box)]

    def gives(self, box: Box) -> Box:
        """Whole rows."""
        axis = self._axis % len(self.shape)
        return tuple(np.arange(self.shape[axis]) if i == axis else part for i, part in enumerate(box))


class Product(Step):
    """A matrix product: rows of one operand and columns of the other."""

    @property
    def known(self) -> bool:
        """As `Step.known`."""
        rank, op = len(self.shape), self.op
        if Role.MATRIX not in op.roles or rank not in (2, 3) or None in (op.read_at("left"), op.read_at("right")):
            return False
        left, right = (self._shape(op.read_at(meaning)) for meaning in ("left", "right"))
        if (left[:-1], right[:-2], right[-1:]) != (self.shape[:-1], self.shape[:-2], self.shape[-1:]):
            return False
        bias = op.read_at("bias")
        fits = bias is None or _broadcasts(self._shape(bias), self.shape)
        return fits and len(self.call.reads) == 2 + (bias is not None) and left[-1] == right[-2]

    def _shape(self, position: int | None) -> tuple[int, ...]:
        assert position is not None
        return self.call.reads[position].spec.shape

    def needs(self, box: Box) -> list[Box]:
        """As `Step.needs`."""
        terms = np.arange(self._shape(self.op.read_at("left"))[-1])
        parts = {self.op.read_at("left"): (*box[:-1], terms), self.op.read_at("right"): (*box[:-2], terms, box[-1])}
        bias = self.op.read_at("bias")
        if bias is not None:
            parts[bias] = at_place(self._shape(bias), box)
        return [parts[position] for position in range(len(self.call.reads))]

    def compute(self, arrays: Sequence[Array]) -> Array:
        """As `Step.compute`, from operands as they lie."""
        left, right = (arrays[self.op.read_at(meaning) or 0] for meaning in ("left", "right"))
        found: Array = np.matmul(left, right) * float(self.op.argument("alpha", 1))
        bias, beta = self.op.read_at("bias"), float(self.op.argument("beta", 1))
        return found if bias is None or not beta else found + arrays[bias] * beta


KINDS: tuple[type[Step], ...] = (Source, ByPlace, AlongAxis, Product)


def step_of(call: Call, lifted: Executor) -> Step | None:
    """A call by its kind; None: nothing is told of it, or it changes something, draws, or writes several values."""
    if len(_written(call)) != 1 or call.mutates or call.rng or call.kind != "compute":
        return None
    events = (*call.reads, *call.writes)
    if any(event.overwritten or event.storage < 0 or is_complex(event) for event in events):
        return None
    adapter, written = _adapter(lifted), _written(call)[0]
    op = Operation(
        name=call.site.op,
        reads=(),
        dtypes=(),
        arguments=call.arguments,
        shape=written.spec.shape,
        dtype=written.spec.dtype,
        run=lambda reads, arguments: np.zeros(0),
        roles=adapter.roles(call.site.op),
        at=adapter.places(call.site.op),
    )
    return next((step for step in (kind(call, op, lifted) for kind in KINDS) if step.known), None)


def at_place(shape: Sequence[int], box: Box) -> Box:
    """What of a tensor that is broadcast stands at the places of a box."""
    return tuple(
        np.zeros(1, np.int64) if n == 1 else part for n, part in zip(shape, box[len(box) - len(shape) :], strict=True)
    )


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    inner = to[len(to) - len(shape) :]
    return len(shape) <= len(to) and all(n in (1, size) for n, size in zip(shape, inner, strict=True))


def _written(call: Call) -> list[Event]:
    return [event for event in call.writes if event.storage >= 0 and not event.is_look]


def _adapter(lifted: Executor) -> Recorded:
    return for_framework(lifted.framework)


__all__ = ["Step", "step_of"]

"""How much replaying a trace from a stranger may take, and what its records say that it would take.

Everything here is decided from the records, before anything is executed. What the records do not tell (what a kernel
really allocates, how long it really runs) is bounded by the process that replays; see ``docs/explanation/trust.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from whydiff.errors import ReplayError
from whydiff.records import Call, TensorSpec

Watched = Callable[[int], AbstractContextManager[None]]
"""Index of a call → a block in which it is executed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a replay of one trace may take. Numbers are for a trace without payloads; `with_payloads` adds to them.

    Attributes:
        elements: of one value, as it is looked at (a stride of 0 repeats one number at no cost on disk).
        operations: multiplications or visits of an element, of one call.
        memory: bytes of the process that replays, beyond what it is before.
        seconds: of a whole comparison.
        call_seconds: of one call.
    """

    elements: int = 2**27
    operations: float = 1e10
    memory: int = 2**30
    seconds: float = 120.0
    call_seconds: float = 8.0

    def with_payloads(self, nbytes: int, calls: int) -> Limits:
        """For a trace that really holds so many bytes of tensors, and so many calls."""
        return replace(
            self,
            elements=self.elements + 16 * nbytes,
            operations=self.operations + 2e5 * nbytes,
            memory=self.memory + 12 * nbytes,
            seconds=self.seconds + 2e-6 * nbytes + 0.05 * calls,
            call_seconds=self.call_seconds + 2e-7 * nbytes,
        )


class Bounds:
    """Holds the values and calls of one trace to limits.

    Args:
        limits: for this trace.
        denied: calls that are not executed → why (an earlier attempt ended the process).
        watched: who is told of each call while it is executed.
    """

    def __init__(self, limits: Limits, denied: Mapping[int, str] | None = None, watched: Watched | None = None) -> None:
        self.limits, self.denied, self._watched = limits, denied or {}, watched
        self._passed: dict[int, Call] = {}
        self._looked: dict[int, TensorSpec] = {}

    def during(self, call: int) -> AbstractContextManager[None]:
        """A block in which a call is executed."""
        return nullcontext() if self._watched is None else self._watched(call)

    def look(self, spec: TensorSpec, where: object) -> None:
        """Hold one look at a value to the limits.

        Raises:
            ReplayError: it shows, or spans, more elements than may be looked at.
        """
        if self._looked.get(id(spec)) is spec:  # what is recorded does not change: it is asked once
            return
        most = self.limits.elements
        spanned = spec.offset + sum(abs(step) * (size - 1) for size, step in _steps(spec) if size)
        if spec.numel > most or spanned > most:
            raise ReplayError(
                "A value is larger than a replay may look at.",
                where=str(where),
                actual=f"{spec}, {spec.numel} elements over {spanned + 1}",
                expected=f"at most {most}",
                next_step=_RAISE.format("elements"),
            )
        self._looked[id(spec)] = spec

    def call(self, call: Call, contracts: bool) -> None:
        """Hold one call to the limits.

        Args:
            call: to be executed.
            contracts: it multiplies and sums (a matrix product, a convolution, attention).

        Raises:
            ReplayError: it was denied, a value is too large, or it would take too many operations.
        """
        if self._passed.get(call.index) is call:
            return
        if call.index in self.denied:
            raise ReplayError(self.denied[call.index], where=str(call.site))
        for event in (*call.reads, *call.writes):
            self.look(event.spec, event.site)
        if (sizes := max(_products(call.arguments), default=0)) > self.limits.elements:
            raise ReplayError(
                "A call's arguments ask for more elements than a replay may make.",
                where=str(call.site),
                actual=f"{sizes} elements",
                expected=f"at most {self.limits.elements}",
                next_step=_RAISE.format("elements"),
            )
        if (needed := operations(call, contracts)) > self.limits.operations:
            raise ReplayError(
                "A call would take more operations than a replay may spend on it.",
                where=str(call.site),
                actual=f"about {needed:.1g}",
                expected=f"at most {self.limits.operations:.1g}",
                next_step=_RAISE.format("operations"),
            )
        self._passed[call.index] = call


_RAISE = "If you know who made the trace: --trust, or --limit {}=N."


def operations(call: Call, contracts: bool) -> float:
    """About how many operations a call takes, from the shapes that it reads and writes.

    A product of (M, K) and (K, N) reads MK and KN numbers and writes MN: the root of their product is MNK. What is written
    may be told too small, so the reads alone are asked as well: MK times KN, divided by the axes that they share.
    """
    sizes = sorted((float(event.spec.numel) for event in (*call.reads, *call.writes)), reverse=True)
    operands = [call.reads[i].spec for i in _operands(call.arguments) if 0 <= i < len(call.reads)]
    if not contracts or len(operands) < 2:
        return sum(sizes)
    first, other = sorted(operands, key=lambda spec: spec.numel)[-2:]
    batch = math.prod(a for a, b in zip(first.shape[:-2], other.shape[:-2], strict=False) if a == b)
    summed = max({*first.shape[-2:]} & {*other.shape[-2:], *other.shape[1:2]}, default=1)
    apart = first.numel * other.numel / max(batch * summed, 1)
    return max(sum(sizes), math.sqrt(math.prod(sizes[:3])), float(apart))


def _operands(template: Any) -> Iterator[int]:
    """Which reads a call is given, as often as it is given them."""
    if isinstance(template, dict):
        if type(template.get("$read")) is int:
            yield template["$read"]
        for item in template.values():
            yield from _operands(item)
    elif isinstance(template, Sequence) and not isinstance(template, str):
        for item in template:
            yield from _operands(item)


def _steps(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    return zip(spec.shape, spec.strides, strict=True) if spec.strides else iter(())


def _products(template: Any) -> Iterator[int]:
    """The products of all lists of whole numbers among a call's arguments: sizes, repetitions."""
    if isinstance(template, Sequence) and not isinstance(template, str):
        if template and all(type(item) is int for item in template):
            yield math.prod(max(abs(item), 1) for item in template)
        for item in template:
            yield from _products(item)
    elif isinstance(template, dict):
        for item in template.values():
            yield from _products(item)

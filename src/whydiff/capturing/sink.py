"""Where a capture goes while it happens, and how a trace that is held in memory goes there afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from whydiff.errors import UsageError
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.records import Call, Leaf, Output, Payload, Slot, Trace

Payloads = Literal["all", "none"] | Sequence[str]


class Sink(ABC):
    """Takes a capture step by step (`whydiff.capturing.store.TraceWriter` is one)."""

    @abstractmethod
    def add_calls(self, calls: Sequence[Call]) -> None:
        """Calls, in execution order."""

    @abstractmethod
    def add_leaves(self, leaves: Sequence[Leaf]) -> None:
        """Leaves that were met."""

    @abstractmethod
    def add_contexts(self, contexts: Sequence[Mapping[str, Any]]) -> None:
        """Flags in force."""

    @property
    def ended(self) -> bool:
        """Nothing more can be taken: what is given is dropped."""
        return False

    @property
    @abstractmethod
    def leaves_taken(self) -> int:
        """How many leaves were taken, for who was interrupted while giving some."""

    @property
    @abstractmethod
    def contexts_taken(self) -> int:
        """How many contexts were taken."""

    @abstractmethod
    def add_payload(self, key: str, payload: Payload) -> bool:
        """A full tensor, whose bits may be the program's own memory: they are copied or written at once.

        Returns:
            False: there was no room for it, and the key names nothing.
        """

    @abstractmethod
    def end_step(self) -> None:
        """All before this belongs to complete steps."""

    def mark(self) -> None:
        """All before this is worth keeping if the process dies now."""
        return None

    def about_to_exchange(self, call: Call) -> None:
        """A collective is about to begin, and may never end: what it is given, without values."""
        return None


def send(trace: Trace, sink: Sink, payloads: str | Iterable[str]) -> None:
    """Give a sink everything that a trace holds; of the full tensors those that are chosen, one at a time.

    Args:
        trace: held in memory, or on disk elsewhere.
        sink: takes it.
        payloads: ``"all"``, ``"none"``, or patterns (`fnmatch`) of payload keys.

    Raises:
        UsageError: a pattern fits no payload.
    """
    keys = chosen(trace, payloads)
    sink.add_contexts(trace.contexts)
    sink.add_leaves(trace.leaves)
    sink.add_calls(trace.calls)
    for key in keys:
        payload = trace.payload(key)
        if payload is not None:
            sink.add_payload(key, payload)
    if payloads != "none":
        for output in trace.outputs or ():
            put_away(output, sink)


def manifest_of(trace: Trace) -> dict[str, Any]:
    """What a trace's writer is closed with."""
    return {
        "environment": trace.environment,
        "observer": trace.observer,
        "ties": trace.ties,
        "scalars": trace.scalars,
        "config": trace.config,
        "note": trace.note,
        "outputs": None if trace.outputs is None else tuple(put_away(output, None) for output in trace.outputs),
    }


def put_away(output: Output, sink: Sink | None) -> Output:
    """An output with the fingerprint of its numbers; their bits go to a sink (None: they are not kept)."""
    if output.payload is None:
        return output
    if sink is not None:
        sink.add_payload(payload_key(output.slot), output.payload)
    return replace(output, payload=None, fingerprint=fingerprint_bytes(output.payload.bits))


def payload_key(slot: Slot) -> str:
    """Under which key the bits of an output lie in a trace on disk."""
    return f"output/{slot.number}/{slot.name.encode('unicode_escape').decode()}"


def wanted(payloads: Payloads) -> Callable[[str], bool] | None:
    """Which sites' full tensors are kept; None: nobody's.

    Raises:
        UsageError: a single glob that is not in a list.
    """
    if payloads == "none":
        return None
    if payloads == "all":
        return lambda site: True
    if isinstance(payloads, str):
        raise UsageError(
            'payloads must be "all", "none" or a list of globs.',
            actual=repr(payloads),
            next_step=f"payloads=[{payloads!r}] keeps the sites that match this glob",
        )
    patterns = tuple(payloads)
    return lambda site: any(fnmatchcase(site, pattern) for pattern in patterns)


def chosen(trace: Trace, payloads: str | Iterable[str]) -> list[str]:
    """Keys of the payloads that patterns choose.

    Raises:
        UsageError: a pattern fits no payload.
    """
    if payloads == "none":
        return []
    returned = {payload_key(output.slot) for output in trace.outputs or ()}  # they go with their outputs
    keys = [key for key in dict.fromkeys(_keys(trace)) if key and key not in returned]
    if payloads == "all":
        return keys
    patterns = [payloads] if isinstance(payloads, str) else list(payloads)
    some = ", ".join(keys[:5]) + (" …" if len(keys) > 5 else "")
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in keys):
            raise UsageError(
                "A pattern fits no payload.",
                where="payloads",
                actual=pattern,
                expected=some or "(the trace has no payloads)",
            )
    return [key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns)]


def _keys(trace: Trace) -> Iterator[str]:
    yield from trace.payloads
    for leaf in trace.leaves:
        yield leaf.payload
    for call in trace.calls:
        yield call.rng
        for event in (*call.reads, *call.writes):
            yield event.payload

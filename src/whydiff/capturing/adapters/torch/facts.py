"""What is asked of a recorded call whenever a lifted replay carries it out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from whydiff.capturing.adapters.torch.dtypes import dtype_of
from whydiff.records import Call, Event


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked of a call whenever it is carried out.

    Attributes:
        reads_floats: whether floats go in.
        makes_floats: see the function of that name.
        floats: the floating results that nothing else stands for, and the dtype of their real numbers.
        choices: the other results whose content was recorded, and that content's fingerprint.
    """

    reads_floats: bool
    makes_floats: bool
    floats: tuple[tuple[Event, torch.dtype], ...]
    choices: tuple[tuple[Event, tuple[int, int]], ...]

    @classmethod
    def of(cls, call: Call) -> Facts:
        """The facts of a call."""
        floats = [event for event in call.writes if event.storage >= 0 and floats_at(event)]
        return cls(
            reads_floats=any(map(floats_at, call.reads)),
            makes_floats=makes_floats(call),
            floats=tuple((event, dtype_of(event.spec.dtype).to_real()) for event in floats if not event.is_look),
            choices=tuple(
                (event, event.fingerprint.lanes)
                for event in call.writes
                if event.storage >= 0
                and not floats_at(event)
                and event.fingerprint is not None
                and event.fingerprint.covers == "content"
            ),
        )


def floats_at(event: Event) -> bool:
    """Whether an event looks at floating or complex numbers."""
    return _is_floating(event.spec.dtype)


@functools.cache
def _is_floating(name: str) -> bool:
    dtype = dtype_of(name)
    return dtype.is_floating_point or dtype.is_complex


def epsilon(event: Event) -> float:
    """The distance from 1 to the next number of an event's dtype."""
    return float(torch.finfo(dtype_of(event.spec.dtype)).eps)


def depends_on_floats(call: Call) -> bool:
    """Whether floats go in, besides those that are filled, and floats come out."""
    inputs = (event for i, event in enumerate(call.reads) if i not in call.mutates)
    reads = any(floats_at(event) and not event.overwritten for event in inputs)
    return reads and any(event.storage >= 0 and floats_at(event) for event in call.writes)


def makes_floats(call: Call) -> bool:
    """Whether floats come out although none went in: constants, and integers turned into floats."""
    if any(floats_at(event) and not event.overwritten for event in call.reads):
        return False
    return any(event.storage >= 0 and floats_at(event) for event in call.writes)


__all__ = ["Facts", "depends_on_floats", "epsilon", "floats_at", "makes_floats"]

"""One op (or a region of ops) on its captured inputs, which the oracle can execute in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Place, Role
from whydiff.explain.local_test.exact import payload_of
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import SAMPLE
from whydiff.records import Payload

Array = np.ndarray[Any, Any]
Run = Callable[[Sequence[Array], Any], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """What both implementations were asked to compute.

    Attributes:
        name: the op without namespace, e.g. ``"addmm"``; ``"region"`` for several ops.
        reads: exact values of what it reads: float64 for floats, integers and booleans as they are (`exact.Reads`).
        dtypes: the reads' true dtypes.
        arguments: template ``[args, kwargs]``; ``{"$read": i}`` stands for ``reads[i]``.
        shape: of the judged output.
        dtype: of the judged output.
        run: (reads, arguments) → the whole output in float64.
        calls: how many recorded ops it stands for.
        inner: the narrowest dtype that values between its ops are stored in (region), else ``""``.
        roles: what parts the op plays; none for several ops.
        at: meaning → which of its arguments that is.
        run_at: (reads, flat positions) → these outputs in float64, where fewer are made for that; None: there is no such way.
    """

    name: str
    reads: Sequence[Array]
    dtypes: tuple[str, ...]
    arguments: Any
    shape: tuple[int, ...]
    dtype: str
    run: Run
    calls: int = 1
    inner: str = ""
    roles: frozenset[Role] = frozenset()
    at: Mapping[str, Place] = field(default_factory=dict)
    run_at: Callable[[Sequence[Array], Array], Array] | None = None

    def argument(self, meaning: str, default: Any = None) -> Any:
        """A non-tensor argument by what it means."""
        if meaning not in self.at:
            return default
        (args, kwargs), (position, name) = self.arguments, self.at[meaning]
        if name in kwargs:
            return kwargs[name]
        return args[position] if position is not None and position < len(args) else default

    def read_at(self, meaning: str) -> int | None:
        """Which read an argument is; None if it is not a tensor."""
        found = self.argument(meaning)
        return found["$read"] if isinstance(found, dict) and "$read" in found else None

    def tensor(self, meaning: str) -> Array | None:
        """The values of a tensor argument; None if it was not given."""
        index = self.read_at(meaning)
        return None if index is None else self.reads[index]

    def held(self, meaning: str) -> Payload | None:
        """A tensor argument as it was recorded, not widened; None if it was not given."""
        index = self.read_at(meaning)
        return None if index is None else payload_of(self.reads, index)

    def reading(self, reads: Sequence[Array]) -> Operation:
        """The same op on other inputs."""
        return replace(self, reads=tuple(reads))

    def floats(self) -> tuple[int, ...]:
        """Positions of the reads that hold floating-point numbers."""
        return tuple(i for i in range(len(self.reads)) if not is_integer(payload_of(self.reads, i).dtype))

    def mapped(self, change: Callable[[Array], Array], only: Sequence[int] | None = None) -> Operation:
        """The same op on changed inputs (floats only; ``only``: some of them)."""
        chosen = self.floats() if only is None else only
        return self.reading([change(v) if i in chosen else v for i, v in enumerate(self.reads)])


def sample_of(shape: Sequence[int], rows: bool = False, limit: int = SAMPLE, also: Array | None = None) -> Array:
    """Flat indices of the outputs that are judged: all of them up to ``limit``, else a seeded sample.

    Args:
        shape: of the output.
        rows: take whole rows of the last axis (their outputs share work).
        limit: at most this many (with ``rows``: rounded up to whole rows), and those of ``also``.
        also: flat indices that a sample is to have (with ``rows``: with their rows).

    Returns:
        Sorted int64 indices, without repetition.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if count <= limit:
        return np.arange(count)
    generator = np.random.default_rng(20250)
    wanted = np.asarray(() if also is None else also, dtype=np.int64)
    if not rows:
        return np.union1d(generator.choice(count, limit, replace=False), wanted)
    width = shape[-1]
    chosen = generator.choice(count // width, min(count // width, -(-limit // width)), replace=False)
    chosen = np.union1d(chosen, wanted // width)
    return np.asarray((chosen[:, None] * width + np.arange(width)).reshape(-1))

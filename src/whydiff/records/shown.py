"""What a report lets people look at besides the findings: every op of both runs, and pictures of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OpState = Literal["agrees", "differs", "starts here", "not compared", "reference only", "candidate only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow:
    """One op of both runs, as a table lists it.

    Attributes:
        scope, op: the place in the reference's naming (of an op that only the candidate has, in its own).
        state: of what it wrote, in the plain runs: ``starts here`` if it is an origin, ``differs`` also where only its
            inputs did, ``not compared`` where a fingerprint is missing or sizes differ.
        target: full operator name, the candidate's after `` ↔ `` if it is another.
        reads, writes: dtype and shape of tensors, the candidate's after `` ↔ `` where they are others.
        phase: forward, backward or update.
        step: of training or decoding.
        occurrence: how many times this op occurred before in this scope.
        source: ``file:line`` of the user's code, if known.
    """

    scope: str
    op: str
    state: OpState
    target: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    phase: str = "forward"
    step: int = 0
    occurrence: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """How two tensors differ, small enough for a report.

    Attributes:
        name: of the output or the place.
        spec: dtype and shape of the reference's tensor.
        grid: largest absolute difference within each cell, row by row; the tensor is seen as a matrix of its last axis.
        rows, columns: how many rows and columns of the matrix one row and one column of the grid stand for.
        ulps: (at least so many units in the last place of the reference, how many elements), powers of two.
        first: index of the first element that differs.
        values: the reference's and the candidate's value there.
        seen: elements looked at, of how many.
    """

    name: str
    spec: str
    grid: tuple[tuple[float, ...], ...]
    rows: int
    columns: int
    ulps: tuple[tuple[int, int], ...]
    first: tuple[int, ...]
    values: tuple[str, str]
    seen: tuple[int, int]

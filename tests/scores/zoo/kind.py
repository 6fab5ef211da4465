"""One kind of program, and what a capture of it has to say: fixed before the first run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Program = Callable[[], Any]
LOSING = frozenset({"tracing", "thread", "failed", "ended"})
"""Holes with which a trace is not complete: numbers went by that nobody saw."""

TABLE: dict[str, Kind] = {}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of program.

    Attributes:
        name: of its function.
        program: builds everything it needs from fixed seeds and returns what counts: outputs and side effects.
        op, module: kinds of hole that a capture of this level must count, all of them and no other.
        sees: an operator that a capture at op level must have recorded; empty: none.
        needs: packages without which it cannot run.
        ends: what a plain run raises; empty: nothing.
        steps: how many a log of steps tells of; None: not asked.
    """

    name: str
    program: Program
    op: frozenset[str]
    module: frozenset[str]
    sees: str
    needs: tuple[str, ...]
    ends: str
    steps: int | None = None

    def complete(self, level: str) -> bool:
        """Whether a trace of it has seen everything."""
        return not self.ends and not (self.op if level == "op" else self.module) & LOSING


def kind(
    *,
    op: Iterable[str] = (),
    module: Iterable[str] = (),
    both: Iterable[str] = (),
    sees: str = "",
    needs: tuple[str, ...] = (),
    ends: str = "",
    steps: int | None = None,
) -> Callable[[Program], Program]:
    """Enter a program in the table; ``both``: holes of either level."""

    def enter(program: Program) -> Program:
        TABLE[program.__name__] = Kind(
            program.__name__, program, frozenset((*op, *both)), frozenset((*module, *both)), sees, needs, ends, steps
        )
        return program

    return enter

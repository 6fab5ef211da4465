"""What one run of a program says about the next: its equations, its sites, the bits of arrays that cannot change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from whydiff.capturing.adapters.jax import internals, values
from whydiff.capturing.adapters.jax.ops import Fixed, Op
from whydiff.capturing.adapters.jax.scopes import Names, names_of
from whydiff.capturing.adapters.jax.tapped import control, same_bytes
from whydiff.records import Fingerprint, Phase, Site


@dataclass(slots=True)
class Equation:
    """An equation of a program, read once.

    Attributes:
        eqn: JAX's own.
        names: its name stack within its program.
        source: ``file:line (function)`` of the user's code; empty if it has none.
        inner: (program, constants) if it only calls one.
        kind: ``scan``, ``while``, ``cond`` or empty.
        fixed: per operand the number that the program holds there itself, or None.
        same: it gives the bytes of its operand, and has no tap of its own where that has one.
        op: what it executes, once that is known.
    """

    eqn: Any
    names: Names
    source: str
    inner: tuple[Any, Any] | None
    kind: str
    fixed: tuple[Fixed | None, ...]
    same: bool = False
    op: Op | None = None


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of one call: its own, those of what it reads, those of what it writes."""

    call: Site
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]


@dataclass
class Known:
    """Shared between the recorders of one program."""

    _equations: dict[int, Equation] = field(default_factory=dict)
    _sites: dict[tuple[str, str, Phase, int, int, int], Sites] = field(default_factory=dict)
    _marks: dict[int, tuple[jax.Array, Fingerprint]] = field(default_factory=dict)

    def equation(self, eqn: Any) -> Equation:
        """The equation, which is kept alive, so that its id stays its own."""
        known = self._equations.get(id(eqn))
        if known is None:
            fixed = tuple(Fixed(atom.val) if _is_number(atom) else None for atom in eqn.invars)
            known = self._equations[id(eqn)] = Equation(
                eqn,
                names_of(eqn.source_info.name_stack),
                internals.place(eqn.source_info),
                internals.called(eqn.primitive.name, eqn.params),
                control(eqn),
                fixed,
                same_bytes(eqn),
            )
        return known

    def sites(self, scope: str, op: str, phase: Phase, occurrence: int, reads: int, writes: int) -> Sites:
        """The sites of a call with so many reads and writes."""
        key = (scope, op, phase, occurrence, reads, writes)
        known = self._sites.get(key)
        if known is None:
            site = Site(scope=scope, op=op, phase=phase, step=0, rank=0, occurrence=occurrence)
            known = self._sites[key] = Sites(
                site,
                tuple(site.at(f"read.{i}") for i in range(reads)),
                tuple(site.at("output" if writes == 1 else f"output.{i}") for i in range(writes)),
            )
        return known

    def fingerprint(self, value: Any) -> Fingerprint:
        """Of an array that existed before the run: that of a JAX array, which cannot change, is taken once."""
        known = self._marks.get(id(value))
        if known is not None:
            return known[1]
        mark = values.fingerprint(values.host(value))
        if isinstance(value, jax.Array):
            self._marks[id(value)] = value, mark
        return mark

    def look_at(self, arrays: Iterable[Any]) -> None:
        """Take the fingerprints of many arrays that existed before the run at once."""
        new = [
            a for a in arrays if isinstance(a, jax.Array) and id(a) not in self._marks and not values.not_comparable(a)
        ]
        for array, mark in zip(new, values.fingerprints([values.host(a) for a in new]), strict=True):
            self._marks[id(array)] = array, mark


def _is_number(atom: Any) -> bool:
    return isinstance(atom, internals.Literal) and not np.ndim(atom.val)

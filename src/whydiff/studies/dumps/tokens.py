"""Values of two engines that worked through the same tokens in other pieces, paired row by row.

A server packs prompts of several requests into one line and goes on token by token; a plain forward pass sees whole
sequences. Neither the calls nor the shapes correspond, but each row of a value belongs to one token, and a token with all
that came before it (`whydiff.studies.dumps.contexts`) is the same on both sides. A value with fewer rows than tokens belongs
to the tokens whose rows of an earlier value it repeats, bit for bit: a language model's head is asked for the last ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.studies.artifacts.relations import MOST, bits
from whydiff.studies.artifacts.sources import Stored, in_memory
from whydiff.studies.dumps.contexts import Key, Step, alike, followed, shown, steps, whole
from whydiff.studies.dumps.records import Entry

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A value of several passes on one side.

    Attributes:
        entries: its entry in every pass.
        axes: which of their axes goes along the tokens; None: all but the last one together (some tokens alone).
        lines: shape of the ids, in every pass.
        places: for each token that is compared (pass, row of the value).
    """

    entries: tuple[Entry, ...]
    axes: tuple[int | None, ...]
    lines: tuple[tuple[int, ...], ...]
    places: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """The place in words."""
        return f"{self.entries[0].name} ({len(self.places)} tokens)"

    def joined(self) -> Stored:
        """A row for each token."""
        held = [_rows(*one) for one in zip(self.entries, self.axes, self.lines, strict=True)]
        dtype = next(entry.stored.dtype for entry in self.entries if entry.stored is not None)
        return replace(in_memory("tokens", np.stack([held[step][row] for step, row in self.places])), dtype=dtype)


@dataclass(frozen=True, slots=True)
class Paired:
    """What corresponds by context: pairs of values, tokens that only one side has, sentences on values of some tokens."""

    pairs: tuple[tuple[Tokens, Tokens], ...]
    lone: tuple[int, int]
    partly: tuple[str, ...]


def by_context(ours: Sequence[Entry], theirs: Sequence[Entry]) -> Paired | None:
    """Values of the same module and part, row by row; None: the sides worked in the same pieces, or it is not known how."""
    sides = steps(ours), steps(theirs)
    if not sides[0] or not sides[1] or alike(sides[0], sides[1]):
        return None
    known: dict[tuple[int, int], int] = {}
    plain = [all(whole(step) for step in side) for side in sides]
    if not any(plain):
        return None
    first = 0 if plain[0] else 1
    contexts: list[list[list[int | None]]] = [[], []]
    contexts[first] = list(shown(sides[first], known))
    known_there = set(known.values())
    contexts[1 - first] = list(followed(sides[1 - first], known, known_there))
    tokens = [_by_token(one) for one in contexts]
    both = [context for context in tokens[0] if context in tokens[1]]
    if not both:
        return None
    lone = [sum(context not in tokens[1 - n] for some in contexts[n] for context in some) for n in range(2)]
    if any(lone) and [step.ids.shape for step in sides[0]] == [step.ids.shape for step in sides[1]]:
        return None  # other tokens in the same pieces, which is a difference by itself
    pairs = tuple(_values(sides, tokens, both))
    partly = tuple(
        f"{one.name}: the others of {len(both)} are on one side only" for one, _ in pairs if len(one.places) < len(both)
    )
    return Paired(pairs, (lone[0], lone[1]), partly)


def _by_token(contexts: Sequence[Sequence[int | None]]) -> dict[int, tuple[int, int]]:
    """Context → (pass, token of the pass); of equal contexts the first."""
    found: dict[int, tuple[int, int]] = {}
    for step, some in enumerate(contexts):
        for row, context in enumerate(some):
            if context is not None:
                found.setdefault(context, (step, row))
    return found


def _values(
    sides: tuple[list[Step], list[Step]], tokens: Sequence[dict[int, tuple[int, int]]], both: Sequence[int]
) -> Iterator[tuple[Tokens, Tokens]]:
    keys = [key for key in sides[0][0].entries if all(key in step.entries for side in sides for step in side)]
    rows = [_rows_of(side, keys) for side in sides]
    for key in keys:
        if key not in rows[0] or key not in rows[1]:
            continue
        axes, chosen = zip(*(one[key] for one in rows), strict=True)
        places: list[list[tuple[int, int]]] = [[], []]
        for context in both:
            at = [tokens[n][context] for n in range(2)]
            own = [chosen[n][at[n][0]].get(at[n][1]) for n in range(2)]
            for n in range(2) if None not in own else ():
                places[n].append((at[n][0], own[n]))
        made = [
            Tokens(
                entries=tuple(step.entries[key] for step in side),
                axes=tuple(axes[n]),
                lines=tuple(step.ids.shape for step in side),
                places=tuple(places[n]),
            )
            for n, side in enumerate(sides)
        ]
        if places[0] and _fit(made):
            yield made[0], made[1]


Places = dict[int, int]
"""Token → row of a value."""


def _fit(made: Sequence[Tokens]) -> bool:
    """Whether the values have one size for each token, and are not too large to be joined."""
    widths = {_width(entry, axis) for one in made for entry, axis in zip(one.entries, one.axes, strict=True)}
    dtypes = [{_dtype(entry) for entry in one.entries} for one in made]
    small = all(sum(entry.numbers for entry in one.entries) <= MOST for one in made)
    return small and len(widths) == 1 and all(map(_one, dtypes))


def _one(some: set[str]) -> bool:
    return len(some) == 1 and "" not in some


def _rows_of(side: Sequence[Step], keys: Sequence[Key]) -> dict[Key, tuple[list[int | None], list[Places]]]:
    """Of each value the axis of the tokens and the row of each token, in every pass."""
    found: dict[Key, tuple[list[int | None], list[Places]]] = {}
    for key in sorted(keys, key=lambda key: side[0].entries[key].order):
        ways = [_axes(step.entries[key], step) for step in side]
        common = set.intersection(*(way for way in ways if way)) if any(ways) else set()
        if any(ways) and len(common) != 1:  # as many heads as tokens
            continue
        axes: list[int | None] = [min(common) if way else None for way in ways]
        some: list[Places | None] = []
        for number, (step, axis) in enumerate(zip(side, axes, strict=True)):
            entry = step.entries[key]
            if axis is not None:
                some.append({row: row for row in range(step.size)})
            else:
                some.append(_repeated(entry, step) or _as_given(key, found, number, entry))
        if all(one is not None for one in some):
            found[key] = axes, [one for one in some if one is not None]
    return found


def _axes(entry: Entry, step: Step) -> set[int]:
    """Axes that may go along the tokens: behind the lines or behind the heads (lines may be of size 1), else the first."""
    shape, lines = entry.shape, step.ids.shape
    flat = {0} if lines[0] == 1 and 0 < len(shape) < 4 and shape[0] == lines[1] else set()
    if len(shape) < 2 or shape[0] not in (1, lines[0]):
        return flat
    return flat | {axis for axis in ((1, 2) if len(shape) == 4 else (1,)) if shape[axis] == lines[1]}


def _repeated(entry: Entry, step: Step) -> Places | None:
    """Where a module was given some tokens alone: those whose rows of the last value before it are the same, bit for bit."""
    shape = entry.shape
    if len(shape) < 2 or entry.role != "input":
        return None
    whole = [
        other
        for other in step.entries.values()
        if other.order < entry.order and other.shape == (*step.ids.shape, shape[-1]) and _dtype(other) == _dtype(entry)
    ]
    if not whole:
        return None
    known: dict[bytes, int] = {}
    for row, line in enumerate(_bits(max(whole, key=lambda other: other.order)).reshape(-1, shape[-1])):
        known[line.tobytes()] = -1 if line.tobytes() in known else row
    found = [known.get(line.tobytes(), -1) for line in _bits(entry).reshape(-1, shape[-1])]
    return None if -1 in found or len(set(found)) < len(found) else {token: row for row, token in enumerate(found)}


def _as_given(
    key: Key, found: dict[Key, tuple[list[int | None], list[Places]]], number: int, entry: Entry
) -> Places | None:
    """The tokens of an output that has as many rows as its module's input had."""
    inputs = [some[number] for (scope, role, _), (_, some) in found.items() if (scope, role) == (key[0], "input")]
    count = math.prod(entry.shape[:-1])
    return next((one for one in inputs if key[1] == "output" and len(one) == count), None)


def _rows(entry: Entry, axis: int | None, lines: tuple[int, ...]) -> Array:
    """A row for each token, as bits."""
    held = _bits(entry)
    if axis in (None, 0):
        return held.reshape(len(held) if axis == 0 else math.prod(held.shape[:-1]), -1)
    held = np.moveaxis(held, axis, 1)
    return np.broadcast_to(held, (lines[0], *held.shape[1:])).reshape(lines[0] * held.shape[1], -1)


def _width(entry: Entry, axis: int | None) -> int:
    """Numbers of each token."""
    shape = entry.shape
    return shape[-1] if axis is None else math.prod(shape[1:]) // (max(1, shape[axis]) if axis else 1)


def _bits(entry: Entry) -> Array:
    assert entry.stored is not None
    return bits(entry.stored)


def _dtype(entry: Entry) -> str:
    return entry.stored.dtype if entry.stored is not None else ""

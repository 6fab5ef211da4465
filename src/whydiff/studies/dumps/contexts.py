"""Passes of a dump, and the context of every token in them: the token with all that came before it in its sequence.

Evidence, not names: token ids are the integers that a module was given and for which it gave one vector each; positions are
integers of the same size that count up. A side on which every line of tokens counts from 0 shows its contexts by itself; on
the other one a token at position p goes on a sequence of p tokens that the first side also has. Where that leaves a choice
the context is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whydiff.studies.artifacts.relations import bits
from whydiff.studies.artifacts.sources import Stored
from whydiff.studies.dumps.records import Entry

Array = np.ndarray[Any, Any]
Key = tuple[str, str, str]
"""(module, input or output, part) of a value."""


@dataclass(slots=True)
class Step:
    """One pass over some tokens: their ids and positions (a row for each line of tokens), and every value of the pass."""

    ids: Array
    positions: Array
    entries: dict[Key, Entry] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Tokens."""
        return int(self.ids.size)


def steps(entries: Sequence[Entry]) -> list[Step]:
    """The passes of a dump; none where ids or positions are not in it."""
    calls: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.order):
        calls.setdefault((entry.scope, entry.role, entry.part, entry.rank), []).append(entry)
    if len({key[3] for key in calls}) > 1:  # several processes, each with a part of the tokens or of the model
        return []
    outputs: dict[str, list[list[Entry]]] = {}
    for (scope, role, _, _), held in calls.items():
        outputs.setdefault(scope, []).extend([held] if role == "output" else [])
    found = next((held for held in calls.values() if _are_ids(held, outputs[held[0].scope])), None)
    if found is None:
        return []
    shapes = [entry.shape for entry in found]
    counted = [held for held in calls.values() if held is not found and _are_positions(held, shapes)]
    if not counted:
        return []
    made = [
        Step(_lines(ids, shape), np.broadcast_to(_lines(position, shape), _lines(ids, shape).shape))
        for ids, position, shape in zip(found, counted[0], shapes, strict=True)
    ]
    for (scope, role, part, _), held in calls.items():
        if len(held) == len(made):
            for step, entry in zip(made, held, strict=True):
                step.entries[scope, role, part] = entry
    return made


def _are_ids(held: Sequence[Entry], outputs: Sequence[Sequence[Entry]]) -> bool:
    """Integers of which their module made one vector each, in every call."""
    if held[0].role != "input" or not all(_whole_numbers(entry) and entry.numbers for entry in held):
        return False
    vectors = any(
        len(made) == len(held)
        and all(
            out.shape[:-1] == given.shape and not _whole_numbers(out) for given, out in zip(held, made, strict=True)
        )
        for made in outputs
    )
    return vectors and not _count_up(held, [entry.shape for entry in held])


def _are_positions(held: Sequence[Entry], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Integers beside the ids, one for each token (or for each of a line), that count up."""
    return (
        len(held) == len(shapes)
        and all(_whole_numbers(entry) for entry in held)
        and all(
            entry.shape in (shape, (*(1 for _ in shape[:-1]), shape[-1]))
            for entry, shape in zip(held, shapes, strict=True)
        )
        and _count_up(held, shapes)
    )


def _count_up(held: Sequence[Entry], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether numbers are positions: nothing is negative, the first pass begins at 0, later ones go on what there was."""
    ends = {0}
    for entry, shape in zip(held, shapes, strict=True):
        for line in _lines(entry, shape):
            last = -1
            for number in line.tolist():
                if number < 0 or (number != last + 1 and number not in ends):
                    return False
                last = number
                ends.add(number + 1)
    return len(ends) > 2


def alike(one: Sequence[Step], other: Sequence[Step]) -> bool:
    """Whether both sides worked through the same tokens in the same pieces."""
    return len(one) == len(other) and all(
        a.ids.shape == b.ids.shape and np.array_equal(a.ids, b.ids) for a, b in zip(one, other, strict=True)
    )


def whole(step: Step) -> bool:
    """Whether every line of tokens is a sequence from its beginning."""
    return all(line.tolist() == list(range(len(line))) for line in step.positions)


def shown(side: Sequence[Step], known: dict[tuple[int, int], int]) -> Iterator[list[int | None]]:
    """The context of each token of whole sequences; 0 is the empty one."""
    for step in side:
        found: list[int | None] = []
        for line in step.ids.tolist():
            context = 0
            for token in line:
                context = known.setdefault((context, token), len(known) + 1)
                found.append(context)
        yield found


def followed(side: Sequence[Step], known: dict[tuple[int, int], int], there: set[int]) -> Iterator[list[int | None]]:
    """The context of each token of sequences that come in pieces, as far as the other side has it; None: it is not known.

    A token at position p goes on one of the sequences that have p tokens so far.
    """
    open_ends: dict[int, list[int]] = {}
    for step in side:
        found: list[int | None] = []
        for ids, positions in zip(step.ids.tolist(), step.positions.tolist(), strict=True):
            for token, position in zip(ids, positions, strict=True):
                before = [0] if position == 0 else open_ends.get(position, [])
                ways = {known[context, token]: context for context in before if (context, token) in known}
                now = next(iter(ways)) if len(ways) == 1 else None
                if now is not None and now in there:
                    if position:
                        open_ends[position].remove(ways[now])
                    open_ends.setdefault(position + 1, []).append(now)
                found.append(now)
        yield found


def _lines(entry: Entry, shape: tuple[int, ...]) -> Array:
    """Whole numbers as lines of tokens."""
    stored = entry.stored
    assert isinstance(stored, Stored)
    return bits(stored).astype(np.int64).reshape(-1, shape[-1])


def _whole_numbers(entry: Entry) -> bool:
    return entry.stored is not None and entry.stored.is_integer and entry.stored.dtype in ("int32", "int64")

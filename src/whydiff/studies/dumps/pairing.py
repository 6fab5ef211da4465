"""Which values of two dumps correspond: ordered passes, the surest first; each takes what the ones before it left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from whydiff.studies.dumps.readers.files import natural
from whydiff.studies.dumps.records import Entry
from whydiff.studies.dumps.tokens import Paired, Tokens

How = Literal["name", "renamed", "shape", "ranks", "fused", "split", "sum", "tokens"]
MOST_JOINED = 4
"""Values that are joined to make one of the other side."""


@dataclass(frozen=True, slots=True)
class Match:
    """Values that correspond; several of a side are joined along an axis, added (``sum``), or taken row by row (``tokens``)."""

    reference: tuple[Entry, ...]
    candidate: tuple[Entry, ...]
    how: How
    axis: int = -1
    tokens: tuple[Tokens, Tokens] | None = None


def matched(ours: Sequence[Entry], theirs: Sequence[Entry]) -> tuple[list[Match], list[Entry], list[Entry]]:
    """Matches, and what only the reference and only the candidate has."""
    found: list[Match] = []
    left, right = list(ours), list(theirs)
    for one in _PASSES:
        new = one(left, right)
        found += new
        used = {id(entry) for match in new for entry in (*match.reference, *match.candidate)}
        left = [entry for entry in left if id(entry) not in used]
        right = [entry for entry in right if id(entry) not in used]
    return found, left, right


def of_tokens(
    paired: Paired, ours: Sequence[Entry], theirs: Sequence[Entry]
) -> tuple[list[Match], list[Entry], list[Entry]]:
    """The same of two sides that worked in other pieces: there nothing corresponds by its name alone."""
    found = [Match(one.entries, other.entries, "tokens", tokens=(one, other)) for one, other in paired.pairs]
    used = {id(entry) for match in found for entry in (*match.reference, *match.candidate)}
    left, right = ([entry for entry in side if id(entry) not in used] for side in (ours, theirs))
    return found, left, right


def _by_key(ours: Sequence[Entry], theirs: Sequence[Entry], key: Callable[[Entry], object], how: How) -> list[Match]:
    """Entries with one key, the first with the first and so on."""
    waiting: dict[object, list[Entry]] = {}
    for entry in theirs:
        waiting.setdefault(key(entry), []).append(entry)
    for places in waiting.values():
        places.reverse()
    return [Match((entry,), (left.pop(),), how) for entry in ours if (left := waiting.get(key(entry)))]


def _ranks(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[Match]:
    """Values of several ranks that together are one value of the other side, by their shapes: parts along one axis."""
    left, right = _by_call(ours), _by_call(theirs)
    found = []
    for call in left:
        sides = left[call], right.get(call, [])
        parts, whole = sides if len(sides[0]) > 1 else sides[::-1]
        axis = _axis(parts, whole[0]) if len(whole) == 1 < len(parts) == len({part.rank for part in parts}) else None
        if axis is not None:
            found.append(Match(tuple(sides[0]), tuple(sides[1]), "ranks", axis))
    return found


def _by_call(entries: Sequence[Entry]) -> dict[object, list[Entry]]:
    """The entries of each call of all ranks, rank 2 before rank 10."""
    found: dict[object, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: natural(entry.rank)):
        found.setdefault((entry.scope, entry.op.rpartition("#")[2], entry.part, entry.role, entry.around), []).append(
            entry
        )
    return found


def _axis(parts: Sequence[Entry], whole: Entry) -> int | None:
    """The only axis along which parts have another size than the whole, if their sizes there are its size."""
    shape, shapes = whole.shape, [part.shape for part in parts]
    if any(len(one) != len(shape) for one in shapes):
        return None
    other = [n for n, size in enumerate(shape) if any(one[n] != size for one in shapes)]
    return other[0] if len(other) == 1 and sum(one[other[0]] for one in shapes) == shape[other[0]] else None


def _same_name(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[Match]:
    return _by_key(ours, theirs, lambda e: (e.scope, e.op, e.part, e.role, e.during), "name")


def _same_place(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[Match]:
    """The same path and call, whatever the module's class is called."""
    return _by_key(ours, theirs, lambda e: (e.scope, e.op.rpartition("#")[2], e.part, e.role, e.during), "name")


def _other_root(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[Match]:
    """The same path below roots of other names (``model.layers.0`` and ``layers.0``)."""
    roots = _root(ours), _root(theirs)

    def below(entry: Entry, root: str) -> tuple[object, ...]:
        return entry.scope.removeprefix(root), entry.op.rpartition("#")[2], entry.part, entry.role

    waiting = {below(entry, roots[1]): entry for entry in reversed(theirs)}
    return [
        Match((entry,), (other,), "renamed")
        for entry in ours
        if (other := waiting.pop(below(entry, roots[0]), None)) is not None
    ]


def _root(entries: Iterable[Entry]) -> str:
    """What all paths begin with, as whole words."""
    words = [entry.scope.split(".") for entry in entries if entry.scope]
    common: list[str] = []
    for column in zip(*words, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return "".join(f"{word}." for word in common)


def _same_shapes(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[Match]:
    """Outputs under other names whose numbers of elements follow each other alike."""
    left, right = ([entry for entry in side if entry.role == "output" and entry.numbers] for side in (ours, theirs))
    blocks = SequenceMatcher(
        None, [_key(entry) for entry in left], [_key(entry) for entry in right], autojunk=False
    ).get_matching_blocks()
    return [Match((left[block.a + n],), (right[block.b + n],), "shape") for block in blocks for n in range(block.size)]


def _joined(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[Match]:
    """Several outputs that follow each other and have the last sizes of one output together."""
    found: list[Match] = []
    ways: tuple[tuple[Sequence[Entry], Sequence[Entry], How], ...] = (theirs, ours, "fused"), (ours, theirs, "split")
    for whole, parts, how in ways:
        used: set[int] = {id(e) for match in found for e in (*match.reference, *match.candidate)}
        for one in whole:
            group = _group(one, [entry for entry in parts if entry.role == "output" and id(entry) not in used])
            if one.role == "output" and id(one) not in used and group:
                used |= {id(one), *(id(entry) for entry in group)}
                sides = ((*group,), (one,)) if how == "fused" else ((one,), (*group,))
                found.append(Match(sides[0], sides[1], how))
    return found


def _group(one: Entry, parts: Sequence[Entry]) -> Sequence[Entry]:
    shape = one.shape
    for size in range(2, MOST_JOINED + 1) if len(shape) > 1 else ():
        for at in range(len(parts) - size + 1):
            group = parts[at : at + size]
            shapes = [entry.shape for entry in group]
            together = sum(s[-1] for s in shapes if s)
            if all(s[:-1] == shape[:-1] for s in shapes) and together == shape[-1] and _siblings(group):
                return group
    return ()


def _siblings(group: Sequence[Entry]) -> bool:
    """Whether they are in one module, or are values of one."""
    return len({entry.scope.rpartition(".")[0] for entry in group}) == 1


def _key(entry: Entry) -> tuple[int, int]:
    shape = entry.shape
    return entry.numbers, shape[-1] if shape else 0


_PASSES: tuple[Callable[[Sequence[Entry], Sequence[Entry]], list[Match]], ...] = (
    _ranks,
    _same_name,
    _same_place,
    _other_root,
    _joined,
    _same_shapes,
)

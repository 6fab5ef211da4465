"""Find tensors that a program holds under another name in the candidate: of a closure, a global, an attribute.

What modules register is renamed with their scopes (`whydiff.pair.align.renamed`). A tensor that merely hangs somewhere
belongs to no scope. Two kinds of evidence, asked of names that only one side has:

- *keys*: below two prefixes stand the same keys (of a mapping, a list, an object) with tensors of the same shapes;
  those that hold the same bits count first. The order in which a mapping holds its keys says nothing.
- *bits*: of what is left, the one tensor on each side that holds these bits.

What could be several prefixes' counterpart is left alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

from whydiff.pair.align.rules import Rule
from whydiff.records import Alignment, Leaf, Trace

_MANY = 64
"""A name that ends like more tensors than this says nothing."""
Paired = tuple[Leaf, Leaf]
"""A leaf of the reference, and one of the candidate."""


def find(reference: Trace, candidate: Trace, known: Alignment) -> tuple[Rule, ...]:
    """Prefix rules (candidate's, reference's) for the names of tensors that no module registered, longest first.

    Args:
        reference, candidate: both runs.
        known: with the rules that were found for scopes.
    """
    ours, theirs = {x.name for x in reference.leaves}, {known.rename(x.name) for x in candidate.leaves}
    lone_r = [x for x in reference.leaves if x.role == "attribute" and x.name not in theirs]
    lone_c = [x for x in candidate.leaves if x.role == "attribute" and known.rename(x.name) not in ours]
    if not lone_r or not lone_c:
        return ()
    held = {at for name in ours for at in _prefixes(name)}, {at for name in theirs for at in _prefixes(name)}
    votes = _below_one_key(lone_r, lone_c)
    found = _clear({rule: pairs for rule, pairs in votes.items() if rule[0] not in held[0] and rule[1] not in held[1]})
    taken = Alignment(pairs=(), renamed=tuple(found))
    named = {taken.rename(x.name) for x in lone_c}
    left = [x for x in lone_c if taken.rename(x.name) not in ours]
    found += _same_bits([x for x in lone_r if x.name not in named], left)
    return tuple(sorted(found, key=lambda rule: (-len(rule[0]), rule)))


def _below_one_key(reference: Sequence[Leaf], candidate: Sequence[Leaf]) -> dict[Rule, list[Paired]]:
    """Both names without what they end in alike, as much of it as can be found → the leaves that this brings together."""
    ends: dict[Hashable, list[tuple[str, Leaf]]] = defaultdict(list)
    for leaf in reference:
        for at in _prefixes(leaf.name)[:-1]:
            ends[leaf.name[len(at) :], leaf.spec.shape].append((at, leaf))
    found: dict[Rule, list[Paired]] = defaultdict(list)
    for leaf in candidate:
        for at in _prefixes(leaf.name)[:-1]:
            alike = ends.get((leaf.name[len(at) :], leaf.spec.shape), [])
            for ours_at, ours in alike if len(alike) <= _MANY else []:
                found[at, ours_at].append((ours, leaf))
            if alike:
                break
    return found


def _prefixes(name: str) -> list[str]:
    """``obs[0].goal``: ``obs``, ``obs[0]``, and itself."""
    return [name[: found.start()] for found in re.finditer(r"(?<=.)[.\[]|$", name)]


def _clear(votes: dict[Rule, list[Paired]]) -> list[Rule]:
    """The rules with more behind them than any other that speaks of the same: of equal bits first, then of tensors."""
    ranks: dict[tuple[int, int], list[Rule]] = defaultdict(list)
    for rule, pairs in votes.items():
        ranks[sum(map(_same, pairs)), len(pairs)].append(rule)
    about = {rule: {*enumerate(rule), *_names(pairs)} for rule, pairs in votes.items()}
    spoken_of: set[tuple[int, str]] = set()
    found: list[Rule] = []
    for rank in sorted(ranks, reverse=True):
        rules = [rule for rule in ranks[rank] if about[rule].isdisjoint(spoken_of)]
        count = Counter(one for rule in rules for one in about[rule])
        found += [rule for rule in rules if all(count[one] == 1 for one in about[rule])]
        spoken_of |= count.keys()
    return found


def _same_bits(reference: Sequence[Leaf], candidate: Sequence[Leaf]) -> list[Rule]:
    sides: list[dict[Hashable, list[Leaf]]] = [defaultdict(list), defaultdict(list)]
    for side, leaves in zip(sides, (reference, candidate), strict=True):
        for leaf in leaves:
            if leaf.storage >= 0 and leaf.fingerprint is not None:
                side[_bits(leaf)].append(leaf)
    shared = [(sides[0][bits], sides[1][bits]) for bits in sides[0] if bits in sides[1]]
    return [(theirs[0].name, ours[0].name) for ours, theirs in shared if len(ours) == len(theirs) == 1]


def _names(pairs: Iterable[Paired]) -> set[tuple[int, str]]:
    """The leaves of both sides, the candidate's as 0 like its prefixes."""
    return {(side, leaf.name) for ours, theirs in pairs for side, leaf in enumerate((theirs, ours))}


def _same(pair: Paired) -> bool:
    return pair[0].fingerprint is not None and _bits(pair[0]) == _bits(pair[1])


def _bits(leaf: Leaf) -> Hashable:
    return leaf.spec.dtype, leaf.spec.shape, leaf.fingerprint

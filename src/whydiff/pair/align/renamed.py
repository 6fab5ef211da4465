"""Find scopes that have another name in the candidate, by structure and bits; names are never compared.

Two kinds of evidence that candidate scope C is the reference's scope R:

- *state*: C and R read bit for bit the same parameters and buffers, and no other scope does;
- *structure*: neither name exists on the other side, and more than half of the calls of each are paired with
  the other in every best alignment of what is still unpaired by (op, kind, phase, step, output shapes,
  common state). A repeated layer that could be any of several gives no such pair and stays unpaired.

Evidence becomes prefix rules (`rules.shorten`). Rules that only permute names (q and k exchanged) are
dropped: exchanged weights are a defect to be reported, not a renaming. A shift (layer 5 is missing and
all later ones moved up) is a renaming: it ends in a name that the other side does not have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from whydiff.pair.align import rules, sequence
from whydiff.pair.align.rules import Rule
from whydiff.pair.align.sequence import Path
from whydiff.pair.align.side import Side, blocks, intern

DISPLACED = "\0"
"""Appended to a candidate's scope whose name now belongs to another one, so that it pairs with nothing."""


@dataclass(frozen=True)
class Renaming:
    """Prefix rules that were found, and the name of every candidate scope under them."""

    rules: tuple[Rule, ...]
    names: dict[str, str]


def find(reference: Side, candidate: Side, paired: Path) -> Renaming:
    """Rules for the candidate's scopes; none if nothing is unpaired, or nothing is certain.

    Args:
        reference: the reference.
        candidate: the candidate, under the caller's rules.
        paired: positions paired by key so far.
    """
    unchanged = Renaming((), {scope: scope for scope in set(candidate.scopes)})
    if len(paired) == len(reference.calls) == len(candidate.calls):
        return unchanged
    evidence = same_structure(reference, candidate, paired) | same_state(reference, candidate)
    # The root says nothing: as a prefix it would move every scope.
    evidence = {c: r for c, r in evidence.items() if c and r}
    found = _generalise(evidence)
    for _ in range(2):
        renaming = _apply(found, candidate)
        bad = _permutations(found, renaming, reference, candidate)
        if not bad:
            break
        found = {c: r for c, r in found.items() if c not in bad}
    else:
        return unchanged
    return renaming


def same_state(reference: Side, candidate: Side) -> dict[str, str]:
    """Candidate scope → reference scope where both, and no others, read the same bits of state."""
    first, second = (_unique(_states(side)) for side in (reference, candidate))
    shared = first.keys() & second.keys()
    return {second[state]: first[state] for state in shared if second[state] != first[state]}


def _states(side: Side) -> dict[str, frozenset[Hashable]]:
    found: dict[str, set[Hashable]] = defaultdict(set)
    for scope, state in zip(side.scopes, side.states, strict=True):
        found[scope].update(state)
    return {scope: frozenset(state) for scope, state in found.items() if state}


def _unique(states: dict[str, frozenset[Hashable]]) -> dict[frozenset[Hashable], str]:
    count = Counter(states.values())
    return {state: scope for scope, state in states.items() if count[state] == 1}


def same_structure(reference: Side, candidate: Side, paired: Path) -> dict[str, str]:
    """Candidate scope → reference scope for names that only one side has and calls that can only pair so."""
    free = set(reference.scopes) - set(candidate.scopes), set(candidate.scopes) - set(reference.scopes)
    votes: Counter[Rule] = Counter()
    common = frozenset().union(*reference.states) & frozenset().union(*candidate.states)
    tokens = intern(reference.shapes(common), candidate.shapes(common))
    for block in blocks(reference, candidate) if all(free) else ():
        inside = [(j, i) for j, i in paired if j in block[0] and i in block[1]]
        for gap in sequence.gaps(inside, block):
            if sequence.cells(gap) <= sequence.CELLS:
                where = [slice(side.start, side.stop) for side in gap]
                path = sequence.certain(*sequence.extremes(tokens[0][where[0]], tokens[1][where[1]]))
                votes.update((candidate.scopes[gap[1][i]], reference.scopes[gap[0][j]]) for j, i in path)
    calls = Counter(reference.scopes), Counter(candidate.scopes)
    return {
        c: r
        for (c, r), count in votes.items()
        if r in free[0] and c in free[1] and 2 * count > max(calls[0][r], calls[1][c])
    }


def _generalise(evidence: dict[str, str]) -> dict[str, str]:
    """Prefix rules, one to one; scopes whose general rules contradict each other get a rule of their own."""
    short = {pair: rules.shorten(*pair) for pair in evidence.items()}
    clear = _one_to_one(short.values())
    mixed = _one_to_one([short[pair] if short[pair] in clear.items() else pair for pair in evidence.items()])
    return mixed if all(_longest(mixed, c) == r for c, r in evidence.items()) else evidence


def _one_to_one(pairs: Iterable[Rule]) -> dict[str, str]:
    distinct = dict.fromkeys(pairs)
    left, right = Counter(c for c, _ in distinct), Counter(r for _, r in distinct)
    return {c: r for c, r in distinct if left[c] == 1 and right[r] == 1 and c != r}


def _apply(found: dict[str, str], candidate: Side) -> Renaming:
    names = {scope: _longest(found, scope) for scope in dict.fromkeys(candidate.scopes)}
    claimed = {name for scope, name in names.items() if name != scope}
    for scope, name in names.items():
        if name == scope and scope in claimed:
            names[scope] = scope + DISPLACED
    return Renaming(tuple(sorted(found.items())), names)


def _longest(found: dict[str, str], scope: str) -> str:
    fitting = [prefix for prefix in found if rules.under(scope, prefix)]
    if not fitting:
        return scope
    prefix = max(fitting, key=len)
    return rules.move(scope, prefix, found[prefix])


def _permutations(found: dict[str, str], renaming: Renaming, reference: Side, candidate: Side) -> set[str]:
    """Rules that only exchange names: chains of rules that run in a circle or free a name at neither end."""
    taken = set(renaming.names.values())
    left_alone = {scope for scope in set(reference.scopes) & set(candidate.scopes) if scope not in taken}
    displaced = {scope for scope, name in renaming.names.items() if name.endswith(DISPLACED)}
    bad = set(found)
    for start in found.keys() - set(found.values()):
        chain = [start]
        while found[chain[-1]] in found:
            chain.append(found[chain[-1]])
        end = found[chain[-1]]
        full = any(rules.under(scope, start) for scope in left_alone)
        if not (full and any(rules.under(scope, end) for scope in displaced)):
            bad.difference_update(chain)
    return bad

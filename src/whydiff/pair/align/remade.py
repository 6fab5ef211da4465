"""A model that one run makes anew half-way (it is resumed in the same process) has another name from then on.

In the steps in which it runs, the model that it stands for does not, which both runs had before: its scopes are free there
on one side, and the new model's on the other. In these steps, and only there, they are held against each other by structure, as
`whydiff.pair.align.renamed` does it for whole runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from whydiff.pair.align import rules, sequence
from whydiff.pair.align.side import Side, blocks, intern


def find(first: Side, second: Side) -> dict[str, str]:
    """Scopes that only the second side has → the first side's, of which they take the place; empty if nothing is certain.

    Args:
        first: it goes on with one model.
        second: it makes that model anew.
    """
    lone, before = set(second.scopes) - set(first.scopes), set(second.scopes) & set(first.scopes)
    if not lone or not before:
        return {}
    votes: Counter[tuple[str, str]] = Counter()
    left: Counter[str] = Counter()
    tokens = intern(first.shapes(frozenset()), second.shapes(frozenset()))
    for one, other in blocks(first, second):
        here = {second.scopes[i] for i in other}
        free = [j for j in one if first.scopes[j] in before and first.scopes[j] not in here]
        alone = [i for i in other if second.scopes[i] in lone]
        if not alone or len(free) * len(alone) > sequence.CELLS:
            continue
        left.update(first.scopes[j] for j in free)
        path = sequence.certain(*sequence.extremes([tokens[0][j] for j in free], [tokens[1][i] for i in alone]))
        votes.update((second.scopes[alone[i]], first.scopes[free[j]]) for j, i in path)
    calls = Counter(second.scopes)
    found = {c: r for (c, r), count in votes.items() if r and 2 * count > max(left[r], calls[c])}
    return _names(found, lone, second) if found else {}


def _names(found: dict[str, str], lone: set[str], second: Side) -> dict[str, str]:
    """Every lone scope under the prefix rules behind what was found; none if a name would be taken by two at once."""
    prefixes = {rules.shorten(c, r) for c, r in found.items()}
    names = {}
    for scope in lone:
        fitting = [rule for rule in prefixes if rule[0] and rules.under(scope, rule[0])]
        if fitting:
            names[scope] = rules.move(scope, *max(fitting, key=lambda rule: len(rule[0])))
    steps = defaultdict(set)
    for scope, step in zip(second.scopes, second.steps, strict=True):
        steps[scope].add(step)
    clash = any(name and steps[scope] & steps[name] for scope, name in names.items() if name in steps)
    return {} if clash or len(set(names.values())) < len(names) else names

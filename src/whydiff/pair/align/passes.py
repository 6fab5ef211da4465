"""The passes of an alignment, in order. Each is one function; the first that applies to a call pairs it.

0. `steps.numbering`: a resumed run's steps are counted on from where the other run had come to; where one run enters its
   model more often between updates, a step is what lies between two updates.
1. rename rules: the caller's, applied to the candidate's scopes (`whydiff.pair.align.rules`).
2. `same_path`: both runs made the same calls in the same order: everything pairs. O(n).
3. `same_scope`: calls of equal key (scope, op or function, kind, phase, step) in order, as few unpaired as
   possible; among equally good ways the one with the most evidence. Blocks too large for the exact
   solution are cut at anchors first.
4. `renamed.find`: scopes under another name, known by their structure and their parameters' bits; with these
   names passes 2 and 3 run again.
5. `remade.find`: a model that one run makes anew half-way takes the place of the other run's; pass 3 runs again.
6. `rescoped.find`: ops alike under scopes that have nothing to do with each other (modules against functions), where
   the order and the flow of values leave no choice.
7. `held.find`: tensors that no module registered, under another name; no call pairs by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.garbage import not_collecting
from whydiff.pair.align import evidence, held, remade, renamed, rescoped, rules, sequence
from whydiff.pair.align.entries import by_entry
from whydiff.pair.align.sequence import Block, Path
from whydiff.pair.align.side import Side, blocks, by_function, common_parameters, intern
from whydiff.pair.align.steps import numbering
from whydiff.records import Alignment, Pair, Trace

Found = list[tuple[int, int, str]]
"""Positions among the calls that are not views, and the pass that paired them."""


@not_collecting()
def align(reference: Trace, candidate: Trace, *, rename: Sequence[tuple[str, str]] = ()) -> Alignment:
    """Pair the calls of two traces that correspond.

    Only calls of equal op and kind pair (overloads may differ; one may be in place where nothing else differs), in the
    same phase and step and in execution order. Views are counted and never paired.

    Args:
        reference: the trusted run.
        candidate: the run under suspicion.
        rename: rules (pattern, replacement) for the candidate's scopes, applied in order: a plain scope
            prefix (``("model.encoder", "encoder")``) or a regular expression as `re.sub` takes it.

    Returns:
        pairs with the pass that made them (``how``), what was left unpaired on either side, and in
        ``renamed`` the rules that changed a scope: the caller's, then those that were found, as
        (candidate's prefix, reference's prefix); then those for the names of tensors that no module registered.

    Raises:
        UsageError: a rename rule is malformed.
    """
    checked = rules.validate(rename)
    own = dict.fromkeys(call.site.scope for call in candidate.calls)
    ahead, *counted = numbering(reference, candidate)
    numbers = by_entry((reference.calls, candidate.calls), counted)
    both = common_parameters(reference, candidate)
    first = Side(reference, numbers=numbers[0], held=both)
    second = Side(candidate, {scope: rules.apply(checked, scope) for scope in own}, numbers[1], held=both)
    used = tuple(rule for rule in checked if _changes(rule, checked, own))
    pairs = _by_key(first, second)
    if len(pairs) < max(len(first.calls), len(second.calls)):
        new = renamed.find(first, second, [(j, i) for j, i, _ in pairs])
        if new.rules:
            names = {scope: new.names.get(name, name) for scope, name in second.names.items()}
            third = Side(candidate, names, numbers[1], held=both)
            again = _by_key(first, third)
            if len(again) >= len(pairs):
                pairs = _marked(again, second, third, "renamed scope")
                used, second = used + new.rules, third
        pairs = _made_anew(first, second, pairs)
        more = rescoped.find(first, second, [(j, i) for j, i, _ in pairs])
        pairs = sorted([*pairs, *((j, i, rescoped.HOW) for j, i in more)])
    found = _alignment(first, second, _marked(pairs, Side(candidate), second, "rename rule"), used, ahead)
    return replace(found, renamed=used + held.find(reference, candidate, found))


def _by_key(first: Side, second: Side) -> Found:
    """Everything, or calls of equal key; an op in place is its function where that is all that differs."""
    whole = same_path(first, second)
    return same_scope(*by_function(first, second)) if whole is None else whole


def _made_anew(first: Side, second: Side, pairs: Found) -> Found:
    """The pairs, with what a model that one run made anew has in common with the other run's model."""
    theirs, ours = remade.find(first, second), remade.find(second, first)
    if not theirs and not ours:
        return pairs
    sides = replace(first, names={**first.names, **ours}), replace(second, names={**second.names, **theirs})
    again = same_scope(*by_function(*sides))
    if len(again) <= len(pairs):
        return pairs
    moved = [one != other for one, other in zip(first.scopes, sides[0].scopes, strict=True)]
    again = [(j, i, "renamed scope" if moved[j] else how) for j, i, how in again]
    return _marked(again, second, sides[1], "renamed scope")


def same_path(reference: Side, candidate: Side) -> Found | None:
    """Everything, if the sequences of (key, occurrence) are equal; else None."""
    if reference.paths != candidate.paths:
        return None
    return [(n, n, "same path") for n in range(len(reference.calls))]


def same_scope(reference: Side, candidate: Side) -> Found:
    """Calls of equal key, step by step. The result does not depend on which side is called reference."""
    if candidate.keys < reference.keys:
        return [(j, i, how) for i, j, how in same_scope(candidate, reference)]
    found: Found = []
    for block in blocks(reference, candidate):
        found += _block(reference, candidate, block)
    return found


def _block(reference: Side, candidate: Side, where: Block) -> Found:
    if sequence.cells(where) > sequence.CELLS:
        return _anchored(reference, candidate, where)
    tokens = intern(reference.keys[_cut(where[0])], candidate.keys[_cut(where[1])])
    first, second = (_shift(path, where) for path in sequence.extremes(*tokens))
    sure = sequence.certain(first, second)
    found = [(j, i, "same scope") for j, i in sure]
    for gap in sequence.gaps(sure, where):
        inside = [(j, i) for j, i in first if j in gap[0] and i in gap[1]] if len(first) > len(sure) else []
        if inside and sequence.cells(gap) <= evidence.CELLS:
            found += [(j, i, "best evidence") for j, i in evidence.best(reference, candidate, gap)]
        else:
            found += [(j, i, "same order") for j, i in inside]
    return sorted(found)


def _anchored(reference: Side, candidate: Side, where: Block) -> Found:
    """Cut a block at calls that occur once on each side: with equal outputs, else with equal occurrence.

    Without any such call the block is left unpaired.
    """
    for first, second in ((reference.values, candidate.values), (reference.paths, candidate.paths)):
        chain = _shift(sequence.anchors(first[_cut(where[0])], second[_cut(where[1])]), where)
        if chain:
            found = [(j, i, "anchor") for j, i in chain]
            for gap in sequence.gaps(chain, where):
                found += _block(reference, candidate, gap)
            return sorted(found)
    return []


def _cut(positions: range) -> slice:
    return slice(positions.start, positions.stop)


def _shift(path: Path, where: Block) -> Path:
    return [(where[0][j], where[1][i]) for j, i in path]


def _changes(rule: rules.Rule, all_rules: Sequence[rules.Rule], scopes: dict[str, None]) -> bool:
    before = all_rules[: all_rules.index(rule)]
    return any(rules.apply([rule], name) != name for name in (rules.apply(before, scope) for scope in scopes))


def _marked(found: Found, before: Side, after: Side, how: str) -> Found:
    """The last renaming of a call's scope is how it was paired."""
    return [
        (j, i, old if old in ("renamed scope", rescoped.HOW) or before.scopes[i] == after.scopes[i] else how)
        for j, i, old in found
    ]


def _alignment(reference: Side, candidate: Side, found: Found, used: tuple[rules.Rule, ...], ahead: int) -> Alignment:
    left = {j for j, _, _ in found}
    right = {i for _, i, _ in found}
    return Alignment(
        pairs=tuple(Pair(reference.calls[j].index, candidate.calls[i].index, how) for j, i, how in found),
        unpaired_reference=tuple(c.index for n, c in enumerate(reference.calls) if n not in left),
        unpaired_candidate=tuple(c.index for n, c in enumerate(candidate.calls) if n not in right),
        views_reference=len(reference.trace.calls) - len(reference.calls),
        views_candidate=len(candidate.trace.calls) - len(candidate.calls),
        renamed=used,
        ahead=ahead,
    )

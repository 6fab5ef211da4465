"""Recurrent cells: the order of the gates in stacked weights, what a gate keeps, where a bias stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.records import Leaf
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Rewrite
from whydiff.studies.port.variants.leaves import read_state

Array = np.ndarray[Any, Any]
_GATES = {3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}
"""Names of a stacked weight's blocks, as PyTorch stacks them."""


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Gates in another order; the update gate's complement; the new gate's hidden bias before the reset gate."""
    for side in (0, 1):
        stacks = _stacked(read_state(bench, side, number))
        theirs = _stacked(read_state(bench, 1 - side, number)) if stacks else {}
        for count, leaves in stacks.items():
            yield from _of(side, count, leaves, theirs.get(count, []))
        if stacks:
            return


def _of(
    side: int, count: int, leaves: Sequence[tuple[Leaf, Array]], theirs: Sequence[tuple[Leaf, Array]]
) -> Iterator[Hypothesis]:
    gates = _GATES[count]
    for order in itertools.permutations(range(count)):
        if order != tuple(range(count)):
            back = tuple(int(i) for i in np.argsort(order))
            other = _every(theirs, _ordered(count, back))
            yield _gate_order(side, gates, order, _every(leaves, _ordered(count, order)), other)
    if count == 3:
        kept = ("keeps the state by z", "keeps the state by 1 - z")
        yield _formula(side, kept, _every(leaves, _negated))
        moved = _moved(leaves)
        if moved is not None:
            yield _formula(side, ("resets the new gate's hidden bias", "adds it unreset"), moved)


def _gate_order(side: int, gates: Sequence[str], order: Sequence[int], mine: Rewrite, other: Rewrite) -> Hypothesis:
    return taken_for(
        "FO004",
        side,
        (" ".join(gates), " ".join(gates[i] for i in order)),
        mine,
        says="the candidate takes the gates' weights in the order {candidate}, the reference as {reference}",
        fix="Load the blocks of the stacked recurrent weights in the order of gates that the candidate's cell takes.",
        other=other,
    )


def _formula(side: int, said: tuple[str, str], mine: Rewrite) -> Hypothesis:
    return taken_for(
        "FO008",
        side,
        said,
        mine,
        says="in the recurrent cell the reference {reference}, the candidate {candidate}",
        fix="Use the reference's cell in the candidate: it {reference}.",
    )


def _stacked(leaves: Sequence[tuple[Leaf, Array]]) -> dict[int, list[tuple[Leaf, Array]]]:
    """Number of gates → leaves that stack them first, told by the square recurrent weight's shape."""
    return {
        count: [item for item in leaves if item[1].shape[0] == array.shape[0]]
        for _, array in leaves
        for count in _GATES
        if array.ndim == 2 and array.shape[0] == count * array.shape[1]
    }


def _every(leaves: Sequence[tuple[Leaf, Array]], make: Callable[[Array], Array]) -> Rewrite:
    return Rewrite(leaves={leaf.name: make for leaf, _ in leaves})


def _ordered(count: int, order: Sequence[int]) -> Callable[[Array], Array]:
    return lambda array: np.concatenate([np.split(array, count)[i] for i in order])


def _negated(array: Array) -> Array:
    """1 - sigmoid(x) = sigmoid(-x)."""
    r, z, n = np.split(array, 3)
    return np.concatenate([r, -z, n])


def _moved(leaves: Sequence[tuple[Leaf, Array]]) -> Rewrite | None:
    """The new gate's hidden bias among those that are not reset: the two biases are the one-dimensional leaves."""
    biases = [(leaf, array) for leaf, array in leaves if array.ndim == 1]
    if len(biases) != 2:
        return None
    (first, one), (second, other) = sorted(biases, key=lambda item: leaves.index(item))
    third = one.size // 3 * 2
    added = [np.concatenate([np.zeros(third), x[third:]]) for x in (one, other)]
    return Rewrite(leaves={first.name: lambda array: array + added[1], second.name: lambda array: array - added[1]})

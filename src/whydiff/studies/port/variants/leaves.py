"""Weights that were loaded in another order of their axes, or left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, executor_of, for_framework
from whydiff.numbers.rearrangement import Rearrangement
from whydiff.records import Leaf
from whydiff.studies.port.bench import Bench, leaf_of
from whydiff.studies.port.hypotheses import Hypothesis
from whydiff.studies.port.rewrites import Rewrite
from whydiff.studies.port.weights import exactly, layout_of, numbers, rearranged

Array = np.ndarray[Any, Any]


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Axes of equal size in each other's place, biases left out."""
    mine, theirs = (read_state(bench, side, number) for side in (0, 1))
    for leaf, array in mine:
        twin = next(((x, y, lay) for x, y in theirs if (lay := layout_of(array, y, exactly)) is not None), None)
        for words, make in _orders(array):
            other = Rewrite()
            if twin is not None:
                other = Rewrite(leaves={twin[0].name: _carried(make, twin[2], array.shape)})
            yield Hypothesis(
                code="FO004",
                says=f"the candidate computes with {leaf.name} {words}",
                said=("as it is", words),
                fix=f"Load {leaf.name} into the candidate in the order of axes that its layer takes.",
                teller=0,
                mine=Rewrite(leaves={leaf.name: make}),
                other=other,
            )
    for side, some in enumerate((mine, theirs)):
        for leaf, array in some:
            verbs = _used(bench, side, number, leaf)
            for verb, neutral, without in (("add", 0.0, np.zeros_like), ("multiply by", 1.0, np.ones_like)):
                if verb in verbs and (array != neutral).any():
                    yield _left_out(side, leaf, verb, without)


def _used(bench: Bench, side: int, number: int, leaf: Leaf) -> set[str]:
    """What is done with a weight element by element: added, multiplied by; a kernel is neither."""
    roles = for_framework(bench.traces[side].framework).roles
    found = {"add"} if len(leaf.spec.shape) == 1 else set[str]()
    for call in bench.region(side, number):
        if any(event.storage == leaf.storage for event in call.reads):
            found |= {verb for role, verb in _VERBS.items() if role in roles(call.site.op)}
    return found


_VERBS = {Role.PLUS: "add", **dict.fromkeys((Role.TIMES, Role.NORM, Role.BATCH_NORM, Role.GROUP_NORM), "multiply by")}


def _left_out(side: int, leaf: Leaf, verb: str, without: Callable[[Array], Array]) -> Hypothesis:
    said = (f"{'adds' if verb == 'add' else 'multiplies by'} {leaf.name}", f"leaves {leaf.name} out")
    return Hypothesis(
        code="FO007",
        says=f"the {('candidate', 'reference')[side]} leaves {leaf.name} out",
        said=said if side == 0 else (said[1], said[0]),
        fix=f"{verb.capitalize()} {leaf.name} on both sides, or on neither.",
        teller=side,
        mine=Rewrite(leaves={leaf.name: without}),
    )


def read_state(bench: Bench, side: int, number: int) -> list[tuple[Leaf, Array]]:
    """State that the region reads, the nearest first."""
    trace = bench.traces[side]
    executor = executor_of(trace)
    found: dict[str, Leaf] = {}
    for call in bench.region(side, number):
        for event in call.reads:
            leaf = leaf_of(trace, event)
            if leaf is not None and not leaf.skipped:
                found.setdefault(leaf.name, leaf)
    return [(leaf, numbers(executor.payload(executor.leaf_value(leaf)))) for leaf in [*found.values()][:8]]


def _orders(array: Array) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    for one, other in itertools.combinations(range(array.ndim), 2):
        if array.shape[one] == array.shape[other] > 1:
            words = "transposed" if array.ndim == 2 else f"with axes {one} and {other} in each other's place"
            yield words, _swapped(one, other)


def _swapped(one: int, other: int) -> Callable[[Array], Array]:
    return lambda kernel: kernel.swapaxes(one, other)


def _carried(make: Callable[[Array], Array], layout: Rearrangement, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """The same for the candidate's leaf, in its layout."""

    def made(array: Array) -> Array:
        return rearranged(make(rearranged(array, layout.inverse, shape)), layout, array.shape)

    return made

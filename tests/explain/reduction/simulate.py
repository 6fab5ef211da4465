"""Sums with a known order, to reveal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from whydiff.explain.reduction import Tree

Masks = npt.NDArray[np.int8]


def carried_out(tree: Tree, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, K) summed along a tree in float32, in the plainest way.

    A node of more than two children works like the adder of a matrix unit: every term is cut off three bits
    below the last bit of the largest one, then all are added and rounded once.
    """
    held = {leaf: values[:, leaf] for leaf in range(tree.leaves)}
    for index, node in enumerate(tree.nodes):
        if len(node) == 2:
            held[tree.leaves + index] = held[node[0]] + held[node[1]]
        else:
            terms = np.stack([held[child] for child in node]).astype(np.float64)
            _, exponent = np.frexp(np.abs(terms).max(0))
            step = np.ldexp(1.0, exponent - 27)
            held[tree.leaves + index] = ((np.trunc(terms / step)).sum(0) * step).astype(np.float32)
    return held[tree.root]


def probe_of(tree: Tree, mantissa: int = 24) -> Callable[[Masks], npt.NDArray[np.float64]]:
    """A probe that sums masks along a tree; outputs keep ``mantissa`` bits (8 for bfloat16)."""

    def probe(masks: Masks) -> npt.NDArray[np.float64]:
        table = np.zeros(5, np.float32)
        table[[2, -2, 1]] = 2.0**100, -(2.0**100), 1.0
        sums = carried_out(tree, table[masks]).astype(np.float64)
        fraction, exponent = np.frexp(sums)
        return np.ldexp(np.rint(np.ldexp(fraction, mantissa)), exponent - mantissa)

    return probe


def merged(leaves: int, picks: Sequence[Sequence[int]]) -> Tree:
    """The tree that joins, step by step, the picked ones of what is left."""
    left, nodes = list(range(leaves)), []
    for pick in picks:
        if len(left) == 1:
            break
        chosen = sorted({position % len(left) for position in pick})
        if len(chosen) < 2:
            chosen = [0, len(left) - 1]
        nodes.append([left[position] for position in chosen])
        left = [item for position, item in enumerate(left) if position not in chosen]
        left.append(leaves + len(nodes) - 1)
    if len(left) > 1:
        nodes.append(left)
    return Tree.of(leaves, nodes)


@st.composite
def trees(draw: st.DrawFn, most: int = 40, wide: bool = True) -> Tree:
    """Random trees; with ``wide`` some nodes add several terms at once."""
    leaves = draw(st.integers(2, most))
    width = st.integers(2, 5) if wide else st.just(2)
    picks = [
        draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count))
        for count in draw(st.lists(width, min_size=leaves, max_size=leaves))
    ]
    if not wide:
        picks = [[pick[0], pick[0] + 1 + pick[1] % 7] for pick in picks] + [[0, 1]] * leaves
    return merged(leaves, picks)


def chain(order: Sequence[int]) -> Tree:
    """One after another in a given order of the leaves."""
    nodes, top = [], order[0]
    for leaf in order[1:]:
        nodes.append([top, leaf])
        top = len(order) + len(nodes) - 1
    return Tree.of(len(order), nodes)


def joined(leaves: int, parts: Sequence[Sequence[int]]) -> Tree:
    """Parts, each one after another; then their sums one after another."""
    nodes: list[list[int]] = []
    tops = []
    for part in parts:
        top = part[0]
        for leaf in part[1:]:
            nodes.append([top, leaf])
            top = leaves + len(nodes) - 1
        tops.append(top)
    top = tops[0]
    for other in tops[1:]:
        nodes.append([top, other])
        top = leaves + len(nodes) - 1
    return Tree.of(leaves, nodes)

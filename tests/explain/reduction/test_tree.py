"""Canonical form, restriction, comparison and the one line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate import chain, joined, trees

from whydiff.explain.reduction import Tree, describe


@given(trees(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_children_does_not_matter(tree: Tree, rng: random.Random) -> None:
    shuffled = [rng.sample(node, len(node)) for node in tree.nodes]
    assert Tree.of(tree.leaves, shuffled) == tree


@given(trees())
@settings(max_examples=50)
def test_every_leaf_is_counted_once(tree: Tree) -> None:
    assert tree.sizes[tree.root] == tree.leaves
    assert tree.leaves_of(tree.root) == list(range(tree.leaves))


@given(trees(), st.data())
@settings(max_examples=50)
def test_a_restricted_tree_joins_its_leaves_as_before(tree: Tree, data: st.DataObject) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, tree.leaves - 1), min_size=1)))
    small = tree.restricted(kept)
    sets = {frozenset(tree.leaves_of(tree.leaves + i)) & frozenset(kept) for i in range(len(tree.nodes))}
    inner = {frozenset(kept[leaf] for leaf in small.leaves_of(small.leaves + i)) for i in range(len(small.nodes))}
    assert inner == {part for part in sets if len(part) > 1}


@pytest.mark.parametrize(
    "nodes", [[[0, 1]], [[0, 1], [3, 1]], [[0, 4], [1, 2]], [[0], [1, 2]]], ids=["lost", "twice", "later", "single"]
)
def test_what_is_no_tree_is_refused(nodes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="must"):
        Tree.of(3, nodes)


BLOCKS = [range(384), range(384, 768), range(768, 1024)]


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        (chain(range(100)), "one after another"),
        (chain(range(99, -1, -1)), "one after another, backwards"),
        (chain([1, 0, *(leaf ^ 1 for leaf in range(2, 64))]), "one after another, the second of every pair first"),
        (chain(random.Random(0).sample(range(50), 50)), "one after another, in a mixed order"),
        (joined(1024, BLOCKS), "blocks of 384, 384, 256 (each one after another), then one after another"),
        (joined(100, [range(50), range(50, 100)]), "blocks of 50, 50 (each one after another), then their sum"),
        (
            joined(640, [range(i, i + 64) for i in range(0, 640, 64)]),
            "10 blocks of 64 (each one after another), then one after another",
        ),
        (
            joined(256, [range(lane, 256, 16) for lane in range(16)]),
            "16 lanes (each one after another), then one after another",
        ),
        (Tree.of(8, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13]]), "pairwise"),
        (Tree.of(5, [[0, 1, 2], [5, 3, 4]]), "one after another; up to 3 terms in one step"),
        (Tree(1, ()), "one term"),
    ],
)
def test_one_line(tree: Tree, line: str) -> None:
    assert describe(tree) == line


def test_a_lane_tree_of_a_vector_register() -> None:
    """16 lanes, then halves: what a kernel does that adds up one AVX-512 register at the end."""
    nodes, tops = [], []
    for lane in range(16):
        top = lane
        for leaf in range(lane + 16, 256, 16):
            nodes.append([top, leaf])
            top = 256 + len(nodes) - 1
        tops.append(top)
    while len(tops) > 1:
        half = len(tops) // 2
        for index in range(half):
            nodes.append([tops[index], tops[index + half]])
            tops[index] = 256 + len(nodes) - 1
        del tops[half:]
    assert describe(Tree.of(256, nodes)) == "16 lanes (each one after another), then a tree of depth 4"


def test_a_shuffled_tree_is_called_irregular() -> None:
    tree = joined(64, [range(lane, 64, 8) for lane in range(8)])
    wrong = tree.relabelled(random.Random(1).sample(range(64), 64))
    assert describe(wrong) == f"an irregular tree of 64 terms, depth {tree.depth}"


def test_the_bias_is_named_apart() -> None:
    assert describe(chain(range(9)), plain={8}) == "one after another, then the bias"
    assert describe(chain([8, *range(8)]), plain={8}) == "one after another, beginning with the bias"
    assert describe(chain([0, 1, 8, *range(2, 8)]), plain={8}) == "one after another, the bias in between"

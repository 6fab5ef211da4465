"""The revealed tree is the one that sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from simulate import Masks, chain, joined, probe_of, trees

from whydiff.errors import ReplayError
from whydiff.explain.reduction import Tree, reveal


@given(trees())
@settings(max_examples=80)
def test_any_order_is_revealed(tree: Tree) -> None:
    assert reveal(probe_of(tree), tree.leaves) == tree


@given(trees(most=30))
@settings(max_examples=50)
def test_an_output_that_counts_to_eight_reveals_any_order_too(tree: Tree) -> None:
    assert reveal(probe_of(tree, mantissa=4), tree.leaves, countable=8) == tree


def test_counting_beyond_what_the_output_holds_is_noticed_or_wrong() -> None:
    """The chunks are needed: without them a bfloat16-like output does not give this tree."""
    tree = chain(range(600))
    with pytest.raises(ReplayError):
        reveal(probe_of(tree, mantissa=8), 600)
    assert reveal(probe_of(tree, mantissa=8), 600, countable=256) == tree


@pytest.mark.parametrize("leaves", [64, 300])
def test_a_backward_sum_takes_few_probes(leaves: int) -> None:
    tree = chain(list(range(leaves - 1, -1, -1)))
    inner, asked = probe_of(tree), []

    def probe(masks: Masks) -> np.ndarray:
        asked.append(len(masks))
        return inner(masks)

    assert reveal(probe, leaves) == tree
    assert sum(asked) < 3 * leaves


def test_one_batch_serves_all_groups_of_a_generation() -> None:
    tree = joined(256, [range(lane, 256, 16) for lane in range(16)])
    inner, calls = probe_of(tree), []

    def probe(masks: Masks) -> np.ndarray:
        calls.append(len(masks))
        return inner(masks)

    assert reveal(probe, 256) == tree
    assert len(calls) <= 3


def test_something_that_is_no_sum_is_refused() -> None:
    noise = np.random.default_rng(0)
    with pytest.raises(ReplayError, match=r"fit no accumulation tree|no counts"):
        reveal(lambda masks: noise.integers(0, 20, len(masks)).astype(float), 20)
    with pytest.raises(ReplayError, match="no counts"):
        reveal(lambda masks: np.full(len(masks), np.nan), 20)


def test_it_gives_up_in_good_time() -> None:
    with pytest.raises(ReplayError, match="too long"):
        reveal(probe_of(chain(range(50))), 50, most_work=1000)


def test_one_term_has_nothing_to_reveal() -> None:
    assert reveal(lambda masks: np.zeros(len(masks)), 1) == Tree(1, ())

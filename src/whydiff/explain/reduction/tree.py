"""The order in which a sum was carried out, as a tree: leaves are the terms, inner nodes the additions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tree:
    """An accumulation tree in canonical form; equal trees are the same sum in the same order.

    Floating-point addition is commutative, so the children of a node have no order of their own: canonical
    means that they are sorted by their smallest leaf and that nodes are numbered in post-order.

    Attributes:
        leaves: number of terms K; their ids are 0 … K − 1, in the order of the reduced index.
        nodes: children of inner node K + i; every child's id is below K + i. More than two children: terms
            that one instruction adds at once.
    """

    leaves: int
    nodes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(leaves: int, nodes: Sequence[Sequence[int]]) -> Tree:
        """The canonical form of any tree whose children come before their parents and whose root is last.

        Args:
            leaves: number of terms, at least 1.
            nodes: children of node ``leaves + i``.

        Raises:
            ValueError: some leaf or node does not occur exactly once below the root.
        """
        used = sorted(child for node in nodes for child in node)
        if used != list(range(leaves + len(nodes) - 1)) or any(len(node) < 2 for node in nodes):
            raise ValueError("every leaf and every node but the root must be a child exactly once")
        if any(child >= leaves + i for i, node in enumerate(nodes) for child in node):
            raise ValueError("children must come before their parents")
        smallest = list(range(leaves))
        for node in nodes:
            smallest.append(min(smallest[child] for child in node))
        new: dict[int, int] = {leaf: leaf for leaf in range(leaves)}
        done: list[tuple[int, ...]] = []
        waiting = [(leaves + len(nodes) - 1, False)]
        while waiting:
            at, ready = waiting.pop()
            if at < leaves:
                continue
            children = sorted(nodes[at - leaves], key=smallest.__getitem__)
            if ready:
                new[at] = leaves + len(done)
                done.append(tuple(new[child] for child in children))
            else:
                waiting.append((at, True))
                waiting.extend((child, False) for child in reversed(children))
        return Tree(leaves, tuple(done))

    @property
    def root(self) -> int:
        """Id of the root (0 for a single leaf)."""
        return self.leaves + len(self.nodes) - 1

    def children(self, node: int) -> tuple[int, ...]:
        """Children of a node; empty for a leaf."""
        return self.nodes[node - self.leaves] if node >= self.leaves else ()

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Leaves below every id (a leaf counts itself)."""
        sizes = [1] * self.leaves
        for node in self.nodes:
            sizes.append(sum(sizes[child] for child in node))
        return tuple(sizes)

    @functools.cached_property
    def depth(self) -> int:
        """Most additions that one term passes through; the rounding error grows with it."""
        depths = [0] * self.leaves
        for node in self.nodes:
            depths.append(1 + max(depths[child] for child in node))
        return depths[-1]

    @functools.cached_property
    def widest(self) -> int:
        """Most children of a node (2 unless an instruction adds several terms at once)."""
        return max((len(node) for node in self.nodes), default=1)

    def leaves_of(self, node: int) -> list[int]:
        """Leaves below a node, ascending."""
        found, waiting = [], [node]
        while waiting:
            at = waiting.pop()
            if at < self.leaves:
                found.append(at)
            else:
                waiting.extend(self.children(at))
        return sorted(found)

    def restricted(self, leaves: Sequence[int]) -> Tree:
        """The order in which some of the terms are summed; they are numbered 0, 1 … as they are given."""
        new = {leaf: index for index, leaf in enumerate(leaves)}
        nodes: list[list[int]] = []
        top: list[int] = [new.get(leaf, -1) for leaf in range(self.leaves)]
        for node in self.nodes:
            kept = [top[child] for child in node if top[child] >= 0]
            if len(kept) > 1:
                nodes.append(kept)
                kept = [len(leaves) + len(nodes) - 1]
            top.append(kept[0] if kept else -1)
        return Tree.of(len(leaves), nodes)

    def relabelled(self, order: Sequence[int]) -> Tree:
        """The same shape with leaf k renamed ``order[k]`` (a permutation): a wrong tree to test with."""
        renamed = [[order[child] if child < self.leaves else child for child in node] for node in self.nodes]
        return Tree.of(self.leaves, renamed)

"""Reveal the accumulation tree of a sum that can only be called, never read.

After FPRev: Xie et al., "FPRev: Revealing the Order of Floating-Point Summation in Software and Hardware
Implementations", USENIX ATC 2025. With x_i = +M, x_j = −M (M so large that M + K == M) and 1 elsewhere, every
unit that meets +M or −M before the two cancel is lost. So K − output = number of leaves under the lowest
common ancestor of i and j. With one pivot against all others the leaves fall into groups, one per ancestor
of the pivot; each group is a subtree of its own and is revealed in the same way.

Two additions to the paper: all groups of one generation are measured in one batch, and units are placed only
on the group itself and on one *witness* from outside (chunk by chunk if the output cannot count that far), so
that a bfloat16 output, which counts exactly to 256, reveals any tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from whydiff.errors import ReplayError
from whydiff.explain.reduction.tree import Tree

PLUS, MINUS, UNIT = 2, -2, 1
"""What a mask may hold, beside 0 (nothing): +M, −M, one unit."""

MOST_WORK = 1 << 30
"""Terms evaluated, over all probes, before giving up: about ten seconds on one core. Orders seen on CPUs need
K**2 to 3 K**2, times K / 256 if the output is bfloat16."""

MOST_HELD = 1 << 24
"""Terms of masks in memory at a time."""


class Probe(Protocol):
    """Evaluates the sum on masks."""

    def __call__(self, masks: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
        """Outputs in units, one per row of ``masks`` (n, K) of the four codes above."""


@dataclass(slots=True)
class _Group:
    """Leaves that meet the rest at one node: one subtree, or several children of a node that adds many."""

    members: list[int]
    pivot: int
    witness: int
    levels: list[tuple[int, list[int], int]] = field(default_factory=list)
    beside: tuple[list[int], int] | None = None


def reveal(probe: Probe, leaves: int, *, countable: int = 1 << 24, most_work: int = MOST_WORK) -> Tree:
    """Reveal the tree of a sum.

    Args:
        probe: evaluates the sum on a batch of masks; must not depend on the values otherwise.
        leaves: number of terms K.
        countable: largest number of units that an output holds exactly (2**24 float32, 256 bfloat16).
        most_work: give up above this many evaluated terms (probes times K).

    Returns:
        The canonical tree.

    Raises:
        ReplayError: the outputs fit no tree (the probe does not sum these terms, or sums them in an order
            that depends on values or position), or too many probes are needed.
    """
    if leaves < 2:
        return Tree(max(leaves, 1), ())
    groups = [_Group(list(range(leaves)), 0, -1)]
    fresh, spent = [0], 0
    while fresh:
        batch = [groups[index] for index in fresh]
        spent += leaves * sum(len(g.members) * (1 + len(g.members) // countable) for g in batch)
        if spent > most_work:
            raise ReplayError(
                "Revealing this order of summation takes too long.",
                actual=f"{spent} evaluated terms for a sum of {leaves}",
                expected=f"at most {most_work}",
            )
        first = len(groups)
        for group, sizes in zip(batch, _measure(probe, batch, leaves, countable), strict=True):
            _split(group, sizes, groups)
        fresh = list(range(first, len(groups)))
    return _assemble(groups, leaves)


def _measure(probe: Probe, groups: Sequence[_Group], leaves: int, countable: int) -> list[npt.NDArray[np.int64]]:
    """For every group: its leaves (and witness) under the LCA of its pivot and each other member."""
    lost: list[npt.NDArray[np.int64]] = []
    held: list[npt.NDArray[np.int8]] = []
    most = max(1, MOST_HELD // leaves)
    for mask in (mask for group in groups for mask in _masks(group, leaves, countable, most)):
        if held and sum(map(len, held)) + len(mask) > most:
            lost.append(_lost(probe, np.concatenate(held)))
            held.clear()
        held.append(mask)
    counts = np.concatenate([*lost, _lost(probe, np.concatenate(held))])
    sizes, at = [], 0
    for group in groups:
        chunks, others = len(_units(group, countable)), len(group.members) - 1
        sizes.append(counts[at : at + chunks * others].reshape(chunks, others).sum(0) + 2)
        at += chunks * others
    return sizes


def _units(group: _Group, countable: int) -> list[list[int]]:
    """Where a group's units are put, in chunks that an output can count."""
    units = group.members + ([group.witness] if group.witness >= 0 else [])
    return [units[start : start + countable] for start in range(0, len(units), countable)]


def _masks(group: _Group, leaves: int, countable: int, most: int) -> Iterator[npt.NDArray[np.int8]]:
    """Masks of the pivot against every other member, chunk by chunk of units, at most ``most`` at a time."""
    others = np.array([m for m in group.members if m != group.pivot])
    for units in _units(group, countable):
        line = np.zeros(leaves, np.int8)
        line[units] = UNIT
        line[group.pivot] = PLUS
        for start in range(0, len(others), most):
            part = others[start : start + most]
            mask = np.repeat(line[None], len(part), 0)
            mask[np.arange(len(part)), part] = MINUS
            yield mask


def _lost(probe: Probe, masks: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """How many units of every mask did not survive."""
    outputs = probe(masks)
    counts = np.rint(outputs)
    if not np.all(np.isfinite(outputs)) or np.any(np.abs(outputs - counts) > 0.25):
        raise ReplayError("The probe's outputs are no counts.", expected="whole numbers of units")
    lost: npt.NDArray[np.int64] = (masks == UNIT).sum(1) - counts.astype(np.int64)
    return lost


def _split(group: _Group, sizes: npt.NDArray[np.int64], groups: list[_Group]) -> None:
    """Sort the members by the node where they meet the pivot, lowest first; queue what is unknown."""
    total = len(group.members)
    others = [m for m in group.members if m != group.pivot]
    by_size: dict[int, list[int]] = {}
    for leaf, size in zip(others, sizes.tolist(), strict=True):
        by_size.setdefault(size, []).append(leaf)
    beside = by_size.pop(total + 1, []) if group.witness >= 0 else []
    have = 1
    for size in sorted(by_size):
        members = by_size[size]
        have += len(members)
        if size != have:
            raise ReplayError(
                "The probe's counts fit no accumulation tree.",
                where=f"term {members[0]} against term {group.pivot}",
                actual=f"common node of {size} terms",
                expected=f"{have}",
                next_step="check that every probe sums the same terms in the same order",
            )
        group.levels.append((size, members, _queue(members, group.pivot, group, by_size, groups)))
    if beside:
        group.beside = (beside, _queue(beside, group.pivot, group, by_size, groups))


def _queue(
    members: list[int], witness: int, parent: _Group, by_size: dict[int, list[int]], groups: list[_Group]
) -> int:
    if len(members) == 1:
        return -1
    pivot = members[0]
    if len(by_size) <= 1 and len(members) > 8 and len(members) >= len(parent.members) - 2:
        # the pivot came last: try the other end, else the middle, so that a backward sum is not quadratic
        pivot = members[-1] if parent.pivot == parent.members[0] else members[len(members) // 2]
    groups.append(_Group(members, pivot, witness))
    return len(groups) - 1


def _assemble(groups: Sequence[_Group], leaves: int) -> Tree:
    """Groups were queued after their parents, so backwards every part is there before it is needed."""
    nodes: list[list[int]] = []
    made: dict[int, list[int]] = {}
    for index in range(len(groups) - 1, -1, -1):
        group = groups[index]
        top = group.pivot
        for _, members, part in group.levels:
            nodes.append([top, *(made.pop(part) if part >= 0 else members)])
            top = leaves + len(nodes) - 1
        made[index] = [top]
        if group.beside is not None:
            members, part = group.beside
            made[index] += made.pop(part) if part >= 0 else members
    if len(made[0]) != 1:
        raise ReplayError("The probe's counts fit no accumulation tree.", actual=f"{len(made[0])} roots")
    return Tree.of(leaves, nodes)

"""Where outputs that are choices part: token ids and the like are not numbers whose distance means something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import Executor, executor_of, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.judge.outputs import Anchor, Compared
from whydiff.numbers import metrics
from whydiff.numbers.metrics import is_integer, values
from whydiff.pair.replay import replay
from whydiff.records import Call, Slot


@dataclass(frozen=True, slots=True)
class Parting:
    """The first place at which two sequences of choices differ.

    Attributes:
        slot: of the output.
        position: along its last axis, the smallest over all sequences.
        length: of the reference's sequences.
        chosen: what the reference chose there.
        margin: by how much the reference's choice led the second best, where its scores were recorded.
    """

    slot: Slot
    position: int
    length: int
    chosen: int
    margin: float | None = None

    def __str__(self) -> str:
        lead = "" if self.margin is None else f", margin {self.margin:.2g}"
        return f"{self.slot} parts at token {self.position} of {self.length}{lead}"


def is_choice(one: Compared) -> bool:
    """Whether an output holds ids: integers of at least 32 bits along at least one axis."""
    return one.numbers is not None and all(metrics.is_choice(n.dtype) and n.bits.ndim > 0 for n in one.numbers)


def partings(returned: Anchor) -> tuple[Parting, ...]:
    """Of every output of ids that differs, also where one run made more of them."""
    found = []
    for one in returned.having("values", "shape"):
        if one.numbers is None or not is_choice(one):
            continue
        ours, theirs = (number.bits for number in one.numbers)
        if ours.shape[:-1] != theirs.shape[:-1] or not ours.size:
            continue
        both = min(ours.shape[-1], theirs.shape[-1])
        differs = (ours[..., :both] != theirs[..., :both]).reshape(-1, both)
        position = int(np.argmax(differs.any(axis=0))) if differs.any() else both
        row = int(np.argmax(differs[:, position])) if differs.any() else 0
        lines = ours.reshape(-1, ours.shape[-1])
        chosen = int(lines[row, position]) if position < lines.shape[1] else -1
        found.append(Parting(one.slot, position, ours.shape[-1], chosen))
    return tuple(found)


def generated(case: Case, returned: Anchor, parting: Parting) -> int | None:
    """Which generated token it is, counted from 1, where the output begins with ids that the reference read: a prompt."""
    output = next((one.numbers[0].bits for one in returned.outputs if one.slot == parting.slot and one.numbers), None)
    if output is None:
        return None
    lengths = []
    for leaf in case.reference.leaves:
        shape = leaf.spec.shape
        if not metrics.is_choice(leaf.spec.dtype) or len(shape) != output.ndim or shape[:-1] != output.shape[:-1]:
            continue
        read = case.reference.payload(leaf.payload) if leaf.payload and shape[-1] <= parting.position else None
        if read is not None and np.array_equal(read.bits, output[..., : shape[-1]]):
            lengths.append(shape[-1])
    return parting.position - max(lengths) + 1 if any(lengths) else None


def with_margins(case: Case, found: Sequence[Parting]) -> tuple[Parting, ...]:
    """Partings with the reference's lead there, read off the scores of which the choice is the largest.

    A call that reads scores ``[..., V]`` and writes the place of the largest, ``[...]``, made a choice; the last ones
    belong to the end of the sequence.
    """
    if not found or replayable(case.reference):
        return tuple(found)
    choices: list[tuple[int, float]] = []

    def look(executor: Executor, call: Call) -> None:
        if not _may_choose(call):
            return
        scores = executor.payload(executor.read(call.reads[0]))
        exact = values(scores.bits, scores.dtype).astype(np.float64).reshape(-1, scores.bits.shape[-1])
        taken = executor.payload(executor.written(call.writes[0])).bits.reshape(-1)
        if len(exact) == len(taken) == 1 and int(exact[0].argmax()) == int(taken[0]):
            second, first = np.partition(exact[0], -2)[-2:]
            choices.append((int(taken[0]), float(first - second)))

    try:
        replay(executor_of(case.reference), watch=look)
    except WhydiffError:
        return tuple(found)
    made = []
    for one in found:
        step = one.position - (one.length - len(choices))
        known = 0 <= step < len(choices) and choices[step][0] == one.chosen
        margin = choices[step][1] if known else None
        made.append(Parting(one.slot, one.position, one.length, one.chosen, margin))
    return tuple(made)


def _may_choose(call: Call) -> bool:
    if call.kind != "compute" or len(call.reads) != 1 or len(call.writes) != 1:
        return False
    scores, taken = call.reads[0].spec, call.writes[0].spec
    if is_integer(scores.dtype) or not metrics.is_choice(taken.dtype) or len(scores.shape) < 2 or scores.shape[-1] < 2:
        return False
    return taken.numel * scores.shape[-1] == scores.numel

"""One tensor under several names, of which one name holds another value: only what is read under that name changes.

``untie`` | name of a tensor | the other side's name | what the counterparts of its readers read there is read instead. Which
reads go by the name is told by the other side, where it is a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.errors import ReplayError
from whydiff.pair.lockstep import paired
from whydiff.records import Alignment, Event, Intervention, Trace

UNTIE = "untie"


def untied(
    reference: Executor, candidate: Trace, alignment: Alignment, interventions: Sequence[Intervention]
) -> Iterator[tuple[Event, Any]]:
    """Reads of the candidate, and what they read instead.

    Args:
        reference: a replay of the other side.
        candidate, alignment: of the pair.
        interventions: those named ``untie`` count.

    Raises:
        ReplayError: nothing on the other side reads that tensor.
    """
    names = {item.value or item.target: item.target for item in interventions if item.name == UNTIE}
    own = {leaf.storage: leaf.name for leaf in reference.trace.leaves if leaf.name in names and leaf.storage >= 0}
    found: set[str] = set()
    for pair in alignment.pairs if names else ():
        calls = reference.trace.calls[pair.reference], candidate.calls[pair.candidate]
        for ours, theirs in paired(*calls, "reads"):
            if ours.producer == -1 and ours.storage in own and theirs.producer == -1:
                found.add(own[ours.storage])
                with reference.running():
                    yield theirs, reference.copy(reference.read(ours))
    if names.keys() - found:
        raise ReplayError("Nothing reads this tensor under a name of its own.", where=min(names.keys() - found))

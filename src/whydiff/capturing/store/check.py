"""What must hold between the records of one trace, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.errors import TraceFormatError
from whydiff.records import Call, Leaf


def check_references(
    calls: Sequence[Call], leaves: Sequence[Leaf], contexts: int, where: str, complete: bool = True
) -> None:
    """Each index is its position; contexts exist; what is read was written before or is a leaf.

    A storage of -1 means that the tensor has none (sparse …) and is not looked for.

    Args:
        calls: of the trace.
        leaves: of the trace.
        contexts: how many contexts the trace has.
        where: the trace's source, for the message.
        complete: False for a trace that was cut: then leaves may be missing and are not looked for.

    Raises:
        TraceFormatError: the first contradiction.
    """
    known = {leaf.storage for leaf in leaves} | {-1}
    for position, call in enumerate(calls):
        problem = ""
        if call.index != position:
            problem = f"its index is {call.index}, its position is {position}"
        elif not 0 <= call.context < contexts:
            problem = f"it names context {call.context} of {contexts}"
        for event in call.reads:
            if not -1 <= event.producer < position:
                problem = f"{event.site.slot or 'a read'} names producer {event.producer}"
            elif complete and event.storage not in known:
                problem = f"{event.site.slot or 'a read'} looks at storage {event.storage}, made by nothing"
        for event in call.writes:
            known.add(event.storage)
            if not -1 <= event.producer <= position:
                problem = f"{event.site.slot or 'a write'} names producer {event.producer}"
        if problem:
            raise TraceFormatError(
                "The records of a trace contradict each other.",
                where=f"{where}: call {position} ({call.site})",
                actual=problem,
                next_step="The adapter that captured this trace has a defect; please report it.",
            )

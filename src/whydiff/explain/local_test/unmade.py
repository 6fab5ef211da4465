"""Whether an op's output was made of the inputs that were recorded for it.

Where both sides carry out one op on equal bits, with equal arguments, under equal switches and in one environment, nothing
that was recorded tells them apart. An error on one side that no rounding and no known precision explains is then no
matter of precision: memory was changed by something that is no op and that nobody saw before the op read it, or the op
itself does not repeat, or had another kernel behind its name. Which of them it was nothing tells, so nothing is claimed.
"""

from __future__ import annotations

from dataclasses import replace

from whydiff.explain.case import Case
from whydiff.explain.local_test.judge import LocalResult
from whydiff.records import Call, Event, Evidence, Verdict
from whydiff.records.finding import NOT_MADE_OF

_DRAWS = "rng."


def unmade(case: Case, reference: Call, candidate: Call, result: LocalResult) -> LocalResult:
    """The local test's result of one op on equal inputs; undecided where its inputs cannot be what it read."""
    if not result.unexplained or not _nothing_tells(case, reference, candidate):
        return result
    text = (
        f"the values recorded as the inputs of {reference.site if result.unexplained == 'reference' else candidate.site} do "
        f"not give its output on the {result.unexplained}'s side, and nothing that was recorded tells the two sides apart: "
        "memory was changed outside torch where nobody saw it, or the op does not repeat or has another kernel behind its name"
    )
    found = Evidence(text, {NOT_MADE_OF: result.unexplained})
    return replace(
        result, verdict=Verdict.INCONCLUSIVE, reason=f"{result.reason}; {text}", evidence=(*result.evidence, found)
    )


def _nothing_tells(case: Case, reference: Call, candidate: Call) -> bool:
    """Whether both sides did the same thing in the same way, as far as was recorded."""
    around = [name for name, _, _ in case.environment_changes if not name.startswith(_DRAWS)]
    if around or reference.target != candidate.target or reference.arguments != candidate.arguments:
        return False
    flags = [
        trace.contexts[call.context] if trace.contexts else {}
        for trace, call in ((case.reference, reference), (case.candidate, candidate))
    ]
    looks = [[_look(event) for event in (*call.reads, *call.writes)] for call in (reference, candidate)]
    return flags[0] == flags[1] and looks[0] == looks[1]


def _look(event: Event) -> tuple[object, ...]:
    spec = event.spec
    return spec.shape, spec.dtype, spec.device, spec.strides

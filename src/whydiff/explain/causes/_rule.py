"""What a cause's file registers, its place among the others, and what is demanded of it."""

from __future__ import annotations

import abc
import heapq
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from whydiff.errors import UsageError
from whydiff.explain.case import Case
from whydiff.explain.causes._view import Finding, JointView, View
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import (
    Cause,
    Evidence,
    Experiment,
    Intervention,
    Leaf,
    Measurement,
    Payload,
    Remedy,
    Status,
    Verdict,
)

HEADINGS = (
    "What it detects",
    "Why it happens",
    "Evidence required",
    "Look-alikes",
    "Example",
    "Remedy",
    "How it is verified",
    "References",
)
"""Of the docstring of every cause, in this order."""


class StateView:
    """One state tensor that differs, as a cause of state sees it.

    Attributes:
        case: the pair of runs.
        names: every name that both sides give these elements, in the reference's naming.
        reference, candidate: the leaves of the first name.
        payloads: both sides' values at the beginning of the run; None where a trace did not keep them.
        tied: names that only one side ties to this one: (the side that ties them, names); None if there are none.
    """

    def __init__(
        self,
        *,
        case: Case,
        names: tuple[str, ...],
        reference: Leaf,
        candidate: Leaf,
        payloads: tuple[Payload, Payload] | None,
        tied: tuple[str, tuple[str, ...]] | None,
    ) -> None:
        self.case, self.names, self.reference, self.candidate = case, names, reference, candidate
        self.payloads, self.tied = payloads, tied


class CauseRule(abc.ABC):
    """One cause: how it is found, shown, removed and put in.

    Its docstring is its page, with the headings *What it detects / Why it happens / Evidence required / Look-alikes /
    Example / Remedy / How it is verified / References*.

    Attributes:
        code: family (two capital letters) and number (three digits): ``"ST003"``.
        name: the bad pattern in kebab-case, never the fix: ``"state-cast"``.
        general: it says what differs without knowing the mistake, so it is asked after all that know theirs.
        samples: it can tell from some of a place's results, of which no more were carried out (`Examined.sampled`).
        several_ranks: it is asked where several ranks are compared with one process, and nowhere else.
        yields_to: codes or families (``"FO"``) of causes that are asked before this one.
        precedes: codes or families of causes that are asked after this one.
        alarms: kinds of range alarms that it explains, see `from_alarm`.
        says: what happened, in one plain sentence, where the docstring's first is not plain enough; a `Cause` that
            knows the side and the values says more (`Cause.says`). In braces: facts of its `Finding`.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    general: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    several_ranks: ClassVar[bool] = False
    yields_to: ClassVar[tuple[str, ...]] = ()
    precedes: ClassVar[tuple[str, ...]] = ()
    alarms: ClassVar[tuple[str, ...]] = ()
    says: ClassVar[str] = ""

    @abc.abstractmethod
    def detect(self, case: Case) -> Iterable[Cause]:
        """Hypotheses from measured evidence, status ``inconclusive``, with the interventions that would remove them."""

    @abc.abstractmethod
    def example(self) -> tuple[Any, Any]:
        """A minimal (reference, candidate) of targets without arguments; a framework is imported inside."""

    def cause(
        self,
        site: str,
        verdict: Verdict,
        evidence: Iterable[Evidence],
        remedy: Remedy | None,
        *,
        status: Status = "inconclusive",
        reason: str = "",
        experiments: tuple[Experiment, ...] = (),
        interventions: tuple[Intervention, ...] = (),
        put_in: tuple[Intervention, ...] = (),
        effect: tuple[Measurement, ...] = (),
        inert: bool = False,
        says: str = "",
        after: str = "",
    ) -> Cause:
        """A `Cause` of this rule's code and name."""
        return Cause(
            code=self.code,
            name=self.name,
            site=site,
            verdict=verdict,
            evidence=tuple(evidence),
            remedy=remedy,
            status=status,
            reason=reason,
            experiments=experiments,
            interventions=interventions,
            put_in=put_in,
            effect=effect,
            inert=inert,
            says=says,
            after=after,
        )

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Pairs for which taking it away works and its name is wrong: it must not be confirmed there."""
        return ()

    def take_away(self, case: Case, cause: Cause) -> Sequence[Intervention]:
        """What removes the cause from the candidate and does nothing else; the outputs become the reference's."""
        return cause.interventions

    def put_in(self, case: Case, cause: Cause) -> Sequence[Intervention]:
        """What puts the cause into the reference and does nothing else; empty: it is not known how.

        Unless the cause says otherwise it is the mirror of what takes it away.
        """
        return cause.put_in or case.experiments.mirrored(self.take_away(case, cause)) or ()

    def sentence(self) -> str:
        """What happened, in one plain sentence."""
        return self.says or (inspect.getdoc(type(self)) or "").partition("\n")[0].rstrip(".")

    def explain(self, view: View) -> Finding | None:
        """What this cause says of one origin; the first cause that answers gets it."""
        return None

    def explain_joint(self, view: JointView) -> Finding | None:
        """What this cause says of several origins that belong together."""
        return None

    def explain_number(self, view: View) -> Finding | None:
        """What this cause says of a place, or of several, that differ in numbers of the code and in nothing else."""
        return None

    def explain_state(self, view: StateView) -> Any:
        """What this cause can prove about one differing state tensor (any value but None); None: it is not its own."""
        return None

    def from_alarm(self, alarm: Alarm) -> Cause:
        """The cause that an alarm of a kind in `alarms` stands for."""
        raise NotImplementedError(alarm.kind)


def demands(part: Any, name: str) -> Iterator[str]:
    """What a registered cause lacks."""
    for attribute, form, example in (
        ("code", r"[A-Z]{2}\d{3}", "'ST003'"),
        ("name", r"[a-z0-9]+(-[a-z0-9]+)*", "'state-cast'"),
    ):
        value = inspect.getattr_static(part, attribute, None)
        if not isinstance(value, str) or not re.fullmatch(form, value):
            yield f"it has no {attribute} like {example}" + ("" if value is None else f" but {value!r}")
    for attribute in ("yields_to", "precedes", "alarms"):
        value = inspect.getattr_static(part, attribute)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            yield f"{attribute} is {value!r}, not a tuple of strings"
    if not isinstance(part.general, bool):
        yield f"general is {part.general!r}, not True or False"
    page = type(part).__doc__ or ""
    missing = [heading for heading in HEADINGS if not re.search(rf"^ *{heading}:$", page, re.MULTILINE)]
    if missing:
        yield (
            f"its docstring lacks the headings {', '.join(missing)}"
            if page
            else "it has no docstring, which is its page"
        )


def in_order(rules: Mapping[str, CauseRule]) -> tuple[CauseRule, ...]:
    """Causes as they are asked: as their relations say, general ones last, else by code.

    Args:
        rules: name it is registered under → cause.

    Raises:
        UsageError: the relations contradict each other; the message names who is in the circle.
    """
    known = {rule.code: rule for rule in rules.values()}
    before: dict[str, set[str]] = {code: set() for code in known}
    for code, rule in known.items():
        for other in known.values():
            if other is rule:
                continue
            named = [{rule.code, rule.code[:2]}, {other.code, other.code[:2]}]
            if other.general < rule.general or named[1] & {*rule.yields_to} or named[0] & {*other.precedes}:
                before[code].add(other.code)
    ready = [code for code, earlier in before.items() if not earlier]
    heapq.heapify(ready)
    ordered: list[str] = []
    while ready:
        done = heapq.heappop(ready)
        ordered.append(done)
        for code, earlier in before.items():
            if done in earlier:
                earlier.remove(done)
                if not earlier:
                    heapq.heappush(ready, code)
    left = sorted(known.keys() - {*ordered})
    if left:
        raise UsageError("Causes yield to each other in a circle.", actual=", ".join(left))
    return tuple(known[code] for code in ordered)

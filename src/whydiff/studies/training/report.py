"""What comparing two training runs found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from whydiff.records import Diagnosis, Verdict
from whydiff.report.answer import answer
from whydiff.report.blocks import Chart, Lines, Section, Table, Text
from whydiff.report.view import build
from whydiff.report.words import count, listed, percent, short
from whydiff.studies.base import Study
from whydiff.studies.training.curves import Band, Point
from whydiff.studies.training.parting import Part, Parting, Setting

_SHOWN = 12
_NAMES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport(Study):
    """Two training runs, step by step.

    Attributes:
        verdict: ``identical`` if no loss, gradient or parameter differs at any step that both runs take, and neither
            log ends early; else that of the first step that parts.
        steps: how many steps the reference and the candidate take.
        ahead: how many steps of the reference come before the candidate's first.
        parting: the first step at which numbers differ; None: there is none.
        begins: of a resumed run: what its first step begins with, part by part.
        points: both runs step by step.
        band: whether rounding alone parts the reference as far; None: not measured.
        diagnosis: the first step that parts, in full; None: nothing parts, or it was not asked for.
        notes: sentences worth reading.
        settings: the hyperparameters that differ.
    """

    title: ClassVar[str] = "training"
    verdict: Verdict
    steps: tuple[int, int]
    ahead: int
    parting: Parting | None
    begins: tuple[Part, ...]
    points: tuple[Point, ...]
    band: Band | None
    diagnosis: Diagnosis | None
    notes: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()

    @property
    def word(self) -> str:
        """The verdict."""
        return str(self.verdict)

    def remedy(self) -> str:
        """Code of the step's remedy."""
        return answer(self.diagnosis).code if self.diagnosis is not None else ""

    def fields(self) -> dict[str, Any]:
        """The record's fields; the diagnosis as its own document."""
        found = Study.fields(self)
        found["diagnosis"] = self.diagnosis.to_dict() if self.diagnosis is not None else None
        return found

    def answer(self) -> Lines:
        """(label, sentence) pairs."""
        common = len([point for point in self.points if point.loss is not None and point.other_loss is not None])
        if self.parting is None:
            return self._agreement(common)
        agrees = self.diagnosis is not None and self.diagnosis.verdict is Verdict.IDENTICAL
        found = answer(self.diagnosis).lines() if self.diagnosis is not None and not agrees else ()
        apart = self.parting
        here = f"step {apart.step}" + (f" (step {apart.step - self.ahead} of the candidate)" if self.ahead else "")
        named = f": {listed(apart.names, _NAMES)}" if apart.names else ""
        first = ("parts", f"at {here} of {self.steps[0]}; first in the {apart.what}{named}")
        if not found:
            why = "run again by itself, the step agrees" if agrees else self._unexplained()
            return (("", f"INCONCLUSIVE: the runs part at {here}; {why}"), first, *self._set(), *self._chaos())
        return (found[0], first, *self._chaos(), *found[1:])

    def _agreement(self, common: int) -> Lines:
        more = self.steps[0] - self.ahead - self.steps[1]
        if self.verdict is not Verdict.IDENTICAL and (not more or not common):
            until = f"all of {count(common, 'step')} is bit-equal until then" if common else "no step was compared"
            return (("", f"INCONCLUSIVE: a log ends early or holds no step; {until}"), ("where", "nowhere so far"))
        side = "reference" if more > 0 else "candidate"
        beyond = f"; the {side} takes {count(abs(more), 'step')} more" if more else ""
        resumed = f" from step {self.ahead} of the reference on" if self.ahead else ""
        equal = f"all losses, gradients and parameters of {count(common, 'step')} are bit-equal"
        so_far = " so far" if more else ""
        return (("", f"{str(self.verdict).upper()}: {equal}{resumed}{beyond}"), ("where", f"nowhere{so_far}"))

    def _unexplained(self) -> str:
        differ = f", but {count(len(self.settings), 'hyperparameter')} differ{'s' * (len(self.settings) == 1)}"
        return "the step was not explained" + (differ if self.settings else "")

    def _set(self) -> Lines:
        said = (
            f"{one.name} is {one.reference} in the reference, {one.candidate} in the candidate "
            + (f"from step {one.step} on" if one.stays else f"at step {one.step}")
            for one in self.settings[:_NAMES]
        )
        more = len(self.settings) - _NAMES
        return (("set", "; ".join(said) + (f"; and {more} more" if more > 0 else "")),) if self.settings else ()

    def _chaos(self) -> Lines:
        if self.band is None:
            return ()
        rate = (
            f"{count(self.band.runs, 'run')}; one more of them lies outside at {percent(self.band.rate)} of the steps"
        )
        if self.band.leaves is None:
            return (("chaos", f"inside the band that rounding alone makes of the reference, at every step ({rate})"),)
        return (("chaos", f"it leaves the band of rounding at step {self.band.leaves} ({rate})"),)

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Notes, what a resumed run begins with, curves, and the step in full."""
        step = build(self.diagnosis, verbose=verbose).sections if self.diagnosis is not None else ()
        where = f"Step {self.parting.first}: " if self.parting is not None else ""
        return (
            Section("Notes", tuple(Text(note) for note in self.notes)),
            Section("What the resumed run begins with", _parts(self.begins)),
            Section(
                "What the parting step begins with", _parts(self.parting.parts) if self.parting is not None else ()
            ),
            Section("Steps", _curves(self.points, self.parting, verbose)),
            *(Section(where + section.title, section.blocks) for section in step),
        )


def _parts(parts: tuple[Part, ...]) -> tuple[Table, ...]:
    if not parts:
        return ()
    words = {True: "as in the reference", False: "differs", None: "not seen"}
    rows = tuple((part.name, words[part.equal], listed(part.differing, _NAMES)) for part in parts)
    return (Table(("part", "", "what differs"), rows),)


def _curves(points: tuple[Point, ...], parting: Parting | None, verbose: bool) -> tuple[Any, ...]:
    if not points:
        return ()
    shown = points if verbose else _chosen(points, parting)
    columns = ("step", "loss", "candidate's", "gradient", "update", "absorbed", "apart", "by rounding")
    rows = tuple(
        (
            str(point.step),
            _number(point.loss),
            _number(point.other_loss),
            _number(point.gradient),
            _number(point.update),
            "–" if point.absorbed is None else percent(point.absorbed),
            _number(point.apart),
            _number(point.band),
        )
        for point in shown
    )
    left = len(points) - len(shown)
    more = (Text(f"{count(left, 'further step')}; -v shows all."),) if left else ()
    return (*_charts(points), Table(columns, rows, numeric=columns), *more)


def _charts(points: tuple[Point, ...]) -> tuple[Chart, ...]:
    steps = tuple(str(point.step) for point in points)
    losses = (("reference", tuple(p.loss for p in points)), ("candidate", tuple(p.other_loss for p in points)))
    apart = (
        ("apart", tuple(p.apart or None for p in points)),
        ("what rounding alone makes", tuple(p.band or None for p in points)),
    )
    return (
        Chart(title="Loss by step", kind="line", x=steps, series=losses, unit="loss"),
        Chart(
            title="Distance of the parameters by step", kind="line", x=steps, series=apart, unit="relative", log=True
        ),
    )


def _chosen(points: tuple[Point, ...], parting: Parting | None) -> tuple[Point, ...]:
    """The steps around the parting, and others spread over the run."""
    at = next((i for i, point in enumerate(points) if parting is not None and point.step == parting.step), 0)
    around = set(range(max(0, at - 2), min(len(points), at + 4)))
    spread = {round(i * (len(points) - 1) / max(1, _SHOWN - 1)) for i in range(_SHOWN)}
    return tuple(points[i] for i in sorted(around | spread))


def _number(value: float | None) -> str:
    return "–" if value is None else short(value)

"""The single document that every reporter receives, and what a report lets people look at besides the findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from whydiff import registry
from whydiff.records.environment import Environment, ObserverCheck
from whydiff.records.finding import STANDING, Alignment, Cause, Comparison, Count, Growth, Measurement, Origin, Verdict
from whydiff.records.trace import SCHEMA_VERSION, Trace, has_ops
from whydiff.takes import PATH, takes


@dataclass(frozen=True, slots=True)
class Side:
    """Where one side came from and what it looked like; ``silent``: no op of it was seen, ``kept``: tensors of it."""

    source: str
    framework: str
    level: str
    calls: int
    environment: Environment
    observer: ObserverCheck
    complete: bool = True
    note: str = ""
    silent: bool = False
    kept: bool = False

    @classmethod
    def of(cls, trace: Trace) -> Side:
        """The side that a trace was recorded from."""
        return cls(
            source=trace.source,
            framework=trace.framework,
            level=trace.level,
            calls=len(trace.calls),
            environment=trace.environment,
            observer=trace.observer,
            complete=trace.complete,
            note=trace.note,
            silent=trace.level == "op" and not has_ops(trace),
            kept=bool(trace.payloads),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTolerance:
    """How outputs lie to those of a golden trace, and to what rounding may make of them, as measured when it was recorded.

    Attributes:
        slot: of the output that exceeds its tolerance most; of those that do not, the one that differs most.
        rtol, atol: its tolerance; None: there is none, or its values cannot be compared.
        within: every output is within its tolerance.
        others: inputs and state that hold other numbers than when it was recorded: no tolerance of the outputs excuses them.
        suspect: what a cause says that would be another function, which none excuses either; empty if there is none.
    """

    slot: str
    rtol: float | None
    atol: float | None
    within: bool
    others: tuple[str, ...] = ()
    suspect: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The single document that every reporter receives.

    Attributes:
        verdict: the most severe material verdict.
        reason: one sentence for the verdict.
        origins: in execution order.
        causes: best first (confirmed, then by effect); inert ones last.
        impact: what the user sees in the outputs.
        outputs: comparison per returned tensor, by `whydiff.records.Slot` as text: the path within what was returned,
            with ``@k`` after it for a run's k-th further return.
        growth: the plain difference by depth, in execution order.
        alignment: counts are in the reports; full pairs for machines.
        sides: reference, candidate.
        environment_changes: (where, reference's, candidate's), e.g. ("versions.torch", "2.5.0", "2.13.0").
        not_compared: everything that was skipped, unpaired, sampled or could not be replayed, counted.
        accounted: True if resynchronising at the origins leaves no bit of difference in the outputs.
        notes: sentences worth reading (observer effects, nondeterminism, limits).
        ops: every op of both runs, in the order of execution.
        pictures: how the outputs and the first places differ, where full tensors were held.
        by_tolerance: of a golden trace, where the evidence leaves the verdict open.
        expected: the worst verdict that is as it should be; a port may round otherwise.
    """

    verdict: Verdict
    reason: str
    origins: tuple[Origin, ...]
    causes: tuple[Cause, ...]
    impact: tuple[Measurement, ...]
    outputs: tuple[tuple[str, Comparison], ...]
    growth: tuple[Growth, ...]
    alignment: Alignment
    sides: tuple[Side, Side]
    environment_changes: tuple[tuple[str, str, str], ...] = ()
    not_compared: tuple[Count, ...] = ()
    accounted: bool | None = None
    notes: tuple[str, ...] = ()
    ops: tuple[OpRow, ...] = ()
    pictures: tuple[Picture, ...] = ()
    by_tolerance: ByTolerance | None = None
    expected: Verdict = Verdict.IDENTICAL
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        """One line: the verdict, the first cause that stands, how many places; `print` shows the report."""
        cause = next((c for c in self.causes if c.status != "refuted" and not c.inert), None)
        because = f", {cause.code} {cause.name} ({STANDING.get(cause.status, cause.status)})" if cause else ""
        count = len(self.origins)
        return f"<Diagnosis: {self.verdict}{because}, {count} {'place' if count == 1 else 'places'}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return registry.get("reporters", "notebook")().render(self)  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """The whole document as JSON-able data."""
        return registry.get("reporters", "json")().to_dict(self)  # type: ignore[no-any-return]

    def print(self, **options: Any) -> None:
        """Print the terminal report; options go to the terminal reporter's constructor."""
        registry.get("reporters", "terminal")(**options).print(self)

    @takes("Diagnosis.save", path=PATH)
    def save(self, path: str) -> None:
        """Write the report that belongs to the path's suffix (``.json``, ``.md``, ``.html`` …).

        Raises:
            whydiff.errors.UsageError: no reporter writes that suffix, or the file cannot be written.
            whydiff.errors.PluginError: another distribution's reporter raised.
        """
        reporter = registry.reporter_for(path)
        with registry.blamed():
            reporter.save(self, path)


OpState = Literal["agrees", "differs", "starts here", "not compared", "reference only", "candidate only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow:
    """One op of both runs, as a table lists it.

    Attributes:
        scope, op: the place in the reference's naming (of an op that only the candidate has, in its own).
        state: of what it wrote, in the plain runs: ``starts here`` if it is an origin, ``differs`` also where only its
            inputs did, ``not compared`` where a fingerprint is missing or sizes differ.
        target: full operator name, the candidate's after `` ↔ `` if it is another.
        reads, writes: dtype and shape of tensors, the candidate's after `` ↔ `` where they are others.
        phase: forward, backward or update.
        step: of training or decoding.
        occurrence: how many times this op occurred before in this scope.
        source: ``file:line`` of the user's code, if known.
    """

    scope: str
    op: str
    state: OpState
    target: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    phase: str = "forward"
    step: int = 0
    occurrence: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """How two tensors differ, small enough for a report.

    Attributes:
        name: of the output or the place.
        spec: dtype and shape of the reference's tensor.
        grid: largest absolute difference within each cell, row by row; the tensor is seen as a matrix of its last axis.
        rows, columns: how many rows and columns of the matrix one row and one column of the grid stand for.
        ulps: (at least so many units in the last place of the reference, how many elements), powers of two.
        first: index of the first element that differs.
        values: the reference's and the candidate's value there.
        seen: elements looked at, of how many.
    """

    name: str
    spec: str
    grid: tuple[tuple[float, ...], ...]
    rows: int
    columns: int
    ulps: tuple[tuple[int, int], ...]
    first: tuple[int, ...]
    values: tuple[str, str]
    seen: tuple[int, int]

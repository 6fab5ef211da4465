"""Capture everywhere, compare pairs, find the responsible difference."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from whydiff.capturing.adapters import Progress
from whydiff.capturing.store import open_trace
from whydiff.errors import UsageError
from whydiff.explain.causes import INERT, by_code, code_of
from whydiff.judge.outputs import between
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.pair.replay import recorded_outputs
from whydiff.records import (
    Cause,
    Environment,
    Event,
    Evidence,
    Experiment,
    Fingerprint,
    Intervention,
    Output,
    Status,
    Trace,
    Verdict,
)
from whydiff.studies.matrix.bisect import INTERPRETER, Bisection, mixed
from whydiff.studies.matrix.records import Cell, Pairing, Responsible, Setting
from whydiff.studies.matrix.report import Matrix
from whydiff.studies.matrix.worker import Worker

DEFAULT_MAX_BYTES = 8 << 30
_PARTS = ("versions", "hardware", "flags", "variables")
_PREDICTION = "the outputs have the candidate's bits"
_CHANGES = "the outputs have other bits than the reference's"


@dataclass(frozen=True, slots=True)
class MatrixOptions:
    """How to run a matrix.

    Attributes:
        folder: traces, answers and logs go here; a second run on the same folder resumes.
        arguments: JSON values given to the target.
        timeout: seconds per process.
        max_bytes: most bytes of full tensors per reference; beyond it pairs are compared by fingerprints.
        every_pair: compare all pairs, not only each with the first.
        bisect: find the responsible difference by experiments.
        fresh: run finished cells again.
        progress: called with (stage, done, total).
    """

    folder: Path
    arguments: tuple[Any, ...] = ()
    timeout: float = 600.0
    max_bytes: int = DEFAULT_MAX_BYTES
    every_pair: bool = False
    bisect: bool = True
    fresh: bool = False
    progress: Progress = lambda stage, done, total: None


def run_matrix(target: str, environments: Sequence[Setting], options: MatrixOptions) -> Matrix:
    """Run a target in every environment and compare.

    Args:
        target: ``FILE.py:name`` or ``package.module:name``; it is loaded in every environment, never here.
        environments: at least two; the first is the reference.
        options: see `MatrixOptions`.

    Raises:
        UsageError: the file does not exist, an interpreter cannot be run, or the folder cannot be made.
    """
    return _Study(target, environments, options).run()


class _Study:
    def __init__(self, target: str, environments: Sequence[Setting], options: MatrixOptions) -> None:
        self.options, self.environments = options, tuple(environments)
        self.target, self.identity = _identified(target)
        self.worker = Worker(options.folder, options.timeout, fresh=options.fresh)
        self.notes: list[str] = []
        self._cells: dict[Setting, Cell] = {}

    def run(self) -> Matrix:
        for python in dict.fromkeys(setting.python for setting in self.environments):
            self.worker.probe(python)
        for number, setting in enumerate(self.environments):
            self.options.progress(f"run {setting.variables_text}", number, len(self.environments))
            self.cell(setting)
        cells = tuple(self._cells[setting] for setting in self.environments)
        count = range(len(cells))
        pairs = list(itertools.combinations(count, 2)) if self.options.every_pair else [(0, j) for j in count[1:]]
        pairings = []
        for number, (i, j) in enumerate(pairs):
            self.options.progress("compare environments", number, len(pairs))
            pairings.append(self.pairing(cells, i, j))
        if any(cell.resumed for cell in cells):
            taken = sum(cell.resumed for cell in cells)
            self.notes.append(f"{taken} of {len(cells)} environments come from an earlier run in {self.options.folder}")
        return Matrix(self.target, cells, tuple(pairings), tuple(self.notes))

    # ------------------------------------------------------------------ one environment

    def request(self, payloads: str) -> dict[str, Any]:
        return {
            "do": "capture",
            "target": self.target,
            "arguments": list(self.options.arguments),
            "payloads": payloads,
            "check": payloads == "none",
            "max_bytes": self.options.max_bytes if payloads == "all" else None,
        }

    def cell(self, setting: Setting) -> Cell:
        """Run the target in an environment, fingerprints only (remembered)."""
        if setting not in self._cells:
            answer = self.worker.ask(setting, self.request("none"), self.identity)
            if answer.status != "done":
                cell = Cell(setting, "timeout" if answer.status == "timeout" else "failed", answer.note)
            else:
                cell = _read(setting, answer.data["trace"], answer.resumed)
            self._cells[setting] = cell
        return self._cells[setting]

    # ------------------------------------------------------------------ one pair

    def pairing(self, cells: Sequence[Cell], i: int, j: int) -> Pairing:
        reference, candidate = cells[i], cells[j]
        broken = [cell for cell in (reference, candidate) if cell.status != "done"]
        changes = environment_changes(reference.environment, candidate.environment)
        if broken:
            why = "; ".join(f"{cell.setting.variables_text}: {cell.status}" for cell in broken)
            return Pairing(i, j, "not compared", why, () if broken else changes)
        same = reference.program == candidate.program and reference.deterministic and candidate.deterministic
        if same and _outputs_equal(reference, candidate):
            return Pairing(i, j, Verdict.IDENTICAL.value, "zero bits differ in every recorded value", changes, 0)
        pairing = self.compared(Pairing(i, j, "not compared", "", changes), reference, candidate)
        return self.bisected(pairing, reference, candidate) if self.options.bisect else pairing

    def compared(self, pairing: Pairing, reference: Cell, candidate: Cell) -> Pairing:
        """Compare in the candidate's environment, by full tensors if they fit, else by fingerprints."""
        trace, note = reference.trace, ""
        if reference.payload_bytes > self.options.max_bytes:
            note = (
                f"full tensors would take {reference.payload_bytes} bytes, more than --max-bytes "
                f"{self.options.max_bytes}: origins are read off the fingerprints, later ones may hide"
            )
        else:
            self.options.progress(f"keep {reference.payload_bytes} bytes of full tensors", 0, 0)
            answer = self.worker.ask(reference.setting, self.request("all"), self.identity)
            if answer.status == "done":
                trace = answer.data["trace"]
            else:
                note = f"the full tensors could not be kept: {answer.note.splitlines()[0]}"
        if note:
            self.notes.append(note)
        asked = {"do": "compare", "target": self.target, "arguments": list(self.options.arguments), "reference": trace}
        answer = self.worker.ask(candidate.setting, asked, self.identity)
        if answer.status != "done":
            return replace(pairing, reason=answer.note)
        return _with(pairing, answer.data["diagnosis"])

    def bisected(self, pairing: Pairing, reference: Cell, candidate: Cell) -> Pairing:
        """Which differences of environment change the outputs (or, if they agree, anything)."""
        repeats = reference.deterministic, candidate.deterministic
        if not all(repeats):
            why = "a run differs from itself" if False in repeats else "whether a run differs from itself is not known"
            self.notes.append(f"{why}: no difference of environment can be made responsible")
            return pairing
        sign = _outputs if _outputs(reference) != _outputs(candidate) else attrgetter("program")
        count = 0

        def run(setting: Setting) -> str | None:
            nonlocal count
            count += 1
            self.options.progress(f"try {setting.variables_text}", count, 0)
            cell = self.cell(setting)
            return sign(cell) if cell.status == "done" else None

        search = Bisection(reference.setting, candidate.setting, run)
        if not search.names:
            return pairing
        names = search.find()
        found = [search.judge(name, self.shown(search, name)) for name in names]
        proven = search.proven(names)
        if search.unknown:
            self.notes.append(f"could not be run while searching: {'; '.join(search.unknown)}")
        causes = tuple(cause for one in found for cause in causes_of(one, pairing, proven))
        return replace(
            pairing,
            responsible=tuple(found),
            tried=(len(search.names), search.runs),
            causes=causes,
            diagnosis=_confirmed(pairing.diagnosis, causes),
        )

    def shown(self, search: Bisection, name: str) -> tuple[tuple[str, str, str], ...]:
        """What the environment shows when this difference alone is carried over."""
        alone = self._cells.get(mixed(search.reference, search.candidate, [name]))
        if alone is None or alone.status != "done":
            where = "versions" if name == INTERPRETER else f"variables.{name}"
            return ((where, str(search.reference), str(search.candidate)),)
        return environment_changes(self._cells[search.reference].environment, alone.environment)


def environment_changes(reference: Environment, candidate: Environment) -> tuple[tuple[str, str, str], ...]:
    """(where, reference's, candidate's) of versions, hardware, flags, variables; random states left out."""
    found = []
    for part in _PARTS:
        ours, theirs = getattr(reference, part), getattr(candidate, part)
        for name in [*ours, *(n for n in theirs if n not in ours)]:
            if ours.get(name) != theirs.get(name):
                found.append((f"{part}.{name}", str(ours.get(name)), str(theirs.get(name))))
    return tuple(found)


def _identified(target: str) -> tuple[str, str]:
    """A target that means the same from everywhere, and a digest of its file's content."""
    file, colon, name = target.rpartition(":")
    if not colon:
        raise UsageError("This is no target.", actual=target, expected="FILE.py:name or package.module:name")
    if not file.endswith(".py"):
        return target, ""
    path = Path(file)
    if not path.is_file():
        raise UsageError("There is no such file.", where=target, actual=file, expected="FILE.py:name")
    return f"{path.resolve()}:{name}", hashlib.sha256(path.read_bytes()).hexdigest()


def _read(setting: Setting, path: str, resumed: bool) -> Cell:
    with open_trace(path) as trace:
        check = trace.observer
        note = check.note if check.deterministic is False or check.unchanged is False else ""
        outputs = {str(output.slot): _output(output) for output in recorded_outputs(trace)}
        return Cell(
            setting,
            "done",
            note,
            trace.environment,
            outputs,
            _digest(trace),
            check.deterministic,
            _bytes(trace),
            path,
            resumed,
        )


def _output(output: Output) -> str:
    """An output's kind and bits, or its text."""
    seen = fingerprint_bytes(output.payload.bits) if output.payload is not None else output.fingerprint
    return f"{output.kind} {output.type} {output.spec} {_lanes(seen) or output.text}"


def _outputs_equal(reference: Cell, candidate: Cell) -> bool:
    """Whether every output of both cells was compared and is bit-equal."""
    with open_trace(reference.trace) as ours, open_trace(candidate.trace) as theirs:
        return between(recorded_outputs(ours), recorded_outputs(theirs)).equal


def _lanes(seen: Fingerprint | None) -> str:
    return "-".join(f"{lane:016x}" for lane in seen.lanes) if seen is not None else ""


def _print(event: Event) -> str:
    return f"{event.spec} {_lanes(event.fingerprint) or event.skipped}"


def _digest(trace: Trace) -> str:
    """Of all calls, leaves and their fingerprints; random states do not count."""
    digest = hashlib.sha256()
    for leaf in trace.leaves:
        digest.update(f"{leaf.name} {leaf.spec.shape} {leaf.spec.dtype} {leaf.fingerprint}\n".encode())
    for call in trace.calls:
        digest.update(f"{call.site} {call.target}\n".encode())
        for event in (*call.reads, *call.writes):
            digest.update(f"{_print(event)}\n".encode())
    return digest.hexdigest()


def _bytes(trace: Trace) -> int:
    """Bytes that a capture of the same run with all full tensors would keep."""
    written = [e.spec for call in trace.calls for e in call.writes if not e.skipped]
    return sum(spec.numel * _width(spec.dtype) for spec in (*written, *(leaf.spec for leaf in trace.leaves)))


def _width(dtype: str) -> int:
    digits = "".join(itertools.takewhile(str.isdigit, dtype.lstrip("abcdefghijklmnopqrstuvwxyz")))
    return max(1, int(digits) // 8) if digits else 1


def _outputs(cell: Cell) -> str:
    return repr(sorted(cell.outputs.items()))


def _with(pairing: Pairing, diagnosis: Mapping[str, Any]) -> Pairing:
    origins = diagnosis["origins"]
    impact = {m["metric"]: m["value"] for m in diagnosis["impact"]}
    return replace(
        pairing,
        verdict=diagnosis["verdict"],
        reason=diagnosis["reason"],
        origins=len(origins),
        first_origin=origins[0]["site"]["text"] if origins else "",
        diagnosis=diagnosis,
        max_abs=_number(impact.get("max_abs")),
        mean_abs=_number(impact.get("mean_abs")),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def causes_of(found: Responsible, pairing: Pairing, proven: bool) -> list[Cause]:
    """The cause that a responsible difference stands for; an interpreter is judged by its versions.

    ``proven``: all that were found, carried over together, give the candidate's bits, and left out together the
    reference's.
    """
    kinds = {code_of(where): where for where, _, _ in found.changes if where not in INERT}
    kinds.pop("", None)
    code = next((code for code in ("EN001", "EN004", "OR002", "EN002") if code in kinds), "EN002")
    changes = [change for change in found.changes if code_of(change[0]) == code]
    try:
        part = by_code(code)
    except UsageError:  # a cause that this installation lacks
        part = by_code("EN002")
    confirmed = found.alone != "agrees" and proven
    status: Status = "confirmed" if confirmed else "located" if found.alone == "reproduces" else "inconclusive"
    outcome = {
        "reproduces": "it gives the candidate's bits",
        "differs": "it changes the reference's bits, but not to the candidate's",
        "agrees": "alone it changes nothing; it acts together with others",
    }[found.alone]
    experiments = [
        Experiment(
            interventions=(Intervention("carry-over", found.difference),),
            prediction=_CHANGES if found.alone == "differs" else _PREDICTION,
            outcome=outcome,
            status="inconclusive" if found.alone == "agrees" else "confirmed",
            method="rerun",
            direction="put_in",
        )
    ]
    if found.without:
        agrees = found.without == "agrees"
        experiments.append(
            Experiment(
                interventions=(Intervention("leave-out", found.difference),),
                prediction="without it the candidate has the reference's bits",
                outcome="the bits are the reference's" if agrees else "bits still differ: other differences act too",
                status="confirmed" if agrees else "inconclusive",
                method="rerun",
            )
        )
    verdict = pairing.judged or Verdict.INCONCLUSIVE
    told = "; ".join(f"{where}: {ours} → {theirs}" for where, ours, theirs in changes or found.changes)
    return [
        Cause(
            code=part.code,
            name=part.name,
            site=found.difference,
            verdict=verdict,
            evidence=(Evidence(f"the environments differ in {told}"),),
            status=status,
            reason="" if confirmed else outcome if found.alone == "agrees" else f"{outcome}; other differences act too",
            experiments=tuple(experiments),
        )
    ]


def _confirmed(diagnosis: Mapping[str, Any], causes: Sequence[Cause]) -> dict[str, Any]:
    """The diagnosis's own hypotheses about the environment, with what the experiments said of them."""
    done = {cause.code: cause for cause in causes}
    known = {"EN001", "EN002", "EN004", "OR002"}
    changed = []
    for cause in diagnosis.get("causes", ()):
        if cause["code"] in done:
            cause = {**cause, "status": done[cause["code"]].status, "reason": done[cause["code"]].reason}
        elif (
            any(one.status == "confirmed" for one in causes)
            and cause["code"] in known
            and cause["status"] == "inconclusive"
        ):
            cause = {**cause, "status": "refuted", "reason": "other differences of environment account for it all"}
        changed.append(cause)
    return {**diagnosis, "causes": changed} if diagnosis else {}

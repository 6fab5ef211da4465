"""Mathematically equal formulas judged against float64: where each overflows, how its error grows, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from whydiff.capturing.adapters import Progress, Recorded, for_target
from whydiff.errors import UsageError
from whydiff.numbers.metrics import measure
from whydiff.numbers.ranges import measure_array
from whydiff.numbers.tolerance import unit_roundoff
from whydiff.records import Payload
from whydiff.report.blocks import Lines, Section, Table, Text
from whydiff.studies.base import Study, headline
from whydiff.takes import FUNCTIONS, NUMBER, NUMBERS, SERIES, TEXTS, takes

SCALES = tuple(2.0 ** (power / 2) for power in range(21))
"""Input scales tried by default: 1 to 1024 in steps of the square root of two."""


@dataclass(frozen=True, slots=True)
class FormulaRow:
    """One formula at one dtype, device and input scale.

    Attributes:
        formula, dtype, device, scale: what was run.
        not_finite: share of output elements that are inf or NaN while the oracle's are finite.
        rel_l2: ``norm(error) / norm(oracle)`` over elements that are finite on both sides.
        headroom: bits to overflow of the output in its own dtype.
        seconds: shortest of the timed runs.
        cost: ``seconds`` divided by the first formula's at the same dtype, device and scale.
    """

    formula: str
    dtype: str
    device: str
    scale: float
    not_finite: float
    rel_l2: float
    headroom: float
    seconds: float
    cost: float = 1.0


@dataclass(frozen=True, slots=True, repr=False)
class FormulaStudy(Study):
    """Every row, and what they say.

    Attributes:
        rows: formulas × dtypes × devices × scales.
        equal: worst relative difference of each formula from the first in float64 (they must be equal).
        sentences: where each overflows first, and which is better where.
    """

    title: ClassVar[str] = "formulas"
    rows: tuple[FormulaRow, ...]
    equal: Mapping[str, float]
    sentences: tuple[str, ...]

    def first_overflow(self, formula: str, dtype: str, device: str = "cpu") -> float | None:
        """The smallest scale at which a formula's output is not finite; None: at none that was tried."""
        scales = [
            row.scale
            for row in self.rows
            if (row.formula, row.dtype, row.device) == (formula, dtype, device) and row.not_finite
        ]
        return min(scales, default=None)

    @property
    def word(self) -> str:
        """Whether the formulas reach equally far before they overflow: formulas are measured, not judged."""
        return "another range" if any(len(set(first.values())) > 1 for first in self._first().values()) else "one range"

    def answer(self) -> Lines:
        """(label, sentence) pairs: which overflows first and where; what the others cost; which to take."""
        first = self._first()
        place = max(first, key=lambda one: len(set(first[one].values())))
        others = "; ".join(_reach(*one, found, self.rows) for one, found in first.items() if one != place)
        errors, cost = self.errors(*place), self.costs(*place)
        best = min(errors, key=lambda name: (-(first[place][name] or math.inf), errors[name], cost[name]))
        worst = max(errors, key=lambda name: errors[name])
        least = min(errors, key=lambda name: errors[name])
        ratio = errors[worst] / errors[least] if errors[least] else 1.0
        return (
            headline(self.word, _reach(*place, first[place], self.rows)),
            ("where", others or "on every dtype and device that was tried"),
            (
                "effect",
                f"below overflow {worst} has × {ratio:.2f} the error of {least}; time "
                + ", ".join(f"{name} × {value:.2f}" for name, value in cost.items()),
            ),
            (
                "proof",
                f"in float64 they are equal (at most {max(self.equal.values()):.1e} apart); {len(self.rows)} runs were "
                "measured against float64",
            ),
            ("fix", f"Write it as {best}: no other reaches farther, and of those that reach as far none errs less"),
        )

    def _first(self) -> dict[tuple[str, str], dict[str, float | None]]:
        """(dtype, device) → formula → the scale at which it overflows first."""
        places = dict.fromkeys((row.dtype, row.device) for row in self.rows)
        names = dict.fromkeys(row.formula for row in self.rows)
        return {place: {name: self.first_overflow(name, *place) for name in names} for place in places}

    def errors(self, dtype: str, device: str = "cpu") -> dict[str, float]:
        """Formula → median relative error over the scales at which it does not overflow; inf: there is none."""
        return self._medians(dtype, device, lambda row: math.inf if row.not_finite else row.rel_l2)

    def costs(self, dtype: str, device: str = "cpu") -> dict[str, float]:
        """Formula → median time over the scales, as a ratio to the first formula's."""
        return self._medians(dtype, device, lambda row: row.cost)

    def _medians(self, dtype: str, device: str, of: Callable[[FormulaRow], float]) -> dict[str, float]:
        found: dict[str, list[float]] = {row.formula: [] for row in self.rows}
        for row in self.rows:
            if (row.dtype, row.device) == (dtype, device) and math.isfinite(value := of(row)):
                found[row.formula].append(value)
        return {name: sorted(values)[len(values) // 2] if values else math.inf for name, values in found.items()}

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """A sentence per finding, the table, and the check that the formulas are equal."""
        columns = ("formula", "dtype", "device", "scale", "not finite", "rel L2 error", "headroom", "cost")
        rows = tuple(
            (
                r.formula,
                r.dtype,
                r.device,
                f"{r.scale:g}",
                f"{100 * r.not_finite:.1f} %",
                f"{r.rel_l2:.2e}",
                f"{r.headroom:.1f}" if math.isfinite(r.headroom) else "–",
                f"× {r.cost:.2f}",
            )
            for r in self.rows
        )
        equal = tuple(
            Text(f"{name}: differs from the first by {value:.1e} in float64") for name, value in self.equal.items()
        )
        return (
            Section("What holds here", tuple(Text(sentence) for sentence in self.sentences)),
            Section("By scale", (Table(columns, rows, numeric=columns[3:]),)),
            Section("The formulas are equal", equal),
        )


@takes(formulas=FUNCTIONS, inputs=SERIES, dtypes=TEXTS, devices=TEXTS, scales=NUMBERS, repeats=NUMBER)
def compare_formulas(
    formulas: Mapping[str, Callable[..., Any]] | Sequence[Callable[..., Any]],
    inputs: Sequence[Any],
    *,
    dtypes: Sequence[str] = ("float16", "bfloat16", "float32"),
    devices: Sequence[str] = ("cpu",),
    scales: Sequence[float] = SCALES,
    repeats: int = 3,
    progress: Progress | None = None,
) -> FormulaStudy:
    """Judge formulas that are equal in exact arithmetic.

    Args:
        formulas: name → callable (or callables, named by ``__name__``); each gets the inputs, returns a tensor.
        inputs: tensors; floating ones are multiplied by every scale and rounded to the dtype once, and the
            float64 oracle gets the same rounded numbers.
        dtypes, devices, scales: what to sweep.
        repeats: timed runs per cell; the shortest counts.
        progress: called with (stage, done, total).

    Returns:
        A `FormulaStudy`; relative errors divide by the norm of the oracle's output.

    Raises:
        UsageError: fewer than two formulas, or two that are not equal in float64.
    """
    named = dict(formulas) if isinstance(formulas, Mapping) else {f.__name__: f for f in formulas}
    if len(named) < 2:
        raise UsageError("A comparison needs two formulas with names of their own.", actual=", ".join(named) or "none")
    adapter = for_target(next(iter(named.values())), inputs)
    equal = _equality(adapter, named, inputs)
    cells = [(dtype, device, scale) for dtype in dtypes for device in devices for scale in scales]
    rows: list[FormulaRow] = []
    for number, (dtype, device, scale) in enumerate(cells):
        if progress is not None:
            progress("compare formulas", number, len(cells))
        oracle = adapter.evaluate(next(iter(named.values())), inputs, dtype, scale, device, oracle=True)[0]
        base = None
        for name, formula in named.items():
            output, seconds = adapter.evaluate(formula, inputs, dtype, scale, device, repeats=repeats)
            row = _row(name, dtype, device, scale, output, oracle, seconds)
            base = base or row.seconds
            rows.append(replace(row, cost=row.seconds / base))
    study = FormulaStudy(tuple(rows), equal, ())
    return replace(study, sentences=tuple(_sentences(study, tuple(named), dtypes, devices, scales)))


def _equality(adapter: Recorded, named: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, float]:
    outputs = {name: adapter.evaluate(f, inputs, "float64", 1.0, "cpu")[0] for name, f in named.items()}
    first, *others = outputs
    found = {}
    for name in others:
        if outputs[name].bits.shape != outputs[first].bits.shape:
            raise UsageError("These formulas give outputs of other shapes.", actual=f"{first} and {name}")
        found[name] = _relative(outputs[first], outputs[name])[1]
        if found[name] > 1e6 * unit_roundoff("float64"):
            raise UsageError(
                "These formulas are not equal.",
                actual=f"{first} and {name} differ by {found[name]:.1e} in float64",
                expected="only rounding",
                next_step="whydiff.compare finds where two programs part",
            )
    return found


def _relative(oracle: Payload, output: Payload) -> tuple[float, float]:
    """Share of elements that are not finite on the output's side alone, relative L2 error of the others."""
    statistics = measure(oracle, output, 0.0, 0.0)
    found, true = measure_array(output.bits, output.dtype), measure_array(oracle.bits, oracle.dtype)
    lost = max(0, found.infs + found.nans - true.infs - true.nans) / max(found.elements, 1)
    norm = math.sqrt(statistics.sum_reference_square)
    return lost, math.sqrt(statistics.sum_square) / norm if norm else 0.0


def _row(
    name: str, dtype: str, device: str, scale: float, output: Payload, oracle: Payload, seconds: float
) -> FormulaRow:
    lost, error = _relative(oracle, output)
    headroom = measure_array(output.bits, output.dtype).headroom()
    return FormulaRow(name, dtype, device, scale, lost, error, headroom, seconds)


def _sentences(
    study: FormulaStudy, names: Sequence[str], dtypes: Sequence[str], devices: Sequence[str], scales: Sequence[float]
) -> list[str]:
    said = []
    for dtype in dtypes:
        for device in devices:
            first = {name: study.first_overflow(name, dtype, device) for name in names}
            if not any(first.values()):
                said.append(f"{dtype} on {device}: none overflows up to scale {max(scales):g}.")
                continue
            where = ", ".join(f"{n} at {s:g}" if s else f"{n} at none" for n, s in first.items())
            said.append(f"{dtype} on {device}: overflow begins with {where}.")
            latest = max((s or math.inf) for s in first.values())
            earliest = min((s or math.inf) for s in first.values())
            if latest == earliest:
                said.append(f"{dtype} on {device}: they overflow at the same scale; none gains range.")
            elif math.isfinite(latest):
                gain = latest / earliest
                said.append(f"{dtype} on {device}: the best reaches {gain:.2g} times the input scale of the worst.")
            errors, cost = study.errors(dtype, device), study.costs(dtype, device)
            best, worst = min(errors, key=lambda n: errors[n]), max(errors, key=lambda n: errors[n])
            ratio = errors[worst] / errors[best] if errors[best] else 1.0
            said.append(f"{dtype} on {device}: below overflow {worst} has × {ratio:.2f} the error of {best}.")
            said.append(
                f"{dtype} on {device}: cost " + ", ".join(f"{n} × {value:.2f}" for n, value in cost.items()) + "."
            )
    return said


def _reach(dtype: str, device: str, first: Mapping[str, float | None], rows: Sequence[FormulaRow]) -> str:
    """Up to which scale of its inputs each formula holds, those that overflow first before the others."""
    scales = sorted({scale for scale in first.values() if scale is not None})
    last = max(row.scale for row in rows)
    held = [name for name, scale in first.items() if scale is None]
    if not scales:
        return f"in {dtype} on {device} none overflows up to input scale {last:g}"
    parts = [
        ", ".join(name for name, one in first.items() if one == scale) + f" at input scale {scale:.4g}"
        for scale in scales
    ]
    text = f"in {dtype} on {device} the output overflows with {', then with '.join(parts)}"
    return f"{text}; with {', '.join(held)} up to {last:g} it does not" if held else text

"""How much of a difference rounding alone could make: the reference, rounded anew at random.

The reference is replayed with every op carried out more precisely and every output rounded stochastically to
its recorded dtype. The spread of the outputs over `whydiff.numbers.tolerance.FLOOR_RUNS` such replays is what any
other order of rounding may give. It says whether a difference is *material*, never whether it is a defect: in
16 bits it hides real defects. Source: ``docs/explanation/verdict-engine.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whydiff.capturing.adapters import Executor, Progress, for_framework, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.locate.rows import Rows, compared
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.pieces import in_pieces, mean_and_excess
from whydiff.numbers.tolerance import FLOOR_RUNS, FLOOR_T, UNIT_ROUNDOFF, Tolerance, default_tolerance, unit_roundoff
from whydiff.pair.replay import replay_together, returns
from whydiff.records import Call, Cause, Lift, Payload, Slot, Trace, Verdict

Array = Any


@dataclass(frozen=True, slots=True)
class Floor:
    """What rounding alone does to one returned tensor.

    Attributes:
        slot: of the output.
        mean_abs: upper prediction limit of the mean absolute difference.
        tolerance: rtol and atol that one more rounding of the same program would satisfy.
        magnitude: root mean square of the reference.
        runs: how many replays it rests on.
    """

    slot: Slot
    mean_abs: float
    tolerance: Tolerance
    magnitude: float
    runs: int


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """Floors by output; ``why_not``: why there are none, empty if there are."""

    floors: tuple[Floor, ...] = ()
    why_not: str = ""


def in_question(verdict: Verdict, causes: Sequence[Cause]) -> bool:
    """Whether it matters how much rounding alone could make: not where the cause is proven to be something else."""
    proven = any(c.status == "confirmed" and not c.inert and c.verdict is verdict for c in causes)
    return verdict is Verdict.ROUNDING or not proven


def noise_floor(case: Case, progress: Progress | None = None, *, runs: int = FLOOR_RUNS) -> NoiseFloor:
    """The floor of every floating output.

    Args:
        case: its reference is replayed.
        progress: called with (stage, done, total).
        runs: replays, at least 2; seeds are 1 … runs.
    """
    trace = case.reference
    wanted = {slot: payload for slot, payload, _ in case.localization.returned if not is_integer(payload.dtype)}
    dtype = _wider_than(trace)
    why = replayable(trace)
    if not wanted or dtype is None:
        why = why or ("no floating output was compared" if not wanted else "everything is float64 already")
    if why or dtype is None:
        return NoiseFloor(why_not=why)
    try:
        samples = _replays(trace, dtype, runs, progress, _Distances(trace, wanted, case.localization.rows))
    except WhydiffError as error:
        return NoiseFloor(why_not=f"{error.what} {error.actual}".strip())
    rows = case.localization.rows
    found = [
        _floor(slot, samples[slot], compared(rows, slot, payload))
        for slot, payload in wanted.items()
        if len(samples[slot]) == runs
    ]
    return NoiseFloor(tuple(found))


def _replays(
    trace: Trace, dtype: Literal["float32", "float64"], runs: int, progress: Progress | None, distances: _Distances
) -> Mapping[Slot, Sequence[tuple[float, float]]]:
    """Of every output, how far each replay's is from the reference's."""
    adapter = for_framework(trace.framework)
    executors = [adapter.executor(trace, lift=Lift(dtype, "kept", seed=seed + 1)) for seed in range(runs)]
    stage = f"noise floor, {runs} replays"
    replay_together(executors, watch=distances.watch, brought=False, progress=progress, stage=stage)
    return distances.found


class _Distances:
    """How far replays' outputs are from the recorded ones, measured where they are returned.

    Args:
        trace: what is replayed.
        wanted: the outputs as recorded.
        rows: by output, which of its rows count.

    Attributes:
        found: output → of each replay that returns it in that shape, `whydiff.numbers.pieces.mean_and_excess` beside the
            usual rtol.
    """

    def __init__(self, trace: Trace, wanted: Mapping[Slot, Payload], rows: Mapping[Slot, Rows]) -> None:
        self.wanted, self.rows, self.numbers = wanted, rows, returns(trace.calls)
        self.found: dict[Slot, list[tuple[float, float]]] = {slot: [] for slot in wanted}
        self._beside: dict[Slot, Any] = {}

    def watch(self, executor: Executor, call: Call) -> None:
        """Told of every call of every replay."""
        for event in call.reads if call.kind == "return" else ():
            slot = Slot(self.numbers[call.index], event.site.slot)
            payload = self.wanted.get(slot)
            if payload is not None and event.spec.shape == payload.bits.shape:
                rtol = default_tolerance(payload.dtype).rtol
                self.found[slot].append(self._distance(executor, slot, executor.read(event), rtol))

    def _distance(self, executor: Executor, slot: Slot, value: Any, rtol: float) -> tuple[float, float]:
        payload = self.wanted[slot]
        if slot in self.rows:
            ours, theirs = (compared(self.rows, slot, one) for one in (payload, executor.payload(value)))
            return mean_and_excess(ours, theirs, rtol)
        if slot not in self._beside:
            self._beside[slot] = executor.adopt_beside(payload, value)
        return executor.mean_and_excess(self._beside[slot], value, rtol)


def _floor(slot: Slot, samples: Sequence[tuple[float, float]], reference: Payload) -> Floor:
    dtype = reference.dtype

    def squares(exact: Array) -> tuple[float, int]:
        exact = exact[np.isfinite(exact)]
        return float(exact @ exact), exact.size

    parts = in_pieces(squares, reference)
    count = sum(size for _, size in parts)
    magnitude = math.sqrt(sum(total for total, _ in parts) / count) if count else 0.0
    usual = default_tolerance(dtype)
    mean_abs = prediction_limit([mean for mean, _ in samples])
    atol = max(prediction_limit([excess for _, excess in samples]), usual.atol)
    source = (
        f"{len(samples)} replays of the reference with every output rounded at random, "
        f"1 in 1000 of which would exceed it; rtol as torch.testing.assert_close has it for {dtype}"
    )
    tolerance = Tolerance(usual.rtol, _rounded_up(atol), source)
    return Floor(slot, mean_abs, tolerance, magnitude, len(samples))


def prediction_limit(samples: Sequence[float]) -> float:
    """exp(mean + t s sqrt(1 + 1/m)) of the logarithms, `whydiff.numbers.tolerance.FLOOR_T`; 0 if a sample is 0."""
    if any(sample <= 0 for sample in samples):
        return max(samples)
    logs = np.log(np.asarray(samples))
    return float(math.exp(logs.mean() + FLOOR_T * logs.std(ddof=1) * math.sqrt(1 + 1 / len(samples))))


def _rounded_up(value: float) -> float:
    """To two significant digits, never down."""
    if value <= 0 or not math.isfinite(value):
        return value
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / power - 1e-9) * power:.1e}")


def _wider_than(trace: Trace) -> Literal["float32", "float64"] | None:
    """The next wider dtype; None if everything is float64 already.

    Programs that compute in 16 bits or less are carried out in float32, and their float32 parts left alone.
    """
    written = {e.spec.dtype for call in trace.calls if call.kind == "compute" for e in call.writes}
    floats = {dtype for dtype in written if not is_integer(dtype)}
    if not floats - {"float64", "complex128"}:
        return None
    short = any(unit_roundoff(dtype) > unit_roundoff("float32") for dtype in floats if dtype in UNIT_ROUNDOFF)
    return "float32" if short else "float64"

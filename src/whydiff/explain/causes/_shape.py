"""What the causes of the family SH share: ops whose bits depend on the shape or layout of what they read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Executor, executor_of, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.scale import Difference, Scale, agrees, difference
from whydiff.locate.origins import walk_origins
from whydiff.locate.resynchronised import Watcher
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.pair.slices import counterparts
from whydiff.records import (
    Call,
    Cause,
    Event,
    Evidence,
    Experiment,
    Intervention,
    Lift,
    Measurement,
    Origin,
    Payload,
    Remedy,
    Status,
    Verdict,
)

ROWS = (16, 64)
"""Rows of a piece that are tried, the first that works is recommended."""
_FAILURES = (WhydiffError, RuntimeError, TypeError, ValueError, LookupError)
_BYTES = 64
"""Alignment that kernels ask for: one cache line, one AVX-512 register."""


def on_axis(case: Case, name: str) -> list[Origin]:
    """Origins of a pair that differs in size along an axis of this name; none if it also differs along another."""
    axes = case.localization.axes
    if not axes or {axis.name for axis in axes} != {name}:
        return []
    return [origin for origin in case.localization.origins if origin.kind == "implementation"]


def relaid(case: Case) -> list[Origin]:
    """Origins whose op reads equal values in another layout or at another alignment."""
    found = []
    for origin in case.localization.origins:
        if origin.kind == "implementation" and not case.localization.axes and min(origin.calls) >= 0:
            reads = case.reference.calls[origin.calls[0]].reads, case.candidate.calls[origin.calls[1]].reads
            if any(layout_of(r) != layout_of(c) for r, c in zip(*reads, strict=False)):
                found.append(origin)
    return found


def layout_of(event: Event) -> tuple[Any, ...]:
    """Strides of the dimensions that have any extent, and the offset within a cache line."""
    spec = event.spec
    strides = tuple(stride for size, stride in zip(spec.shape, spec.strides, strict=False) if size > 1)
    return strides, spec.offset % _BYTES


def natures(case: Case, origins: Sequence[Origin]) -> _Local:
    """The scaling test of single ops: the first origin of every operator, on its own inputs.

    Both calls are carried out in float32 and float64 on what they read (resynchronised), and the counterparts
    of their outputs are compared. A difference that stays is no rounding: the op mixes rows.

    Returns:
        By operator the scale, what carries it out in either run (where the framework can tell quietly), and whether
        each side's call alone gives what that side recorded.
    """
    wanted: dict[str, tuple[int, int]] = {}
    for origin in origins:
        wanted.setdefault(case.reference.calls[origin.calls[0]].target, origin.calls)
    looker = _Local(case, set(wanted.values()))
    if not case.replayable:
        return looker
    executors = [executor_of(trace) for trace in case.traces]
    step = Lockstep(executors[0], executors[1], case.alignment, case.localization.axes)
    walk_origins(step, on_origin=looker, watcher=looker, measured=False)
    return looker


class _Local(Watcher):
    """Looks at the wanted origins of a walk, which ends behind the last of them."""

    def __init__(self, case: Case, wanted: set[tuple[int, int]]) -> None:
        self.case, self.wanted = case, wanted
        self.scales: dict[str, Scale] = {}
        self.kernels: dict[str, tuple[str, str]] = {}
        self.own: dict[str, bool] = {}
        self._left = set(wanted)

    @property
    def done(self) -> bool:  # type: ignore[override]
        """Whether every wanted origin was looked at."""
        return not self._left

    def __call__(self, step: Lockstep, reference: Call, candidate: Call, look: Look) -> None:
        if (reference.index, candidate.index) not in self.wanted:
            return
        self._left.discard((reference.index, candidate.index))
        ran = [_kernels(*side) for side in ((step.reference, reference), (step.candidate, candidate))]
        if all(ran):
            self.kernels[reference.target] = (ran[0], ran[1])
        sides = ((step.reference, reference), (step.candidate, candidate))
        self.own[reference.target] = all(_alone_as_recorded(*side) for side in sides)
        try:
            single, double = (self._lifted(step, reference, candidate, dtype) for dtype in ("float32", "float64"))
        except _FAILURES:
            return
        if single is not None and double is not None:
            self.scales[reference.target] = Scale(single, double, str(look.reference.site))

    def _lifted(self, step: Lockstep, reference: Call, candidate: Call, dtype: Any) -> Difference | None:
        outputs: list[Payload] = []
        for executor, call in ((step.reference, reference), (step.candidate, candidate)):
            lifted = executor_of(executor.trace, lift=Lift(dtype, "lifted", True))
            reads = [
                executor.copy(executor.read(e)) if i in call.mutates else executor.read(e)
                for i, e in enumerate(call.reads)
            ]
            results = list(lifted.apply(call, reads)) or [reads[i] for i in call.mutates]
            outputs.append(lifted.payload(results[0]))
        ours, theirs = counterparts(outputs[0], outputs[1], step.axes)
        return difference(ours, theirs)


def _kernels(executor: Executor, call: Call) -> str:
    if call.mutates:
        return ""
    try:
        return ", ".join(executor.kernels(call, [executor.read(event) for event in call.reads]))
    except (WhydiffError, RuntimeError, TypeError, ValueError, LookupError, AssertionError, NotImplementedError):
        return ""  # evidence that can be done without


def cause(
    case: Case,
    origins: Sequence[Origin],
    rule: CauseRule,
    word: str,
    remedies: Sequence[tuple[str, Any]],
    text: Callable[[str, str, tuple[str, ...], Any], Remedy],
) -> Iterator[Cause]:
    """One cause for the origins whose difference is rounding, with the first remedy that works, carried out."""
    looked = natures(case, origins)
    scales, kernels = looked.scales, looked.kernels
    mine = [o for o in origins if agrees(scales.get(case.reference.calls[o.calls[0]].target))]
    targets = {case.reference.calls[o.calls[0]].target for o in mine}
    if not mine:
        return
    ops = tuple(dict.fromkeys(origin.site.op for origin in mine))
    evidence = [
        Evidence(
            f"{len(mine)} of {len(case.localization.origins)} places: on inputs that agree bit for bit, {', '.join(ops)} "
            f"gives other bits {word}",
            {"ops": list(ops), "sites": [str(origin.site) for origin in mine]},
        )
    ]
    evidence += [
        Evidence(f"{target}, alone, at two precisions: {scale}", {"nature": scale.nature})
        for target, scale in scales.items()
    ]
    evidence += [
        Evidence(
            f"{target}, executed alone, is carried out by {ours}"
            + (" at either size" if ours == theirs else f" and by {theirs}"),
            {"reference": ours, "candidate": theirs},
        )
        for target, (ours, theirs) in kernels.items()
        if target in targets
    ]
    experiments, best = _tried(case, ops, remedies)
    own = [origin for origin in mine if looked.own.get(case.reference.calls[origin.calls[0]].target, False)]
    first, *_ = own or mine
    fused = tuple(dict.fromkeys(o.site.op for o in mine if o not in own)) if own else ()
    if fused:
        evidence.append(
            Evidence(
                f"{', '.join(fused)}: carried out alone, other bits than inside the program, where the compiler joins it with "
                "other ops; no experiment of its own",
                {"ops": list(fused)},
            )
        )
    alone = bool(own)
    experiments.append(_put_in(tuple(op for op in ops if op not in fused), word, alone))
    status: Status = "confirmed" if best is not None and alone else "inconclusive"
    reason = "" if best is not None else "no remedy that was tried makes the runs agree"
    if best is not None and not alone:
        reason = "an op, carried out alone, does not give what its run recorded"
    if len(experiments) == 1:
        reason = "its remedies need two live runs of one framework whose outputs differ"
    remedy = (
        replace(text(case.candidate.framework, *best), carried_out=case.candidate.framework != "jax")
        if best is not None
        else Remedy("Accept it: the same function, rounded in another order.", accepts=True)
    )
    yield rule.cause(
        site=str(first.site),
        verdict=Verdict.ROUNDING,
        evidence=evidence,
        remedy=remedy,
        status=status,
        reason=reason,
        experiments=tuple(experiments),
        effect=tuple(
            Measurement("removed", e.before, "output elements")
            for e in experiments
            if e.status == "confirmed" and e.before
        ),
    )


def of_size(case: Case, rule: CauseRule, axis: str) -> Iterator[Cause]:
    """One cause for all ops whose bits depend on a size: along the axis of this name alone the runs differ."""
    origins = on_axis(case, axis)
    if origins:
        sizes = " or ".join(str(n) for one in case.localization.axes for n in (one.reference, one.candidate))
        remedies = [("fixed-row-chunks", rows) for rows in ROWS] + [("sdpa-backend", "MATH"), ("upcast", "float64")]
        yield from cause(case, origins, rule, f"at a {axis} of {sizes}", remedies, functools.partial(_remedy, axis))


def _remedy(axis: str, framework: str, name: str, ops: tuple[str, ...], value: Any) -> Remedy:
    if name == "fixed-row-chunks":
        return in_pieces(framework, ops, value, axis)
    if name == "sdpa-backend":
        return Remedy(
            "Choose the plain attention backend.",
            "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):\n    model(...)",
        )
    return Remedy(f"Carry out {', '.join(ops)} in {value} and round the result: agrees on this input, without a proof.")


def in_pieces(framework: str, ops: tuple[str, ...], rows: int, word: str) -> Remedy:
    """The remedy that keeps every kernel at one number of rows, as a user of the framework writes it."""
    said = f"Carry out {', '.join(ops)} in pieces of {rows} rows: one kernel, whatever the {word}."
    if framework == "jax":
        return Remedy(
            f"{said} In JAX, map the function that holds them (here f, of one row) over batches of {rows} rows, with "
            "the rows padded to a multiple: what is left over would be a kernel of another size.",
            "def in_pieces(x):\n"
            f"    rows = jax.numpy.pad(x, [(0, -len(x) % {rows})] + [(0, 0)] * (x.ndim - 1))\n"
            f"    return jax.lax.map(f, rows, batch_size={rows})[: len(x)]\n",
        )
    return Remedy(
        f"{said} whydiff sweep measures its cost.",
        f"with whydiff.batch_invariant(model, ops={ops!r}, rows={rows}):\n    model(...)",
    )


def _put_in(ops: tuple[str, ...], word: str, alone: bool) -> Experiment:
    """The op alone on the rows that agree, in the candidate's size or layout and in the reference's."""
    return Experiment(
        interventions=(),
        prediction=f"{', '.join(ops)}, alone on the numbers that agree, gives the candidate's bits {word}",
        outcome="each side's op alone gives that side's bits" if alone else "an op alone gives other bits",
        status="confirmed" if alone else "inconclusive",
        method="replay",
        direction="put_in",
    )


def _alone_as_recorded(executor: Executor, call: Call) -> bool:
    """Whether a call, carried out alone on what it reads, gives what it wrote."""
    if call.mutates:
        return False
    try:
        outputs = executor.apply(call, [executor.read(event) for event in call.reads])
        return all(executor.same(executor.read(e), out) for e, out in zip(call.writes, outputs, strict=True))
    except _FAILURES:
        return False


def _tried(
    case: Case, ops: tuple[str, ...], remedies: Sequence[tuple[str, Any]]
) -> tuple[list[Experiment], tuple[str, tuple[str, ...], Any] | None]:
    adapter = for_framework(case.candidate.framework)
    if not adapter.remedies or None in case.runs or case.reference.framework != case.candidate.framework:
        return [], None
    before = _difference(case, nullcontext())
    if before == 0:  # agreeing outputs prove nothing
        return [], None
    experiments = []
    for name, value in remedies:
        interventions = tuple(Intervention(name, op, value) for op in ops)
        prediction = "both runs, carried out so, agree bit for bit"
        try:
            after = _difference(case, adapter.remedy(name, ops, value))
        except (WhydiffError, RuntimeError, TypeError, ValueError) as error:
            failed = error.what if isinstance(error, WhydiffError) else str(error)
            experiments.append(
                Experiment(
                    interventions=interventions,
                    prediction=prediction,
                    outcome=failed,
                    status="inconclusive",
                    method="rerun",
                    before=before,
                )
            )
            continue
        outcome = "zero bits differ" if after == 0 else f"the outputs still differ (mean absolute {after:.1e})"
        status: Status = "confirmed" if after == 0 else "refuted"
        experiments.append(
            Experiment(
                interventions=interventions,
                prediction=prediction,
                outcome=outcome,
                status=status,
                method="rerun",
                before=before,
                after=after,
                left="nothing" if after == 0 else "",
            )
        )
        if after == 0:
            return experiments, (name, ops, value)
    return experiments, None


def _difference(case: Case, mode: Any) -> float:
    """Mean absolute difference of the outputs with both programs run in a mode; 0 only if no bit differs."""
    executor = executor_of(case.candidate)
    with mode:
        sides = [{slot: executor.payload(v) for slot, v in run.plain()} for run in case.runs if run is not None]
    total = 0.0
    for slot, ours in sides[0].items():
        compared = compare_payloads(*counterparts(ours, sides[1][slot], case.localization.axes))
        if compared.status != "agrees":
            total = max(total, compared.value("mean_abs") or 5e-324)
    return total

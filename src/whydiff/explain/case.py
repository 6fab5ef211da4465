"""Everything a cause may look at: both traces, what corresponds, where it differs, and a place to experiment."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whydiff.capturing.adapters import Executor, Run, for_framework
from whydiff.errors import PayloadError, ReplayError
from whydiff.explain.interventions import CHANGES, EDITS, REPLACED, Edited, changes, edits, outputs_with_replaced
from whydiff.locate.localization import Localization
from whydiff.locate.origins import find_origins
from whydiff.locate.rows import compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer, measure
from whydiff.pair.replay import numbered_alike, replay
from whydiff.pair.slices import counterparts
from whydiff.records import (
    Alignment,
    Call,
    Comparison,
    Intervention,
    Leaf,
    Lift,
    Origin,
    Payload,
    RecordedTrace,
    Slot,
    Trace,
)

_ENVIRONMENT = ("versions", "hardware", "flags", "variables", "rng")
REPLAYED = frozenset({"restore-state", "restore-input"})
"""Interventions that a replay can always carry out; `Case.replays` says which others it can."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outputs of the candidate under interventions, against the reference's.

    Attributes:
        equal: every output agrees bit for bit.
        mean_abs: mean absolute difference over all compared output elements (0 if equal, None if unknown).
        elements: how many elements were compared.
        comparisons: per output slot.
        method: ``"rerun"`` of the user's program or ``"replay"`` of the recorded one.
        failed: why it could not be done; empty if it was.
    """

    equal: bool
    mean_abs: float | None
    elements: int
    comparisons: tuple[tuple[Slot, Comparison], ...]
    method: Literal["rerun", "replay"]
    failed: str = ""


@dataclass(frozen=True)
class Case:
    """One pair of runs under investigation.

    Attributes:
        reference, candidate: traces.
        alignment, localization: what corresponds and where it differs.
        runs: live runs, None for a side that is a trace on disk.
        renamed: (candidate scope prefix, reference scope prefix) for state names.
    """

    reference: Trace
    candidate: Trace
    alignment: Alignment
    localization: Localization
    runs: tuple[Run | None, Run | None] = (None, None)
    _outcomes: dict[Any, Outcome] = field(default_factory=dict, compare=False, repr=False)
    _shared: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    # ------------------------------------------------------------------ what differs besides values

    @functools.cached_property
    def leaves(self) -> Mapping[str, tuple[Leaf | None, Leaf | None]]:
        """Leaf name (in the reference's naming) → (reference's, candidate's); constants are left out."""
        reference = {leaf.name: leaf for leaf in self.reference.leaves if leaf.role != "constant"}
        candidate = {self.rename(x.name): x for x in self.candidate.leaves if x.role != "constant"}
        return {name: (reference.get(name), candidate.get(name)) for name in (reference | candidate)}

    def rename(self, name: str) -> str:
        """A candidate's name in the reference's naming."""
        for ours, theirs in self.alignment.renamed:
            if name == ours or name.startswith(ours + "."):
                return theirs + name[len(ours) :]
        return name

    @functools.cached_property
    def differing_leaves(self) -> tuple[tuple[Leaf, Leaf], ...]:
        """Leaves of both sides whose dtype, shape or bits differ."""
        return tuple(
            (r, c)
            for r, c in self.leaves.values()
            if r is not None
            and c is not None
            and not (r.skipped or c.skipped)
            and (r.spec.dtype != c.spec.dtype or r.spec.shape != c.spec.shape or r.fingerprint != c.fingerprint)
            and not self._counterparts_agree(r, c)
        )

    def _counterparts_agree(self, reference: Leaf, candidate: Leaf) -> bool:
        """Whether a larger input holds the other run's, bit for bit (row 0 of a batch): then it does not differ."""
        axes = self.localization.axes
        if not axes or reference.spec.shape == candidate.spec.shape or reference.spec.dtype != candidate.spec.dtype:
            return False
        try:
            ours, theirs = self.payload(reference, "reference"), self.payload(candidate, "candidate")
        except PayloadError:
            return False
        ours, theirs = counterparts(ours, theirs, axes)
        return compare_payloads(ours, theirs).status == "agrees"

    def lone_leaves(self) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...]]:
        """State that only the reference, only the candidate has."""
        pairs = self.leaves.values()
        return (
            tuple(r for r, c in pairs if r is not None and c is None and r.is_state),
            tuple(c for r, c in pairs if c is not None and r is None and c.is_state),
        )

    @functools.cached_property
    def scalar_changes(self) -> Mapping[str, tuple[Any, Any]]:
        """Scalar attribute path → (reference's, candidate's) where they differ; absent is None."""
        return _changes(self.reference.scalars, {self.rename(k): v for k, v in self.candidate.scalars.items()})

    @functools.cached_property
    def config_changes(self) -> Mapping[str, tuple[Any, Any]]:
        """Config key → (reference's, candidate's) where they differ; absent is None."""
        return _changes(self.reference.config, self.candidate.config)

    @functools.cached_property
    def environment_changes(self) -> tuple[tuple[str, str, str], ...]:
        """What differs around the runs: ("versions.torch", reference's, candidate's) and so on."""
        found = []
        for part in _ENVIRONMENT:
            changes = _changes(getattr(self.reference.environment, part), getattr(self.candidate.environment, part))
            found += [(f"{part}.{name}", str(ours), str(theirs)) for name, (ours, theirs) in changes.items()]
        return tuple(found)

    # ------------------------------------------------------------------ values and origins

    def payload(self, leaf: Leaf, side: Literal["reference", "candidate"]) -> Payload:
        """A leaf's full tensor at the beginning of the run.

        Raises:
            PayloadError: the trace did not keep it.
        """
        found = (self.reference if side == "reference" else self.candidate).payload(leaf.payload)
        if found is None:
            raise PayloadError(
                "A full tensor is needed and the trace does not hold it.",
                where=f"{leaf.name} of the {side}",
                next_step='capture again with payloads="all"',
            )
        return found

    def origins_reading(self, name: str) -> tuple[Origin, ...]:
        """Origins that read a differing leaf."""
        return tuple(origin for origin in self.localization.origins if name in origin.leaves)

    def shared(self, key: str, make: Callable[[], Any]) -> Any:
        """Something that several causes ask for, made once per case."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    # ------------------------------------------------------------------ experiments

    def supports(self, interventions: Sequence[Intervention]) -> bool:
        """Whether an experiment with these interventions can be carried out at all."""
        run = self.runs[1]
        if run is not None and all(run.supports(item) for item in interventions):
            return True
        return self.replays(interventions)

    def replays(self, interventions: Sequence[Intervention]) -> bool:
        """Whether a replay can do it: a scalar only where it shows as an operator's differing argument."""
        return all(self._replays(item) for item in interventions)

    def _replays(self, item: Intervention) -> bool:
        if item.name in CHANGES:
            return bool(getattr(for_framework(self.candidate.framework), "changes_calls", False))
        if item.name == REPLACED:
            return not (replayable(self.reference) or replayable(self.candidate))
        return item.name in REPLAYED or item.name in EDITS or bool(self._carried(item))

    def try_out(self, interventions: Sequence[Intervention]) -> Outcome:
        """The candidate's outputs under interventions against the reference's (remembered)."""
        key = tuple(sorted((i.name, i.target, repr(i.value)) for i in interventions))
        if key not in self._outcomes:
            self._outcomes[key] = self._try_out(interventions)
        return self._outcomes[key]

    def _try_out(self, interventions: Sequence[Intervention]) -> Outcome:
        run = self.runs[1]
        donor = self._executor(self.reference)
        wanted = self._wanted
        method: Literal["rerun", "replay"] = "replay"
        if run is not None and all(run.supports(item) for item in interventions):
            method = "rerun"
            executor = self._executor(self.candidate)
            outputs = {Slot(0, path): executor.payload(v) for path, v in run.plain(interventions, donor)}
        elif self.replays(interventions):
            outputs = self._replayed(interventions, donor)
        else:
            return Outcome(False, None, 0, (), method, "the candidate is a trace on disk; this needs a live run")
        comparisons = tuple(
            (slot, compare_payloads(*self._counterparts(slot, payload, outputs[slot])))
            for slot, payload in wanted.items()
            if slot in outputs
        )
        if len(comparisons) < len(wanted):
            missing = ", ".join(str(slot) for slot in sorted(set(wanted) - set(outputs)))
            return Outcome(False, None, 0, comparisons, method, f"outputs missing: {missing}")
        elements = sum(payload.bits.size for payload in wanted.values())
        equal = all(comparison.status == "agrees" for _, comparison in comparisons)
        total = sum((comparison.value("mean_abs") or 0.0) * wanted[slot].bits.size for slot, comparison in comparisons)
        return Outcome(equal, total / elements if elements else None, elements, comparisons, method)

    def _counterparts(self, slot: Slot, reference: Payload, candidate: Payload) -> tuple[Payload, Payload]:
        """What of two outputs corresponds: the larger one's counterpart, without the rows that are left out."""
        rows = self.localization.rows
        pair = counterparts(reference, candidate, self.localization.axes)
        ours, theirs = (compared(rows, slot, payload) for payload in pair)
        return ours, theirs

    @functools.cached_property
    def _wanted(self) -> dict[Slot, Payload]:
        """The reference's outputs by slot: as the walk kept them, else (fingerprints settled it) from a replay."""
        if self.localization.returned:
            return {slot: reference for slot, reference, _ in self.localization.returned}
        return replay(self._executor(self.reference)).outputs

    def _replayed(
        self, interventions: Sequence[Intervention], donor: Executor, lift: Lift | None = None
    ) -> dict[Slot, Payload]:
        executor = self._restored(interventions, donor, lift)
        if any(item.name == REPLACED for item in interventions):
            follower = self._follower(executor) if lift is None else self._executor(self.reference, lift)
            axes = self.localization.axes
            found = outputs_with_replaced(follower, executor, self.alignment, interventions, axes)
        else:
            found = replay(executor).outputs
        return numbered_alike(found, self.reference, self.candidate, self.alignment)

    def _follower(self, candidate: Executor) -> Executor:
        """A replay of the reference with the candidate's leaves, for its ops to work on."""
        state = {
            ours.name: candidate.leaf_value(theirs)
            for ours, theirs in self.differing_leaves
            if ours.spec.shape == theirs.spec.shape and ours.spec.dtype == theirs.spec.dtype
        }
        return for_framework(self.reference.framework).executor(self.reference, restore=state)

    def origins_after(self, interventions: Sequence[Intervention]) -> set[str] | None:
        """Sites of the origins that remain when the candidate is replayed under interventions (None: cannot).

        Where an op of the reference stands in the candidate's place, nothing remains.
        """
        if not self.replays(interventions):
            return None
        donor = self._executor(self.reference)
        candidate = self._restored(interventions, donor)
        found = find_origins(donor, candidate, self.alignment, axes=self.localization.axes)
        gone = {
            (i.value[0] if isinstance(i.value, tuple) else i.value, i.target)
            for i in interventions
            if i.name == REPLACED
        }
        return {
            str(origin.site)
            for origin in found.origins
            if (str(origin.site.at("")), str(origin.candidate_site.at(""))) not in gone
        }

    def plain_outputs(self, side: Literal["reference", "candidate"]) -> dict[Slot, Payload]:
        """What a live side returns when nothing observes it; empty for a trace on disk."""
        run, trace = (self.runs[0], self.reference) if side == "reference" else (self.runs[1], self.candidate)
        executor = self._executor(trace)
        return {} if run is None else {Slot(0, path): executor.payload(value) for path, value in run.plain()}

    def outputs_in_float64(self, side: Literal["reference", "candidate"]) -> dict[Slot, Payload]:
        """What a side's recorded program returns when it is carried out in float64.

        Raises:
            whydiff.errors.ReplayError: it cannot be.
        """
        trace = self.reference if side == "reference" else self.candidate
        return replay(self._executor(trace, Lift("float64"))).outputs

    def apart_in_float64(self, interventions: Sequence[Intervention]) -> float | None:
        """How far the outputs of both programs, lifted to float64, lie apart under interventions.

        Returns:
            The largest mean absolute difference of an output over the reference's root mean square; None if it
            cannot be told.
        """
        if any(item.name in CHANGES for item in interventions) or not self.replays(interventions):
            return None
        if replayable(self.reference) or replayable(self.candidate):
            return None
        wide = Lift("float64")
        ours = replay(self._executor(self.reference, wide)).outputs
        theirs = self._replayed(interventions, self._executor(self.reference), wide)
        if not ours:
            return None
        apart = 0.0
        for slot, payload in ours.items():
            if slot not in theirs:
                return None
            ours_now, theirs_now = self._counterparts(slot, payload, theirs[slot])
            if ours_now.bits.shape != theirs_now.bits.shape:
                return None
            if is_integer(payload.dtype):
                continue
            found = measure(ours_now, theirs_now)
            finite = max(found.finite, 1)
            magnitude = math.sqrt(found.sum_reference_square / finite)
            if magnitude:
                apart = max(apart, found.sum_abs / finite / magnitude)
        return apart

    def _restored(self, interventions: Sequence[Intervention], donor: Executor, lift: Lift | None = None) -> Executor:
        by_name = {leaf.name: leaf for leaf in self.reference.leaves}
        mine = {leaf.name: leaf for leaf in self.candidate.leaves}
        restoring = [item for item in interventions if item.name in REPLAYED]
        for item in restoring:
            ours, theirs = by_name[item.value or item.target].spec, mine[item.target].spec
            if ours.shape != theirs.shape:
                raise ReplayError(
                    "A tensor of another shape cannot take this one's place in a replay.",
                    where=item.target,
                    actual=str(theirs),
                    expected=str(ours),
                    next_step="give the candidate as a live target",
                )
        restore = {i.target: donor.leaf_value(by_name[i.value or i.target]) for i in restoring}
        carried = {k: call for item in interventions for k, call in self._carried(item).items()}
        exchanged = carried | edits(self.candidate, interventions)
        trace: Any = Edited(self.candidate, exchanged) if exchanged else self.candidate
        adapter: Any = for_framework(self.candidate.framework)
        changed = changes(self.candidate, interventions)
        if changed:
            return adapter.executor(trace, restore=restore, changes=changed)  # type: ignore[no-any-return]
        return adapter.executor(trace, restore=restore, lift=lift)  # type: ignore[no-any-return]

    def _carried(self, item: Intervention) -> Mapping[int, Call]:
        """Candidate calls inside the scalar's module whose arguments differ by it, with the reference's arguments."""
        if item.name != "set-scalar":
            return {}
        path = item.target.rpartition(".")[0]
        before = self.candidate.scalars.get(item.target)
        found = {}
        for pair in self.alignment.pairs:
            ours, theirs = self.reference.calls[pair.reference], self.candidate.calls[pair.candidate]
            inside = not path or theirs.site.scope == path or theirs.site.scope.startswith(path + ".")
            if not inside or ours.target != theirs.target or ours.arguments == theirs.arguments:
                continue
            changes = list(differing_arguments(ours.arguments, theirs.arguments))
            if changes and all(fits(change, (item.value, before)) for change in changes):
                found[theirs.index] = replace(theirs, arguments=ours.arguments)
        return found

    def _executor(self, trace: Trace, lift: Lift | None = None) -> Executor:
        return for_framework(trace.framework).executor(trace, lift=lift)


def _changes(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*reference, *(key for key in candidate if key not in reference)]
    return {key: (reference.get(key), candidate.get(key)) for key in keys if reference.get(key) != candidate.get(key)}


ABSENT = object()
"""In place of an argument that one side left out because it is the operator's default."""


def differing_arguments(reference: Any, candidate: Any) -> Iterator[tuple[Any, Any]]:
    """(reference's, candidate's) innermost values in which two argument templates differ (or `ABSENT`)."""
    if isinstance(reference, (list, tuple)) and isinstance(candidate, (list, tuple)):
        for ours, theirs in itertools.zip_longest(reference, candidate, fillvalue=ABSENT):
            yield from differing_arguments(ours, theirs)
    elif isinstance(reference, Mapping) and isinstance(candidate, Mapping):
        for key in dict.fromkeys((*reference, *candidate)):
            yield from differing_arguments(reference.get(key, ABSENT), candidate.get(key, ABSENT))
    elif reference is ABSENT or candidate is ABSENT or reference != candidate:
        yield reference, candidate


def fits(change: tuple[Any, Any], values: tuple[Any, Any]) -> bool:
    """Whether an argument changed from one value to the other; a default left out fits, but not on both sides."""
    present = [(found, value) for found, value in zip(change, values, strict=True) if found is not ABSENT]
    return bool(present) and all(type(f) is type(v) and bool(f == v) for f, v in present)


def replayable(trace: Trace) -> str:
    """Why a trace cannot be executed again; empty if it can."""
    if trace.level != "op":
        return "it was captured at module level"
    handles = trace.handles if isinstance(trace, RecordedTrace) else {}
    missing = [
        leaf.name
        for leaf in trace.leaves
        if leaf.storage >= 0 and not leaf.skipped and not leaf.payload and leaf.name not in handles
    ]
    return f"it holds no payload of {len(missing)} leaves, e.g. {missing[0]}" if missing else ""

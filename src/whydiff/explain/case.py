"""Everything a cause may look at: both traces, what corresponds, where it differs, and a place to experiment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from whydiff.capturing.adapters import Progress, Run, replayable
from whydiff.errors import PayloadError
from whydiff.explain.experiments import Experiments
from whydiff.explain.ranked import RankedExperiments
from whydiff.explain.sides import SIDES, Side, Sides
from whydiff.locate.localization import Localization
from whydiff.locate.ranked import Ranked
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.beginning import CommonBeginning
from whydiff.pair.slices import counterparts
from whydiff.records import Alignment, Call, Leaf, Origin, Payload, Slot, Trace

T = TypeVar("T")
_ENVIRONMENT = ("versions", "hardware", "flags", "variables", "rng")


@dataclass(frozen=True)
class Case:
    """One pair of runs under investigation.

    Attributes:
        reference, candidate: traces.
        alignment, localization: what corresponds and where it differs.
        runs: live runs, None for a side that is a trace on disk.
        progress: told of what takes long.
        ranked: where several ranks, of which the candidate is the lowest, part from the reference; None: it is alone.
    """

    reference: Trace
    candidate: Trace
    alignment: Alignment
    localization: Localization
    runs: tuple[Run | None, Run | None] = (None, None)
    progress: Progress | None = field(default=None, compare=False, repr=False)
    ranked: Ranked | None = None
    _shared: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    # ------------------------------------------------------------------ both sides at once

    @property
    def traces(self) -> tuple[Trace, Trace]:
        """The reference's, the candidate's."""
        return self.reference, self.candidate

    def trace(self, side: Side) -> Trace:
        """That of one side."""
        return self.traces[SIDES.index(side)]

    @functools.cached_property
    def partners(self) -> tuple[Mapping[int, int], Mapping[int, int]]:
        """Index of the reference's call → its counterpart's; of the candidate's → its counterpart's."""
        pairs = [(pair.reference, pair.candidate) for pair in self.alignment.pairs]
        return dict(pairs), {theirs: ours for ours, theirs in pairs}

    def calls_at(self, at: tuple[int, int]) -> tuple[Call, Call]:
        """The two calls of these indices."""
        return self.reference.calls[at[0]], self.candidate.calls[at[1]]

    def paired(self) -> Iterator[tuple[Call, Call]]:
        """Calls that correspond, in order."""
        return (self.calls_at((pair.reference, pair.candidate)) for pair in self.alignment.pairs)

    @property
    def replayable(self) -> bool:
        """Whether both traces can be carried out again."""
        return not any(map(replayable, self.traces))

    # ------------------------------------------------------------------ what differs besides values

    @functools.cached_property
    def leaves(self) -> Mapping[str, tuple[Leaf | None, Leaf | None]]:
        """Leaf name (in the reference's naming) → (reference's, candidate's); constants are left out."""
        reference = {leaf.name: leaf for leaf in self.reference.leaves if leaf.role != "constant"}
        candidate = {self.rename(x.name): x for x in self.candidate.leaves if x.role != "constant"}
        return {name: (reference.get(name), candidate.get(name)) for name in (reference | candidate)}

    def rename(self, name: str) -> str:
        """A candidate's name in the reference's naming."""
        return self.alignment.rename(name)

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

    def payload(self, leaf: Leaf, side: Side) -> Payload:
        """A leaf's full tensor at the beginning of the run.

        Raises:
            PayloadError: the trace did not keep it.
        """
        found = self.trace(side).payload(leaf.payload)
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

    @property
    def repeats(self) -> bool:
        """Whether no side is known to differ from itself."""
        return not any(trace.observer.deterministic is False for trace in self.traces)

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """Something that several causes ask for, made once per case."""
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    def close(self) -> None:
        """Let go of what was made of it: replays hold tensors, and so the files that these were read from."""
        self._shared.clear()
        for name in ("together", "experiments", "beginning"):
            vars(self).pop(name, None)

    @functools.cached_property
    def together(self) -> RankedExperiments:
        """A place to run several ranks, or the reference as they would, again."""
        if self.ranked is None:
            raise ValueError("there is one candidate")
        return RankedExperiments(self.ranked)

    @functools.cached_property
    def beginning(self) -> CommonBeginning:
        """What both traces begin with alike."""
        first = min((min(origin.calls) for origin in self.localization.origins), default=0)
        return CommonBeginning(self.reference, self.candidate, self.alignment, upto=max(first, 0))

    @functools.cached_property
    def experiments(self) -> Experiments:
        """A place to run either side again under interventions."""
        local = self.localization
        return Experiments(
            Sides(
                reference=self.reference,
                candidate=self.candidate,
                alignment=self.alignment,
                differing_leaves=lambda: self.differing_leaves,
                runs=self.runs,
                axes=local.axes,
                rows=local.rows,
                returned=_by_slot(local) if local.returned else None,
                beginning=self.beginning,
            )
        )


def _by_slot(local: Localization) -> tuple[dict[Slot, Payload], dict[Slot, Payload]]:
    return {slot: ours for slot, ours, _ in local.returned}, {slot: theirs for slot, _, theirs in local.returned}


def _changes(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*reference, *(key for key in candidate if key not in reference)]
    return {key: (reference.get(key), candidate.get(key)) for key in keys if reference.get(key) != candidate.get(key)}

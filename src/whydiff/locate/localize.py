"""Where two programs differ: from fingerprints if they settle it, else by executing both again, twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Progress, executor_of, replayable
from whydiff.locate.by_fingerprint import agrees, from_fingerprints
from whydiff.locate.growth import measure_growth
from whydiff.locate.influence import without_influence
from whydiff.locate.localization import Localization
from whydiff.locate.origins import find_origins
from whydiff.locate.padding import ON_DISK, Runs, leave_out
from whydiff.locate.pictures import Pictures
from whydiff.numbers.comparison import same
from whydiff.pair.axes import axes_of
from whydiff.records import Alignment, Trace


def localize(
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    progress: Progress | None,
    rows: Any = None,
    runs: Runs = ON_DISK,
) -> tuple[Localization, tuple[str, ...]]:
    """Where: from fingerprints if they settle it, else by replaying both programs twice (plain, resynchronised)."""
    recorded = from_fingerprints(reference, candidate, alignment, same)
    if agrees(recorded, alignment, decided=not (replayable(reference) or replayable(candidate))):
        return recorded, ()
    why_not = [
        f"the {name} cannot be replayed: {why}"
        for name, why in (("reference", replayable(reference)), ("candidate", replayable(candidate)))
        if why
    ]
    if why_not:
        if rows is not None:
            why_not.append("so its rows cannot be left out: every row is compared")
        return recorded, (*why_not, "origins are read off the fingerprints; later ones may hide behind earlier ones")
    axes = axes_of(reference, candidate, alignment)
    if axes is None:
        return replace(recorded, origins=(), unplaced=True), ()
    plain = measure_growth(executor_of(reference), executor_of(candidate), alignment, progress, axes=axes)
    pictures, again = Pictures(), (executor_of(reference), executor_of(candidate))
    resynchronised = find_origins(*again, alignment, progress, axes=axes, on_origin=pictures)
    if recorded.origins and not resynchronised.origins and plain.unfaithful:
        why = "replayed on this machine, calls give other bits than were recorded: origins are as recorded"
        return recorded, (why,)
    padded = leave_out(reference, candidate, plain, rows, progress, runs)
    found = Localization(
        origins=resynchronised.origins,
        growth=plain.growth,
        outputs=padded.outputs,
        returned=padded.returned,
        accounted=resynchronised.accounted,
        agreeing=plain.agreeing,
        propagated=max(0, plain.differing - len(resynchronised.origins)),
        counts=(*dict.fromkeys((*plain.counts, *resynchronised.counts)), *padded.counts),
        axes=axes,
        rows=padded.rows,
        silent=without_influence(reference, candidate, alignment, resynchronised, padded, progress),
        pictures=tuple(pictures.taken),
    )
    return found, (*(f"not compared: {text}" for text in plain.left_out), *padded.notes)

"""Where the difference is: the one record that everything after it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from whydiff.locate.rows import Rows
from whydiff.pair.slices import Axis
from whydiff.records import Comparison, Count, Growth, Origin, Payload, Picture, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Localization:
    """Where two runs differ; made once, from fingerprints (`from_fingerprints`) or from two walks and experiments.

    Attributes:
        origins: in execution order.
        growth: plain difference at the last paired call of every scope, in execution order.
        outputs: plain difference of what the runs returned, per output.
        returned: (output, reference's payload, candidate's payload); empty if the fingerprints settled it.
        accounted: True if after resynchronising at the origins no output bit differs; None if unknown.
        agreeing, propagated: how many pairs agree in the plain walk, and differ without being origins.
        counts: calls that could not be replayed or compared, with reasons.
        axes: what the runs have different sizes of; empty if nothing.
        rows: by output, which of its rows are compared; no entry: all.
        silent: why the origins do not matter (no output depends on what differs there), as a sentence; else empty.
        pictures: of the first origins.
        unplaced: whether nothing says which part of the larger run the smaller one is; then nothing is located.
    """

    origins: tuple[Origin, ...] = ()
    growth: tuple[Growth, ...] = ()
    outputs: tuple[tuple[Slot, Comparison], ...] = ()
    returned: tuple[tuple[Slot, Payload, Payload], ...] = ()
    accounted: bool | None = None
    agreeing: int = 0
    propagated: int = 0
    counts: tuple[Count, ...] = ()
    axes: tuple[Axis, ...] = ()
    rows: Mapping[Slot, Rows] = field(default_factory=dict)
    silent: str = ""
    pictures: tuple[Picture, ...] = ()
    unplaced: bool = False

"""What a range audit found: inert records, filled by an adapter's range recorder.

Built while the program runs, from statistics only: no tensor is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whydiff.numbers.ranges import Range, limits, narrower
from whydiff.records import Site


@dataclass(frozen=True, slots=True)
class SiteRange:
    """Range of what one site wrote, over all steps.

    Attributes:
        site: step is that of the first call.
        range: merged over calls.
        calls: how many.
        growth: (step, largest finite magnitude) per call, in order.
        cancelled: bits lost to cancellation, ``log2(largest input / largest output)`` of a sum or difference
            of two tensors, at worst over its calls; 0 for other ops.
    """

    site: Site
    range: Range
    calls: int
    growth: tuple[tuple[int, float], ...]
    cancelled: float = 0.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a healthy program does not do, with what was measured when it happened.

    Attributes:
        kind: ``overflow`` (finite inputs, inf or NaN out), ``hidden`` (an overflow's inf or NaN goes in, finite
            numbers come out), ``masked-row`` (NaN from rows of minus infinity), ``late-scaling`` (a product is
            stored and scaled down afterwards, with little or no headroom), ``underflow`` (most non-zero inputs
            of a cast or scaling become zero, or the constant that should keep a sum or a clamp from zero does),
            ``one-pass-variance`` (E[x²] − E[x]² loses its digits).
        site: where.
        dtype: of what is written there.
        data: measured numbers (JSON scalars).
        count: how many calls of the site raised it.
        steps: the first and last steps that did.
        every: all steps that did, in order.
    """

    kind: Literal["overflow", "hidden", "masked-row", "late-scaling", "underflow", "one-pass-variance"]
    site: Site
    dtype: str
    data: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    steps: tuple[int, int] = (0, 0)
    every: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that one run's numbers did, by site.

    Attributes:
        sites: in order of first execution.
        alarms: in order of first occurrence.
        skipped: reason → how many values were not measured.
        steps: how many times the root ran.
        rewritten: site → what the rewrite of its op measured, if ops were rewritten to try remedies.
    """

    sites: tuple[SiteRange, ...]
    alarms: tuple[Alarm, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    steps: int = 1
    rewritten: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def failing(self, dtype: str) -> tuple[SiteRange, ...]:
        """Sites whose numbers overflow or would overflow in a format no wider than their own, worst first."""
        room = limits(dtype).largest
        sites = [site for site in self.sites if limits(site.range.dtype).largest >= room]
        bad = [site for site in sites if site.range.headroom(dtype) < 0 or site.range.infs or site.range.nans]
        return tuple(sorted(bad, key=lambda site: site.range.headroom(dtype)))

    def survival(self) -> Mapping[str, tuple[SiteRange, ...]]:
        """Format → sites that would not survive in it, for every format narrower than one in use."""
        used = {site.range.dtype for site in self.sites}
        formats = dict.fromkeys(name for dtype in used for name in (dtype, *narrower(dtype)))
        return {name: self.failing(name) for name in formats}

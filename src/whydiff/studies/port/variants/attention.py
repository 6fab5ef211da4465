"""Attention kernels: the scale of the scores, and whether later positions are hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call, Intervention
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Rewrite, argument


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Scales that are taken for 1 / sqrt(head size); the numbers of the other side; the other causality."""
    for side in (0, 1):
        framework = bench.traces[side].framework
        for call in bench.region(side, number):
            if Role.ATTENTION in for_framework(framework).roles(call.site.op):
                yield from _scales(bench, side, number, call)
                yield _causality(side, call, bool(argument(framework, call, "causal", False)), framework)
                return


def _scales(bench: Bench, side: int, number: int, call: Call) -> Iterator[Hypothesis]:
    shape = call.reads[0].spec.shape
    given = argument(bench.traces[side].framework, call, "scale")
    own = float(given) if given is not None else 1 / math.sqrt(shape[-1])
    heads = shape[1] if len(shape) > 3 else 1
    wide = shape[-1] * heads
    options = [1.0, 1 / shape[-1], 1 / math.sqrt(wide), 1 / wide, math.sqrt(shape[-1])]
    for other in bench.region(1 - side, number):
        found = [x for x in (*other.arguments[0], *other.arguments[1].values()) if isinstance(x, float) and x > 0]
        both = [y for x in found for y in (x, x * x)]  # a factor of the queries and of the keys is squared
        options += [y for x in both for y in (x, 1 / x) if 1e-4 < y < 1e4]
    for scale in dict.fromkeys(options):
        if not math.isclose(scale, own, rel_tol=1e-6):
            yield taken_for(
                "FO003",
                side,
                (f"{own:.6g}", f"{scale:.6g}"),
                Rewrite(edits=(Intervention("set-argument", str(call.site), ("scale", scale)),)),
                says="the candidate scales the attention's scores by {candidate}, the reference by {reference}",
                fix="Scale the scores by {reference} in the candidate.",
            )


def _causality(side: int, call: Call, causal: bool, framework: str) -> Hypothesis:
    hides, shows = "hides later positions", "hides no positions"
    position, name = for_framework(framework).places(call.site.op)["causal"]
    where = position if position is not None and position < len(call.arguments[0]) else name
    return taken_for(
        "IN003",
        side,
        (hides, shows) if causal else (shows, hides),
        Rewrite(edits=(Intervention("set-argument", str(call.site), (where, not causal)),)),
        says="in the attention the candidate {candidate}, the reference {reference}",
        fix="Use the reference's mask in the candidate: it {reference}.",
    )

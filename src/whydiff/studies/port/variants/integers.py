"""Weights in small integers: the layer computed as the candidate does it, with as many scales as it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call
from whydiff.studies.port.bench import Bench, leaf_of
from whydiff.studies.port.hypotheses import Hypothesis
from whydiff.studies.port.quantised import Quantised
from whydiff.studies.port.rewrites import Applied, Rewrite

Array = np.ndarray[Any, Any]
FLOAT = "computes in floating point"


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Weights rounded to the candidate's integers; and operands rounded to 8 bits of their own range besides."""
    known = {one.reference: one for one in bench.quantised}
    if not known:
        return
    roles = for_framework(bench.traces[0].framework).roles
    for call in bench.region(0, number):
        if not roles(call.site.op) & {Role.PRODUCT, Role.CONVOLUTION}:
            continue
        for position, event in enumerate(call.reads):
            leaf = leaf_of(bench.traces[0], event)
            if leaf is not None and leaf.name in known:
                yield from _of(known[leaf.name], call, position)
                return


def _of(one: Quantised, call: Call, weight: int) -> Iterator[Hypothesis]:
    coarse = one.error / one.finer if one.finer else 1.0
    scales = (
        "one scale per channel"
        if one.per_channel
        else f"one scale for the whole tensor (its mean error is {coarse:.2g} times that of one per channel)"
    )
    words = f"rounds {one.reference} to 8 bits with {scales}"
    leaves: dict[str, Callable[[Array], Array]] = {one.reference: lambda _: one.array}
    beside = " and its operand by the range of the whole batch, so that a row's result depends on the others"
    for text, calls in ((words, {}), (words + beside, {call.index: _dynamic(weight)})):
        yield Hypothesis(
            code="ST003",
            says=f"the candidate {text}",
            said=(FLOAT, text),
            fix="Quantise with one scale per channel, with calibrated ranges, or leave this layer in floating point.",
            teller=0,
            jumps=bool(calls),
            mine=Rewrite(leaves=leaves, calls=calls),
        )


def _dynamic(weight: int) -> Callable[[Applied], Sequence[Array]]:
    """The operand as ONNX's DynamicQuantizeLinear rounds it: 8 bits between its extremes, which include 0."""

    def formula(applied: Applied) -> Sequence[Array]:
        places = [i for i, read in enumerate(applied.reads) if i != weight and read.ndim > 1]
        x = applied.reads[places[0]]
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / 255 or 1.0
        zero = float(np.clip(np.round(-low / scale), 0, 255))
        rounded = (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale
        return applied.again(instead={places[0]: rounded})

    return formula

"""Norms: which variance, epsilon inside or outside the root, and how running statistics are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Applied, Formula, Rewrite, argument

Array = np.ndarray[Any, Any]


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Formulas that are taken for a layer norm or a batch norm."""
    for side in (0, 1):
        roles = for_framework(bench.traces[side].framework).roles
        for call in bench.region(side, number):
            kinds = roles(call.site.op)
            if Role.NORM in kinds:
                yield from _layer(side, call)
            elif Role.BATCH_NORM in kinds:
                yield from _batch(side, call)
            elif Role.GROUP_NORM in kinds:
                yield from _groups(side, call, bench.traces[side].framework)
            else:
                continue
            return


def _layer(side: int, call: Call) -> Iterator[Hypothesis]:
    yield _named(side, call, ("divides by n", "divides the variance by n - 1"), _normed(correction=1))
    yield _named(side, call, ("adds epsilon to the variance", "adds epsilon to the root"), _normed(outside=True))
    yield _named(side, call, ("subtracts the mean", "subtracts no mean"), _normed(centred=False))


def _normed(*, correction: int = 0, outside: bool = False, centred: bool = True) -> Formula:
    def formula(applied: Applied) -> Sequence[Array]:
        x, eps = applied.reads[0], float(applied.given("eps"))
        axes = tuple(range(x.ndim - len(applied.given("over")), x.ndim))
        count = math.prod(x.shape[axis] for axis in axes)
        mean = x.mean(axes, keepdims=True) if centred else 0.0
        variance = np.square(x - mean).sum(axes, keepdims=True) / max(count - correction, 1)
        below = np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)
        weight, bias = applied.tensor("weight"), applied.tensor("bias")
        return [(x - mean) / below * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)]

    return formula


def _groups(side: int, call: Call, framework: str) -> Iterator[Hypothesis]:
    channels, own = call.reads[0].spec.shape[1], int(argument(framework, call, "groups", 1))
    for count in range(1, channels + 1):
        if channels % count == 0 and count != own:
            yield _named(side, call, (f"has {own} groups", f"has {count} groups"), _grouped(count))


def _grouped(count: int) -> Formula:
    def formula(applied: Applied) -> Sequence[Array]:
        x, eps = applied.reads[0], float(applied.given("eps"))
        rows = x.reshape(x.shape[0], count, -1)
        normed = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + eps)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        weight, bias = (applied.tensor(name) for name in ("weight", "bias"))
        scaled = normed.reshape(x.shape) * (1.0 if weight is None else weight.reshape(shape))
        return [scaled + (0.0 if bias is None else bias.reshape(shape))]

    return formula


def _batch(side: int, call: Call) -> Iterator[Hypothesis]:
    biased = ("keeps the unbiased variance (n - 1)", "keeps the biased variance (n)")
    yield _named(side, call, biased, _kept(own=True, biased=True))
    own = "gives new statistics the weight of the momentum"
    for weight in (None, 0.01, 0.001, 0.1, 0.9, 0.99):
        words = f"gives {'old statistics that weight' if weight is None else f'new statistics the weight {weight:g}'}"
        yield _named(side, call, (own, words), _kept(weight))
        yield _named(side, call, (own, f"{words}, and {biased[1]}"), _kept(weight, biased=True))
    used = ("uses the running statistics", "uses the batch's statistics")
    yield _named(side, call, used, _by_batch)


def _kept(weight: float | None = None, *, own: bool = False, biased: bool = False) -> Formula:
    """The running statistics after a training step (weight None: the momentum's complement); what is normalised stays."""

    def formula(applied: Applied) -> Sequence[Array | None]:
        x, mean, variance = applied.reads[0], applied.tensor("mean"), applied.tensor("variance")
        if mean is None or variance is None or not applied.given("training"):
            raise ValueError("no statistics are kept")
        axes = (0, *range(2, x.ndim))
        momentum = float(applied.given("momentum"))
        new = momentum if own else 1 - momentum if weight is None else weight
        spread = x.var(axes, ddof=0 if biased else 1)
        kept = [(1 - new) * mean + new * x.mean(axes), (1 - new) * variance + new * spread]
        return [*(None,) * (len(applied.call.writes) - 2), *kept]

    return formula


def _by_batch(applied: Applied) -> Sequence[Array]:
    arguments = [*applied.call.arguments[0]]
    training, _ = for_framework(applied.executor.framework).places(applied.call.site.op)["training"]
    if training is None or arguments[training]:
        raise ValueError("it does so already")
    x, eps = applied.reads[0], next(a for a in reversed(arguments) if isinstance(a, float))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    axes = (0, *range(2, x.ndim))
    weight, bias = (applied.tensor(name) for name in ("weight", "bias"))
    normed = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return [
        normed * (1.0 if weight is None else weight.reshape(shape)) + (0.0 if bias is None else bias.reshape(shape))
    ]


def _named(side: int, call: Call, said: tuple[str, str], formula: Formula) -> Hypothesis:
    return taken_for(
        "FO008",
        side,
        said,
        Rewrite(calls={call.index: formula}),
        says="in the norm the candidate {candidate}, the reference {reference}",
        fix="Let the candidate's norm do what the reference's does: it {reference}.",
    )

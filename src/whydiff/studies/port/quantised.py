"""Weights that the candidate keeps as small integers with a scale: matched with the reference's by what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import executor_of
from whydiff.numbers.metrics import is_integer
from whydiff.records import Leaf, Trace
from whydiff.studies.port.weights import distance_of, layouts_of, numbers, rearranged

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Quantised:
    """One weight in integers.

    Attributes:
        reference, candidate: names.
        array: what the integers stand for, in the reference's layout.
        per_channel: whether there is one scale per channel; else one for the whole tensor.
        error: mean absolute distance from the reference's weight.
        finer: the same with one scale per channel.
    """

    reference: str
    candidate: str
    array: Array
    per_channel: bool
    error: float
    finer: float


def quantised(reference: Trace, candidate: Trace) -> tuple[Quantised, ...]:
    """Every matrix of the reference that the candidate has as integers within half a step of a scale."""
    codes = [(leaf, array) for leaf, array in _held(candidate) if array.ndim > 1 and _is_code(leaf)]
    if not codes:
        return ()
    scales = [array for leaf, array in _held(candidate) if not is_integer(leaf.spec.dtype)]
    offsets = [array for leaf, array in _held(candidate) if _is_code(leaf) and array.ndim < 2]
    found = []
    for mine, weight in _held(reference):
        if weight.ndim < 2 or is_integer(mine.spec.dtype) or not mine.is_state:
            continue
        for other, code in codes:
            fit = _fit(weight, code, scales, offsets)
            if fit is not None:
                whole, per_channel = fit
                error = float(np.abs(whole - weight).mean())
                found.append(Quantised(mine.name, other.name, whole, per_channel, error, _finest(weight)))
                break
    return tuple(found)


def _held(trace: Trace) -> Iterator[tuple[Leaf, Array]]:
    executor = executor_of(trace)
    for leaf in trace.leaves:
        if leaf.role != "input" and not leaf.skipped:
            yield leaf, numbers(executor.payload(executor.leaf_value(leaf)))


def _is_code(leaf: Leaf) -> bool:
    return leaf.spec.dtype in ("int8", "uint8")


def _fit(weight: Array, code: Array, scales: list[Array], offsets: list[Array]) -> tuple[Array, bool] | None:
    """What the integers stand for, in the weight's layout; None unless every number is within half a step."""
    for _, layout in layouts_of(weight, code, distance_of)[:2]:
        moved = rearranged(code, layout.inverse, weight.shape)
        for scale in scales:
            for per_channel, spread in _spreads(scale, weight.shape):
                zeros = [
                    np.zeros(()),
                    *(z for o in offsets if o.size == scale.size for _, z in _spreads(o, weight.shape)),
                ]
                for zero in zeros:
                    whole = (moved - zero) * spread
                    if _within_half_a_step(weight, whole, spread):
                        return whole, per_channel
    return None


def _spreads(scale: Array, shape: tuple[int, ...]) -> Iterator[tuple[bool, Array]]:
    if scale.size == 1:
        yield False, scale.reshape(())
    for axis, size in enumerate(shape):
        if scale.size == size > 1:
            yield True, scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _within_half_a_step(weight: Array, whole: Array, step: Array) -> bool:
    return bool((step > 0).all() and (np.abs(weight - whole) <= (0.5 + 2.0**-8) * step).all())


def _finest(weight: Array) -> float:
    """The error with one symmetric scale per output channel."""
    step = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / 127
    return float(np.abs(np.round(weight / np.maximum(step, 1e-300)) * step - weight).mean())

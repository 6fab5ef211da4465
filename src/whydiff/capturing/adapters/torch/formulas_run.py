"""One formula on scaled inputs in one dtype, timed; for `whydiff.compare_formulas`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import dtype_of, to_payload
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.records import Payload


def evaluate(
    formula: Callable[..., Any], inputs: Sequence[Any], dtype: str, scale: float, device: str, repeats: int = 1
) -> tuple[Payload, float]:
    """The first tensor that a formula returns for inputs times a scale, rounded to a dtype beforehand.

    Args:
        formula: called with the tensors.
        inputs: tensors; floating ones are multiplied by ``scale`` in float64, then rounded once.
        dtype, scale, device: as said; the same rounded numbers are given to the oracle with ``dtype="float64"`` by
            the caller (`rounded`).
        repeats: how often it is timed.

    Returns:
        The output's payload and the shortest time of a run in seconds.
    """
    given = rounded(inputs, dtype, scale, device)
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats):
            _wait(device)
            begin = time.perf_counter()
            output = formula(*given)
            _wait(device)
            best = min(best, time.perf_counter() - begin)
    return to_payload(next(tensor for _, tensor in tensors_in(output))), best


def rounded(inputs: Sequence[Any], dtype: str, scale: float, device: str, carried: str = "") -> list[Any]:
    """Inputs times a scale, rounded to ``dtype`` and carried in ``carried`` (or in ``dtype``)."""
    target = dtype_of(dtype)
    given = []
    for value in inputs:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = (value.double() * scale).to(target).to(dtype_of(carried or dtype)).to(device)
        given.append(value)
    return given


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)

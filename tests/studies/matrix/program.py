"""Run by `test_cells.py` in every environment: no random numbers, which differ between instruction sets."""

from __future__ import annotations

import os

import torch


def table(rows: int, columns: int, step: int, scale: int) -> torch.Tensor:
    return (((torch.arange(rows * columns) * step) % 1021) - 510).float().reshape(rows, columns) / scale


# Dyadic fractions: their products add up exactly, whatever the order. The long sum is inexact on purpose.
X, W, LONG = table(16, 256, 7, 512), table(256, 256, 13, 8192), table(2048, 1024, 3, 511)


def run() -> tuple[torch.Tensor, torch.Tensor]:
    """A layer norm, whose kernel depends on the instruction set, and a sum, which threads share."""
    if os.environ.get("WHYDIFF_TEST_FAIL"):
        raise RuntimeError("asked to fail")
    with torch.no_grad():
        return torch.nn.functional.layer_norm(torch.relu(X @ W), (256,)), LONG.sum()

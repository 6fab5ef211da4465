"""Tolerances that fit a tensor's own size, and numbers that stand alone."""

from __future__ import annotations

import math

from whydiff.numbers.metrics import Statistics
from whydiff.numbers.tolerance import ARTIFACT_PEAK, ARTIFACT_TOLERANCES, ARTIFACT_WRITTEN, Tolerance


def scaled_tolerance(tolerance: Tolerance, size: float) -> Tolerance:
    """A tolerance whose absolute part fits a tensor's own magnitude (`ARTIFACT_PEAK`).

    Args:
        tolerance: of the dtype.
        size: root mean square, the larger one of both sides.
    """
    atol = tolerance.rtol * ARTIFACT_PEAK * size
    if not atol < tolerance.atol:
        return tolerance
    return Tolerance(tolerance.rtol, atol, f"{tolerance.source}, scaled to its size")


def rounded_tolerance(tolerance: Tolerance, found: Statistics, unit: float, units: float) -> Tolerance:
    """A tolerance for numbers that either side computed through several roundings: small sums err by what large terms do.

    It is wider only where the tensors as wholes are one roundoff apart or less: what scales all of them is not rounding.

    Args:
        tolerance: of the dtype.
        found: both tensors.
        unit: unit roundoff of the coarser dtype.
        units: how many of them, of a number itself and of the root mean square.
    """
    if not units or found.sum_square > unit**2 * found.sum_reference_square:
        return tolerance
    size = math.sqrt(found.sum_reference_square / max(found.finite, 1))
    rtol, atol = max(tolerance.rtol, units * unit), max(tolerance.atol, units * unit * size)
    return Tolerance(rtol, atol, f"{units:g} roundoffs of a number and of the tensor's size")


def lone_tolerance(reference: float, candidate: float) -> Tolerance:
    """What is allowed between two numbers that stand alone: relative to themselves, and nothing between two settings."""
    rtol = ARTIFACT_TOLERANCES[""][0]
    if all(float(f"{value:.{ARTIFACT_WRITTEN}g}") == value for value in (reference, candidate)):
        return Tolerance(0.0, 0.0, "numbers of few digits")
    return Tolerance(rtol, 0.0, "stored numbers")

"""Tolerances that fit a tensor's own size, and numbers that stand alone."""

from __future__ import annotations

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


def lone_tolerance(reference: float, candidate: float) -> Tolerance:
    """What is allowed between two numbers that stand alone: relative to themselves, and nothing between two settings."""
    rtol = ARTIFACT_TOLERANCES[""][0]
    if all(float(f"{value:.{ARTIFACT_WRITTEN}g}") == value for value in (reference, candidate)):
        return Tolerance(0.0, 0.0, "numbers of few digits")
    return Tolerance(rtol, 0.0, "stored numbers")

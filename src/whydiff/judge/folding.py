"""Runs of which one stores what the other computes: an adapter merged into a weight, a norm folded into a convolution.

In exact arithmetic they are one function. The stored product was rounded to its dtype when it was made, and that
rounding stays when the programs are lifted, so the scaling test alone takes it for another function.
"""

from __future__ import annotations

from whydiff.explain.case import Case
from whydiff.explain.causes import products_alike
from whydiff.explain.scaling import Scaling
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Evidence


def folded(case: Case, scaling: Scaling | None) -> Evidence | None:
    """Whether the outputs agree in float64 to within the rounding of the state that only one side stores.

    Asked only where one side has state that the other lacks, and one carries out ops that the other does not: a weight
    that differs in a program of the same ops is never excused. State narrower than float32, whose rounding could hide a
    defect at the outputs, and state whose rounding a later step makes larger (a batch norm of a small variance), is held
    element by element against what the other side's state implies (`explain.implied`).

    Args:
        case: the pair of runs.
        scaling: from `whydiff.explain.scaling.measure_scaling`; None: not measured.

    Returns:
        The measured numbers; None if it is not so. The bound is the unit roundoff of the narrowest such state times
        the root mean square of the reference's output: rounding every element of a factor moves a sum of products
        by less (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.5).
    """
    lifted = scaling.program.lifted if scaling is not None else None
    if lifted is None or lifted.nature not in ("stays", "between") or lifted.double.special:
        return None
    alone = case.alignment.unpaired_reference or case.alignment.unpaired_candidate
    lone = [leaf for side in case.lone_leaves() for leaf in side]
    if not lone or not alone:
        return None
    stored = lone + [leaf for pair in case.differing_leaves for leaf in pair if leaf.is_state]
    units = [UNIT_ROUNDOFF[leaf.spec.dtype] for leaf in stored if leaf.spec.dtype in UNIT_ROUNDOFF]
    wide = bool(units) and max(units) <= UNIT_ROUNDOFF["float32"]
    if not wide or lifted.double.mean > max(units) * lifted.double.magnitude:
        return _element_by_element(case, scaling) if units else None
    return Evidence(
        f"in float64 the outputs agree to within the rounding of stored numbers ({lifted.double.mean:.1e} of "
        f"{lifted.double.magnitude:.1e}): one side stores what the other computes",
        {"float64": lifted.double.mean, "magnitude": lifted.double.magnitude, "unit_roundoff": max(units)},
    )


def _element_by_element(case: Case, scaling: Scaling | None) -> Evidence | None:
    """Whether every origin that stays in float64 is a product whose stored matrix is the other side's, rounded."""
    staying = {
        index
        for index, modes in enumerate(scaling.origins if scaling is not None else ())
        if modes.lifted is None or modes.lifted.nature in ("stays", "between")
    }
    alike = {members: one for members, one in products_alike(case).items() if one.is_rounding}
    if not alike or staying - {index for members in alike for index in members}:
        return None
    worst = max(alike.values(), key=lambda one: one.worst)
    return Evidence(
        f"one side stores what the other computes: the matrices that the products amount to lie, in every element, within "
        f"{worst.worst:.2f} of what half a unit in the last place of every stored number explains",
        {"worst": worst.worst, "dtype": worst.dtype, "products": len(alike)},
    )

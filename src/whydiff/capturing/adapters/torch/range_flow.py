"""How a value was made, as far as a range audit asks: products, squares, sums, means, and copies of such.

A value's ``made`` is None or one of these tuples; ``total`` is the site that made it, a source is what was squared or
averaged: the `Known` of a plain value, or the ``made`` of a square or mean.

``("product", total)``, ``("copy", known)``, ``("square", source, total)``, ``("sum", source, total, count)``,
``("mean", source, total)``. Sources nest twice at most, as E[x²] and E[x]² do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.range_alarms import scale_factor
from whydiff.capturing.adapters.torch.range_plan import Plan
from whydiff.capturing.adapters.torch.range_values import Known


def made_by(
    plan: Plan, total: Any, args: Any, reads: Sequence[torch.Tensor], before: Sequence[Known], elements: int
) -> Any:
    """``made`` of what an op writes.

    Args:
        plan: of the op.
        total: its site.
        args: its positional arguments.
        reads, before: floating tensors that it reads, and what was known of them.
        elements: how many it writes.
    """
    if plan.role == "product":
        return ("product", total)
    if not before:
        return None
    first = before[0]
    squares = plan.role == "power" and (len(args) < 2 or args[1] == 2)
    if squares or (plan.op == "mul" and len(before) == 2 and before[1] is first):
        return ("square", _source(first, "mean"), total)
    if plan.role == "mean":
        return ("mean", _source(first, "square"), total)
    if plan.role == "total" and elements:
        return ("sum", _source(first, "square"), total, reads[0].numel() // elements)
    if plan.role == "copy" or plan.op == "_to_copy":
        return ("copy", copied(first))
    made = copied(first).made
    if plan.role == "scaling" and made is not None and made[0] == "sum":
        factor = scale_factor(plan.op, args)
        if factor is not None and abs(factor * made[3] - 1) < 1e-6:
            return ("mean", *made[1:3])
    return None


def copied(known: Known) -> Known:
    """What a value is a copy of, in this or another dtype; itself if it is none."""
    made = known.made
    return made[1] if made is not None and made[0] == "copy" else known


def of_product(known: Known) -> bool:
    """Whether a value is a stored product, or a copy of one."""
    made = copied(known).made
    return made is not None and made[0] == "product"


def _source(known: Known, kind: str) -> Any:
    known = copied(known)
    made = known.made
    return made if made is not None and made[0] == kind and isinstance(made[1], Known) else known


def one_pass_variance(before: Sequence[Known]) -> tuple[Any, Any] | None:
    """The sites of the squares and of their mean if the operands are E[x²] and E[x]² of one x; else None."""
    if len(before) != 2:
        return None
    of_squares, squared = copied(before[0]).made, copied(before[1]).made
    if of_squares is None or squared is None or of_squares[0] != "mean" or squared[0] != "square":
        return None
    inner, outer = of_squares[1], squared[1]
    if isinstance(inner, Known) or isinstance(outer, Known):
        return None
    if inner[0] != "square" or outer[0] != "mean" or inner[1] is not outer[1]:
        return None
    return inner[2], of_squares[2]

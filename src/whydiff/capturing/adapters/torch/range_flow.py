"""What a range audit has to know of an operator, and how a value was made: products, squares, sums, means, copies of such.

A value's ``made`` is None or one of these tuples; ``total`` is the site that made it, a source is what was squared or
averaged: the `Known` of a plain value, or the ``made`` of a square or mean.

``("product", total)``, ``("copy", known)``, ``("square", source, total)``, ``("sum", source, total, count)``,
``("mean", source, total)``. Sources nest twice at most, as E[x²] and E[x]² do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from whydiff.capturing.adapters.torch.operators import Operator, describe
from whydiff.capturing.adapters.torch.range_alarms import scale_factor
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


Role = Literal["", "product", "sum", "scaling", "power", "mean", "total", "copy", "bound"]
"""What an op does to magnitudes, as far as alarms ask. ``scaling`` includes casts, ``copy`` keeps the values."""

_OPS: dict[Role, tuple[str, ...]] = {
    "product": ("mm", "bmm", "addmm", "baddbmm", "matmul", "dot", "mv", "linear"),
    "sum": ("add", "sub", "rsub", "add_", "sub_"),
    "scaling": ("mul", "div", "mul_", "div_", "_to_copy"),
    "power": ("pow", "square"),
    "mean": ("mean",),
    "total": ("sum",),
    "copy": ("clone",),
    "bound": ("clamp", "clamp_", "clamp_min", "clamp_min_"),
}
_ROLES = {op: role for role, ops in _OPS.items() for op in ops}


class Plan:
    """Facts of one overload.

    Attributes:
        operator: its schema's facts; ``op`` is its name.
        aside: it writes no number, or is carried out through other ops.
        view: its results show memory that was there before.
        changes: it writes to some of its arguments.
        changes_first: it writes to its first argument, a tensor, and to nothing else.
        role: see `Role`.
        shape_only: of its arguments it reads the shape and dtype, no number.
    """

    __slots__ = ("aside", "changes", "changes_first", "op", "operator", "role", "shape_only", "view")

    def __init__(self, operator: Operator, view: bool, first: str) -> None:
        self.operator, self.op, self.view = operator, operator.op, view
        self.aside = operator.composite or operator.silent or operator.rebinds
        self.changes = bool(operator.written_names or operator.unannotated)
        only = operator.written_args == {0} and len(operator.written_names) == 1 and not operator.unannotated
        self.changes_first = only and first == "Tensor" and not operator.resizes and not operator.uninitialised
        self.shape_only = operator.op.endswith("_like") or operator.op.startswith("new_")
        self.role: Role = _ROLES.get(operator.op, "")


plans: dict[int, tuple[Any, Plan]] = {}
"""By the identity of an ``OpOverload``, which is held: its own hash is computed in Python."""


def plan_of(func: Any) -> Plan:
    """The plan of an ``OpOverload``, entered in `plans`."""
    arguments = func._schema.arguments
    plan = Plan(describe(func), _is_view(func), str(arguments[0].type) if arguments else "")
    plans[id(func)] = (func, plan)
    return plan


def _is_view(func: Any) -> bool:
    """Whether all that an op returns are looks at its arguments' memory."""
    if func._schema.name == "aten::_unsafe_view":  # a view that autograd does not know as one
        return True
    returned = func._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)


def tensors_of(value: Any) -> Any:
    """Every tensor in an op's arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)

"""What a range audit has to know of an operator, looked up once per overload."""

from __future__ import annotations

from typing import Any, Literal

import torch

from whydiff.capturing.adapters.torch.operators import Operator, describe

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

"""Operators by which ranks exchange tensors: what they read and write, and who takes part.

Their schemas do not say what they write, and a result is there only after it was waited for: by the program, never by
whydiff. So what a collective wrote is looked at when the program looks at it first (`Recorder`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from whydiff.capturing import ranks
from whydiff.capturing.ranks import Rank

NEVER_WAITED = "written by a collective whose end the program did not wait for"


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one operator does.

    Attributes:
        kind: see `whydiff.records.Collective`.
        writes: positions of arguments that it writes to.
        fills: what was there before does not matter.
        gives: it gives new tensors.
    """

    kind: str
    writes: frozenset[int] = frozenset()
    fills: bool = False
    gives: bool = False


def _in_place(kind: str, *writes: int) -> Exchange:
    return Exchange(kind, frozenset(writes))


def _filling(kind: str) -> Exchange:
    return Exchange(kind, frozenset((0,)), fills=True)


def _giving(kind: str) -> Exchange:
    return Exchange(kind, gives=True)


_C10D: Mapping[str, Exchange] = {
    "allreduce_": _in_place("all-reduce", 0),
    "allreduce_coalesced_": _in_place("all-reduce", 0),
    "reduce_": _in_place("reduce", 0),
    "broadcast_": _in_place("broadcast", 0),
    "allgather_": _filling("all-gather"),
    "_allgather_base_": _filling("all-gather"),
    "allgather_coalesced_": _filling("all-gather"),
    "allgather_into_tensor_coalesced_": _filling("all-gather"),
    "gather_": _filling("gather"),
    "scatter_": _filling("scatter"),
    "reduce_scatter_": _filling("reduce-scatter"),
    "_reduce_scatter_base_": _filling("reduce-scatter"),
    "reduce_scatter_tensor_coalesced_": _filling("reduce-scatter"),
    "alltoall_": _filling("all-to-all"),
    "alltoall_base_": _filling("all-to-all"),
    "send": Exchange("send"),
    "recv_": _filling("recv"),
    "recv_any_source_": _filling("recv"),
    "barrier": Exchange("barrier"),
    "monitored_barrier_": Exchange("barrier"),
}
_FUNCTIONAL: Mapping[str, Exchange] = {
    "all_reduce": _giving("all-reduce"),
    "all_reduce_": _in_place("all-reduce", 0),
    "all_reduce_coalesced": _giving("all-reduce"),
    "all_reduce_coalesced_": _in_place("all-reduce", 0),
    "all_gather_into_tensor": _giving("all-gather"),
    "all_gather_into_tensor_out": _giving("all-gather"),
    "all_gather_into_tensor_coalesced": _giving("all-gather"),
    "reduce_scatter_tensor": _giving("reduce-scatter"),
    "reduce_scatter_tensor_coalesced": _giving("reduce-scatter"),
    "all_to_all_single": _giving("all-to-all"),
    "broadcast": _giving("broadcast"),
    "broadcast_": _in_place("broadcast", 0),
}
_OPERATORS = {"c10d": _C10D, "_c10d_functional": _FUNCTIONAL}
_ROOTS = ("root_rank", "src", "dst")
_REDUCTIONS = ("sum", "avg", "product", "min", "max", "band", "bor", "bxor", "premul_sum")
"""In the order of c10d's ``ReduceOp::RedOpType``."""


def rank() -> Rank:
    """Which of several processes this is: as the default process group says, else the launcher."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Rank(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return ranks.told()


def exchange(namespace: str, op: str) -> Exchange | None:
    """What an operator exchanges; None: nothing."""
    return _OPERATORS.get(namespace, {}).get(op)


def waits(namespace: str, op: str) -> bool:
    """Whether an operator only waits for what a collective writes."""
    return (namespace, op) == ("_c10d_functional", "wait_tensor")


def wraps(namespace: str, op: str) -> bool:
    """Whether an operator only puts a result, that is still to come, into an object that waits."""
    return (namespace, op) == ("_c10d_functional", "_wrap_tensor_autograd")


def desugared(types: Iterable[type]) -> bool:
    """Whether an op is given distributed tensors, which carry it out by ops on their local ones."""
    return any(map(_distributed, types))


@functools.lru_cache(maxsize=256)
def _distributed(kind: type) -> bool:
    return any(
        kind is getattr(sys.modules[module], name)
        for module, name in (
            ("torch.distributed.tensor", "DTensor"),
            ("torch.distributed._functional_collectives", "AsyncCollectiveTensor"),
        )
        if module in sys.modules
    )


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a distributed tensor; any other tensor as it is."""
    part: torch.Tensor = getattr(tensor, "_local_tensor", tensor) if _distributed(type(tensor)) else tensor
    return part


class Told:
    """An argument of a collective as data: the object itself would live on in what was recorded.

    A process group that outlives ``destroy_process_group`` is taken down while the interpreter ends, and hangs there.
    """

    __slots__ = ("template",)

    def __init__(self, template: Any) -> None:
        self.template = template


def told(value: torch.ScriptObject) -> Any:
    """What a group or a reduction is, instead of the object; any other object of a library as it is."""
    kind = str(value._type())
    if kind.endswith("c10d.ProcessGroup"):
        group = torch.distributed.ProcessGroup.unbox(value)
        return Told({"$group": _group(group)})
    if kind.endswith("c10d.ReduceOp"):
        return Told({"$reduce": _reduction(value)})
    return value


def _group(group: Any) -> dict[str, Any]:
    return {"name": str(group.group_name), "ranks": list(torch.distributed.get_process_group_ranks(group))}


def _reduction(value: Any) -> str:
    number = value.op() if value._has_method("op") else -1  # older versions do not tell
    return _REDUCTIONS[number] if 0 <= number < len(_REDUCTIONS) else "unknown"


def who(schema: Any, args: Sequence[Any], kind: str) -> Told:
    """How a collective is called: its kind, the ranks that take part, the reduction, and whose value is sent.

    Args:
        schema: of the operator.
        args: its arguments, as `told` gives them.
        kind: see `Exchange`.
    """
    found: dict[str, Any] = {"kind": kind, "group": "", "ranks": [], "reduce": "", "root": -1}
    for argument, value in zip(schema.arguments, args, strict=False):
        plain = value.template if isinstance(value, Told) else value
        if argument.name == "group_name":
            resolve: Any = vars(torch.distributed.distributed_c10d)["_resolve_process_group"]
            plain = {"$group": _group(resolve(value) if isinstance(value, str) else value)}
        if isinstance(plain, dict) and "$group" in plain:
            found["group"], found["ranks"] = plain["$group"]["name"], plain["$group"]["ranks"]
        elif isinstance(plain, dict) and "$reduce" in plain:
            found["reduce"] = plain["$reduce"]
        elif argument.name == "reduce_op" and isinstance(plain, str):
            found["reduce"] = plain
        elif argument.name in _ROOTS and isinstance(plain, int):
            found["root"] = plain
    return Told(found)

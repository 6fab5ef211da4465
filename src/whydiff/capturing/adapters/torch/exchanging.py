"""Collectives carried out again, on what the ranks of a replay hold: nothing is sent anywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from whydiff.errors import ReplayError
from whydiff.records import Call, Collective

Reads = Mapping[int, Sequence[torch.Tensor]]
"""Rank → what its call is given, without what it only overwrites."""

_FOLDS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "avg": torch.add,
    "product": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}


def exchanged(calls: Mapping[int, Call], reads: Mapping[int, Sequence[torch.Tensor]]) -> dict[int, list[torch.Tensor]]:
    """What every rank's call of one collective writes, in the order of the group.

    Sums are taken in the order of the ranks, in the dtype that is sent; another library may add in another order.

    Raises:
        ReplayError: the ranks' calls do not belong together, or this kind cannot be carried out.
    """
    told = {rank: Collective.of(call.arguments) for rank, call in calls.items()}
    first = next(iter(told.values()))
    if first is None or any(other != first for other in told.values()):
        raise ReplayError("Ranks call different collectives.", actual="; ".join(map(str, told.values())))
    order = [rank for rank in first.ranks if rank in calls]
    given = {
        rank: [read for event, read in zip(calls[rank].reads, reads[rank], strict=True) if not event.overwritten]
        for rank in order
    }
    rule = _RULES.get(first.kind)
    if rule is None:
        raise ReplayError("This collective cannot be carried out again.", actual=str(first))
    return {rank: rule(first, order, given, rank, calls[rank]) for rank in order}


def _reduced(told: Collective, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    fold = _FOLDS.get(told.reduce)
    if fold is None or len({tensor.shape for tensor in tensors}) > 1:
        raise ReplayError("This reduction cannot be carried out again.", actual=str(told))
    total = functools.reduce(fold, tensors)
    return total / len(tensors) if told.reduce == "avg" else total.clone()


def _all_reduce(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    return [_reduced(told, [given[other][i] for other in order]) for i in range(len(given[rank]))]


def _reduce(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    total = _all_reduce(told, order, given, rank, call)
    return total if order.index(rank) == told.root else [tensor.clone() for tensor in given[rank]]


def _broadcast(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in given[order[told.root]]]


def _shaped(call: Call, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Parts as a call's writes: as many tensors, or all in one."""
    shapes = [event.spec.shape for event in call.writes]
    if len(shapes) == len(parts):
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    flat = torch.cat([part.reshape(-1) for part in parts])
    return [part.reshape(shape) for part, shape in zip(_split(flat, shapes), shapes, strict=True)]


def _split(flat: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> Sequence[torch.Tensor]:
    sizes = [int(torch.Size(shape).numel()) for shape in shapes]
    parts: Sequence[torch.Tensor] = torch.split(flat, sizes)
    return parts


def _all_gather(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    if len(given[rank]) == 1:
        return _shaped(call, [given[other][0] for other in order])
    count = len(given[rank])  # several at once: each has its own output, or as many as there are ranks
    parts = [[given[other][i] for other in order] for i in range(count)]
    if len(call.writes) == count:
        return [
            torch.cat([part.reshape(-1) for part in p]).reshape(e.spec.shape)
            for p, e in zip(parts, call.writes, strict=True)
        ]
    return _shaped(call, [part for several in parts for part in several])


def _reduce_scatter(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    position, size = order.index(rank), len(order)
    if len(given[rank]) == size and len(call.writes) == 1:
        return [_reduced(told, [given[other][position] for other in order]).reshape(call.writes[0].spec.shape)]
    found = []
    for i, event in enumerate(call.writes):
        parts = [given[other][i].reshape(-1).chunk(size)[position] for other in order]
        found.append(_reduced(told, parts).reshape(event.spec.shape))
    return found


def _all_to_all(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    position = order.index(rank)
    if len(given[rank]) == len(order):
        return _shaped(call, [given[other][position] for other in order])
    sizes = {other: _sizes_of(call, len(order), given[other][0]) for other in order}
    parts = [given[other][0].split(sizes[other])[position] for other in order]
    return _shaped(call, [torch.cat(parts)])


def _sizes_of(call: Call, ranks: int, tensor: torch.Tensor) -> list[int]:
    if any(isinstance(item, list) and item and type(item[0]) is int for item in call.arguments[0]):
        raise ReplayError("An all-to-all of unequal parts is not carried out again.", where=str(call.site))
    return [tensor.shape[0] // ranks] * ranks


def _scatter(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    return [given[order[told.root]][order.index(rank)].reshape(call.writes[0].spec.shape)]


def _gather(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    return _shaped(call, [given[other][0] for other in order]) if call.writes else []


def _barrier(told: Collective, order: list[int], given: Reads, rank: int, call: Call) -> list[torch.Tensor]:
    return []


_RULES: Mapping[str, Callable[[Collective, list[int], Any, int, Call], list[torch.Tensor]]] = {
    "all-reduce": _all_reduce,
    "reduce": _reduce,
    "reduce-scatter": _reduce_scatter,
    "all-gather": _all_gather,
    "gather": _gather,
    "scatter": _scatter,
    "all-to-all": _all_to_all,
    "broadcast": _broadcast,
    "barrier": _barrier,
}


def _copy_in(inputs: Sequence[torch.Tensor], output: torch.Tensor, sizes: Any, count: int, rank: int) -> None:
    output.narrow(0, count * rank, count).copy_(torch.cat([given.reshape(-1) for given in inputs]))


def _copy_out(gathered: torch.Tensor, sizes: Sequence[int], dim: int = 0, *, out: Sequence[torch.Tensor]) -> None:
    for target, piece in zip(out, gathered.split_with_sizes(list(sizes), dim), strict=True):
        target.copy_(piece.reshape(target.shape))


def _chunks(tensors: Sequence[torch.Tensor], dim: int, count: int, *, out: torch.Tensor) -> None:
    out.copy_(torch._chunk_cat(list(tensors), dim, count).reshape(out.shape))


def _copy(tensor: torch.Tensor, data: torch.Tensor) -> None:
    tensor.copy_(data)


COPYING: Mapping[str, Callable[..., None]] = {
    "fsdp.all_gather_copy_in.default": _copy_in,
    "fsdp.split_with_sizes_copy.default": _copy_out,
    "fsdp.chunk_cat.default": _chunks,
    "fsdp.copy_.default": _copy,
}
"""Target → what it does: it writes to memory that it is given, and nowhere else."""

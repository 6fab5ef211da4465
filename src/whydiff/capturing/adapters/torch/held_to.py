"""What a stranger's call is held to besides its sizes: which ops multiply and sum, and that indices lie within reach."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.roles import Role
from whydiff.capturing.adapters.torch.roles import NAMES
from whydiff.errors import ReplayError
from whydiff.records import Call

_CONTRACTING = (Role.PRODUCT, Role.MATRIX, Role.CONVOLUTION, Role.ATTENTION)
_INDICES = ("index", "indices", "lengths", "offsets", "target", "targets", "batch_sizes")
"""How arguments end, by the schemas' naming, that say where elements lie."""
_COMPRESSED = ("_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo")
"""Their first argument holds indices under the name ``self``."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@functools.cache
def contracts(op: str) -> bool:
    """Whether an op multiplies and sums, so that it takes more operations than it sees numbers."""
    return any(op in NAMES.get(role, ()) for role in _CONTRACTING)


def check_indices(func: Any, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Hold index-like arguments to the size of what the call looks at: some kernels read wherever they point.

    Raises:
        ReplayError: an index points beyond the largest value that the call reads or writes.
    """
    names = _index_arguments(func)
    if not names:
        return
    most = max((event.spec.numel for event in (*call.reads, *call.writes)), default=0)
    numbers = {number for number in (*args, *kwargs.values()) if type(number) is int}  # an index to be ignored, say
    for position, name in names:
        given = args[position] if position < len(args) else kwargs.get(name)
        for tensor in _tensors(given):
            low, high = (int(bound) for bound in torch.aminmax(tensor))
            if any(not -most <= bound <= most and bound not in numbers for bound in (low, high)):
                raise ReplayError(
                    "An index points beyond everything that the call looks at.",
                    where=str(call.site),
                    actual=f"{name} holds {low} to {high}",
                    expected=f"at most {most} in size",
                )


def takes_indices(func: Any) -> bool:
    """Whether an op has arguments that `check_indices` looks into."""
    return bool(_index_arguments(func))


@functools.cache
def _index_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    found = [(i, argument.name) for i, argument in enumerate(func._schema.arguments)]
    named = [(i, name) for i, name in found if name.endswith(_INDICES)]
    return tuple([found[0], *named] if func._schema.name.partition("::")[2] in _COMPRESSED else named)


def _tensors(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        if given.layout is torch.strided and given.dtype in _INTEGERS and given.numel() and not given.is_meta:
            yield given
    elif isinstance(given, (list, tuple)):
        for item in given:
            yield from _tensors(item)

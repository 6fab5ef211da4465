"""One op of a recorded program on wider reads; which dtypes are wide, and what an op is carried out by."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from whydiff.capturing.adapters._live import short
from whydiff.capturing.adapters.torch.arguments import Place, decode
from whydiff.capturing.adapters.torch.dtypes import default_dtype, dtype_of, integer_view
from whydiff.capturing.adapters.torch.formulas import FORMULAS, filled
from whydiff.capturing.adapters.torch.held import listed
from whydiff.capturing.adapters.torch.operators import describe
from whydiff.capturing.adapters.torch.places import Places
from whydiff.errors import ReplayError, WhydiffError
from whydiff.records import Call, Lift

_REFUSALS = (RuntimeError, TypeError, ValueError, NotImplementedError, WhydiffError)


def lifted_dtype(dtype: torch.dtype, lift: Lift) -> torch.dtype:
    """The dtype in which values of a recorded dtype are carried; integers and booleans stay."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return dtype
    widest = torch.complex128 if dtype.is_complex else torch.float64
    if lift.dtype == "float64" or (dtype is widest and not lift.everything):
        return widest
    return torch.complex64 if dtype.is_complex else torch.float32


def widened(tensor: torch.Tensor, lift: Lift) -> torch.Tensor:
    """The same values in the lifted dtype (the tensor itself if it has it already)."""
    wide = lifted_dtype(tensor.dtype, lift)
    return tensor if tensor.dtype is wide else tensor.to(wide)


def carry_out(
    func: Any, call: Call, reads: Sequence[torch.Tensor], lift: Lift, arguments: Arguments
) -> list[torch.Tensor]:
    """An op that draws no numbers on wide reads: its kernel, else a formula, else a decomposition.

    On a device the formula comes first: fused attention kernels that are called by name do not refuse a dtype that
    they cannot compute (cuDNN's gives NaN for float32).
    """
    args, kwargs = arguments.given(reads)
    refused: BaseException | None = None
    formula = FORMULAS.get(describe(func).op)
    on_cpu = all(read.is_cpu for read in reads)
    ways = (func, formula, _DECOMPOSED) if on_cpu else (formula, func, _DECOMPOSED)
    with default_dtype(dtype_of(lift.dtype)):
        for way in ways:
            try:
                carried = _decomposition(func) if way is _DECOMPOSED else way
                if carried is not None:
                    found = _finished(func, carried(*args, **kwargs))
                    return filled(found, [e.spec for e in call.writes]) if carried is formula else found
            except _REFUSALS as error:
                refused = error
    raise ReplayError(
        f"left as recorded: {call.target} has no {lift.dtype} kernel, formula or decomposition here",
        where=str(call.site),
        actual=short(refused) if refused is not None else "",
    ) from refused


_DECOMPOSED: Any = object()


@functools.cache
def _decomposition(func: Any) -> Any:
    """What torch takes an op apart into; None: nothing. Looking it up costs more than most ops."""
    from torch._decomp import get_decompositions

    return get_decompositions([func]).get(func)


def _finished(func: Any, result: Any) -> list[torch.Tensor]:
    if describe(func).uninitialised and isinstance(result, torch.Tensor):
        integer_view(result).zero_()
    return listed(result)


class Arguments:
    """A call's template with floating dtypes widened, worked out once and filled with any replay's reads.

    ``half_to_float`` has nothing left to do.

    Args:
        func: the op.
        call: whose arguments.
        lift: how wide.
        places: devices of the replay.

    Raises:
        ReplayError: an argument was not recorded in a form that can be given again.
    """

    __slots__ = ("_args", "_deep", "_kwargs", "_reads")

    def __init__(self, func: Any, call: Call, lift: Lift, places: Places) -> None:
        reads = [Place(index) for index in range(len(call.reads))]
        self._args = [_widen_dtypes(decode(item, reads, place=places.of), lift) for item in call.arguments[0]]
        self._kwargs = {
            n: _widen_dtypes(decode(item, reads, place=places.of), lift) for n, item in call.arguments[1].items()
        }
        position = _half_to_float(func)
        if 0 <= position < len(self._args):
            self._args[position] = False
        elif "half_to_float" in self._kwargs:
            self._kwargs["half_to_float"] = False
        self._reads = [(at, item) for at, item in enumerate(self._args) if isinstance(item, Place)]
        self._deep = [at for at, item in enumerate(self._args) if isinstance(item, list)]

    def given(self, reads: Sequence[torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with these (wide) tensors in their places; lists and mappings are new ones."""
        args = self._args.copy()
        for at, read in self._reads:
            args[at] = read.of(reads)
        for at in self._deep:
            args[at] = _filled(args[at], reads)
        return args, {name: _filled(item, reads) for name, item in self._kwargs.items()}


def _filled(value: Any, reads: Sequence[torch.Tensor]) -> Any:
    if isinstance(value, Place):
        return value.of(reads)
    if isinstance(value, list):
        return [_filled(item, reads) for item in value]
    return {key: _filled(item, reads) for key, item in value.items()} if isinstance(value, dict) else value


@functools.cache
def _half_to_float(func: Any) -> int:
    """Position of the argument of that name; -1: there is none."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("half_to_float") if "half_to_float" in names else -1


def _widen_dtypes(value: Any, lift: Lift) -> Any:
    if isinstance(value, torch.dtype):
        return lifted_dtype(value, lift)
    if isinstance(value, list):
        return [_widen_dtypes(item, lift) for item in value]
    return value

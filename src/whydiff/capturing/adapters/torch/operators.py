"""What a schema says about an operator, computed once per overload."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.capturing.adapters.torch.allowed import lookup, refusal
from whydiff.capturing.adapters.torch.collectives import Exchange, exchange, waits, wraps

_WRITE_ONLY = frozenset(["copy_", "fill_", "zero_", "copy"])
_NO_NUMBERS = frozenset(("detach_", "requires_grad_", "_assert_tensor_metadata"))
# Batch norms change their running statistics without saying so in the schema (native_functions.yaml):
# positions of the statistics, and of the flag that must be true (-1: always). FSDP's copy into the buffer that is then
# gathered does not say so either.
_UNANNOTATED = {
    "native_batch_norm": (frozenset((3, 4)), 5),
    "cudnn_batch_norm": (frozenset((3, 4)), 5),
    "miopen_batch_norm": (frozenset((3, 4)), 5),
    "batch_norm_gather_stats": (frozenset((3, 4)), -1),
    "batch_norm_gather_stats_with_counts": (frozenset((3, 4)), -1),
    "batch_norm_update_stats": (frozenset((1, 2)), -1),
    "all_gather_copy_in": (frozenset((1,)), -1),
}
_UNINITIALISED = frozenset(
    ["empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted", "empty_quantized"]
)


@dataclass(frozen=True, slots=True)
class Operator:
    """Schema facts.

    Attributes:
        op: name without namespace and overload.
        target: ``"aten.bmm.default"``.
        written_args: positions of positional arguments it writes to.
        written_names: names of all arguments it writes to.
        overwrites: the written arguments' old values do not matter (``copy_``, ``zero_``, ``out=``).
        random: it draws from a generator.
        uninitialised: its result is uninitialised memory.
        silent: it computes nothing (marks time for a profiler, cuts the autograd graph).
        composite: it decomposes into other ops (seen whole only under inference mode, where no autograd key
            has decomposed it before; decomposing it gives the same ops as under ``no_grad``).
        rebinds: it gives a tensor another storage (``set_``); no numbers change.
        resizes: it may append uninitialised elements to a storage.
        unannotated: positions that it writes to although its schema does not say so.
        unless: position of a flag without which it does not write there; -1: there is none.
        writes: it may write to an argument.
        views: it gives another look at an argument.
        exchange: what it exchanges with other ranks; None: nothing.
        waits: it only waits for what a collective writes.
        straight: it reads, and gives something else: nothing of the above but perhaps another look, or memory as it is.
    """

    op: str
    target: str
    written_args: frozenset[int]
    written_names: frozenset[str]
    overwrites: bool
    random: bool
    uninitialised: bool
    silent: bool
    composite: bool
    rebinds: bool
    resizes: bool
    unannotated: frozenset[int]
    unless: int
    writes: bool
    views: bool
    exchange: Exchange | None
    waits: bool
    straight: bool

    def writes_to(self, args: Sequence[Any]) -> frozenset[int]:
        """Positions of the positional arguments that a call with these arguments writes to."""
        if not self.unannotated or (self.unless >= 0 and not args[self.unless]):
            return self.written_args
        return self.written_args | self.unannotated


DESCRIBED: dict[int, tuple[Any, Operator]] = {}
"""What `describe` knows already, by identity: an overload computes its hash in Python."""


def describe(func: Any) -> Operator:
    """Facts of an ``OpOverload``."""
    known = DESCRIBED.get(id(func))
    if known is None:
        known = DESCRIBED[id(func)] = func, _described(func)
    return known[1]


def _described(func: Any) -> Operator:
    schema = func._schema
    namespace, _, op = schema.name.partition("::")
    written = [
        (index, argument)
        for index, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    random = torch.Tag.nondeterministic_seeded in func.tags
    unannotated, unless = _UNANNOTATED.get(op, (frozenset(), -1))
    exchanged = exchange(namespace, op)
    positions = exchanged.writes if exchanged is not None else frozenset()
    fills = random and op.endswith("_") and op not in ("bernoulli_",)
    writes = bool(written or unannotated or positions)
    silent = namespace == "profiler" or op in _NO_NUMBERS or wraps(namespace, op)
    composite = _has_kernel(func, "CompositeImplicitAutograd") and not any(
        _has_kernel(func, key) for key in ("CPU", "CUDA")
    )
    more = op in ("set_", "resize_", "resize_as_") or exchanged is not None or waits(namespace, op)
    return Operator(
        op=op,
        target=f"{namespace}.{op}.{func._overloadname}",
        written_args=positions | {index for index, argument in written if not argument.kwarg_only},
        written_names=frozenset(argument.name for _, argument in written),
        overwrites=op in _WRITE_ONLY
        or fills
        or (exchanged is not None and exchanged.fills)
        or any(argument.kwarg_only for _, argument in written),
        random=random,
        uninitialised=op in _UNINITIALISED,
        silent=silent,
        composite=composite,
        rebinds=op == "set_",
        resizes=op in ("resize_", "resize_as_"),
        unannotated=unannotated,
        unless=unless,
        writes=writes,
        views=any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns),
        exchange=exchanged,
        waits=waits(namespace, op),
        straight=not (writes or random or silent or composite or more),
    )


def _has_kernel(func: Any, key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))


def draws(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws from a generator: a random op whose only use for random numbers is a dropout of 0 does not."""
    if not describe(func).random:
        return False
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            given = args[position] if position < len(args) else kwargs.get("dropout_p", argument.default_value)
            return bool(given)
    return True


def decomposed(func: Any, args: Any, kwargs: Any) -> Any:
    """Run a composite op as autograd would: by its C++ kernel, never by a Python decomposition."""
    return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


class Decomposing(TorchDispatchMode):
    """Meets every op that is left after composite ones were decomposed as autograd would decompose them."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper that imports the compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not isinstance(func, OpOverload):  # a whole program as one operator
            return func(*args, **(kwargs or {}))
        operator = describe(func)
        if operator.composite:
            with self:
                return decomposed(func, args, kwargs or {})
        return self.op(func, operator, args, kwargs or {})

    def op(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """What takes the place of an op."""
        return func(*args, **kwargs)


def is_pointwise(target: str) -> bool:
    """Whether ATen says of an op that each element of its result is made of the operands' elements at its place."""
    try:
        return torch.Tag.pointwise in find(target).tags
    except LookupError:
        return False


@functools.lru_cache(maxsize=4096)  # asked for every call of every replay; what is not found is looked up again
def find(target: str, *, trusted: bool = True) -> Any:
    """The ``OpOverload`` behind a recorded target.

    Raises:
        LookupError: not registered in this torch, or not an op that an untrusted trace may name.
    """
    func = lookup(target)
    why = "" if trusted else refusal(func)
    if why:
        raise LookupError(f"{target} is not executed from a trace: {why}")
    return func

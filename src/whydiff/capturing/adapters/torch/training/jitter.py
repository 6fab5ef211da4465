"""What rounding alone does to a training run: the same program, the result of every operator rounded at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.capturing.adapters.torch.operators import describe
from whydiff.capturing.adapters.torch.process import random_states, set_random_states
from whydiff.capturing.adapters.torch.training.watching import Watching
from whydiff.capturing.steps import StepRecord

_EXACT = frozenset(
    [
        "clone",
        "copy_",
        "detach",
        "_to_copy",
        "zeros_like",
        "ones_like",
        "zeros",
        "ones",
        "full",
        "full_like",
        "fill_",
        "zero_",
        "cat",
        "stack",
        "index",
        "select",
        "relu",
        "embedding",
        "where",
        "gather",
        "index_select",
        "neg",
        "abs",
        "sign",
        "threshold_backward",
        "empty",
        "empty_like",
        "new_empty",
        "new_zeros",
        "arange",
        "scalar_tensor",
        "lift_fresh",
        "slice_backward",
        "select_backward",
        "dropout",
        "native_dropout",
        "bernoulli_",
        "masked_fill",
        "constant_pad_nd",
        "_foreach_copy_",
        "_foreach_zero_",
        "normal_",
        "uniform_",
        "randn",
        "rand",
        "eq",
        "ne",
        "gt",
        "lt",
        "ge",
        "le",
    ]
)
"""Operators that round nothing, or whose results are no function of their inputs' values."""


class Jitter(Mode):
    """Moves every floating-point result by one unit in the last place, up, down or not at all.

    Of 16-bit results one in sixteen is moved: their sums are kept in float32, where another order seldom changes what
    they are rounded to.

    Args:
        seed: of the generator that decides; the program's own are not drawn from.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        operator = describe(func)
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if (
            not view
            and not operator.silent
            and not operator.random
            and func._schema.name.partition("::")[2] not in _EXACT
        ):
            inplace = func._schema.name.endswith("_")
            for value in tree_leaves(args[0] if inplace and args else found):
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                    self._move(value)
        return found

    def _move(self, value: torch.Tensor) -> None:
        with torch.no_grad():
            device = value.device
            if device not in self._generators:
                self._generators[device] = torch.Generator(device).manual_seed(self._seed)
            drawn = torch.randint(0, 32, value.shape, generator=self._generators[device], device=device)
            drawn = drawn % 3 - 1 if value.element_size() > 2 else (drawn == 1).int() - (drawn == 0).int()
            away = torch.full_like(value, float("inf")).copysign_(drawn.to(value.dtype))
            value.copy_(torch.where(drawn == 0, value, torch.nextafter(value, away)))


def jittered(program: Callable[[], Any], seed: int, sink: Callable[[StepRecord], None]) -> None:
    """Run a program so, looked at as by `Watching`; the process's random states are put back afterwards."""

    def quietly(record: StepRecord) -> None:
        with _disable_current_modes():
            sink(record)

    states = random_states()
    try:
        with Jitter(seed), Watching(quietly):
            program()
    finally:
        set_random_states(states)

"""Compiled code (`torch.compile`) while something is captured, and compiled in another way for an experiment.

A dispatch mode makes the compiler give up on a function for good: afterwards the user's program would run
uncompiled, and the plain runs that an instrumented run is compared with as well. While ops are recorded the
compiler is therefore told to stand back; its compiled code stays as it is.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import CodeType, FunctionType
from typing import Any

import torch

from whydiff.capturing.adapters.contract import Kept

WAYS = ("eager", "aot_eager")
"""How compiled code can be carried out instead: by the uncompiled program, or by the traced program without code
generation."""

_PLENTY = 1 << 10
_MANY = 1 << 7
"""So many versions of one function, of all regions together, are forgotten: the compiler stops at twice as many."""


def can_be_changed() -> bool:
    """Whether the compiler was ever used in this process, and can be told to stand back (PyTorch 2.6)."""
    return "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")


def room_for_more() -> Any:
    """A context manager in which the compiler's limits of versions of one function do not stop an experiment."""
    if not can_be_changed():
        return nullcontext()
    config: Any = sys.modules["torch._dynamo"].config
    return config.patch(recompile_limit=_PLENTY, accumulated_recompile_limit=_PLENTY)


class Versions(Kept):
    """How many compiled versions each function has; more of them would count against the compiler's limits.

    Experiments compile functions for other dtypes. `restore` forgets the versions of functions that have more than
    before: one compiled version is what a plain run of a new program leaves, and stays.
    """

    def __init__(self) -> None:
        self._before = dict(_versions())

    def restore(self) -> None:
        """Forget the versions that were added."""
        for code, count in _versions():
            if count > max(1, self._before.get(code, 0)):
                torch._C._dynamo.eval_frame.reset_code(code)


def _versions() -> Iterator[tuple[Any, int]]:
    if not can_be_changed():
        return
    from torch._dynamo.convert_frame import input_codes

    for reference in input_codes.seen:
        code: Any = reference()
        if code is not None:
            yield code, _count(code)


def _count(code: Any) -> int:
    """Versions outside of regions of their own, where PyTorch tells them apart (2.13)."""
    frames: Any = torch._C._dynamo.eval_frame
    if not regions_are_kept_apart():
        return len(frames._debug_get_cache_entry_list(code))
    here, all_of_them = len(frames._get_cache_entries_for_region(code, -1)), frames._get_total_cache_entry_count(code)
    return here if all_of_them < _MANY else all_of_them


def regions_are_kept_apart() -> bool:
    """Whether compiled code can belong to a region that no other call looks into."""
    return "_get_cache_entries_for_region" in vars(torch._C._dynamo.eval_frame)


class Copies:
    """Functions that have compiled versions, with copies of their code for a block, where regions are not kept apart.

    Versions hang on the code of a function. Those that are added in the block hang on its copy: the function's own list
    stays as it is, and there is nothing to forget. The copies are the same in every block.
    """

    def __init__(self) -> None:
        self._codes = list[CodeType]()
        self._held = list[tuple[FunctionType, CodeType, CodeType]]()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """A block in which these functions run their copies."""
        if can_be_changed() and not regions_are_kept_apart():
            self._look()
        held = [one for one in self._held if one[0].__code__ is one[1]]
        try:
            for function, _, copied in held:
                function.__code__ = copied
            yield
        finally:
            for function, own, _ in held:
                function.__code__ = own

    def _look(self) -> None:
        known = {id(code) for code in self._codes}
        new = [code for code, count in _versions() if count and id(code) not in known]
        if not new:
            return
        copies = {id(code): code.replace() for code in new}
        self._codes += [*new, *copies.values()]
        functions = (one for one in gc.get_referrers(*new) if isinstance(one, FunctionType))
        self._held += [(one, one.__code__, copies[id(one.__code__)]) for one in functions if id(one.__code__) in copies]


class StandingBack:
    """A block in which compiled functions run uncompiled, without being forgotten.

    Attributes:
        calls: how many calls of compiled functions ran uncompiled.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._stack = ExitStack()

    def __enter__(self) -> StandingBack:
        if can_be_changed():
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
            frames: Any = sys.modules["torch._dynamo"].eval_frame
            chosen = frames._callback_from_stance  # asked at every call of a compiled function

            def counted(callback: Any) -> Any:
                self.calls += callback not in (False, None)
                return chosen(callback)

            frames._callback_from_stance = counted
            self._stack.callback(setattr, frames, "_callback_from_stance", chosen)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()


@contextmanager
def carried_out(way: str) -> Iterator[None]:
    """A block in which compiled functions are carried out in one of `WAYS`."""
    if way == "eager":
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        yield

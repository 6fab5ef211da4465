"""Models loaded once more from where they came from, into memory whose filling shows what nobody writes."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils import deterministic

from whydiff.capturing.adapters._live import FAILURES
from whydiff.capturing.adapters.torch.state import Roots, state_of
from whydiff.numbers.tolerance import LOAD_AGAIN_BYTES


@runtime_checkable
class _Loaded(Protocol):
    """A model that knows where its weights came from, as transformers' do."""

    name_or_path: str

    @classmethod
    def from_pretrained(cls, place: str, **options: Any) -> Any: ...


def unwritten(roots: Roots, names: Iterable[str]) -> frozenset[str]:
    """State that loading a model leaves as the memory was.

    Every model below the roots that holds some of the state and says where it came from is loaded once more, from
    files on this machine, while new memory is filled with NaN (the largest number for integers).

    Args:
        roots: (prefix, module) of a run.
        names: of state; what no such model holds, or what is too large to be loaded twice, is not looked into.

    Returns:
        Those that hold nothing but the filling.
    """
    wanted, found = set(names), set[str]()
    for prefix, root in roots:
        for path, module in root.named_modules():
            base = ".".join(part for part in (prefix, path) if part)
            held = {name for name in wanted if not base or name.startswith(f"{base}.")}
            if not held or _large(module) or not isinstance(module, _Loaded) or not module.name_or_path:
                continue
            wanted -= held
            with _filled():
                try:
                    again = type(module).from_pretrained(module.name_or_path, local_files_only=True)
                except (*FAILURES, OSError, ImportError):
                    continue  # its files are gone, or it is loaded in another way: nothing is known
            found |= {leaf.name for leaf in state_of(base, again) if leaf.name in held and _is_filling(leaf.tensor)}
    return frozenset(found)


def _large(module: torch.nn.Module) -> bool:
    return sum(leaf.tensor.nbytes for leaf in state_of("", module)) > LOAD_AGAIN_BYTES


def _is_filling(tensor: torch.Tensor) -> bool:
    if not tensor.numel() or tensor.is_meta:
        return False
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().all())
    return tensor.dtype is not torch.bool and bool((tensor == torch.iinfo(tensor.dtype).max).all())


@contextmanager
def _filled() -> Iterator[None]:
    """New memory is filled; nothing is printed; random numbers and settings are as before afterwards."""
    switches: Any = deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = switches.fill_uninitialized_memory
    with warnings.catch_warnings(), torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            switches.fill_uninitialized_memory = True
            yield
        finally:
            switches.fill_uninitialized_memory = filling
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])

"""Scopes: JAX's name stack, with the modules of a model as names in it while whydiff traces.

JAX names what runs inside ``jax.named_scope``; Flax linen does so for every module, Equinox for its own layers by
class, penzai by position, Flax nnx not at all. While a capture runs, every module's ``__call__`` is entered
under the attribute path by which its caller holds it. A named scope is metadata: it changes no number.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from whydiff.capturing.adapters.jax.state import members
from whydiff.records import Phase

_MARK = "whydiff:"
_DEPTH = 4
_running = threading.local()

Names = tuple[tuple[str, str], ...]
"""(kind, name) outermost first; kind is ``scope``, ``module``, ``class`` (of the module before) or ``transform``."""


def names_of(stack: Any) -> Names:
    """A JAX name stack in parts."""
    found = []
    for entry in stack.stack:
        name = entry.name
        if type(entry).__name__ == "Transform":
            found.append(("transform", name))
        elif name.startswith(_MARK):
            path, _, cls = name.removeprefix(_MARK).partition("|")
            found += [("module", path), ("class", cls)]
        else:
            found.append(("scope", name))
    return tuple(found)


@functools.lru_cache(maxsize=1 << 14)
def phase_and_scope(names: Names) -> tuple[Phase, str]:
    """Phase (transposed: backward) and dotted scope.

    A position that penzai gives a layer (``1``) is left out where the module's own name follows, and so is the
    class by which Equinox names a layer (``eqx.nn.Linear``) where the module's own name precedes.
    """
    phase: Phase = "forward"
    parts: list[str] = []
    for position, (kind, name) in enumerate(names):
        if kind == "transform":
            if name == "transpose":
                phase = "backward"
            continue
        if kind == "class":
            continue
        before = names[position - 1] if position else ("", "")
        if kind == "scope" and before[0] == "class" and name.rpartition(".")[2] == before[1]:
            continue
        following = names[position + 1] if position + 1 < len(names) else ("", "")
        if kind == "scope" and name.isdigit() and following[0] == "module" and following[1].endswith(name):
            continue
        parts += [part for part in name.replace("/", ".").split(".") if part]
    return phase, ".".join(parts)


@contextmanager
def modules_named(classes: Sequence[type]) -> Iterator[None]:
    """While active, calling an instance of one of the classes runs under its attribute path as a named scope."""
    owners: dict[type, Any] = {}
    for cls in classes:
        owner = next((base for base in cls.__mro__ if "__call__" in vars(base)), None)
        if owner is not None and owner is not object and owner not in owners:
            owners[owner] = vars(owner)["__call__"]
    try:
        for owner, call in owners.items():
            setattr(owner, "__call__", _named(owner, call))  # noqa: B010 - a class's attribute
        yield
    finally:
        for owner, call in owners.items():
            setattr(owner, "__call__", call)  # noqa: B010


def _named(owner: type, call: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = call.__get__(self, type(self)) if hasattr(call, "__get__") else call
        stack = _running.__dict__.setdefault("stack", [])
        if stack and stack[-1][0] is self:  # super().__call__ of the same module
            return bound(*args, **kwargs)
        name = _name(self, stack)
        stack.append((self, name))
        try:
            if not name:
                return bound(*args, **kwargs)
            with jax.named_scope(f"{_MARK}{name}|{type(self).__name__}"):
                return bound(*args, **kwargs)
        finally:
            stack.pop()

    __call__.__wrapped__ = call  # type: ignore[attr-defined]
    return __call__


def _name(module: Any, stack: Sequence[tuple[Any, str]]) -> str:
    """Path below the module that runs; nothing for the outermost one, also inside wrappers such as ``filter_jit``."""
    for parent, _ in reversed(stack):
        path = _path(parent, module, 0, set())
        if path is not None:
            return path
    return type(module).__name__ if any(name for _, name in stack) else ""


def _path(parent: Any, child: Any, depth: int, seen: set[int]) -> str | None:
    if depth > _DEPTH or id(parent) in seen:
        return None
    seen.add(id(parent))
    items = list(members(parent))
    mixed = isinstance(parent, (list, tuple)) and len({type(item) for _, item in items}) > 1
    for name, item in items:
        if item is child:
            return f"{type(child).__name__}_{name}" if mixed else name
    for name, item in items:
        below = _path(item, child, depth + 1, seen)
        if below is not None:
            # a container's own name says nothing where its items are told apart by their classes
            return below if isinstance(item, (list, tuple)) and not below[:1].isdigit() else f"{name}.{below}"
    return None

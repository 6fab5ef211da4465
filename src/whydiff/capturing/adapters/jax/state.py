"""What a callable reaches: arrays with their paths, modules, plain numbers; and what a run may change in them."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import numpy as np

from whydiff.capturing.adapters._live import bound, reached_by
from whydiff.capturing.adapters._outputs import key_step
from whydiff.records import LeafRole

_DEPTH = 24
_NODES = 200_000
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, np.dtype)


@dataclass
class Reached:
    """Everything that was found.

    Attributes:
        arrays: id → (name, role, array), in the order in which they were found; names are unique.
        names: (name, id) for every name, also second ones of one array.
        classes: of the modules on the way.
        scalars: path → plain number, string or flag of a module.
        owners: path of such a number → (object, attribute).
        variables: mutable cells (Flax nnx, penzai) that a run may write to.
    """

    arrays: dict[int, tuple[str, LeafRole, Any]] = field(default_factory=dict)
    names: list[tuple[str, int]] = field(default_factory=list)
    classes: dict[type, None] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, tuple[Any, str]] = field(default_factory=dict)
    variables: list[Any] = field(default_factory=list)


def reach(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reached:
    """Walk a callable, what it closes over, and its arguments."""
    found = Reached()
    walk = _Walk(found)
    walk.visit("", target, "attribute", 0)
    for name, value in bound(target, args, kwargs).items():
        walk.visit(name, value, "parameter" if is_module(value) or _nested(value) else "input", 0)
    return found


def is_module(value: Any) -> bool:
    """Whether a value is a model or layer of Flax nnx, Equinox or penzai."""
    return isinstance(value, _imported(_MODULES))


_MODULES = (("flax.nnx", "Module"), ("equinox", "Module"), ("penzai.core.struct", "Struct"))
_PARAMETERS = (("flax.nnx", "Param"), ("penzai.core.variables", "Parameter"))
_VARIABLES = (
    ("flax.nnx", "Variable"),
    ("penzai.core.variables", "Parameter"),
    ("penzai.core.variables", "StateVariable"),
)


def _imported(homes: Sequence[tuple[str, str]]) -> tuple[type, ...]:
    """Classes by the module that defines them, of those that the program has imported."""
    return tuple(getattr(sys.modules[home], name) for home, name in homes if hasattr(sys.modules.get(home), name))


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of what an object holds directly; nothing for arrays, numbers, functions and types."""
    if isinstance(value, (*_PLAIN, *_OPAQUE, jax.Array, np.ndarray, np.generic)):
        return
    if callable(value) and not vars_of(value):
        return
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from ((str(index), item) for index, item in enumerate(value))
    else:
        yield from vars_of(value).items()


def vars_of(value: Any) -> dict[str, Any]:
    """Attributes of an object, dataclass fields included."""
    found = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            if item.name not in found and hasattr(value, item.name):
                found[item.name] = getattr(value, item.name)
    return found


class _Walk:
    def __init__(self, found: Reached) -> None:
        self.found = found
        self.seen: set[int] = set()
        self.kept: list[Any] = []
        self.used: dict[str, int] = {}

    def visit(self, name: str, value: Any, role: LeafRole, depth: int) -> None:
        if isinstance(value, (jax.Array, np.ndarray)):
            self._array(name, value, role)
            return
        if isinstance(value, (*_PLAIN, np.generic)) or id(value) in self.seen or depth > _DEPTH:
            return
        if len(self.seen) > _NODES:
            return
        self.seen.add(id(value))
        self.kept.append(value)  # its id must stay its own
        if isinstance(value, _imported(_VARIABLES)):
            self._variable(name, value, role)
        elif isinstance(value, functools.partial):
            self.visit(name, value.func, role, depth + 1)
            for key, part in bound(value.func, value.args, value.keywords, partial=True).items():
                self.visit(_join(name, key), part, "parameter" if _nested(part) else "input", depth + 1)
        elif isinstance(value, types.MethodType):
            self.visit(name, value.__self__, role, depth + 1)
            self.visit(name, value.__func__, role, depth + 1)
        elif isinstance(value, types.FunctionType):
            wrapped = [("", vars(value)["__wrapped__"])] if "__wrapped__" in vars(value) else []
            for key, part in (*reached_by(value), *wrapped):
                self.visit(key, part, "parameter" if _nested(part) else role, depth + 1)
        elif isinstance(value, type) and issubclass(value, _imported(_MODULES)):
            self.found.classes.setdefault(value)  # a model in parts (nnx.split) still knows its classes
        elif isinstance(value, _OPAQUE):
            return
        else:
            self._object(name, value, role, depth)

    def _object(self, name: str, value: Any, role: LeafRole, depth: int) -> None:
        module = is_module(value)
        if module:
            self.found.classes.setdefault(type(value))
            self.found.scalars[_join(name, "__class__")] = type(value).__qualname__
            role = "parameter"
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:
            self.visit(name, wrapped, role, depth + 1)
        for key, part in members(value):
            if key.startswith("__"):
                continue
            path = _join(name, key)
            if module and _plain(part) is not None and not key.startswith("_"):
                self.found.scalars[path] = _plain(part)
                self.found.owners[path] = (value, key)
            self.visit(path, part, role, depth + 1)

    def _variable(self, name: str, value: Any, role: LeafRole) -> None:
        self.found.variables.append(value)
        kind: LeafRole = "parameter" if isinstance(value, _imported(_PARAMETERS)) else "buffer"
        label = getattr(value, "label", None)
        path = str(label).replace("/", ".") if isinstance(label, str) else name
        for leaf in jax.tree_util.tree_leaves(raw(value)):
            if isinstance(leaf, (jax.Array, np.ndarray)):
                self._array(path, leaf, kind if role != "input" else role)

    def _array(self, name: str, value: Any, role: LeafRole) -> None:
        name = name or "array"
        if id(value) in self.found.arrays:
            self.found.names.append((name, id(value)))
            return
        count = self.used.get(name, 0)
        self.used[name] = count + 1
        unique = name if not count else f"{name}#{count}"
        self.found.arrays[id(value)] = (unique, role, value)
        self.found.names.append((unique, id(value)))


def is_variable(value: Any) -> bool:
    """Whether a value is a mutable cell of Flax nnx or penzai."""
    return isinstance(value, _imported(_VARIABLES))


def raw(variable: Any) -> Any:
    """What a mutable cell holds."""
    if hasattr(variable, "get_raw_value"):
        return variable.get_raw_value()
    return variable.value


@contextmanager
def at_this_level(variables: Sequence[Any]) -> Iterator[None]:
    """Flax's variables remember the trace that made them and refuse writes in another: here they are at home."""
    own = [(v, v._trace_state) for v in variables if hasattr(v, "_trace_state")]
    try:
        for variable, made in own:
            object.__setattr__(variable, "_trace_state", type(made)())
        yield
    finally:
        for variable, made in own:
            object.__setattr__(variable, "_trace_state", made)


def put_back(variable: Any, value: Any) -> None:
    """Write what a mutable cell held before."""
    if hasattr(variable, "set_raw_value"):
        variable.set_raw_value(value)
    elif variable.value is not value:
        variable.value = value


def _nested(value: Any) -> bool:
    """Whether a value is a tree of arrays at least two mappings deep, as variable collections are."""
    return isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values())


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if (
        isinstance(value, (jax.Array, np.ndarray, np.generic))
        and np.ndim(value) == 0
        and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
    ):
        return _plain(np.asarray(value).astype(np.float64).item()) if value.dtype.kind not in "biu" else value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, types.FunctionType):
        return value.__qualname__
    return None


T = TypeVar("T")


def arrays_in(value: Any) -> list[tuple[str, Any]]:
    """(path, array) for every array of a pytree, in order; one alone has the path ``"output"``."""
    found: list[tuple[str, Any]] = []
    for path, leaf in _leaves(value):
        name = _name(path)
        if isinstance(leaf, (jax.Array, np.ndarray)):
            found.append((name or "output", leaf))
        elif hasattr(leaf, "get_raw_value"):
            found += [(name or "output", item) for item in jax.tree_util.tree_leaves(raw(leaf))]
        elif not isinstance(leaf, (bool, int, float, complex, str)) and not jax.tree_util.all_leaves([leaf]):
            found += [(f"{name}.{key}", item) for key, item in members(leaf) if isinstance(item, jax.Array)]
    if len(found) == 1:
        return [("output" if not _plain_key(value) else found[0][0], found[0][1])]
    return found


def ready(value: T) -> T:
    """The result itself, as soon as all that is inside is computed."""
    jax.block_until_ready([leaf for _, leaf in _leaves(value)])
    return value


def _leaves(value: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves of a pytree with their paths; in Python's order where JAX cannot sort a mapping's keys (0 and "0")."""
    try:
        return list(jax.tree_util.tree_flatten_with_path(value)[0])
    except ValueError:
        if isinstance(value, dict):
            items = [(jax.tree_util.DictKey(key), item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            items = [(jax.tree_util.SequenceKey(at), item) for at, item in enumerate(value)]
        else:
            raise
        return [((key, *path), leaf) for key, item in items for path, leaf in _leaves(item)]


def _plain_key(value: Any) -> bool:
    """Whether a lone array lies in a mapping or under a position: its path is then part of the result."""
    return isinstance(value, (dict, list, tuple))


def _name(path: Any) -> str:
    parts = []
    for key in path:
        if isinstance(key, jax.tree_util.SequenceKey):
            parts.append(f"[{key.idx}]")
        elif isinstance(key, jax.tree_util.DictKey):
            parts.append(key_step(key.key, 0))
        elif isinstance(key, jax.tree_util.GetAttrKey):
            parts.append(f".{key.name}")
        else:
            parts.append(f"[{getattr(key, 'key', key)}]")
    return "".join(parts).removeprefix(".")

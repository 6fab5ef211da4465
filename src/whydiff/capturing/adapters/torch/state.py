"""State of models: parameters, buffers of both kinds, plain tensor attributes, scalars and config."""

from __future__ import annotations

import functools
import math
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from whydiff.capturing.adapters._live import bound, reached_by
from whydiff.capturing.adapters.torch.collectives import local
from whydiff.capturing.adapters.torch.device.queue import known
from whydiff.capturing.adapters.torch.dtypes import not_comparable, raw, to_payload
from whydiff.capturing.adapters.torch.fingerprints import content_lanes
from whydiff.capturing.adapters.torch.outputs import key_name, tensors_in
from whydiff.capturing.adapters.torch.packed import kept
from whydiff.capturing.adapters.torch.scopes import modules_of
from whydiff.records import Fingerprint, Leaf, LeafRole, Payload, TensorSpec

_SMALL = 1 << 20
MOST_BITS = 2048
"""Whole numbers beyond this are written as hexadecimal text."""
_NOTHING = torch.empty(0)
Roots = list[tuple[str, torch.nn.Module]]


class LiveLeaf:
    """A tensor that existed before the run, held by reference; copied only when it is about to change.

    Constants up to 1 MiB are copied at once, since nobody else may keep them as they are.

    Args:
        name, role: as in `whydiff.records.Leaf`.
        tensor: the user's tensor. A second look at its memory is held too, so that the beginning is known
            even if the run gives the tensor other memory (``.data =``).
        owner, attribute: where it hangs, for interventions.
        brief: it is settled as soon as it was read, and never copied.
    """

    def __init__(
        self,
        name: str,
        role: LeafRole,
        tensor: torch.Tensor,
        owner: Any = None,
        attribute: Any = None,
        *,
        brief: bool = False,
    ) -> None:
        tensor = local(tensor)
        self.name, self.role, self.tensor = name, role, tensor
        self.owner, self.attribute = owner, attribute
        self.storage = -1
        self.spec = TensorSpec((), "")
        self.read: tuple[Any, int] | None = None
        self.skipped = not_comparable(tensor)
        self.written = self.settled = self.lost = False
        self.snapshot: torch.Tensor | None = None
        self.look = tensor if self.skipped else raw(tensor.detach())
        if role == "constant" and not brief and not self.skipped and tensor.nbytes <= _SMALL:
            self._copy()

    def _copy(self) -> None:
        if self.snapshot is None and not self.skipped and not self.settled:
            self.snapshot = self.look.clone(memory_format=torch.preserve_format)

    def keep_as_it_was(self) -> None:
        """Copy the tensor before it changes."""
        self.written = True
        self._copy()

    def changed_outside(self) -> None:
        """Its memory changed and no op wrote it: unless the beginning was kept, it is gone."""
        self.lost = self.lost or (self.snapshot is None and not self.settled)

    def has_beginning(self) -> bool:
        """Whether the beginning's bits are still there, or (after a run that was undone) there again."""
        if self.lost and known((self.read or (None,))[0]) == content_lanes(self.look):
            self.lost = False
        return not self.lost

    def settle(self) -> None:
        """The beginning is kept elsewhere: let go of the tensor, so that a long capture holds no batches."""
        self.settled, self.snapshot = True, None
        self.tensor = self.look = _NOTHING

    def record(self, *, kept: bool) -> Leaf:
        """The inert record of it; ``kept``: its tensor lies among the payloads."""
        return Leaf(
            storage=self.storage,
            role=self.role,
            name=self.name,
            spec=self.spec,
            fingerprint=self.fingerprint,
            payload=f"leaf/{self.name}" if kept and not (self.skipped or self.lost) else "",
            skipped=self.skipped,
        )

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the beginning's content, once what waits in line was read; None if it was not looked at."""
        lanes, nbytes = self.read or (None, 0)
        found = known(lanes)
        return None if found is None else Fingerprint(found, nbytes)

    @property
    def value(self) -> torch.Tensor:
        """What it was when the run began (without a lazy conjugation or negation)."""
        return self.look if self.snapshot is None else self.snapshot

    def payload(self) -> Payload:
        """`value` on the host."""
        return to_payload(self.value)

    def restore(self) -> None:
        """Write the beginning's bits back into the user's memory if the run changed them."""
        if self.written and self.snapshot is not None:
            with torch.inference_mode(self.look.is_inference()), torch.no_grad():
                self.look.copy_(self.snapshot)


_WITHOUT = frozenset((bool, int, float, str, type(None)))
"""What holds no tensor, as most attributes of a module."""
_MAPPINGS = frozenset((dict, OrderedDict))


def state_of(prefix: str, root: torch.nn.Module) -> Iterator[LiveLeaf]:
    """Every tensor that belongs to a module tree, shared ones (and those of shared modules) once per name."""
    for path, module in modules_of(root):
        dot = _before(prefix, path)
        for name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, UninitializedTensorMixin):
                yield LiveLeaf(dot + name, "parameter", parameter, module, name)
        for name, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, UninitializedTensorMixin):
                lasting = name not in module._non_persistent_buffers_set
                yield LiveLeaf(dot + name, "buffer" if lasting else "non_persistent_buffer", buffer, module, name)
        for name, value in vars(module).items():
            kind = type(value)
            if kind in _WITHOUT or (
                kind in _MAPPINGS and not value
            ):  # of the second: hooks that a module does not have
                continue
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            if kind is torch.ScriptObject:
                for path, tensor in kept(value):
                    yield LiveLeaf(dot + name + path, "parameter", tensor, module, (name, None))
            for suffix, key, tensor in _attributes(value):
                yield LiveLeaf(dot + name + suffix, "attribute", tensor, module, (name, key))


def _before(prefix: str, path: str) -> str:
    """What comes before an attribute's name in a module at a path."""
    base = f"{prefix}.{path}" if prefix and path else prefix or path
    return f"{base}." if base else ""


def _attributes(value: Any) -> Iterator[tuple[str, Any, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield "", None, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, torch.Tensor):
                yield f"[{index}]", index, item
    elif isinstance(value, dict):
        for number, (key, item) in enumerate(value.items()):
            if isinstance(item, torch.Tensor):
                yield f"[{key!r}]" if isinstance(key, (str, int)) else f"[{key_name(key, number)}]", key, item


def scalars_of(prefix: str, root: torch.nn.Module) -> dict[str, Any]:
    """Plain numbers, strings, flags and names of functions of every module: eps, dropout p, training flags."""
    found: dict[str, Any] = {}
    for path, module in modules_of(root):
        dot = _before(prefix, path)
        for name, value in vars(module).items():
            if name[:1] != "_":
                plain = value if type(value) is bool else _plain(value)
                if plain is not None:
                    found[dot + name] = plain
        found[dot + "__class__"] = type(module).__qualname__
    return found


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return readable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, (list, tuple)) and value and len(value) <= 16 and depth < 4:
        items = [_plain(item, depth + 1) for item in value]
        return items if all(item is not None for item in items) else None
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        return f"<function {value.__qualname__}>"  # its name alone would be a word that can be set
    return None


def readable(value: int) -> int | str:
    """A whole number as it is; one with more digits than Python is willing to write, as hexadecimal text."""
    return value if value.bit_length() <= MOST_BITS else hex(value)


def config_of(root: torch.nn.Module) -> dict[str, Any]:
    """A model's ``config`` as flat JSON-able data; empty if it has none.

    transformers keeps the choice of kernels (``_attn_implementation_internal`` …) out of ``to_dict``; it is added
    under its public name.
    """
    config = getattr(root, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        private = {
            name.removesuffix("_internal").lstrip("_"): value
            for name, value in vars(config).items()
            if name.startswith("_") and name.removesuffix("_internal").endswith("_implementation")
        }
        config = {**config.to_dict(), **private}
    return dict(_flatten(config)) if isinstance(config, Mapping) else {}


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        yield path, ["None" if item is None else _flat(item) for item in value]
    else:
        yield path, _flat(value)


def _flat(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return readable(value)
    return value if isinstance(value, (bool, float, str, type(None))) else str(value)


def ties_of(leaves: Iterable[LiveLeaf]) -> tuple[tuple[str, ...], ...]:
    """Groups of state names that show the same elements of one storage."""
    groups: dict[Any, list[str]] = {}
    for leaf in leaves:
        if leaf.storage >= 0 and leaf.role not in ("input", "constant"):
            key = (leaf.storage, leaf.spec.offset, leaf.spec.shape, leaf.spec.strides)
            groups.setdefault(key, []).append(leaf.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def discover(target: Any) -> tuple[Roots, list[tuple[str, torch.Tensor]]]:
    """Modules and tensors that a callable reaches: itself, its owner, its closure, the globals it names.

    A single module gets the prefix ``""``; several get the names by which the callable knows them.
    """
    modules: dict[int, tuple[str, torch.nn.Module]] = {}
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    _look_into("", target, modules, tensors, set(), 0)
    roots = list(modules.values())
    nested = {id(child) for _, root in roots for child in root.modules() if child is not root}
    roots = [(name, module) for name, module in roots if id(module) not in nested]
    if len(roots) == 1:
        roots = [("", roots[0][1])]
    owned = {id(leaf.tensor) for prefix, root in roots for leaf in state_of(prefix, root)}
    return roots, [(name, tensor) for name, tensor in tensors.values() if id(tensor) not in owned]


def _look_into(name: str, value: Any, modules: Any, tensors: Any, seen: set[int], depth: int) -> None:
    if id(value) in seen or depth > 4:
        return
    seen.add(id(value))
    if isinstance(value, torch.nn.Module):
        modules.setdefault(id(value), (name, value))
    elif isinstance(value, torch.Tensor):
        tensors.setdefault(id(value), (name or "tensor", value))
    elif isinstance(value, torch.optim.Optimizer):
        return  # its state is named after the parameters (`Session.expect`)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _look_into(name, part, modules, tensors, seen, depth + 1)
    elif isinstance(value, types.MethodType):
        _look_into(name, value.__self__, modules, tensors, seen, depth + 1)
        _look_into(name, value.__func__, modules, tensors, seen, depth + 1)
    elif isinstance(value, types.FunctionType):
        for reached, item in reached_by(value):
            _look_into(reached, item, modules, tensors, seen, depth + 1)
    elif isinstance(value, (list, tuple)) and len(value) <= 64:
        for index, item in enumerate(value):
            _look_into(f"{name}[{index}]", item, modules, tensors, seen, depth + 1)
    elif isinstance(value, dict) and len(value) <= 64:
        for number, (key, item) in enumerate(value.items()):
            named = key_name(key, number)
            _look_into(f"{name}.{named}" if name else named, item, modules, tensors, seen, depth + 1)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)) and depth <= 2:
        for key, item in vars(value).items():
            _look_into(f"{name}.{key}" if name else key, item, modules, tensors, seen, depth + 1)


def inputs_of(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """(path, tensor) of a call's arguments by the parameters' names, where the signature tells them, else ``args[0]``."""
    call = target.forward if isinstance(target, torch.nn.Module) else target
    for name, value in bound(call, args, kwargs).items():
        yield from tensors_in(value, name)

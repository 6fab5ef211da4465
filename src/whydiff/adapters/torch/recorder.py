"""Op-level capture: a dispatch mode that writes down every ATen op, what it read and what it wrote.

The hot path keeps plain tuples; `Recorder.drain` turns them into records. Nothing here changes a number: no
copy, no ``contiguous()`` on what the program sees, no host synchronisation beyond fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.adapters.torch.arguments import Place, encode
from whydiff.adapters.torch.dtypes import dtype_name, not_comparable, spec_of, to_payload
from whydiff.adapters.torch.environment import flags_now, rng_state
from whydiff.adapters.torch.operators import Operator, describe
from whydiff.adapters.torch.outputs import tensors_in
from whydiff.adapters.torch.fingerprints import content_lanes
from whydiff.adapters.torch.scopes import Scopes
from whydiff.adapters.torch.state import LiveLeaf
from whydiff.adapters.torch.storages import Storage, Storages, read_lanes, written_lanes
from whydiff.records import Call, Event, Fingerprint, Kind, Payload, Site, TensorSpec

_Row = tuple[Any, ...]
_Touched = tuple[int, torch.Tensor, Storage]


class Recorder(TorchDispatchMode):
    """Records every op that runs on this thread while it is active.

    Args:
        scopes: tells scope, phase and step.
        keep: says for which sites (as text) the full written tensors are kept; None keeps none.
        sink: receives (key, payload) for every kept tensor and random state.
        fingerprints: False records structure only.
    """

    def __init__(
        self,
        scopes: Scopes,
        *,
        keep: Callable[[str], bool] | None = None,
        sink: Callable[[str, Payload], None] | None = None,
        fingerprints: bool = True,
    ) -> None:
        super().__init__()
        self.scopes, self.keep, self.sink, self.fingerprints = scopes, keep, sink, fingerprints
        self.storages = Storages()
        self.contexts: list[dict[str, Any]] = []
        self.leaves: list[LiveLeaf] = []
        self._constants = 0
        self._rows: list[_Row] = []
        self._count = 0
        self._occurrences: dict[tuple[str, str, str], int] = {}
        self._occurrence_step = 0
        self._flags: Any = None
        self._random_states = 0
        self._context_index = 0

    # ------------------------------------------------------------------ the hot path

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = describe(func)
        if operator.composite:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if operator.silent:
            return func(*args, **kwargs)
        index = self._count
        phase, scope = self.scopes.phase_and_scope()
        reads: list[_Row] = []
        touched: list[_Touched] = []
        if operator.written_names:
            written = operator.written_names
            template = (
                [
                    self._take(a, reads, touched if i in operator.written_args else None, operator)
                    for i, a in enumerate(args)
                ],
                {k: self._take(a, reads, touched if k in written else None, operator) for k, a in kwargs.items()},
            )
            for _, tensor, storage in touched:
                self._before_write(tensor, storage)
        else:
            template = (
                [self._take(a, reads, None, operator) for a in args],
                {k: self._take(a, reads, None, operator) for k, a in kwargs.items()} if kwargs else {},
            )
        random = self._random_state(args, kwargs) if operator.random else ""
        context = self._context()
        step, number = self.scopes.step, self._occurrence(scope, operator.op, phase)
        self._count = index + 1

        result = func(*args, **kwargs)

        wanted = self.keep is not None and self.keep(f"{scope}:{operator.op}#{number}")
        writes, kind = self._outputs(operator, index, result, touched, wanted)
        mutates = tuple(position for position, _, _ in touched)
        self._rows.append(
            (index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, random, number)
        )
        return result

    def _take(self, value: Any, reads: list[_Row], touched: Any, operator: Operator) -> Any:
        if isinstance(value, torch.Tensor):
            position = len(reads)
            reads.append(self._look(value, touched, position, operator))
            return Place(position)
        if isinstance(value, (list, tuple)):
            return [self._take(item, reads, touched, operator) for item in value]
        return value

    def _look(self, tensor: torch.Tensor, touched: Any, position: int, operator: Operator | None) -> _Row:
        reason = not_comparable(tensor)
        if reason:
            return (spec_of(tensor), -1, -1, None, 0, True, reason)
        storage = self.storages.of(tensor)
        if storage is None:
            storage = self.add_leaf(LiveLeaf(f"constant#{self._constants}", "constant", tensor.detach()))
            self._constants += 1
        spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
        if touched is not None:
            touched.append((position, tensor, storage))
            if operator is not None and operator.overwrites:
                return (spec, storage.number, storage.producer, None, 0, True, "overwritten")
        if not storage.initialised:
            return (spec, storage.number, storage.producer, None, 0, True, "uninitialised memory")
        if not self.fingerprints:
            return (spec, storage.number, storage.producer, None, 0, True, "not fingerprinted")
        lanes, nbytes, dense = read_lanes(tensor, storage)
        return (spec, storage.number, storage.producer, lanes, nbytes, dense, "")

    def _outputs(
        self, operator: Operator, index: int, result: Any, touched: list[_Touched], wanted: bool
    ) -> tuple[list[_Row], Kind]:
        writes: list[_Row] = []
        kind: Kind = "view"
        changed = {storage.number for _, _, storage in touched}
        for _, _, storage in touched:
            storage.spans.clear()
            storage.producer, storage.initialised = index, True
        returned: set[int] = set()
        results = (result,) if isinstance(result, torch.Tensor) else _flat(result)
        for tensor in results:
            reason = not_comparable(tensor)
            if reason:
                writes.append((spec_of(tensor), -1, index, None, 0, True, reason, ""))
                kind = "compute"
                continue
            storage = self.storages.of(tensor)
            if storage is None:
                storage = self.storages.add(tensor, index)
                storage.initialised = not operator.uninitialised
            elif storage.number not in changed:
                spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
                writes.append((spec, storage.number, storage.producer, None, 0, True, "view", ""))
                continue
            kind = "compute"
            returned.add(storage.number)
            writes.append(self._written(tensor, storage, index, f"call/{index}/{len(writes)}" if wanted else ""))
        for _, tensor, storage in touched:
            kind = "compute"
            if storage.number not in returned:
                writes.append(self._written(tensor, storage, index, f"call/{index}/{len(writes)}" if wanted else ""))
        if not writes:
            kind = "compute"
        return writes, kind

    def _written(self, tensor: torch.Tensor, storage: Storage, index: int, key: str) -> _Row:
        spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
        if not storage.initialised:
            return (spec, storage.number, index, None, 0, True, "uninitialised memory", "")
        if not self.fingerprints:
            return (spec, storage.number, index, None, 0, True, "not fingerprinted", "")
        lanes, nbytes = written_lanes(tensor, storage)
        if key and self.sink is not None:
            self.sink(key, to_payload(tensor))
        return (spec, storage.number, index, lanes, nbytes, True, "", key)

    def _before_write(self, tensor: torch.Tensor, storage: Storage) -> None:
        """Leaves of this storage are about to change: keep what they were, once."""
        if storage.leaves and not storage.written:
            storage.written = True
            for leaf in storage.leaves:
                leaf.keep_as_it_was()

    def _random_state(self, args: Any, kwargs: Any) -> str:
        key = f"rng/{self._random_states}"
        self._random_states += 1
        generator = kwargs.get("generator")
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), kwargs.get("device"))
        if self.sink is not None:
            self.sink(key, rng_state(generator, device))
        return key

    def _context(self) -> int:
        flags = flags_now()
        if flags != self._flags:
            self._flags = flags
            as_dict = flags.as_dict()
            if as_dict in self.contexts:
                self._context_index = self.contexts.index(as_dict)
            else:
                self.contexts.append(as_dict)
                self._context_index = len(self.contexts) - 1
        return self._context_index

    def _occurrence(self, scope: str, op: str, phase: str) -> int:
        if self.scopes.step != self._occurrence_step:
            self._occurrences.clear()
            self._occurrence_step = self.scopes.step
        key = (scope, op, phase)
        number = self._occurrences.get(key, 0)
        self._occurrences[key] = number + 1
        return number

    # ------------------------------------------------------------------ leaves and results

    def add_leaf(self, leaf: LiveLeaf) -> Storage:
        """Begin to know something that existed before the run (state, input, constant)."""
        self.leaves.append(leaf)
        tensor = leaf.tensor
        leaf.skipped = not_comparable(tensor)
        storage = None if leaf.skipped else self.storages.of(tensor)
        if storage is None:
            storage = self.storages.add(tensor, -1)
        if storage.producer == -1:
            leaf.storage = storage.number
            storage.leaves.append(leaf)
        leaf.spec = spec_of(tensor)
        if self.fingerprints and not leaf.skipped:
            lanes, nbytes, dense = read_lanes(tensor, storage)
            leaf.fingerprint = Fingerprint(lanes if dense else content_lanes(tensor), nbytes if dense else
                                           tensor.numel() * tensor.element_size())
        return storage

    def returned(self, outputs: Any, scope: str = "") -> None:
        """Record what the run (or the outermost module) gave back, as a call of kind ``return``."""
        found = list(tensors_in(outputs))
        reads = [self._look(tensor, None, 0, None) for _, tensor in found]
        self._append("return", scope, "return", reads, [], [path for path, _ in found])

    def _append(
        self, kind: Kind, scope: str, op: str, reads: list[_Row], writes: list[_Row], slots: list[str] | None = None
    ) -> None:
        """Write down a call that is no operator: a return, or a whole module."""
        index = self._count
        self._count = index + 1
        phase = "backward" if torch._C._current_autograd_node() is not None else "forward"
        number = self._occurrence(scope, op, phase)
        self._rows.append(
            (index, scope, (op, slots), phase, self.scopes.step, kind, reads, writes, ([], {}), (), 0, "", number)
        )

    def entered(self, scope: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """A module begins (of interest at module level only)."""

    def left(self, scope: str, module: torch.nn.Module, output: Any) -> None:
        """A module ends (of interest at module level only)."""

    def drain(self) -> list[Call]:
        """Calls recorded since the last drain, as records."""
        rows, self._rows = self._rows, []
        known: dict[Any, TensorSpec] = {}
        return [_call(row, known) for row in rows]


def _flat(result: Any) -> Iterable[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from _flat(item)


def _spec(raw: Any, known: dict[Any, TensorSpec]) -> TensorSpec:
    if isinstance(raw, TensorSpec):
        return raw
    spec = known.get(raw)
    if spec is None:
        shape, dtype, device, strides, offset = raw
        spec = known[raw] = TensorSpec(tuple(shape), dtype_name(dtype), str(device), tuple(strides), offset)
    return spec


def _call(row: _Row, known: dict[Any, TensorSpec]) -> Call:
    index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, rng, number = row
    slots = None
    if isinstance(operator, tuple):
        (op, slots), target = operator, operator[0]
    else:
        op, target = operator.op, operator.target
    site = Site(scope, op, phase, step, 0, number)
    if slots is None:
        slots = [f"read.{i}" for i in range(len(reads))]
    read_events = tuple(
        Event(site.at(slot), _spec(spec, known), storage, producer, _fingerprint(lanes, nbytes, dense), skipped)
        for slot, (spec, storage, producer, lanes, nbytes, dense, skipped) in zip(slots, reads, strict=True)
    )
    single = len(writes) == 1
    write_events = tuple(
        Event(
            site.at("output" if single else f"output.{i}"),
            _spec(spec, known), storage, producer, _fingerprint(lanes, nbytes, dense), skipped, payload,
        )
        for i, (spec, storage, producer, lanes, nbytes, dense, skipped, payload) in enumerate(writes)
    )
    arguments = [encode(template[0]), {name: encode(value) for name, value in template[1].items()}]
    return Call(index, site, target, kind, read_events, write_events, arguments, mutates, context, rng)


def _fingerprint(lanes: Any, nbytes: int, dense: bool) -> Fingerprint | None:
    return None if lanes is None else Fingerprint(lanes, nbytes, "content" if dense else "span")

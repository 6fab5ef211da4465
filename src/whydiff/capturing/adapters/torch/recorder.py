"""Op-level capture: a dispatch mode that writes down every ATen op, what it read and what it wrote.

The hot path keeps plain tuples; `Recorder.drain` turns them into records. Nothing here changes a number: no
copy, no ``contiguous()`` on what the program sees, no host synchronisation beyond fingerprints.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from whydiff.capturing.adapters.torch.arguments import place_of
from whydiff.capturing.adapters.torch.dtypes import not_comparable, plain, spec_of, to_payload
from whydiff.capturing.adapters.torch.environment import Flags, rng_state, switches_now
from whydiff.capturing.adapters.torch.leaves import Leaves
from whydiff.capturing.adapters.torch.operators import Operator, decomposed, describe, draws
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.results import flat, is_hole, resolved
from whydiff.capturing.adapters.torch.rows import Row, call_of
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.storages import Span, Storage, read_lanes, span_of, written_lanes
from whydiff.records import Call, Kind, Payload, TensorSpec
from whydiff.records.trace import GRAPH, IN_GRAPH, LOOK, OVERWRITTEN, UNINITIALISED, UPDATE

_Touched = tuple[int, torch.Tensor, Storage]


class Recorder(Leaves, TorchDispatchMode):
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
        TorchDispatchMode.__init__(self)
        Leaves.__init__(self, fingerprints)
        self.scopes, self.keep, self.sink = scopes, keep, sink
        self.contexts: list[dict[str, Any]] = []
        self._rows: list[Row] = []
        self._spans: dict[tuple[Any, ...], Span] = {}
        self._count = 0
        self._occurrences: dict[tuple[str, str, str], int] = {}
        self._occurrence_step = 0
        self._switches: list[Any] = []
        self._random_states = 0
        self._context_index = 0
        self.silent = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper around every op: while a capture runs nothing is compiled (`compiled.StandingBack`)."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = describe(func)
        if operator.composite:
            with self:
                return decomposed(func, args, kwargs)
        if operator.silent or self.silent:
            return func(*args, **kwargs)
        if operator.rebinds:
            return self._rebound(func, operator, args, kwargs)
        index = self._count
        phase, scope = self.scopes.phase_and_scope()
        reads: list[Row] = []
        touched: list[_Touched] = []
        if operator.writes:
            written, positions = operator.written_names, operator.writes_to(args)
            template = (
                [self._take(a, reads, touched if i in positions else None, operator) for i, a in enumerate(args)],
                {k: self._take(a, reads, touched if k in written else None, operator) for k, a in kwargs.items()},
            )
            for _, tensor, storage in touched:
                self._before_write(tensor, storage)
        else:
            template = (
                [self._take(a, reads, None, operator) for a in args],
                {k: self._take(a, reads, None, operator) for k, a in kwargs.items()} if kwargs else {},
            )
        random = self._random_state(args, kwargs) if operator.random and draws(func, args, kwargs) else ""
        context = self._context()
        step, number = self.scopes.step, self._occurrence(scope, operator.op, phase)
        held = [tensor.untyped_storage().nbytes() for _, tensor, _ in touched] if operator.resizes else ()
        try:
            result = func(*args, **kwargs)
        except BaseException:
            for _, _, storage in touched:  # nobody knows how far it came
                storage.forget()
            raise
        self._count = index + 1
        for nbytes, (_, tensor, storage) in zip(held, touched, strict=True) if operator.resizes else ():
            storage.initialised = storage.initialised and tensor.untyped_storage().nbytes() <= nbytes
        wanted = (self.keep is not None and self.keep(f"{scope}:{operator.op}#{number}")) or is_hole(reads, args)
        writes, kind = self._outputs(operator, index, result, touched, wanted)
        mutates = tuple(position for position, _, _ in touched) if touched else ()
        self._rows.append(
            (index, scope, operator, phase, step, kind, reads, writes, template, mutates, context, random, number)
        )
        return result

    def _take(self, value: Any, reads: list[Row], touched: Any, operator: Operator) -> Any:
        if isinstance(value, torch.Tensor):
            position = len(reads)
            reads.append(self._look(value, touched, position, operator))
            return place_of(position, value)
        if isinstance(value, (list, tuple)):
            return [self._take(item, reads, touched, operator) for item in value]
        return value

    def _look(self, tensor: torch.Tensor, touched: Any, position: int, operator: Operator | None) -> Row:
        ordinary = plain(tensor)
        storage = self.storages.of(tensor) if ordinary else None
        if storage is not None and touched is None:
            spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
            seen = storage.rows.get(spec)
            if seen is not None:
                return seen
        reason = "" if ordinary else not_comparable(tensor)
        if reason:
            return (spec_of(tensor), -1, -1, None, 0, True, reason, "")
        storage = storage or self.storages.of(tensor) or self._met(tensor)
        spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
        if touched is not None:
            touched.append((position, tensor, storage))
            if operator is not None and operator.overwrites:
                return (spec, storage.number, storage.producer, None, 0, True, OVERWRITTEN, "")
        if not storage.initialised:
            return (spec, storage.number, storage.producer, None, 0, True, UNINITIALISED, "")
        if not self.fingerprints:
            return (spec, storage.number, storage.producer, None, 0, True, "not fingerprinted", "")
        lanes, nbytes, dense, known = read_lanes(tensor, self.storages, storage, self._span(tensor, spec))
        if lanes is None:
            return (spec, storage.number, storage.producer, None, 0, True, IN_GRAPH, "")
        if not known and storage.leaves and not storage.covers(*span_of(tensor)[:2]):
            self._constant(tensor)  # a part of the storage that no leaf shows
        row = storage.rows[spec] = (spec, storage.number, storage.producer, lanes, nbytes, dense, "", "")
        return row

    def _span(self, tensor: torch.Tensor, spec: tuple[Any, ...]) -> Span:
        """`span_of` a tensor, worked out once for all that are laid out alike."""
        span = self._spans.get(spec)
        if span is None:
            span = self._spans[spec] = span_of(tensor)
        return span

    def _rebound(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """``set_``: from here on the tensor is a look at another storage; no number changes."""
        reads: list[Row] = []
        named: dict[str, Any] = {}
        template = ([self._take(a, reads, None, operator) for a in args], named)
        result = func(*args, **kwargs)
        if not not_comparable(result) and self.storages.of(result) is None:
            self._met(result)
        phase, scope = self.scopes.phase_and_scope()
        writes, _ = self._outputs(operator, self._count, result, [], False)
        self._rows.append(
            (
                self._count,
                scope,
                operator,
                phase,
                self.scopes.step,
                "view",
                reads,
                writes,
                template,
                (),
                self._context(),
                "",
                self._occurrence(scope, operator.op, phase),
            )
        )
        self._count += 1
        return result

    def _outputs(
        self, operator: Operator, index: int, result: Any, touched: list[_Touched], wanted: bool
    ) -> tuple[list[Row], Kind]:
        writes: list[Row] = []
        kind: Kind = "view"
        changed: set[int] = set()
        for _, _, storage in touched:
            storage.forget()
            storage.producer, storage.initialised = index, storage.initialised or not operator.resizes
            changed.add(storage.number)
        returned: set[int] = set()
        for tensor in (result,) if isinstance(result, torch.Tensor) else flat(result):
            reason = "" if plain(tensor) else not_comparable(tensor)
            if reason:
                writes.append((spec_of(tensor), -1, index, None, 0, True, reason, ""))
                kind = "compute"
                continue
            known = self.storages.of(tensor)
            storage = known or self.storages.add(tensor, index)
            if known is None:
                storage.initialised = not operator.uninitialised
            elif storage.number not in changed:
                spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
                writes.append((spec, storage.number, storage.producer, None, 0, True, LOOK, ""))
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

    def _written(self, tensor: torch.Tensor, storage: Storage, index: int, key: str) -> Row:
        spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
        if not storage.initialised:
            return (spec, storage.number, index, None, 0, True, UNINITIALISED, "")
        if not self.fingerprints:
            return (spec, storage.number, index, None, 0, True, "not fingerprinted", "")
        lanes, nbytes, dense = written_lanes(tensor, self.storages, storage, self._span(tensor, spec))
        if lanes is None:
            return (spec, storage.number, index, None, 0, True, IN_GRAPH, "")
        row = (spec, storage.number, index, lanes, nbytes, True, "", "")
        if dense:
            storage.rows[spec] = row  # what a reader will see
        if key and self.sink is not None:
            self.sink(key, to_payload(tensor))
            return (*row[:-1], key)
        return row

    def _random_state(self, args: Any, kwargs: Any) -> str:
        key = f"rng/{self._random_states}"
        self._random_states += 1
        generator = kwargs.get("generator")
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), kwargs.get("device"))
        if self.sink is not None:
            self.sink(key, rng_state(generator, device))
        return key

    def _context(self) -> int:
        switches = switches_now()
        if switches != self._switches:
            self._switches = switches
            as_dict = Flags._make(switches).as_dict()
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

    # ------------------------------------------------------------------ results

    def returned(self, outputs: Any, scope: str = "") -> None:
        """Record what the run (or the outermost module) gave back, as a call of kind ``return``."""
        found = [(path, resolved(tensor)) for path, tensor in tensors_in(outputs)]
        with _disable_current_modes():
            reads = [self._look(tensor, None, 0, None) for _, tensor in found]
        self._append("return", scope, "return", reads, [], [path for path, _ in found])

    def updating(self, scope: str, state: Sequence[tuple[str, torch.Tensor]], arguments: dict[str, Any]) -> None:
        """Record what a step of an optimizer begins with, as a look at its state."""
        with _disable_current_modes():
            reads = [self._look(tensor, None, 0, None) for _, tensor in state]
        index, number = self._count, self._occurrence(scope, "step", "update")
        self._count = index + 1
        what = (UPDATE, "step", [slot for slot, _ in state], arguments)
        self._rows.append(
            (index, scope, what, "update", self.scopes.step, "view", reads, [], ([], {}), (), 0, "", number)
        )

    def before_graph(self) -> None:
        """A CUDA graph is about to run and to write to memory that it tells nobody."""
        self.storages.queue.flush()

    def after_graph(self) -> None:
        """Nothing that was known of a device's memory holds any more."""
        self.storages.forget_devices(self._count)
        _, scope = self.scopes.phase_and_scope()
        self._append("compute", scope, GRAPH, [], [])

    def _append(
        self, kind: Kind, scope: str, op: str, reads: list[Row], writes: list[Row], slots: list[str] | None = None
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
        self.storages.queue.settle()
        rows, self._rows = self._rows, []
        known: dict[Any, TensorSpec] = {}
        collecting = gc.isenabled()
        gc.disable()  # many small records, none of them garbage: looking for some takes longer than making them
        try:
            return [call_of(row, known) for row in rows]
        finally:
            if collecting:
                gc.enable()

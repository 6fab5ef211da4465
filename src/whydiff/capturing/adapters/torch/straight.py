"""The straight way of an op that only reads and gives: nearly all take it, and what is known already costs little.

It writes down what `Recorder` writes down of such an op, and gives up to it wherever a tensor is met for the first time or
is not plain: only what is known (a storage, and how tensors are laid out) is found by one look each.
"""

from __future__ import annotations

from typing import Any

import torch

from whydiff.capturing.adapters.torch.arguments import PLACES, place_of
from whydiff.capturing.adapters.torch.operators import Operator
from whydiff.capturing.adapters.torch.outside import Outside
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.adapters.torch.storages import Layout, Storage
from whydiff.capturing.adapters.torch.writing import is_hole
from whydiff.numbers.fingerprint import fingerprint_address
from whydiff.records import Kind
from whydiff.records.trace import LOOK

NUMBERS = frozenset((bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format))
"""Types of arguments that hold no tensors."""

MANY = 2_000
"""Calls that wait before they are handed on within a step."""

_NONE: dict[str, Any] = {}
_TENSOR, _PARAMETER = torch.Tensor, torch.nn.Parameter


class Straight(Outside):
    """Writing, what is written outside torch, and the straight way."""

    _odd = False

    def straight(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """Run an op whose `Operator.straight` is true, and write it down."""
        reads: list[Row] = []
        self._odd = False
        try:
            if self.found:
                self.note_found()
            phase, scope = self.scopes.phase_and_scope()
            given = [value if type(value) in NUMBERS else self._given(value, reads, operator) for value in args]
            named = {name: self._given(value, reads, operator) for name, value in kwargs.items()} if kwargs else _NONE
            context, odd = self._context(), self._odd
        except Exception as error:  # noqa: BLE001 - it is counted
            self.failed(operator.op, error)
            return func(*args, **kwargs)
        result = func._op(*args, **kwargs)  # what calling the overload does, less a frame
        log = self._log
        try:
            index, number = log.base + len(log.rows), self._occurrence(scope, operator.op, phase)
            wanted = self.keep is not None and self.keep(f"{scope}:{operator.op}#{number}")
            wanted = wanted or (odd and is_hole(reads, args))
            found = None if wanted else self._result(result, index, operator)
            writes, kind = self._outputs(operator, index, result, [], wanted) if found is None else found
            step = self.scopes.step
            log.rows.append(
                (index, scope, operator, phase, step, kind, reads, writes, (given, named), (), context, "", number)
            )
        except BaseException as error:
            self._again += 1
            self.failed(operator.op, error)
            if not isinstance(error, Exception):
                raise
        if len(log.rows) >= MANY and self.on_many is not None:
            self.on_many()
        return result

    def _given(self, value: Any, reads: list[Row], operator: Operator) -> Any:
        """An argument as a template says it; tensors go to ``reads``."""
        kind = type(value)
        if kind is _TENSOR or kind is _PARAMETER:
            try:
                storage = self.storages.known.get(value.untyped_storage()._cdata)
                spec = value.shape, value.dtype, value.device, value.stride(), value.storage_offset()
            except RuntimeError:  # it has no plain storage
                storage = None
            layout = self._layouts.get(spec) if storage is not None else None
            if storage is not None and layout is not None and not (storage.pending or storage.lent):
                row = storage.rows.get(layout.key) or self._row(value, storage, layout)
                if row is not None:
                    position = len(reads)
                    reads.append(row)
                    if position < len(PLACES) and not (value.is_neg() or value.is_conj()):
                        return PLACES[position]
                    return place_of(position, value)
        elif kind is list or kind is tuple:
            return [item if type(item) in NUMBERS else self._given(item, reads, operator) for item in value]
        elif kind in NUMBERS:
            return value
        self._odd = True
        return self._take(value, reads, None, operator)

    def _row(self, tensor: torch.Tensor, storage: Storage, layout: Layout) -> Row | None:
        """The row of another look at a storage, kept for the next one; None: the look is not a plain one."""
        if not storage.initialised:
            return None
        place = layout.place
        lanes = storage.spans.get(place)
        if lanes is None:
            if not self.fingerprints or (storage.leaves and not storage.covers(*place)):
                return None
            lanes = self.storages.read(tensor, *place)
            if lanes is None:
                return None
            storage.spans[place] = lanes
        row = (layout.spec, storage.number, storage.producer, lanes, layout.nbytes, layout.dense, "", "")
        storage.rows[layout.key] = row
        return row

    def _result(self, tensor: Any, index: int, operator: Operator) -> tuple[list[Row], Kind] | None:
        """What `_outputs` gives of one plain tensor, laid out as others were; None: ask it."""
        if type(tensor) is not _TENSOR:
            return None
        try:
            memory = tensor.untyped_storage()
            layout = self._layouts.get(
                (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
            )
        except RuntimeError:  # it has no plain storage
            return None
        if layout is None:
            return None
        key = memory._cdata
        storage = self.storages.known.get(key)
        if storage is not None:
            return [(layout.spec, storage.number, storage.producer, None, 0, True, LOOK, "")], "view"
        if operator.uninitialised or not self.fingerprints or tensor._is_zerotensor():
            return None
        on_host = tensor.is_cpu
        storage = self.storages.begin(memory, key, index, not on_host and tensor.is_cuda)
        low, high = layout.place
        if not layout.dense:
            lanes: Any = self.storages.read_content(tensor)
        elif on_host:
            lanes = fingerprint_address(memory.data_ptr() + low, high - low)
        else:
            lanes = self.storages.read(tensor, low, high)
        if lanes is None:  # a CUDA graph is recorded
            return [self._written(tensor, storage, index, "")], "compute"
        if not layout.dense:
            return [(layout.spec, storage.number, index, lanes, layout.size, True, "", "")], "compute"
        row = (layout.spec, storage.number, index, lanes, layout.nbytes, True, "", "")
        storage.spans[layout.place] = lanes
        storage.rows[layout.key] = row
        return [row], "compute"

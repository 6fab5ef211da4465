"""How a recorder looks at the tensors that ops and modules are given."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from whydiff.capturing.adapters.torch.arguments import place_of
from whydiff.capturing.adapters.torch.arriving import Arriving
from whydiff.capturing.adapters.torch.collectives import told
from whydiff.capturing.adapters.torch.dtypes import not_comparable, plain, spec_of, without_numbers
from whydiff.capturing.adapters.torch.leaves import Leaves
from whydiff.capturing.adapters.torch.operators import Operator
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.packed import shown
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.state import LiveLeaf
from whydiff.capturing.adapters.torch.storages import Layout, Storage, read_lanes, span_of
from whydiff.capturing.holes import Holes
from whydiff.records.trace import IN_GRAPH, LOOK, OVERWRITTEN, UNINITIALISED

Touched = tuple[int, torch.Tensor, Storage]


class Looks(Leaves):
    """Leaves, and looks at what is read.

    Args:
        scopes: tells the scope.
        fingerprints: False: nothing is read.
    """

    def __init__(self, scopes: Scopes, fingerprints: bool) -> None:
        super().__init__(fingerprints)
        self.scopes = scopes
        self.holes = Holes()
        self.arriving = Arriving(self._written)
        self._layouts: dict[tuple[Any, ...], Layout] = {}

    def _place(self, leaf: LiveLeaf) -> Storage:
        if leaf.skipped:
            self.opaque(leaf.tensor, leaf.skipped)
        return super()._place(leaf)

    def going_in(self, args: Any, kwargs: Any) -> list[Row]:
        """What a part of the program is given that then runs as one and writes where it likes."""
        rows = self.looks((args, kwargs))
        self.storages.queue.flush()
        return rows

    def _take(self, value: Any, reads: list[Row], touched: Any, operator: Operator) -> Any:
        if isinstance(value, torch.Tensor):
            position = len(reads)
            reads.append(self._look(value, touched, position, operator))
            return place_of(position, value)
        if isinstance(value, (list, tuple)):
            return [self._take(item, reads, touched, operator) for item in value]
        if type(value) is not torch.ScriptObject:
            return value
        seen = told(value)
        if seen is value:  # what an object computes with is read too, if it is known
            known = (tensor for _, tensor in shown(value) if not not_comparable(tensor))
            reads.extend(
                self._look(tensor, None, 0, operator) for tensor in known if self.storages.of(tensor) is not None
            )
        return seen

    def _look(self, tensor: torch.Tensor, touched: Any, position: int, operator: Operator | None) -> Row:
        reason = "" if plain(tensor) else not_comparable(tensor)
        if reason:
            self.opaque(tensor, reason)
            return (spec_of(tensor), -1, -1, None, 0, True, reason, "")
        storage = self.storages.of(tensor)
        layout = self._layout(tensor)
        if storage is not None and storage.pending:
            if operator is not None and operator.views:
                return (layout.spec, storage.number, storage.producer, None, 0, True, LOOK, "")
            self.arriving.arrived(storage)
        if storage is not None and storage.lent is not None and not (operator is not None and operator.views):
            self._look_outside(tensor, storage, layout.place)
        if storage is None:
            storage = self._met(tensor)
        elif touched is None:
            seen = storage.rows.get(layout.key)
            if seen is not None:
                return seen
        spec = layout.spec
        if touched is not None:
            touched.append((position, tensor, storage))
            if operator is not None and operator.overwrites:
                return (spec, storage.number, storage.producer, None, 0, True, OVERWRITTEN, "")
        if not storage.initialised:
            return (spec, storage.number, storage.producer, None, 0, True, UNINITIALISED, "")
        if not self.fingerprints:
            return (spec, storage.number, storage.producer, None, 0, True, "not fingerprinted", "")
        lanes, nbytes, dense, known = read_lanes(tensor, self.storages, storage, layout.span)
        if lanes is None:
            return (spec, storage.number, storage.producer, None, 0, True, IN_GRAPH, "")
        if not known and storage.leaves and not storage.covers(*span_of(tensor)[:2]):
            self._constant(tensor)  # a part of the storage that no leaf shows
        row = storage.rows[layout.key] = (spec, storage.number, storage.producer, lanes, nbytes, dense, "", "")
        return row

    @abstractmethod
    def _look_outside(self, tensor: torch.Tensor, storage: Storage, place: tuple[int, int]) -> None:
        """Look again at bytes that others than torch may have written; what changed is written down."""

    @abstractmethod
    def _written(self, tensor: torch.Tensor, storage: Storage, index: int, key: str) -> Row:
        """What a call wrote, looked at now."""

    def opaque(self, tensor: torch.Tensor, reason: str) -> None:
        """Count a value that cannot be read; of a lazy module's parameters there is none yet, and zeros are known."""
        if isinstance(tensor, UninitializedTensorMixin) or tensor._is_zerotensor():
            return
        self.holes.add("fake" if without_numbers(tensor) else "opaque", reason, self.scopes.scope)

    def _layout(self, tensor: torch.Tensor) -> Layout:
        """How a tensor looks at its storage, worked out once for all that are laid out alike."""
        spec = (tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.storage_offset())
        layout = self._layouts.get(spec)
        if layout is None:
            layout = self._layouts[spec] = Layout(spec, tensor, len(self._layouts))
        return layout

    def looks(self, value: Any) -> list[Row]:
        """Every tensor of a nested value, as it is now."""
        return [self._look(tensor, None, 0, None) for _, tensor in tensors_in(value)]

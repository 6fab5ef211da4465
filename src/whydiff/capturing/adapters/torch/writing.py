"""What calls write, as it is written down: places for new values, looks at known ones, how often a place occurred."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from whydiff.capturing.adapters.torch.circumstances import Circumstances
from whydiff.capturing.adapters.torch.dtypes import borrowed_payload, not_comparable, plain, spec_of
from whydiff.capturing.adapters.torch.looks import Touched
from whydiff.capturing.adapters.torch.operators import Operator
from whydiff.capturing.adapters.torch.results import flat
from whydiff.capturing.adapters.torch.rows import Log, Row
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.storages import Storage, written_lanes
from whydiff.records import Kind, Payload
from whydiff.records.trace import IN_GRAPH, LOOK, UNINITIALISED


class Writing(Circumstances):
    """Writes down what calls wrote.

    Args:
        scopes: tells scope, phase and step.
        keep: says for which sites (as text) the full written tensors are kept; None keeps none.
        sink: receives (key, payload) for every kept tensor and random state; False: it was left out.
        fingerprints: False records structure only.
    """

    def __init__(
        self,
        scopes: Scopes,
        keep: Callable[[str], bool] | None,
        sink: Callable[[str, Payload], bool] | None,
        fingerprints: bool,
    ) -> None:
        super().__init__(scopes, sink, fingerprints)
        self._log = Log(0, [])
        self.keep = keep
        self._again = 0  # how often an index was given to a call that was not written down after all
        self._occurrences: dict[tuple[str, str, str], int] = {}
        self._occurrence_step = 0
        self.on_many: Callable[[], None] | None = None

    def _outputs(
        self, operator: Operator, index: int, result: Any, touched: list[Touched], wanted: bool
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
                self.opaque(tensor, reason)
                writes.append((spec_of(tensor), -1, index, None, 0, True, reason, ""))
                kind = "compute"
                continue
            known = self.storages.of(tensor)
            storage = known or self.storages.add(tensor, index)
            if known is None:
                storage.initialised = not operator.uninitialised
            elif storage.number not in changed:
                writes.append((self._layout(tensor).spec, storage.number, storage.producer, None, 0, True, LOOK, ""))
                continue
            kind = "compute"
            returned.add(storage.number)
            writes.append(self._written(tensor, storage, index, self._key(index, len(writes)) if wanted else ""))
        for _, tensor, storage in touched:
            kind = "compute"
            if storage.number not in returned:
                writes.append(self._written(tensor, storage, index, self._key(index, len(writes)) if wanted else ""))
        if not writes:
            kind = "compute"
        return writes, kind

    def _key(self, index: int, number: int) -> str:
        return f"call/{index}/{number}" + (f"~{self._again}" if self._again else "")

    def _written(self, tensor: torch.Tensor, storage: Storage, index: int, key: str) -> Row:
        layout = self._layout(tensor)
        spec = layout.spec
        if not storage.initialised:
            return (spec, storage.number, index, None, 0, True, UNINITIALISED, "")
        if not self.fingerprints:
            return (spec, storage.number, index, None, 0, True, "not fingerprinted", "")
        lanes, nbytes, dense = written_lanes(tensor, self.storages, storage, layout.span)
        if lanes is None:
            return (spec, storage.number, index, None, 0, True, IN_GRAPH, "")
        row = (spec, storage.number, index, lanes, nbytes, True, "", "")
        if dense:
            storage.rows[layout.key] = row  # what a reader will see
        if key and self.sink is not None and self.sink(key, borrowed_payload(tensor)):
            return (*row[:-1], key)
        return row

    def _occurrence(self, scope: str, op: str, phase: str) -> int:
        if self.scopes.step != self._occurrence_step:
            self._occurrences.clear()
            self._occurrence_step = self.scopes.step
        key = (scope, op, phase)
        number = self._occurrences.get(key, 0)
        self._occurrences[key] = number + 1
        return number

    @abstractmethod
    def failed(self, where: str, error: BaseException) -> None:
        """Count something that was not recorded because of an exception here."""

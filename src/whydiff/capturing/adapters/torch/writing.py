"""What calls write, as it is written down: places for new values, looks at known ones, how often a place occurred.

And what was in force meanwhile: switches of the process, and random states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from whydiff.capturing.adapters.torch.arguments import lazy_bits
from whydiff.capturing.adapters.torch.collectives import local, rank
from whydiff.capturing.adapters.torch.dtypes import borrowed_payload, not_comparable, plain, spec_of
from whydiff.capturing.adapters.torch.environment import Flags, rng_state, switches_now
from whydiff.capturing.adapters.torch.looks import Looks, Touched
from whydiff.capturing.adapters.torch.operators import Operator
from whydiff.capturing.adapters.torch.rows import Log, Making, Row
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.storages import Storage, written_lanes
from whydiff.records import Call, Kind, Payload, Phase
from whydiff.records.trace import IN_GRAPH, LOOK, UNINITIALISED


class Circumstances(Looks):
    """Looks at what is read, and at the circumstances.

    Args:
        scopes: tells the scope.
        sink: receives (key, payload) of every random state; False: it was left out.
        fingerprints: False: nothing is read.
    """

    def __init__(self, scopes: Scopes, sink: Callable[[str, Payload], bool] | None, fingerprints: bool) -> None:
        super().__init__(scopes, fingerprints)
        self.sink = sink
        self.announcing = Announcing()
        self.contexts: list[dict[str, Any]] = []
        self._switches: tuple[Any, ...] = ()
        self._context_index = 0
        self._random_states = 0
        self.first_drawn: Payload | None = None
        """State of the global generator that was drawn from first; None: none was."""

    def _random_state(self, args: Any, kwargs: Any) -> str:
        key = f"rng/{self._random_states}"
        self._random_states += 1
        generator = kwargs.get("generator")
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), kwargs.get("device"))
        if generator is None and self.first_drawn is None:
            self.first_drawn = rng_state(None, device)
        kept = self.sink is None or self.sink(key, rng_state(generator, device))
        return key if kept else ""

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


Place = tuple[str, str, int]
"""Phase, scope, step."""


class Announcing:
    """Makes calls without values of collectives that are about to begin.

    Attributes:
        listener: is given them; None: nobody wants them.
    """

    def __init__(self) -> None:
        self.listener: Callable[[Call], None] | None = None
        self._rank, self._told, self._step = rank().number, 0, 0
        self._occurrences: Counter[tuple[str, str, str]] = Counter()

    def tell(self, operator: Operator, place: Place, reads: Sequence[Row], template: Any) -> None:
        """Tell of a collective with its arguments."""
        if self.listener is None:
            return
        phase, scope, step = place
        if step != self._step:
            self._occurrences.clear()
            self._step = step
        key = (scope, operator.op, phase)
        given = [(row[0], -1, -1, None, 0, True, row[6], "") for row in reads]
        number = self._occurrences[key]
        call: Row = (self._told, scope, operator, phase, step, "compute", given, [], template, (), 0, "", number)
        self._occurrences[key] += 1
        self._told += 1
        self.listener(Making(self._rank).call_of(call))


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


class Begun(NamedTuple):
    """What was written down of an op before it ran."""

    phase: Phase
    scope: str
    reads: list[Row]
    touched: list[tuple[int, torch.Tensor, Storage]]
    template: Any
    random: str
    context: int
    held: Sequence[int]


def is_hole(reads: Sequence[Row], args: Sequence[Any]) -> bool:
    """Whether a call cannot be executed again from its record: what follows starts from the values it gave.

    It reads what has no plain storage (a sparse, nested or quantised tensor), or an object of a library (packed
    weights).
    """
    for row in reads:
        if row[1] == -1:
            return True
    return any(isinstance(item, torch.ScriptObject) for item in args if type(item) is not torch.Tensor)


def resolved(tensor: torch.Tensor) -> torch.Tensor:
    """What a lazily conjugated or negated result shows (the op that resolves it is recorded), or a rank's part."""
    tensor = local(tensor)
    if lazy_bits(tensor) and not not_comparable(tensor):
        return tensor.detach().resolve_conj().resolve_neg()
    return tensor


def flat(result: Any) -> Iterable[torch.Tensor]:
    """Every tensor of a nested result, in order."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from flat(item)

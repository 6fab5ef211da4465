"""What was recorded: sites, values, calls and the trace that holds them. Reads no clock, imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from whydiff.records.environment import Environment, ObserverCheck
from whydiff.records.hole import Hole
from whydiff.records.spec import Payload, TensorSpec

Phase = Literal["forward", "backward", "update"]
Kind = Literal["compute", "view", "module", "return"]
LeafRole = Literal["parameter", "buffer", "non_persistent_buffer", "attribute", "input", "constant"]

OVERWRITTEN, LOOK, UNINITIALISED = "overwritten", "view", "uninitialised memory"
UNSEEN = "not observed: inside a fused region of the compiled program"
IN_GRAPH = "inside a CUDA graph, which runs when it is replayed"
"""What `Event.skipped` says where code asks; it asks the event's properties."""

UPDATE = "optimizer.step"
"""Target of the looks that `Call.is_update` tells from other calls."""

GRAPH = "cuda_graph.replay"
"""Target of a call that stands for a whole CUDA graph, inside of which nothing is seen."""

SCHEMA_VERSION = 1
"""Version of the records as they are written to disk and to JSON."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a value is produced or read.

    Attributes:
        scope: dotted module path (PyTorch) or name stack (JAX); ``""`` is the root.
        op: operator name without namespace and overload, e.g. ``"bmm"``.
        phase: forward, backward or update (optimizer step).
        step: how many times the root was entered before (0 for the first).
        rank: process rank in a distributed run.
        occurrence: how many times this (scope, op, phase) occurred before within the step.
        slot: ``"output"``, ``"output.1"``, ``"read.0"`` …; ``""`` names the whole call.
    """

    scope: str
    op: str
    phase: Phase = "forward"
    step: int = 0
    rank: int = 0
    occurrence: int = 0
    slot: str = ""

    def __str__(self) -> str:
        text = f"{self.scope}:{self.op}#{self.occurrence}"
        if self.slot:
            text += f".{self.slot}"
        if self.phase != "forward":
            text += f" [{self.phase}]"
        if self.step:
            text += f" @step {self.step}"
        if self.rank:
            text += f" @rank {self.rank}"
        return text

    def at(self, slot: str) -> Site:
        """The same call, another slot."""
        if slot == self.slot:
            return self
        where: Any = {"scope": self.scope, "op": self.op, "step": self.step, "rank": self.rank}
        return Site(**where, phase=self.phase, occurrence=self.occurrence, slot=slot)


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One returned value of a run, which may return several times (``model(x1); model(x2)`` in one capture).

    As text (in a `whydiff.records.Diagnosis` and in sentences): ``"output"`` for the first return, ``"output@k"``
    for the one after k others.

    Attributes:
        number: how many returns came before.
        name: the path within what was returned, `Site.slot` of the event: ``"output"``, ``"output.1"`` …
    """

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}@{self.number}" if self.number else self.name


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """ML2 fingerprint (see `whydiff.numbers.fingerprint`): two 64-bit lanes over little-endian bytes.

    Attributes:
        lanes: two unsigned 64-bit integers.
        nbytes: how many bytes were read.
        covers: ``"content"``: the elements in row-major order; ``"span"``: the bytes of storage from the
            first to the last element of a non-contiguous tensor. Two spans decide only if they are
            equal and the layouts are equal; otherwise they say nothing.
    """

    lanes: tuple[int, int]
    nbytes: int
    covers: Literal["content", "span"] = "content"


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded value at a site: something a call read, wrote or viewed.

    Attributes:
        site: where; its slot tells which argument or output.
        spec: what it looked like; strides and offset are those within its storage.
        storage: identity of the storage it lives in, within this trace.
        producer: index of the call that last wrote that storage before this event; -1: a leaf.
        fingerprint: of the value as it was at that moment; None if not taken.
        skipped: why there is no fingerprint, in words; empty if there is one. What code asks of it are the
            properties `overwritten`, `is_look`, `uninitialised`, `unseen` and `missing`.
        payload: key of the full tensor in the trace's payloads; empty if not kept.
    """

    site: Site
    spec: TensorSpec
    storage: int
    producer: int = -1
    fingerprint: Fingerprint | None = None
    skipped: str = ""
    payload: str = ""

    @property
    def overwritten(self) -> bool:
        """A read whose old content does not matter (``out=``, ``copy_``)."""
        return self.skipped == OVERWRITTEN

    @property
    def is_look(self) -> bool:
        """Another look at storage whose content another event of the trace stands for."""
        return self.skipped == LOOK

    @property
    def uninitialised(self) -> bool:
        """Memory that nobody wrote: its content is nobody's value."""
        return self.skipped == UNINITIALISED

    @property
    def unseen(self) -> bool:
        """A value that a compiled program never puts into memory."""
        return self.skipped == UNSEEN

    @property
    def missing(self) -> bool:
        """Whether a value that counts was not seen."""
        return bool(self.skipped) and not self.overwritten and not self.is_look


@dataclass(frozen=True, slots=True)
class Call:
    """One executed operator (or module, at module level): what it read, its arguments, what it wrote.

    Attributes:
        index: position in execution order, equal to its position in ``trace.calls``.
        site: scope, op, phase, step, rank, occurrence (slot empty).
        target: full operator name that the adapter can look up, e.g. ``"aten.bmm.default"``.
        kind: ``compute`` (makes or changes numbers), ``view`` (another look at the same storage, also that of an
            optimizer at its state when a step of it begins), ``module`` (module-level capture), ``return`` (what the
            run gave back).
        reads: tensors read, in argument order.
        writes: tensors returned or mutated; for a view, the look it returns.
        arguments: JSON-able template of all arguments; ``{"$read": i}`` stands for ``reads[i]``.
        mutates: positions in ``reads`` whose storage the call changes.
        context: index into ``trace.contexts`` (flags in force while it ran).
        rng: payload key of the random generator's state before a random op; empty otherwise.
        source: ``file:line`` of the user's code if known.
    """

    index: int
    site: Site
    target: str
    kind: Kind
    reads: tuple[Event, ...] = ()
    writes: tuple[Event, ...] = ()
    arguments: Any = None
    mutates: tuple[int, ...] = ()
    context: int = 0
    rng: str = ""
    source: str = ""

    @property
    def gives(self) -> bool:
        """Whether it computes what Python alone has (``item``), also where that counts as returned."""
        return not self.writes and self.kind in ("compute", "return") and self.target != "return"

    @property
    def is_update(self) -> bool:
        """An optimizer's look at its state as a step of it begins; its arguments say with which hyperparameters."""
        return self.target == UPDATE


@dataclass(frozen=True, slots=True)
class Leaf:
    """A storage that existed before the run or came from outside it: state, input or constant.

    Attributes:
        storage: storage identity within the trace; -1 if no call touched it (inert on this input).
        role: parameter, buffer, non_persistent_buffer, attribute, input or constant.
        name: ``"model.rotary_emb.inv_freq"``, ``"args[0]"``, ``"constant#3"``.
        spec: the whole tensor at the beginning of the run.
        fingerprint: its content at the beginning of the run.
        payload: key of the full tensor; empty if not kept.
        skipped: why there is no fingerprint.
    """

    storage: int
    role: LeafRole
    name: str
    spec: TensorSpec
    fingerprint: Fingerprint | None = None
    payload: str = ""
    skipped: str = ""

    @property
    def is_state(self) -> bool:
        """True for what belongs to the model rather than to the call."""
        return self.is_registered or self.role == "attribute"

    @property
    def is_registered(self) -> bool:
        """True for parameters and buffers, which a model says it holds."""
        return self.role in ("parameter", "buffer", "non_persistent_buffer")


@dataclass(frozen=True, slots=True)
class Lift:
    """How a recorded program is carried out again at another precision, with the same values.

    Attributes:
        dtype: in which every narrower floating value is carried.
        casts: ``"kept"``: what the recorded program rounded to a narrower dtype is still rounded to it;
            ``"lifted"``: nothing is rounded. Casts that widen are lifted either way.
        everything: float64 values are carried in ``dtype`` too (for programs that are float64 already).
        seed: every output is rounded to its recorded dtype stochastically, by this seed; None: it is not.
    """

    dtype: Literal["float32", "float64"]
    casts: Literal["kept", "lifted"] = "lifted"
    everything: bool = False
    seed: int | None = None


class Trace(Protocol):
    """All events of one run. Live runs and traces on disk look the same to the pipeline."""

    @property
    def framework(self) -> str: ...  # "torch" | "jax"
    @property
    def level(self) -> str: ...  # "op" | "module"
    @property
    def calls(self) -> Sequence[Call]: ...
    @property
    def leaves(self) -> Sequence[Leaf]: ...
    @property
    def ties(self) -> Sequence[tuple[str, ...]]: ...  # names of state that share one storage
    @property
    def scalars(self) -> Mapping[str, Any]: ...  # "layers.0.norm.eps" → 1e-5; "training" per module
    @property
    def config(self) -> Mapping[str, Any]: ...  # flattened model config, "" if none
    @property
    def contexts(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def environment(self) -> Environment: ...
    @property
    def observer(self) -> ObserverCheck: ...
    @property
    def complete(self) -> bool: ...  # False: killed half-way, see note
    @property
    def note(self) -> str: ...
    @property
    def source(self) -> str: ...  # "live" or the path
    @property
    def holes(self) -> Sequence[Hole]: ...  # what was met and not recorded
    @property
    def payloads(self) -> Mapping[str, Any]: ...  # keys of full tensors that can be asked for
    @property
    def handles(self) -> Mapping[str, Any]: ...  # a live run's own values, for its adapter only; {} on disk
    @property
    def trusted(self) -> bool: ...  # this process recorded it, or its user vouches for it: executed like a live run
    @property
    def bounds(self) -> Any: ...  # what a replay may take (`whydiff.capturing.limits.Bounds`); None: no limits
    @property
    def refused(self) -> str: ...  # why it must not be executed again, whatever it holds; empty if it may be
    @property
    def outputs(self) -> Sequence[Output] | None: ...  # what the run gave back; None: it was not recorded
    def payload(self, key: str) -> Payload | None: ...


def has_ops(trace: Trace) -> bool:
    """Whether any op of a run was seen; none is of what runs in numpy, in another library or on another thread."""
    return any(call.kind == "compute" for call in trace.calls)


OutputKind = Literal["numbers", "text", "empty", "left_out", "unreadable"]


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One value inside what a run gave back, of whatever type it was.

    Attributes:
        slot: which return, and the path within it.
        kind: ``numbers`` (a tensor, an array or a number: `payload`, or `fingerprint` where the bits were not kept),
            ``text`` (compared character by character, as are integers beyond 64 bits), ``empty`` (None, or a
            container that holds nothing), ``left_out`` (holds no numbers: a function, a type), ``unreadable``
            (may hold numbers and cannot be looked into).
        type: of the value, for people: ``"Tensor"``, ``"float"``, ``"ndarray"``.
        payload: the numbers.
        spec: shape and dtype of the numbers.
        fingerprint: of the numbers' bytes in row-major order.
        text: the text itself; of ``left_out`` and ``unreadable``: what it is.
        places: the path with positions instead of the names of a named tuple's fields; empty: it has none.
    """

    slot: Slot
    kind: OutputKind
    type: str
    payload: Payload | None = None
    spec: TensorSpec | None = None
    fingerprint: Fingerprint | None = None
    text: str = ""
    places: str = ""


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """A `Trace` held in memory.

    ``payloads`` maps keys to host tensors (leaves, random states …); ``handles`` maps leaf names to the
    framework's own tensors as they were when the run began, so that a live run is replayed without copies.
    """

    framework: str
    level: str
    calls: tuple[Call, ...]
    leaves: tuple[Leaf, ...]
    environment: Environment
    observer: ObserverCheck
    ties: tuple[tuple[str, ...], ...] = ()
    scalars: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    contexts: tuple[Mapping[str, Any], ...] = ({},)
    complete: bool = True
    note: str = ""
    source: str = "live"
    holes: tuple[Hole, ...] = ()
    outputs: tuple[Output, ...] | None = field(default=None, compare=False)
    payloads: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    handles: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    bounds: ClassVar[Any] = None  # nothing here came from a file
    refused: ClassVar[str] = ""

    @property
    def trusted(self) -> bool:
        """Whether it is a run of this process."""
        return bool(self.handles)

    def payload(self, key: str) -> Payload | None:
        """The full tensor behind ``key``, or None if it was not kept.

        ``payloads`` may hold `Payload` objects or zero-argument callables that make one (so that a live
        model's weights are not copied until someone asks).
        """
        found = self.payloads.get(key)
        return found() if callable(found) else found

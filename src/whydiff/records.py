"""The whole vocabulary of whydiff, as inert frozen records (``docs/explanation/glossary.md``).

This module imports no framework, reads no clock and holds no rule about numbers. Every room speaks in
these records: adapters make them, the pipeline reads them, reporters render the last one, `Diagnosis`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from whydiff import registry

if TYPE_CHECKING:
    import numpy as np

Phase = Literal["forward", "backward", "update"]
Kind = Literal["compute", "view", "module", "return"]
LeafRole = Literal["parameter", "buffer", "non_persistent_buffer", "attribute", "input", "constant"]
Status = Literal["confirmed", "refuted", "inconclusive"]

SCHEMA_VERSION = 1
"""Version of the records as they are written to disk and to JSON."""


class Verdict(str, enum.Enum):
    """What a whole difference (or one origin) amounts to; see ``docs/explanation/verdicts.md``."""

    IDENTICAL = "identical"
    ROUNDING = "rounding"
    PRECISION = "precision"
    SEMANTIC = "semantic"
    UNSTABLE = "unstable"
    NONDETERMINISTIC = "nondeterministic"
    INCOMPARABLE = "incomparable"
    INCONCLUSIVE = "inconclusive"

    def __str__(self) -> str:
        return self.value

    @property
    def severity(self) -> int:
        """Rank from 0 (nothing to do) upwards; the overall verdict is the most severe material one."""
        return _SEVERITY[self]


_SEVERITY = {
    verdict: rank
    for rank, verdict in enumerate(
        (
            Verdict.IDENTICAL,
            Verdict.ROUNDING,
            Verdict.INCONCLUSIVE,
            Verdict.PRECISION,
            Verdict.NONDETERMINISTIC,
            Verdict.SEMANTIC,
            Verdict.UNSTABLE,
            Verdict.INCOMPARABLE,
        )
    )
}


# --------------------------------------------------------------------------- what was recorded


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
        return Site(self.scope, self.op, self.phase, self.step, self.rank, self.occurrence, slot)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape, dtype, device and layout of a tensor.

    Attributes:
        shape: sizes, outermost first.
        dtype: framework-neutral name: ``"float32"``, ``"bfloat16"``, ``"float8_e4m3fn"``, ``"int64"`` …
        device: ``"cpu"``, ``"cuda:0"`` …
        strides: in elements (not bytes); empty for a contiguous tensor of unknown layout.
        offset: first element within its storage, in elements.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    strides: tuple[int, ...] = ()
    offset: int = 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """ML2 fingerprint (see `whydiff.fingerprint`): two 64-bit lanes over little-endian bytes.

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
        skipped: why there is no fingerprint (sparse, uninitialised, fake …); empty if there is one.
        payload: key of the full tensor in the trace's payloads; empty if not kept.
    """

    site: Site
    spec: TensorSpec
    storage: int
    producer: int = -1
    fingerprint: Fingerprint | None = None
    skipped: str = ""
    payload: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One executed operator (or module, at module level): what it read, its arguments, what it wrote.

    Attributes:
        index: position in execution order, equal to its position in ``trace.calls``.
        site: scope, op, phase, step, rank, occurrence (slot empty).
        target: full operator name that the adapter can look up, e.g. ``"aten.bmm.default"``.
        kind: ``compute`` (makes or changes numbers), ``view`` (another look at the same storage),
            ``module`` (module-level capture), ``return`` (what the run gave back).
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
        return self.role in ("parameter", "buffer", "non_persistent_buffer", "attribute")


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


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything outside the program that can change numbers. Values are JSON scalars.

    Attributes:
        versions: package → version (torch, numpy, python, BLAS, oneDNN, CUDA, cuDNN …).
        hardware: device names, CPU instruction set, core count.
        flags: determinism, TF32, reduced precision, SDPA backends, threads, autocast …
        variables: environment variables that frameworks read.
        rng: short digests of the random generators' states at the beginning.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    rng: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObserverCheck:
    """Proof that looking did not change the numbers (plain run twice, instrumented run once).

    Attributes:
        deterministic: the two plain runs agree bit for bit (H0 == H0′); None if not run.
        unchanged: the instrumented run agrees with the plain one (H1 == H0); None if not run.
        outputs: how many output tensors were compared.
        note: what differed, or why the check was not run.
    """

    deterministic: bool | None
    unchanged: bool | None
    outputs: int = 0
    note: str = ""


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
    def payload(self, key: str) -> Payload | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """A full tensor on the host, bit for bit.

    Attributes:
        bits: C-contiguous numpy array of ``spec.shape``. Its numpy dtype is the true one where numpy has it,
            else the unsigned integer of the same width (bfloat16 → uint16, float8 → uint8).
        dtype: the true dtype's name.
    """

    bits: np.ndarray[Any, Any]
    dtype: str


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
    payloads: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    handles: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def payload(self, key: str) -> Payload | None:
        """The full tensor behind ``key``, or None if it was not kept.

        ``payloads`` may hold `Payload` objects or zero-argument callables that make one (so that a live
        model's weights are not copied until someone asks).
        """
        found = self.payloads.get(key)
        return found() if callable(found) else found


# --------------------------------------------------------------------------- what corresponds


@dataclass(frozen=True, slots=True)
class Pair:
    """Two corresponding calls, by index. ``how``: the pass that paired them."""

    reference: int
    candidate: int
    how: str = "same path"


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which calls correspond; what was left over on either side is a result, not a warning.

    Invariants: pairs are strictly increasing in both indices; no index occurs twice; views are
    transparent (never paired, only counted); every other call is in a pair or in an unpaired tuple.
    """

    pairs: tuple[Pair, ...]
    unpaired_reference: tuple[int, ...] = ()
    unpaired_candidate: tuple[int, ...] = ()
    views_reference: int = 0
    views_candidate: int = 0
    renamed: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


# --------------------------------------------------------------------------- what differs


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric's number. ``per`` says what it is divided by (``"abs(reference)"``, ``"elements"``, ``""``)."""

    metric: str
    value: float
    per: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two values: agree (zero bits differ), differ, or could not be compared (and why)."""

    status: Literal["agrees", "differs", "not_compared"]
    reason: str = ""
    measurements: tuple[Measurement, ...] = ()

    def value(self, metric: str) -> float | None:
        """The number of one metric, or None if it was not measured."""
        return next((m.value for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured statement; ``data`` holds the numbers behind it (JSON scalars)."""

    statement: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """A site whose inputs agree (or whose own state differs) and whose output differs.

    Attributes:
        site: in the reference's naming.
        candidate_site: its counterpart.
        kind: ``implementation`` (same inputs, other output), ``arguments`` (same op, other non-tensor
            arguments), ``state`` (it reads a parameter, buffer or attribute that differs), ``input`` (it
            reads a run input that differs), ``layout`` (same value, looked at differently), ``region``
            (the op or ops on one side have no one-to-one counterpart).
        verdict: of this origin alone.
        comparison: of its outputs, on agreeing inputs.
        calls: call index in the reference and in the candidate (-1: none).
        leaves: names of the differing leaves it reads.
        region: sites of unpaired calls between agreeing inputs and this origin, both sides.
        evidence: what supports kind and verdict.
    """

    site: Site
    candidate_site: Site
    kind: Literal["implementation", "arguments", "state", "input", "layout", "region"]
    verdict: Verdict
    comparison: Comparison
    calls: tuple[int, int] = (-1, -1)
    leaves: tuple[str, ...] = ()
    region: tuple[Site, ...] = ()
    evidence: tuple[Evidence, ...] = ()


# --------------------------------------------------------------------------- why


@dataclass(frozen=True, slots=True)
class Intervention:
    """A named change to a rerun; the adapter carries it out.

    ``restore-state`` target=leaf name; ``set-scalar`` target=attribute path, value; ``set-flag``
    target=flag, value; ``set-mode`` target=module path, value=training bool; ``substitute`` target=str(site);
    ``set-argument`` target=str(site), value=(argument, value); ``replace-op`` target=str(site) …
    """

    name: str
    target: str
    value: Any = None

    def __str__(self) -> str:
        return f"{self.name} {self.target}" + ("" if self.value is None else f" = {self.value}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """Interventions, what they should do to the difference, and what they did.

    Attributes:
        interventions: applied together to one rerun of the candidate.
        prediction: in words, e.g. ``"outputs equal the reference's bit for bit"``.
        outcome: in words, with numbers.
        status: confirmed, refuted or inconclusive.
        method: ``"rerun"`` (the user's program ran again) or ``"replay"`` (the recorded ops ran again).
        before: difference of the outputs before (mean absolute), after: with the interventions.
    """

    interventions: tuple[Intervention, ...]
    prediction: str
    outcome: str
    status: Status
    method: Literal["rerun", "replay"] = "replay"
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, in one sentence, and code to paste."""

    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """A named explanation with its evidence and its proof."""

    code: str
    name: str
    site: str
    verdict: Verdict
    evidence: tuple[Evidence, ...] = ()
    remedy: Remedy | None = None
    status: Status = "inconclusive"
    reason: str = ""
    experiments: tuple[Experiment, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    effect: tuple[Measurement, ...] = ()
    inert: bool = False


@dataclass(frozen=True, slots=True)
class Growth:
    """How the plain (not resynchronised) difference looks at one depth of the model."""

    site: Site
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Count:
    """How many of something were not looked at, and why (nothing vanishes)."""

    what: str
    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """Where one side came from and what it looked like."""

    source: str
    framework: str
    level: str
    calls: int
    environment: Environment
    observer: ObserverCheck
    complete: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The single document that every reporter receives.

    Attributes:
        verdict: the most severe material verdict.
        reason: one sentence for the verdict.
        origins: in execution order.
        causes: best first (confirmed, then by effect); inert ones last.
        impact: what the user sees in the outputs.
        outputs: comparison per returned tensor, by slot name.
        growth: the plain difference by depth, in execution order.
        alignment: counts are in the reports; full pairs for machines.
        sides: reference, candidate.
        environment_changes: (where, reference's, candidate's), e.g. ("versions.torch", "2.5.0", "2.13.0").
        not_compared: everything that was skipped, unpaired, sampled or could not be replayed, counted.
        accounted: True if resynchronising at the origins leaves no bit of difference in the outputs.
        notes: sentences worth reading (observer effects, nondeterminism, limits).
    """

    verdict: Verdict
    reason: str
    origins: tuple[Origin, ...]
    causes: tuple[Cause, ...]
    impact: tuple[Measurement, ...]
    outputs: tuple[tuple[str, Comparison], ...]
    growth: tuple[Growth, ...]
    alignment: Alignment
    sides: tuple[Side, Side]
    environment_changes: tuple[tuple[str, str, str], ...] = ()
    not_compared: tuple[Count, ...] = ()
    accounted: bool | None = None
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """The whole document as JSON-able data."""
        return registry.get("reporters", "json")().to_dict(self)  # type: ignore[no-any-return]

    def print(self, **options: Any) -> None:
        """Print the terminal report; options go to the terminal reporter's constructor."""
        registry.get("reporters", "terminal")(**options).print(self)

    def save(self, path: str) -> None:
        """Write the report that belongs to the path's suffix (``.json``, ``.md``, ``.html`` …).

        Raises:
            whydiff.errors.UsageError: no reporter writes that suffix.
        """
        registry.reporter_for(path).save(self, path)

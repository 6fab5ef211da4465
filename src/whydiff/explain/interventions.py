"""What interventions mean in a replay: exchanged calls, changed calls, the reference's ops in the candidate's place.

| intervention | target | value | what it does |
|---|---|---|---|
| ``set-argument`` | call | (position or name, value) | the call gets another argument; without value: its default |
| ``read-from`` | read | site of a write, or (site, shape, strides, offset) | a call reads another value of the run |
| ``read-as-written`` | read | site of a write | a call reads what was written, as it was before it was overwritten |
| ``set-dtype`` | call | dtype | it computes in that dtype, and what it writes is kept in it |
| ``permute`` | read or write | einops pattern | the tensor's elements are rearranged |
| ``scale`` | write | factor | what is written is multiplied |
| ``shift`` | write | (whole number, the reference's write) | it is added to what is written |
| ``draw-as`` | call | call of the reference | it draws as that one does (`whydiff.explain.draws`) |
| ``numbers-of`` | call | call of the reference | what it drew is what that one drew, from the same key |
| ``replace-op`` | call | calls of the reference | the first one's op, or the region it ends, takes its place |
| ``insert-step`` | call | call of the reference | the ops that end there are carried out on what the call made |
| ``remove-step`` | call | call of the reference | what the ops that end in the call were given is taken as it is |
| ``compute`` | write | (site of a read, activation) | it is what the activation makes of what is read there, in float64 |
| ``fuse`` | call | read position | the product that it reads there is not rounded before it is added |
| ``round-product`` | call | | it is carried out alone, on the rounded product |
| ``carry-out-as`` | call | call of the reference | it is carried out where that one is (`whydiff.explain.changed`) |
| ``untie`` | tensor | the reference's | under that name alone it is the reference's (`whydiff.explain.changed`) |
| ``keep-wide`` | program | | 16-bit values between ops are kept in float32; what is returned is rounded |

Targets are sites of the candidate as text, without slot for calls. Further calls in the value of ``replace-op``
belong to the region although they have counterparts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Change, Executor
from whydiff.errors import ReplayError, WhydiffError
from whydiff.explain.contraction import fused_call
from whydiff.explain.sites import call_at, read_at, sites_of, value_at, written_at
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.rearrangement import parse
from whydiff.pair.lockstep import Lockstep, matched
from whydiff.pair.replay import Watch, returns
from whydiff.pair.slices import Axis, options, settle
from whydiff.records import Alignment, Call, Event, Intervention, Payload, Slot, TensorSpec, Trace

EDITS = frozenset({"set-argument", "read-from", "fuse", "round-product"})
CHANGES = frozenset({"set-dtype", "permute", "shift"})
REPLACED, INSERTED, REMOVED = "replace-op", "insert-step", "remove-step"
EXCHANGES = frozenset({REPLACED, INSERTED, REMOVED})
"""Carried out by both programs in step. A step is inserted or removed only where the other side has no op at all."""
KEEP_WIDE, AS_WRITTEN = "keep-wide", "read-as-written"
TRANSPLANTS = frozenset({REPLACED, "substitute", "compile-as", "numbers-of"})
"""They carry one side's op, tensor or way of running into the other: what they remove is located, not explained."""


def edits(trace: Trace, interventions: Sequence[Intervention]) -> dict[int, Call]:
    """Calls that take the place of recorded ones.

    Raises:
        ReplayError: a target is not in the trace, or has no such argument.
    """
    chosen = [item for item in interventions if item.name in EDITS]
    if not chosen:
        return {}
    found: dict[int, Call] = {}
    by_site = sites_of(trace)
    for item in chosen:
        if item.name == "set-argument":
            call = call_at(by_site, item.target)
            call = found.get(call.index, call)
            found[call.index] = replace(call, arguments=_with_argument(call, item.value))
        elif item.name in ("fuse", "round-product"):
            call = call_at(by_site, item.target)
            found[call.index] = fused_call(trace, call, item.value) if item.name == "fuse" else call
        else:
            call, position = read_at(by_site, item.target)
            call = found.get(call.index, call)
            site, *look = item.value if isinstance(item.value, tuple) else (item.value,)
            written = written_at(by_site, site)
            reads = list(call.reads)
            reads[position] = _look_at(trace, reads[position], written, look)
            found[call.index] = replace(call, reads=tuple(reads))
    return found


def changes(trace: Trace, interventions: Sequence[Intervention]) -> dict[int, Change]:
    """Calls that are carried out differently.

    Raises:
        ReplayError: a target is not in the trace, or its tensor's layout is not known.
        UsageError: a pattern does not fit.
    """
    chosen = [item for item in interventions if item.name in CHANGES]
    if not chosen:
        return {}
    found: dict[int, Change] = {}
    by_site = sites_of(trace)
    for item in chosen:
        if item.name == "set-dtype":
            call = call_at(by_site, item.target)
            found[call.index] = replace(found.get(call.index, Change()), dtype=item.value)
        elif item.name == "shift":
            call, _ = value_at(by_site, item.target, "writes")
            found[call.index] = replace(found.get(call.index, Change()), offset=int(item.value[0]))
        else:
            _permute(trace, by_site, item, found)
    return found


def _permute(trace: Trace, by_site: Mapping[str, Call], item: Intervention, found: dict[int, Change]) -> None:
    try:
        call, position = read_at(by_site, item.target)
    except ReplayError:
        call, slot = value_at(by_site, item.target, "writes")
        known = found.get(call.index, Change())
        places = parse(item.value, call.writes[slot].spec.shape).indices()
        found[call.index] = replace(known, writes={**known.writes, slot: places})
        return
    whole = whole_of(trace, call.reads[position])
    if whole is None:
        raise ReplayError("The tensor behind a read is not known.", where=item.target)
    known = found.get(call.index, Change())
    places = parse(item.value, whole.shape).indices()
    found[call.index] = replace(known, reads={**known.reads, position: (whole.offset, places)})


def whole_of(trace: Trace, event: Event) -> TensorSpec | None:
    """The contiguous tensor that was written (or the leaf) in the storage that a read looks at; None: not one."""
    if event.producer >= 0:
        specs = [e.spec for e in trace.calls[event.producer].writes if e.storage == event.storage]
    else:
        specs = [leaf.spec for leaf in trace.leaves if leaf.storage == event.storage]
    whole = max(specs, key=lambda spec: spec.numel, default=None)
    if whole is None or whole.dtype != event.spec.dtype or not whole.is_dense:
        return None
    return whole


# --------------------------------------------------------------------------- the reference's ops in their place


class _Following(Lockstep):
    """The reference's program follows the candidate: at every pair it takes the candidate's values."""

    def _run(self, name: str, executor: Executor, call: Call, *, recorded: bool) -> None:
        super()._run(name, executor, call, recorded=False)

    def put(self, er: Event, ec: Event, reader: Call | None) -> bool:
        """The candidate takes the reference's value, or has it as a larger one's counterpart; False if it cannot."""
        folded = er.spec.numel == ec.spec.numel  # perhaps in another shape: over groups, or over all of them
        if er.spec.shape != ec.spec.shape and not folded:
            return self.substitute(er, ec, reader)
        value = self.take(self.reference.read(er))
        if er.spec.shape != ec.spec.shape:
            value = value.reshape(ec.spec.shape)
        if reader is None:
            return self.candidate.overwrite(ec, value)
        return self.give(self.candidate, reader, ec, value)

    def follow(self, er: Event, ec: Event, reader: Call | None) -> None:
        """The reference takes the candidate's value, or of values of two sizes the counterpart.

        ``reader``: the reference's call that reads it; None: it is what a call wrote.

        Raises:
            ReplayError: they have no counterpart, so that the reference's ops would not work on the candidate's inputs.
        """
        value = self.bring(self.candidate.read(ec))
        if er.spec.shape != ec.spec.shape:
            maps = options(er.spec.shape, ec.spec.shape, self.axes, is_integer(er.spec.dtype))
            if not maps:
                raise ReplayError("A value has no counterpart that an op could work on.", where=str(er.site))
            own = self.reference.read(er)
            if maps[0].whole == "candidate":
                value = settle(maps, own, value, self._alike, self._distance).map.part(value)
            else:
                value = settle(maps, value, own, self._alike, self._distance).map.put(own, value, self.reference.put)
        if reader is None:
            self.reference.overwrite(er, value)
        else:
            self.give(self.reference, reader, er, value)


def outputs_with_replaced(
    reference: Executor,
    candidate: Executor,
    alignment: Alignment,
    interventions: Sequence[Intervention],
    axes: tuple[Axis, ...] = (),
    watch: Watch | None = None,
) -> tuple[dict[Slot, Payload], str]:
    """The candidate's outputs when ops of the reference stand in some places.

    Both programs are executed in step. At every pair the reference takes the candidate's value, so that its
    ops work on the candidate's inputs; at a replaced op, or where a replaced region ends, the candidate takes
    the reference's.

    Args:
        reference: replay of the reference with the candidate's leaves.
        candidate: replay of the candidate under all other interventions.
        alignment: which calls correspond.
        interventions: those named in `EXCHANGES` count.
        axes: what the runs have different sizes of; values take each other's place on their counterpart.
        watch: told of every call of the candidate after it is executed.

    Returns:
        The candidate's outputs, under its own numbers, and its first call that could not be executed (empty: all were).

    Raises:
        ReplayError: a replacement could not be made.
    """
    _check_steps(reference.trace, candidate.trace, alignment, interventions)
    chosen = [
        (i.target, i.value if isinstance(i.value, tuple) else (i.value,)) for i in interventions if i.name in EXCHANGES
    ]
    sites = {(value[0], target) for target, value in chosen}
    inside = {site for _, value in chosen for site in value[1:]}
    step = _Following(reference, candidate, alignment, axes)
    step.watch = watch
    calls = reference.trace.calls, candidate.trace.calls
    made: set[tuple[str, str]] = set()
    outputs: dict[Slot, Payload] = {}
    numbers = returns(calls[1])
    pairs = {(pair.reference, pair.candidate) for pair in alignment.pairs}
    followed: set[int] = set()
    parted: dict[int, WhydiffError] = {}

    def exchange(er: Event, ec: Event, at: tuple[str, str], readers: tuple[Call | None, Call | None]) -> None:
        try:
            if at in sites:
                made.add(at)
                _check_inputs(reference.trace, er, followed, parted)
                if not step.put(er, ec, readers[1]):
                    raise ReplayError("A value cannot be put in another's place.", where=at[1])
            elif at[0] not in inside:
                step.follow(er, ec, readers[0])
                followed.add(er.producer)
        except WhydiffError as error:
            if at in sites:
                raise
            if er.spec.shape != ec.spec.shape:
                parted[er.producer] = error

    for call_r, call_c in step.walk(None, "replace ops"):
        for er, ec in matched(call_r, call_c, "reads"):
            at_r = calls[0][er.producer] if er.producer >= 0 else call_r
            at_c = calls[1][ec.producer] if ec.producer >= 0 else call_c
            kept = str(call_r.site) in inside and (str(at_r.site), str(at_c.site)) not in sites
            if kept or er.producer == ec.producer == -1 or (er.producer, ec.producer) in pairs:
                continue
            exchange(er, ec, (str(at_r.site), str(at_c.site)), (call_r, call_c))
        if call_c.kind == "return":
            outputs |= {
                Slot(numbers[call_c.index], e.site.slot): candidate.payload(candidate.read(e)) for e in call_c.reads
            }
            continue
        step.execute(call_r, call_c)
        for er, ec in matched(call_r, call_c, "writes"):
            exchange(er, ec, (str(call_r.site), str(call_c.site)), (None, None))
    if made != sites:
        raise ReplayError("The replay did not pass an op that was to be replaced.", where=str(sites - made))
    return outputs, step.stopped.get("candidate", "")


def _check_inputs(trace: Trace, taken: Event, followed: set[int], parted: Mapping[int, WhydiffError]) -> None:
    """What the candidate is about to take stands on its own values: all that the reference's ops there read.

    Raises:
        WhydiffError: one of them is a value in whose place the candidate has none.
    """
    left, seen = [taken.producer], {taken.producer}
    while left and parted:
        index = left.pop()
        if index in parted:
            raise parted[index]
        more = {event.producer for event in trace.calls[index].reads if event.producer >= 0} - followed - seen
        seen |= more
        left += more


def _check_steps(
    reference: Trace, candidate: Trace, alignment: Alignment, interventions: Sequence[Intervention]
) -> None:
    """One side of an inserted or removed step has ops of its own, and the other has none.

    Raises:
        ReplayError: it is not so; then ops would stand in other ops' place.
    """
    at = {(0, str(reference.calls[i].site)) for i in alignment.unpaired_reference}
    at |= {(1, str(candidate.calls[i].site)) for i in alignment.unpaired_candidate}
    for item in interventions:
        if item.name in (INSERTED, REMOVED):
            alone = (0, item.value) in at, (1, item.target) in at
            if alone != (item.name == INSERTED, item.name == REMOVED):
                raise ReplayError("A step can only take the place of nothing.", where=item.target, actual=str(item))


def _look_at(trace: Trace, read: Event, written: Event, look: Sequence[Any] = ()) -> Event:
    """A read of what another call wrote: by the given look, else by the same one if it is laid out alike."""
    if look:
        shape, strides, offset = look
        spec = replace(read.spec, shape=tuple(shape), strides=tuple(strides), offset=offset)
        return replace(read, storage=written.storage, producer=written.producer, spec=spec, fingerprint=None)
    own = trace.calls[read.producer].writes if read.producer >= 0 else ()
    if any(event.storage == read.storage and event.spec == written.spec for event in own):
        return replace(read, storage=written.storage, producer=written.producer, fingerprint=None)
    return replace(written, site=read.site)


def _with_argument(call: Call, change: tuple[Any, ...]) -> Any:
    which, *value = change
    args, kwargs = call.arguments
    if isinstance(which, str):
        others = {name: given for name, given in kwargs.items() if name != which}
        return [args, {**others, which: value[0]} if value else others]
    if not value and which == len(args) - 1:
        return [args[:-1], kwargs]
    if value and which == len(args):
        return [[*args, value[0]], kwargs]
    if which >= len(args) or not value:
        raise ReplayError("The call has no such argument.", where=str(call.site), actual=str(which))
    return [[value[0] if i == which else item for i, item in enumerate(args)], kwargs]

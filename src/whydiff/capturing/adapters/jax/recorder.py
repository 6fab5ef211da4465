"""Turns what a program did into calls: which values each operation read and wrote, with their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from whydiff.capturing.adapters.jax import values
from whydiff.capturing.adapters.jax.arguments import template
from whydiff.capturing.adapters.jax.internals import Jaxpr, Literal, one_cpu, place, scan_sizes
from whydiff.capturing.adapters.jax.known import Equation, Known, Sites
from whydiff.capturing.adapters.jax.ops import SLICE, STACK, Fixed, Op, aval_of
from whydiff.capturing.adapters.jax.scopes import Names, phase_and_scope
from whydiff.capturing.adapters.jax.state import Reached
from whydiff.capturing.adapters.jax.taps import fingerprints, item, on_host
from whydiff.records import Call, Event, Fingerprint, Leaf, LeafRole, Site, TensorSpec
from whydiff.records.trace import UNSEEN


@dataclass(slots=True)
class Ref:
    """One value of the run: SSA, so it never changes."""

    storage: int
    producer: int
    aval: Any
    spec: TensorSpec
    value: Any = None
    fingerprint: Fingerprint | None = None
    skipped: str = ""


class Recorder:
    """Calls, values and leaves of one run.

    Attributes:
        around: place of the user's call of the program that is written down, where its equations have none.

    Args:
        reached: arrays that existed before the run, by identity.
        keep: payload key of a written value by (call index, output number, site); empty: not kept.
        sink: receives (key, value) for kept ones.
        known: what runs of the program before this one say about it.
    """

    def __init__(
        self,
        reached: Reached,
        keep: Callable[[int, int, str], str] | None = None,
        sink: Callable[[str, Any], None] | None = None,
        known: Known | None = None,
    ) -> None:
        self.reached, self.keep, self.sink = reached, keep, sink
        self.known = Known() if known is None else known
        self._calls: list[Call] = []
        self._noted: list[_Noted] = []
        self.ops: dict[int, Op] = {}
        self.refs: dict[int, Ref] = {}
        self.leaves: dict[int, tuple[str, LeafRole, Ref]] = {}
        self._by_id: dict[int, Ref] = {}
        self._on_host: dict[Hashable, Ref] = {}
        self._alive: list[Any] = []
        self._constants = 0
        self._occurrences: dict[tuple[str, str, str], int] = {}
        self._devices: dict[Any, str] = {}
        self._only_device = one_cpu()
        self._unmatched: list[int] | None = None
        self._marks: dict[int, Fingerprint] = {}
        self.around = ""

    # ------------------------------------------------------------------ values

    def ref(self, value: Any) -> Ref:
        """The value's record; a value that no recorded call made is a leaf: state, input or constant."""
        known = self._by_id.get(id(value))
        if known is not None:
            return known
        aval = aval_of(value)
        held = value if isinstance(value, (jax.Array, np.ndarray)) else np.asarray(value, aval.dtype)
        ref = self._seen(held, aval) or self._leaf(held, aval)
        self.remember(value, ref)
        return ref

    def _seen(self, held: Any, aval: Any) -> Ref | None:
        """An array of the host that was read before: JAX looks at one anew each time, so it is known by its memory."""
        if not isinstance(held, np.ndarray) or not held.ndim:
            return None
        found = self._on_host.get((*values.memory(held), aval))
        return found if found is not None and found.fingerprint == self.known.fingerprint(held) else None

    def _leaf(self, held: Any, aval: Any) -> Ref:
        ref = self._new(aval, held, -1)
        if isinstance(held, np.ndarray):
            self._on_host[(*values.memory(held), aval)] = ref
        name, role = self._leaf_name(held)
        self.leaves[ref.storage] = (name, role, ref)
        return ref

    def remember(self, value: Any, ref: Ref) -> None:
        """From now on this object is that value."""
        self._by_id[id(value)] = ref
        self._alive.append(value)

    def _leaf_name(self, value: Any) -> tuple[str, LeafRole]:
        found = self.reached.arrays.get(id(value))
        if found is None and np.ndim(value):
            found = self._by_content(value)
        if found is not None:
            return found[0], found[1]
        self._constants += 1
        return f"constant#{self._constants - 1}", "constant"

    def _by_content(self, value: Any) -> tuple[str, LeafRole, Any] | None:
        """A host array that JAX copied before it was used: known by its shape and values."""
        if self._unmatched is None:
            self._unmatched = [k for k, (_, _, a) in self.reached.arrays.items() if isinstance(a, np.ndarray)]
        for key in self._unmatched:
            array = self.reached.arrays[key][2]
            if array.shape == value.shape and values.equal(array, value):
                self._unmatched.remove(key)
                return self.reached.arrays[key]
        return None

    def _kinds(self, op: Op) -> Sequence[tuple[str, TensorSpec] | None]:
        """What is known of the outputs before there are any: where there is one device, everything."""
        if not self._only_device:
            return [None] * len(op.outputs)
        found: Any = op.cache.get("kinds")
        if found is None:
            found = op.cache["kinds"] = [self._kind(aval, None) for aval in op.outputs]
        return found  # type: ignore[no-any-return]

    def _kind(self, aval: Any, value: Any) -> tuple[str, TensorSpec]:
        """Why a value cannot be compared, and its shape, dtype and device."""
        skipped = values.not_comparable(aval)
        return skipped, TensorSpec((), "") if skipped else self._spec(aval, value)

    def _new(self, aval: Any, value: Any, producer: int, kind: tuple[str, TensorSpec] | None = None) -> Ref:
        skipped, spec = kind or self._kind(aval, value)
        ref = Ref(-1 if skipped else len(self.refs), producer, aval, spec, value, None, skipped)
        if skipped:
            return ref
        self.refs[ref.storage] = ref
        if value is None:
            ref.skipped = UNSEEN
        else:
            mark = self._marks.get(id(value))
            if mark is None:
                mark = self.known.fingerprint(value) if producer < 0 else values.fingerprint(values.host(value))
            ref.fingerprint = mark
        return ref

    def _spec(self, aval: Any, value: Any) -> TensorSpec:
        if values.is_key(aval):
            return values.spec_of(aval)
        return values.spec(tuple(aval.shape), values.dtype_name(aval.dtype), self._device(value))

    def _device(self, value: Any) -> str:
        if self._only_device or not isinstance(value, jax.Array):
            return "cpu"
        sharding = value.sharding
        if sharding not in self._devices:
            self._devices[sharding] = values.spec_of(value).device
        return self._devices[sharding]

    # ------------------------------------------------------------------ calls

    @property
    def calls(self) -> list[Call]:
        """Everything that was written down; the records of calls are made when somebody asks for them."""
        for noted in self._noted[len(self._calls) :]:
            self._calls.append(_record(len(self._calls), noted))
        return self._calls

    def call(self, op: Op, reads: Sequence[Ref], outs: Sequence[Any], names: Names, source: str) -> list[Ref]:
        """Write a call down; ``outs`` are concrete values, None where one was not observed."""
        index = len(self._noted)
        kinds = self._kinds(op)
        made = [self._new(aval, out, index, kind) for aval, out, kind in zip(op.outputs, outs, kinds, strict=True)]
        return self._note(op, reads, made, names, source)

    def _note(self, op: Op, reads: Sequence[Ref], made: list[Ref], names: Names, source: str) -> list[Ref]:
        index = len(self._noted)
        phase, scope = phase_and_scope(names)
        number = self._occurrences.get((scope, op.name, phase), 0)
        self._occurrences[scope, op.name, phase] = number + 1
        sites = self.known.sites(scope, op.name, phase, number, len(reads), len(made))
        kept = [self._kept(index, i, sites.call, ref) for i, ref in enumerate(made)] if self.keep is not None else []
        self._noted.append((op, sites, reads, made, kept, source))
        self.ops[index] = op
        return made

    def _again(self, operand: Ref, aval: Any) -> Ref:
        """A value that has the bytes of an operand."""
        assert operand.value is not None
        value = operand.value
        if value.shape != aval.shape:
            value = values.host(value).reshape(aval.shape)
        spec = values.spec(tuple(aval.shape), operand.spec.dtype, operand.spec.device)
        ref = Ref(len(self.refs), len(self._noted), aval, spec, value, operand.fingerprint)
        self.refs[ref.storage] = ref
        return ref

    def _kept(self, index: int, number: int, site: Site, ref: Ref) -> str:
        if self.keep is None or ref.value is None or ref.skipped:
            return ""
        key = self.keep(index, number, str(site))
        if key and self.sink is not None:
            self.sink(key, ref.value)
        return key

    def returned(self, found: Sequence[tuple[str, Any]]) -> None:
        """Write down what the run gave back: (path, array)."""
        site = Site("", "return")
        refs = [self.ref(value) for _, value in found]
        sites = Sites(site, tuple(site.at(path) for path, _ in found), ())
        self._noted.append((None, sites, refs, [], [], ""))

    # ------------------------------------------------------------------ programs

    def program(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Ref], taps: Sequence[Any], names: Names
    ) -> list[Ref]:
        """Write down everything a program did, from the taps of its run (`whydiff.capturing.adapters.jax.tapped`)."""
        outer, self._marks = self._marks, fingerprints(taps)
        try:
            return self._program(jaxpr, consts, args, taps, names)
        finally:
            self._marks = outer

    def _program(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Ref], taps: Sequence[Any], names: Names
    ) -> list[Ref]:
        env: dict[Any, Ref] = dict(zip(jaxpr.invars, args, strict=True))
        env.update((var, self.ref(value)) for var, value in zip(jaxpr.constvars, consts, strict=True))
        for eqn, tap in zip(jaxpr.eqns, taps, strict=True):
            known = self.known.equation(eqn)
            operands = [
                self._read(env, atom) if fixed is None else fixed
                for atom, fixed in zip(eqn.invars, known.fixed, strict=True)
            ]
            here = (*names, *known.names)
            if known.inner is not None:
                outs = self._program(*known.inner, self._refs(operands), tap, here)
            elif known.kind:
                outs = _CONTROL[known.kind](self, eqn, self._refs(operands), tap, here)
            else:
                outs = self._plain(known, operands, tap, here)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [self._read(env, atom) for atom in jaxpr.outvars]

    def _plain(self, known: Equation, operands: Sequence[Any], tap: Any, names: Names) -> list[Ref]:
        eqn = known.eqn
        if known.op is None:
            inputs = tuple(item.aval if isinstance(item, Ref) else item for item in operands)
            outputs = tuple(var.aval for var in eqn.outvars)
            known.op = Op(eqn.primitive.name, eqn.primitive, eqn.params, inputs, outputs, eqn.ctx)
        reads, source = [item for item in operands if isinstance(item, Ref)], known.source or self.around
        if tap is None and known.same and reads[0].value is not None and not reads[0].skipped:
            return self._note(known.op, reads, [self._again(reads[0], known.op.outputs[0])], names, source)
        return self.call(known.op, reads, [None] * len(known.op.outputs) if tap is None else tap, names, source)

    def _read(self, env: dict[Any, Ref], atom: Any) -> Ref:
        return self.ref(atom.val) if isinstance(atom, Literal) else env[atom]

    def _refs(self, operands: Sequence[Any]) -> list[Ref]:
        return [self.ref(item.value) if isinstance(item, Fixed) else item for item in operands]

    def _scan(self, eqn: Any, args: Sequence[Ref], tap: Any, names: Names) -> list[Ref]:
        p, source = eqn.params, place(eqn.source_info) or self.around
        first, carried = scan_sizes(p)
        second = first + carried
        consts, carry, xs = list(args[:first]), list(args[first:second]), args[second:]
        body, stacked = p["jaxpr"], on_host(tap["body"])
        ys: list[list[Ref]] = []
        for turn in range(p["length"]):
            index = p["length"] - 1 - turn if p["reverse"] else turn
            here = (*names, ("scope", f"scan.{turn}"))
            items = [
                self._slice(x, var.aval, index, here, source)
                for x, var in zip(xs, body.jaxpr.invars[second:], strict=True)
            ]
            outs = self.program(body.jaxpr, body.consts, [*consts, *carry, *items], item(stacked, index), here)
            carry = outs[:carried]
            ys.append(outs[carried:])
        made = []
        for number, out in enumerate(tap["outs"][carried:]):
            parts = [turn[number] for turn in ys]
            aval = eqn.outvars[carried + number].aval
            op = Op(STACK, None, {"reverse": p["reverse"]}, tuple(part.aval for part in parts), (aval,))
            made += self.call(op, parts, [out], names, source)
        return [*carry, *made]

    def _slice(self, x: Ref, aval: Any, index: int, names: Names, source: str) -> Ref:
        op = Op(SLICE, None, {"index": index}, (x.aval,), (aval,))
        value = None if x.value is None else (x.value if values.is_key(x.value) else values.host(x.value))[index]
        return self.call(op, [x], [value], names, source)[0]

    def _while(self, eqn: Any, args: Sequence[Ref], tap: Any, names: Names) -> list[Ref]:
        p = eqn.params
        first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        consts, carry, body = list(args[first:second]), list(args[second:]), p["body_jaxpr"]
        stacked = on_host(tap["body"])
        for turn in range(int(tap["count"])):
            here = (*names, ("scope", f"while.{turn}"))
            carry = self.program(body.jaxpr, body.consts, [*consts, *carry], item(stacked, turn), here)
        return carry

    def _cond(self, eqn: Any, args: Sequence[Ref], tap: Any, names: Names) -> list[Ref]:
        number = int(tap["index"])
        branch = eqn.params["branches"][number]
        here = (*names, ("scope", f"branch.{number}"))
        return self.program(branch.jaxpr, branch.consts, args[1:], tap["branches"][number], here)

    # ------------------------------------------------------------------ results

    def all_leaves(self, payload: Callable[[str], str] = lambda name: "") -> tuple[Leaf, ...]:
        """Every leaf, touched or not; a name that several arrays have keeps them apart."""
        found = [
            Leaf(
                storage=ref.storage,
                role=role,
                name=name,
                spec=ref.spec,
                fingerprint=ref.fingerprint,
                payload=payload(name),
                skipped=ref.skipped,
            )
            for name, role, ref in self.leaves.values()
        ]
        touched = {name for name, _, _ in self.leaves.values()}
        for name, role, value in self.reached.arrays.values():
            if name not in touched:
                skipped = values.not_comparable(value)
                spec = TensorSpec((), "") if skipped else values.spec_of(value)
                mark = None if skipped else values.fingerprint(values.host(value))
                found.append(
                    Leaf(
                        storage=-1,
                        role=role,
                        name=name,
                        spec=spec,
                        fingerprint=mark,
                        payload=payload(name),
                        skipped=skipped,
                    )
                )
        return tuple(found)


_CONTROL = {"scan": Recorder._scan, "while": Recorder._while, "cond": Recorder._cond}


_Noted = tuple[Op | None, Sites, Sequence[Ref], Sequence[Ref], Sequence[str], str]
"""One call as it was met: what it executed (None: the run returned), sites, reads, writes, payload keys, source."""


def _record(index: int, noted: _Noted) -> Call:
    op, sites, reads, made, kept, source = noted
    read_events = tuple([_event(site, ref) for site, ref in zip(sites.reads, reads, strict=True)])
    if op is None:
        return Call(
            index=index,
            site=sites.call,
            target="return",
            kind="return",
            reads=read_events,
            writes=(),
            arguments=[[], {}],
        )
    if "template" not in op.cache:
        op.cache["template"] = template(op)
    keys = kept or [""] * len(made)
    writes = tuple([_event(site, ref, key) for site, ref, key in zip(sites.writes, made, keys, strict=True)])
    return Call(
        index=index,
        site=sites.call,
        target=f"jax.{op.name}",
        kind="compute",
        reads=read_events,
        writes=writes,
        arguments=op.cache["template"],
        source=source,
    )


def _event(site: Site, ref: Ref, payload: str = "") -> Event:
    return Event(
        site=site,
        spec=ref.spec,
        storage=ref.storage,
        producer=ref.producer,
        fingerprint=ref.fingerprint,
        skipped=ref.skipped,
        payload=payload,
    )

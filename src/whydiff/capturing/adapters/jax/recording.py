"""One instrumented run: every unit that JAX dispatches is executed, and its inner values are recorded.

What JAX dispatches is a single primitive, or a whole compiled program (``jax.jit``, a loop). Ways of looking into
a program; the first under which the outputs keep the plain run's bits is used:

- ``taps``: the same compiled program with every inner value as an extra output;
- ``boundaries``: extra outputs only where a value leaves its scope; what is fused inside is not observed;
- ``products``: extra outputs only where products and convolutions end, which the program holds in memory anyway;
- ``op by op``: every equation is executed alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal
from weakref import WeakValueDictionary

import jax
import numpy as np

from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.internals import Jaxpr
from whydiff.capturing.adapters.jax.ops import Fixed, Op, aval_of
from whydiff.capturing.adapters.jax.recorder import Recorder
from whydiff.capturing.adapters.jax.scopes import Names, names_of
from whydiff.capturing.adapters.jax.tapped import (
    Plan,
    boundaries,
    constants_of,
    control,
    evaluate,
    everything,
    inner_of,
    iterations,
    loops,
    plain,
    products,
)

Way = Literal["taps", "boundaries", "products", "op by op"]
WAYS: tuple[Way, ...] = ("taps", "boundaries", "products", "op by op")


@dataclass(frozen=True, eq=False)
class Shared:
    """A compiled program.

    Attributes:
        execute: what XLA made of it.
        held: arrays that are built into it, kept so that their ids stay their own.
    """

    execute: Any
    held: Sequence[Any]


_SHARED: WeakValueDictionary[Any, Shared] = WeakValueDictionary()
"""What programs that are kept anywhere in this process say → what they were compiled to: both sides' often is one."""


class Compiled:
    """Tapped programs, compiled once and kept; ``seconds`` is what compiling them took."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Any]] = {}
        self._said: dict[Any, Shared] = {}
        self.counts: dict[Any, dict[Any, int]] = {}
        self._seen: dict[int, tuple[Jaxpr, int, bool]] = {}
        self.seconds = 0.0

    def size(self, jaxpr: Jaxpr) -> int:
        """Equations in a program, called ones included, a loop counting as many."""
        return self._look(jaxpr)[1]

    def _look(self, jaxpr: Jaxpr) -> tuple[Jaxpr, int, bool]:
        if id(jaxpr) not in self._seen:  # kept alive, so that its id stays its own
            self._seen[id(jaxpr)] = jaxpr, size(jaxpr), bool(loops(jaxpr))
        return self._seen[id(jaxpr)]

    def run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], way: Way, options: Mapping[str, Any]
    ) -> tuple[list[Any], Any]:
        """Outputs and taps of a program; ``while`` loops are first run once more to learn their length."""
        counts: dict[Any, int] = self.counts.get(id(jaxpr), {})
        outs, taps = self._once(jaxpr, consts, args, way, counts, options)
        while self._look(jaxpr)[2]:
            found = iterations(taps, (), jaxpr)
            if all(counts.get(path, 0) >= n for path, n in found.items()):
                break
            counts = {path: max(n, counts.get(path, 0)) for path, n in found.items()}
            outs, taps = self._once(jaxpr, consts, args, way, counts, options)
        self.counts[id(jaxpr)] = counts
        return outs, taps

    def _once(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        args: Sequence[Any],
        way: Way,
        counts: Mapping[Any, int],
        options: Mapping[str, Any],
    ) -> tuple[list[Any], Any]:
        key = (id(jaxpr), way, tuple(sorted(counts.items())), tuple(map(str, map(aval_of, args))), str(options))
        if key not in self._known:
            begin = time.perf_counter()
            kept = {"boundaries": boundaries, "products": products}[way](jaxpr) if way != "taps" else None

            def tapped(*given: Any) -> Any:
                return evaluate(jaxpr, consts, given, Plan(everything if kept is None else kept.__contains__, counts))

            lowered, lies = jax.jit(tapped).lower(*args), tuple(getattr(arg, "sharding", None) for arg in args)
            compiled = self._compiled(lowered, lies, list(constants_of(jaxpr, consts)), options)
            self.seconds += time.perf_counter() - begin
            self._known[key] = (compiled, (jaxpr, consts))  # keeps the jaxpr's id its own
        outs, taps = self._known[key][0](*args)
        return outs, taps

    def _compiled(self, lowered: Any, lies: tuple[Any, ...], held: list[Any], options: Mapping[str, Any]) -> Any:
        """What a program is compiled to; one that says the same, in this run or in another one, is not compiled again.

        ``lies``: where its arguments lie, which its text does not say, nor how JAX is set.
        """
        text = hashlib.sha256(lowered.as_text().encode()).digest()
        held_ids = tuple(map(id, held))
        key = (text, lowered.in_tree, lowered.out_tree, lies, held_ids, str(options), internals.settings())
        if key not in self._said:
            known = _SHARED.get(key)
            if known is None:
                known = _SHARED[key] = Shared(lowered.compile(compiler_options=dict(options) or None), held)
            self._said[key] = known
        return self._said[key].execute


class Recording:
    """Handles every primitive that a running program binds.

    Args:
        recorder: writes down what happened.
        way: how to look into compiled programs.
        compiled: tapped programs kept between runs.
    """

    def __init__(self, recorder: Recorder, way: Way, compiled: Compiled) -> None:
        self.recorder, self.way, self.compiled = recorder, way, compiled
        self.opaque: dict[str, int] = {}
        self.donated = False
        self.dispatched = 0

    def __call__(self, primitive: Any, args: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        """Execute one primitive and write down what it did."""
        self.dispatched += 1
        names = names_of(internals.name_stack())
        inner = internals.called(primitive.name, params)
        with internals.evaluating():
            if inner is not None or primitive.name in ("scan", "while", "cond"):
                return self._unit(primitive, inner, args, params, names)
            if internals.programs_in(params):
                self.opaque[primitive.name] = self.opaque.get(primitive.name, 0) + 1
            outs = internals.bind(primitive, args, params)
            self._plain(primitive, args, params, outs, names)
            return outs

    def _plain(
        self, primitive: Any, args: Sequence[Any], params: Mapping[str, Any], outs: list[Any], names: Names
    ) -> None:
        inputs = tuple(Fixed(a) if is_number(a) else aval_of(a) for a in args)
        op = Op(primitive.name, primitive, params, inputs, tuple(map(aval_of, outs)))
        reads = [self.recorder.ref(a) for a in args if not is_number(a)]
        made = self.recorder.call(op, reads, outs, names, internals.place())
        for out, ref in zip(outs, made, strict=True):
            self.recorder.remember(out, ref)

    def _unit(
        self, primitive: Any, inner: Any, args: Sequence[Any], params: Mapping[str, Any], names: Names
    ) -> list[Any]:
        if any(params.get("donated_invars", ())):
            self.donated = True
            params = {**params, "donated_invars": (False,) * len(params["donated_invars"])}
        options = dict(params.get("compiler_options_kvs", ()))
        if inner is None:
            closed = internals.staged(primitive, args, params)
            inner = (closed.jaxpr, closed.consts)
        jaxpr, consts = inner
        self.recorder.around = internals.place()
        if self.way == "op by op":
            outs, taps = one_by_one(jaxpr, consts, args)
        elif self.compiled.size(jaxpr) <= 1:  # JAX's own compiled program: nothing inside to look at
            outs = internals.bind(primitive, args, params)
            taps = _single(jaxpr, outs)
        else:
            outs, taps = self.compiled.run(jaxpr, consts, args, self.way, options)
        self.recorder.known.look_at(args)  # while the program may still run
        refs = [self.recorder.ref(a) for a in args]
        made = self.recorder.program(jaxpr, consts, refs, taps, names)
        for out, ref in zip(outs, made, strict=True):
            if id(out) not in map(id, args):
                self.recorder.remember(out, ref)
        return outs


Execute = Callable[[Any, Sequence[Any]], list[Any]]


def alone(eqn: Any, given: Sequence[Any]) -> list[Any]:
    """An equation as JAX executes it by itself."""
    with internals.meant(eqn.ctx):
        return internals.bind(eqn.primitive, given, eqn.params)


def one_by_one(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], execute: Execute = alone
) -> tuple[list[Any], list[Any]]:
    """A program evaluated equation by equation, loops on the host, in the form of `tapped.evaluate`."""
    env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, internals.Literal) else env[atom]

    taps: list[Any] = []
    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        inner = internals.called(eqn.primitive.name, eqn.params)
        if inner is not None:
            outs, tap = one_by_one(inner[0], inner[1], given, execute)
        elif control(eqn):
            outs, tap = _LOOPS[eqn.primitive.name](eqn.params, given, execute)
        else:
            outs = execute(eqn, given)
            tap = [plain(out) for out in outs]
        taps.append(tap)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars], taps


def _scan(p: Mapping[str, Any], given: Sequence[Any], execute: Execute) -> tuple[list[Any], Any]:
    first, carried = internals.scan_sizes(p)
    second = first + carried
    carry, body, turns = list(given[first:second]), p["jaxpr"], []
    order = range(p["length"] - 1, -1, -1) if p["reverse"] else range(p["length"])
    ys: dict[int, list[Any]] = {}
    for index in order:
        outs, taps = one_by_one(
            body.jaxpr, body.consts, [*given[:first], *carry, *(x[index] for x in given[second:])], execute
        )
        carry, ys[index] = outs[:carried], outs[carried:]
        turns.append((index, taps))
    stacked = [jax.numpy.stack([ys[i][n] for i in range(p["length"])]) for n in range(len(ys.get(0, ())))]
    outs = [*carry, *stacked]
    return outs, {
        "outs": [plain(out) for out in outs],
        "body": _stacked([taps for _, taps in sorted(turns, key=itemgetter(0))]),
    }


def _while(p: Mapping[str, Any], given: Sequence[Any], execute: Execute) -> tuple[list[Any], Any]:
    first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry, condition, body, turns = list(given[second:]), p["cond_jaxpr"], p["body_jaxpr"], []
    while bool(one_by_one(condition.jaxpr, condition.consts, [*given[:first], *carry], execute)[0][0]):
        carry, taps = one_by_one(body.jaxpr, body.consts, [*given[first:second], *carry], execute)
        turns.append(taps)
    return carry, {"outs": [plain(out) for out in carry], "body": _stacked(turns), "count": np.int32(len(turns))}


def _cond(p: Mapping[str, Any], given: Sequence[Any], execute: Execute) -> tuple[list[Any], Any]:
    number = min(max(int(given[0]), 0), len(p["branches"]) - 1)
    branch = p["branches"][number]
    outs, taps = one_by_one(branch.jaxpr, branch.consts, given[1:], execute)
    return outs, {"outs": [plain(out) for out in outs], "index": number, "branches": {number: taps}}


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


def _stacked(turns: Sequence[Any]) -> Any:
    return (
        jax.tree_util.tree_map(lambda *items: np.stack([np.asarray(item) for item in items]), *turns) if turns else ()
    )


def size(jaxpr: Jaxpr) -> int:
    """Equations in a program, called ones included, a loop counting as many."""
    total = 0
    for eqn in jaxpr.eqns:
        if control(eqn):
            return 1 << 30
        below = inner_of(eqn, ())
        total += sum(size(inner) for inner, _ in below) if below else 1
    return total


def _single(jaxpr: Jaxpr, outs: Sequence[Any]) -> list[Any]:
    """Taps of a program of at most one equation, from what it gave back.

    An output that the equation does not make (passed through, or a number) is left out.
    """
    taps = []
    for eqn in jaxpr.eqns:
        inner = internals.called(eqn.primitive.name, eqn.params)
        by_var = dict(
            zip(
                (v for v in jaxpr.outvars if not isinstance(v, internals.Literal)),
                (o for v, o in zip(jaxpr.outvars, outs, strict=True) if not isinstance(v, internals.Literal)),
                strict=True,
            )
        )
        made = [by_var.get(var) for var in eqn.outvars]
        taps.append(_single(inner[0], made) if inner is not None else [None if m is None else plain(m) for m in made])
    return taps


def is_number(value: Any) -> bool:
    """A number of the program itself: no array object stands for it."""
    return not isinstance(value, jax.Array) and not np.ndim(value)

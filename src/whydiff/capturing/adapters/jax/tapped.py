"""A jaxpr evaluated so that every value inside it comes out too, loops and branches included.

This is staged under ``jax.jit``: the program stays one compiled program and its inner values become extra outputs
of it (*taps*). A loop's values come out stacked, one per iteration; a branch that is not taken gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.internals import Jaxpr, Literal
from whydiff.capturing.adapters.jax.values import is_key

Path = tuple[int, ...]


def everything(path: Path) -> bool:
    """Tap every equation."""
    return True


def nothing(path: Path) -> bool:
    """Tap none."""
    return False


@dataclass(frozen=True)
class Plan:
    """How to evaluate a program.

    Attributes:
        keep: which plain equations (by path) are tapped.
        counts: how often each ``while`` loop (by path) iterates at most.
        swap: id of a constant → what takes its place.
        execute: (equation, values) → outputs; by default JAX's own meaning.
    """

    keep: Callable[[Path], bool] = everything
    counts: Mapping[Path, int] = field(default_factory=dict)
    swap: Mapping[int, Any] = field(default_factory=dict)
    execute: Callable[[Any, Sequence[Any]], list[Any]] | None = None

    def constants(self, consts: Sequence[Any]) -> list[Any]:
        """Constants of a program, with what takes their places."""
        return [self.swap.get(id(const), const) for const in consts]


def same_bytes(eqn: Any) -> bool:
    """Whether an equation gives the bytes of its operand, in the same order: copies and other shapes of one tensor."""
    if eqn.primitive.name not in _SAME_BYTES or len(eqn.invars) != 1 or isinstance(eqn.invars[0], Literal):
        return False
    one, other = eqn.invars[0].aval, eqn.outvars[0].aval
    if is_key(one) or is_key(other) or one.dtype != other.dtype or one.size != other.size:
        return False
    return eqn.params.get("dimensions") is None or eqn.primitive.name != "reshape"


_SAME_BYTES = frozenset(
    {"copy", "copy_p", "stop_gradient", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type"}
)
"""Where no element is added, dropped or moved; a broadcast of the same size only adds dimensions of size 1."""


def control(eqn: Any) -> str:
    """``scan``, ``while`` or ``cond`` if an equation is one that can be looked into; else empty."""
    name = eqn.primitive.name
    return name if name in ("scan", "while", "cond") else ""


def evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], plan: Plan, at: Path = ()
) -> tuple[list[Any], list[Any]]:
    """Outputs, and per equation its taps.

    Returns:
        Outputs; and for every equation: a list of values (plain), a nested list (calls), ``{"outs", "body"}``
        (scan), ``{"outs", "body", "count"}`` (while), ``{"outs", "index", "branches"}`` (cond), None (not kept).
    """
    env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*plan.constants(consts), *args), strict=True))

    def read(atom: Any) -> Any:
        return plan.swap.get(id(atom.val), atom.val) if isinstance(atom, Literal) else env[atom]

    taps: list[Any] = []
    outs: list[Any]
    tap: Any
    for number, eqn in enumerate(jaxpr.eqns):
        path = (*at, number)
        values = [read(atom) for atom in eqn.invars]
        inner = internals.called(eqn.primitive.name, eqn.params)
        with internals.meant(eqn.ctx):
            if inner is not None:
                outs, tap = evaluate(inner[0], inner[1], values, plan, path)
            elif control(eqn):
                outs, tap = _CONTROL[eqn.primitive.name](eqn, values, plan, path)
            else:
                run = plan.execute or _bind
                outs = run(eqn, values)
                known = plan.keep is everything and same_bytes(eqn)  # its operand is tapped
                tap = [plain(out) for out in outs] if plan.keep(path) and not known else None
        taps.append(tap)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars], taps


def plain(value: Any) -> Any:
    """A value that any program can give back: keys as their data, tokens as nothing."""
    if is_key(value):
        return jax.random.key_data(value)
    return value if hasattr(value, "dtype") else None


def _scan(eqn: Any, values: Sequence[Any], plan: Plan, path: Path) -> tuple[list[Any], Any]:
    p = eqn.params
    number, carried = internals.scan_sizes(p)
    consts, carry, xs = _split(values, number, carried)
    closed = p["jaxpr"]

    def body(state: Any, x: Any) -> Any:
        outs, taps = evaluate(closed.jaxpr, closed.consts, [*consts, *state, *x], plan, path)
        return tuple(outs[:carried]), (tuple(outs[carried:]), taps)

    last, (ys, taps) = lax.scan(
        body, tuple(carry), tuple(xs), length=p["length"], reverse=p["reverse"], unroll=p["unroll"]
    )
    outs = [*last, *ys]
    return outs, {"outs": [plain(out) for out in outs], "body": taps}


def _while(eqn: Any, values: Sequence[Any], plan: Plan, path: Path) -> tuple[list[Any], Any]:
    p = eqn.params
    conds, consts, init = _split(values, p["cond_nconsts"], p["body_nconsts"])
    condition, closed, most = p["cond_jaxpr"], p["body_jaxpr"], plan.counts.get(path, 0)

    def one(state: Any) -> Any:
        return evaluate(closed.jaxpr, closed.consts, [*consts, *state], plan, path)

    shapes = jax.eval_shape(lambda state: one(state)[1], tuple(init))
    buffers = jax.tree_util.tree_map(lambda s: jnp.zeros((most, *s.shape), s.dtype), shapes)

    def goes_on(state: Any) -> Any:
        return evaluate(condition.jaxpr, condition.consts, [*conds, *state[2]], replace(plan, keep=nothing))[0][0]

    def body(state: Any) -> Any:
        number, kept, carry = state
        outs, taps = one(carry)
        kept = jax.tree_util.tree_map(
            lambda all_, new: lax.dynamic_update_index_in_dim(all_, new, number, 0), kept, taps
        )
        return number + 1, kept, tuple(outs)

    number, kept, outs = (
        lax.while_loop(goes_on, body, (jnp.int32(0), buffers if most else (), tuple(init)))
        if most
        else (_counted(goes_on, one, init))
    )
    return list(outs), {"outs": [plain(out) for out in outs], "body": kept, "count": number}


def _counted(goes_on: Any, one: Any, init: Sequence[Any]) -> Any:
    """The loop without taps: how often it iterates."""
    return lax.while_loop(
        goes_on, lambda state: (state[0] + 1, (), tuple(one(state[2])[0])), (jnp.int32(0), (), tuple(init))
    )


def _cond(eqn: Any, values: Sequence[Any], plan: Plan, path: Path) -> tuple[list[Any], Any]:
    index, *operands = values
    branches = eqn.params["branches"]

    def run(number: int, args: Sequence[Any]) -> Any:
        closed = branches[number]
        outs, taps = evaluate(closed.jaxpr, closed.consts, args, plan, (*path, number))
        return tuple(outs), taps

    shapes = [jax.eval_shape(lambda args, n=n: run(n, args)[1], operands) for n in range(len(branches))]
    zeros = [jax.tree_util.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shape) for shape in shapes]

    def branch(number: int) -> Any:
        def taken(*args: Any) -> Any:
            outs, taps = run(number, args)
            return outs, [taps if n == number else zero for n, zero in enumerate(zeros)]

        return taken

    outs, taps = lax.switch(index, [branch(n) for n in range(len(branches))], *operands)
    chosen = jnp.clip(jnp.asarray(index).astype(jnp.int32), 0, len(branches) - 1)
    return list(outs), {"outs": [plain(out) for out in outs], "index": chosen, "branches": taps}


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}


def _bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    return internals.bind(eqn.primitive, values, eqn.params)


def _split(values: Sequence[Any], first: int, second: int) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    return values[:first], values[first : first + second], values[first + second :]


def loops(jaxpr: Jaxpr, at: Path = ()) -> list[Path]:
    """Paths of every ``while`` loop."""
    found: list[Path] = []
    for number, eqn in enumerate(jaxpr.eqns):
        path = (*at, number)
        if control(eqn) == "while":
            found.append(path)
        for below, place in inner_of(eqn, path):
            found += loops(below, place)
    return found


def inner_of(eqn: Any, path: Path) -> list[tuple[Jaxpr, Path]]:
    """Every program inside an equation that `evaluate` looks into, with its path."""
    inner = internals.called(eqn.primitive.name, eqn.params)
    if inner is not None:
        return [(inner[0], path)]
    kind = control(eqn)
    if kind == "scan":
        return [(eqn.params["jaxpr"].jaxpr, path)]
    if kind == "while":
        return [(eqn.params["body_jaxpr"].jaxpr, path)]
    if kind == "cond":
        return [(branch.jaxpr, (*path, n)) for n, branch in enumerate(eqn.params["branches"])]
    return []


def constants_of(jaxpr: Jaxpr, consts: Sequence[Any]) -> Iterator[Any]:
    """What a program and those inside it hold, besides numbers."""
    yield from consts
    for eqn in jaxpr.eqns:
        for inner in internals.programs_in(eqn.params):
            yield from constants_of(*inner)


def iterations(taps: Any, path: Path, jaxpr: Jaxpr) -> dict[Path, int]:
    """Largest iteration count of every ``while`` loop, read off a run's taps."""
    found: dict[Path, int] = {}
    for number, (eqn, tap) in enumerate(zip(jaxpr.eqns, taps, strict=True)):
        here = (*path, number)
        if control(eqn) == "while":
            found[here] = int(jnp.max(tap["count"])) if tap["count"].size else 0
            if tap["body"] == ():
                continue
        for n, (below, place) in enumerate(inner_of(eqn, here)):
            inner = tap["branches"][n] if control(eqn) == "cond" else tap["body"] if control(eqn) else tap
            found |= iterations(inner, place, below)
    return found


def boundaries(jaxpr: Jaxpr, at: Path = ()) -> set[Path]:
    """Equations whose values leave their scope: read in another one, by a loop or a call, or given back."""
    kept: set[Path] = set()
    scope = {v: str(e.source_info.name_stack) for e in jaxpr.eqns for v in e.outvars}
    maker = {v: n for n, e in enumerate(jaxpr.eqns) for v in e.outvars}
    for number, eqn in enumerate(jaxpr.eqns):
        below = inner_of(eqn, (*at, number))
        for inner, place in below:
            kept |= boundaries(inner, place)
        for atom in eqn.invars:
            if atom_in(atom, maker) and (below or scope[atom] != str(eqn.source_info.name_stack)):
                kept.add((*at, maker[atom]))
    kept |= {(*at, maker[atom]) for atom in jaxpr.outvars if atom_in(atom, maker)}
    return kept


def products(jaxpr: Jaxpr, at: Path = ()) -> set[Path]:
    """Equations whose values a compiled program holds in memory: products, convolutions, sorts."""
    kept: set[Path] = set()
    for number, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name in ("dot_general", "conv_general_dilated", "sort", "top_k"):
            kept.add((*at, number))
        for inner, place in inner_of(eqn, (*at, number)):
            kept |= products(inner, place)
    return kept


def atom_in(atom: Any, maker: Mapping[Any, int]) -> bool:
    """Whether an operand is made by an equation of this program."""
    return not isinstance(atom, Literal) and atom in maker

"""A program that JAX compiles as a whole, carried out in another way: equation by equation, or with less of XLA.

What the program dispatches as one unit (``jax.jit``) is opened: its equations are dispatched one after the other, and
only a loop stays one program. Further up the same unit is compiled as one program again, with options of XLA under
which a part of the compiler stands back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax

from whydiff.capturing.adapters.contract import Part, Rung, Way
from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.internals import Jaxpr
from whydiff.capturing.adapters.jax.recording import alone, size
from whydiff.capturing.adapters.jax.tapped import Plan, evaluate, nothing

EAGER, LAST = "eager", "xla"
JOINED, REWRITTEN = "xla without passes", "xla without optimised code"

PASSES = (
    "simplify-fp-conversions",
    "convolution-canonicalization",
    "algsimp",
    "reshape-mover",
    "simplify-while-loops",
    "constant_folding",
    "transpose-folding",
    "dot-merger",
    "tree_reduction_rewriter",
    "cse",
    "fusion",
)
"""Passes on XLA's graph that a program can do without, in the order in which XLA for processors runs them. A name that the
backend does not know is ignored by it."""

_PLAIN_CODE: Mapping[str, Any] = {"xla_backend_optimization_level": 0}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "excess-precision": {"xla_allow_excess_precision": False},
    "code": _PLAIN_CODE,
}
"""Part → options of XLA under which the compiler does not do it."""

_EXCESS = Part("excess-precision", "casts to fewer bits and back that are left out")
_PRECISION = Part("matmul-precision", "products at the default precision")
_PASSES = Part("passes", "passes on the graph", counted=True)
_RUNGS = (
    Rung(JOINED, "the equations become one program (no pass, no optimised code)", (_EXCESS, _PRECISION)),
    Rung(REWRITTEN, "the program's graph is rewritten and its ops are fused (XLA's passes)", (_EXCESS, _PASSES)),
    Rung(
        LAST,
        "machine code is optimised: products and sums in one instruction, vectors (LLVM)",
        (_EXCESS, _PRECISION, Part("code", "optimised machine code"), _PASSES),
    ),
)


class Climbing:
    """Carries out what a program dispatches in a given way (for `internals.dispatching`).

    Args:
        way: up to which rung, and without what.

    Attributes:
        opened: how many compiled programs of more than one equation were met.
        done: passes that were left out, and before.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        self.opened = 0
        self.done: tuple[str, ...] = PASSES if "passes" in way.without else ()

    def __call__(self, primitive: Any, args: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        """Carry out one dispatched unit."""
        inner = internals.called(primitive.name, params)
        with internals.evaluating():
            if inner is None or size(inner[0]) <= 1:
                return internals.bind(primitive, args, params)
            self.opened += 1
            if self.way.rung == EAGER:
                return opened(*inner, args)
            return self._compiled(*inner, args, dict(params.get("compiler_options_kvs", ())))

    def _compiled(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], given: dict[str, Any]) -> list[Any]:
        highest = at_highest if "matmul-precision" in self.way.without else None
        plan = Plan(nothing, execute=highest)
        program = jax.jit(lambda *values: evaluate(jaxpr, consts, values, plan)[0])
        return list(program.lower(*args).compile(compiler_options={**given, **self._options()} or None)(*args))

    def _options(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.way.rung in (JOINED, REWRITTEN):
            found |= _PLAIN_CODE
        left_out: tuple[str, ...] = PASSES if self.way.rung == JOINED else ()
        for part in self.way.without:
            found |= _OPTIONS.get(part, {})
            if part == "passes":
                only = self.way.only
                left_out = (only,) if only else PASSES[min(self.way.keep, len(PASSES)) :]
        return found | ({"xla_disable_hlo_passes": ",".join(left_out)} if left_out else {})


def opened(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """A program's equations dispatched one after the other, what it calls included; a loop is one of them."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, internals.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        inner = internals.called(eqn.primitive.name, eqn.params)
        outs = alone(eqn, given) if inner is None else opened(*inner, given)
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def at_highest(eqn: Any, given: Sequence[Any]) -> list[Any]:
    """An equation whose product asks for no precision, at the highest one."""
    params = eqn.params
    if "precision" in params and params["precision"] in (None, (None, None), lax.Precision.DEFAULT):
        params = {**params, "precision": (lax.Precision.HIGHEST, lax.Precision.HIGHEST)}
    return internals.bind(eqn.primitive, given, params)


def rungs(climbing: Climbing) -> tuple[Rung, ...]:
    """What XLA does to a program that was carried out on the lowest rung; nothing, if it is compiled by no ``jax.jit``."""
    return _RUNGS if climbing.opened else ()


__all__ = ["EAGER", "LAST", "PASSES", "Climbing", "opened", "rungs"]

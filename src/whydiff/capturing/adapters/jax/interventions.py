"""Interventions on a live run: named changes that are carried out and undone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from whydiff.capturing.adapters.jax import internals, values
from whydiff.capturing.adapters.jax.arguments import decode, encode
from whydiff.capturing.adapters.jax.environment import COMPILER, FLAGS, flag_set
from whydiff.capturing.adapters.jax.lifting import widened
from whydiff.capturing.adapters.jax.recording import alone, one_by_one
from whydiff.capturing.adapters.jax.state import Reached, at_this_level, put_back, raw
from whydiff.capturing.adapters.jax.tapped import Plan, evaluate, nothing
from whydiff.errors import UsageError
from whydiff.records import Intervention

_RESTORED = ("restore-state", "restore-values", "restore-input")
DISPATCH = "dispatch"
"""``set-flag dispatch = "op by op"``: execute every equation alone instead of the compiled program."""

ACTIVATIONS = "set-activation-dtype"
"""``set-activation-dtype float32``: every floating-point operation in a wider dtype, state as it is."""

PRECISION = "set-matmul-precision"
"""``set-matmul-precision FROM = TO``: products asked for at one precision are carried out at another (JSON)."""

TRACE_ANEW = "trace-anew"
"""``trace-anew the program``: nothing that was traced before counts, so that what it keeps is read again."""


def supported(intervention: Intervention, reached: Reached) -> bool:
    """Whether `Changes` knows how to carry this out."""
    if intervention.name in _RESTORED:
        return any(name == intervention.target for name, _, _ in reached.arrays.values())
    if intervention.name == "set-scalar":
        return intervention.target in reached.owners
    if intervention.name == "set-flag":
        return intervention.target in (*FLAGS, *COMPILER, DISPATCH)
    return intervention.name in (ACTIVATIONS, PRECISION, TRACE_ANEW)


class Changes:
    """Interventions on one plain run.

    Args:
        interventions: applied together.
        donor: executor of the other side; supplies restored arrays.
        reached: what the target reaches.
    """

    def __init__(self, interventions: Sequence[Intervention], donor: Any, reached: Reached) -> None:
        self.reached = reached
        self.flags: list[Intervention] = []
        self.scalars: list[Intervention] = []
        self.swap: dict[int, Any] = {}
        self.options: dict[str, Any] = {}
        self.alone, self.anew, self.dtype = False, False, ""
        self.precision: dict[str, Any] = {}
        for item in interventions:
            if not supported(item, reached):
                raise UsageError("This intervention cannot be carried out on a live run.", actual=str(item))
            if item.name in _RESTORED:
                self._restore(item, donor)
            elif item.name == "set-scalar":
                self.scalars.append(item)
            elif item.name == TRACE_ANEW:
                self.anew = True
            elif item.name == ACTIVATIONS:
                self.dtype = str(item.value or item.target)
            elif item.name == PRECISION:
                self.precision[item.target] = decode(json.loads(str(item.value)))
            elif item.target in COMPILER:
                self.options[item.target] = item.value
            elif item.target == DISPATCH:
                self.alone = item.value == "op by op"
            else:
                self.flags.append(item)

    def _restore(self, item: Intervention, donor: Any) -> None:
        leaf = next((x for x in donor.trace.leaves if x.name == (item.value or item.target)), None)
        if leaf is None:
            raise UsageError("The other side has no such array.", where=item.target)
        value = donor.leaf_value(leaf)
        if not (isinstance(value, jax.Array) and values.is_key(value)):  # the other side may be another framework's
            value = jax.numpy.asarray(
                values.host(value)
                if isinstance(value, (jax.Array, np.ndarray))
                else values.from_payload(donor.payload(value))
            )
        for key, (name, _, array) in self.reached.arrays.items():
            if name == item.target:
                alike = values.is_key(array) or item.name == "restore-values"  # in the dtype that is held
                self.swap[key] = values.as_like(value, array) if alike else value

    # ------------------------------------------------------------------ before the run

    def target(self, target: Any) -> Any:
        """The callable with restored arrays, where it is a tree of them."""
        return self._swapped(target) if self.swap else target

    def inputs(self, given: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with restored arrays."""
        return self._swapped(given) if self.swap else given

    def _swapped(self, tree: Any) -> Any:
        leaves, structure = jax.tree_util.tree_flatten(tree)
        if not any(id(leaf) in self.swap for leaf in leaves):
            return tree
        return jax.tree_util.tree_unflatten(structure, [self.swap.get(id(leaf), leaf) for leaf in leaves])

    @contextmanager
    def made(self) -> Iterator[None]:
        """Carry the rest out for the length of the block, and undo it whatever happens inside."""
        with ExitStack() as stack:
            for item in self.flags:
                stack.enter_context(flag_set(item.target, item.value))
            for item in self.scalars:
                owner, attribute = self.reached.owners[item.target]
                stack.callback(object.__setattr__, owner, attribute, getattr(owner, attribute))
                object.__setattr__(owner, attribute, item.value)
            for variable in self.reached.variables if self.swap else ():
                held = raw(variable)
                changed = self._swapped(held)
                if changed is not held:
                    stack.callback(put_back, variable, held)
                    put_back(variable, changed)
            if self.anew:
                stack.enter_context(internals.traced_anew())
            elif self.scalars or self.swap:
                stack.enter_context(internals.retraced())
            if self.swap or self.options or self.alone or self.dtype or self.precision:
                stack.enter_context(internals.dispatching(self._execute))
                stack.enter_context(at_this_level(self.reached.variables))
            yield

    # ------------------------------------------------------------------ during the run

    def _execute(self, primitive: Any, args: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        args = [self.swap.get(id(a), a) for a in args]
        inner = internals.called(primitive.name, params)
        with internals.evaluating():
            if inner is None and not (self.dtype or self.precision):
                return internals.bind(primitive, args, params)
            if inner is None:
                closed = internals.staged(primitive, args, params)
                inner = (closed.jaxpr, closed.consts)
            execute = widened(self.dtype) if self.dtype else self._asked if self.precision else None
            plan = Plan(nothing, swap=self.swap, execute=execute)
            if self.alone:
                return one_by_one(inner[0], plan.constants(inner[1]), args, execute or alone)[0]
            options = {**dict(params.get("compiler_options_kvs", ())), **self.options}
            program = jax.jit(lambda *given: evaluate(inner[0], inner[1], given, plan)[0])
            return list(program.lower(*args).compile(compiler_options=options or None)(*args))

    def _asked(self, eqn: Any, given: Sequence[Any]) -> list[Any]:
        """An equation with the precision that an intervention asks for."""
        params = eqn.params
        if "precision" in params:
            recorded = json.dumps(encode(params["precision"]))
            if recorded in self.precision:
                params = {**params, "precision": self.precision[recorded]}
        return internals.bind(eqn.primitive, given, params)

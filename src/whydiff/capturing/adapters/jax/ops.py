"""One executable operation of a recorded program: a primitive with its parameters, or a loop's data movement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.host_ops import carried_out
from whydiff.capturing.adapters.jax.values import as_like, is_key
from whydiff.errors import ReplayError

SLICE = "scan_slice"
STACK = "scan_stack"
MOVES = (SLICE, STACK)
"""What a loop does besides its body: take item ``index`` of an array, stack the items of all iterations."""


@dataclass(frozen=True)
class Op:
    """What one call executes.

    Attributes:
        name: the primitive's name, or one of `MOVES`.
        primitive: None for a data movement.
        params: the primitive's parameters.
        inputs: per operand the abstract value of a tensor that is read, or a `Fixed` number.
        outputs: abstract values.
        context: makes the context manager in which the equation was traced (precision, generator flags).
    """

    name: str
    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    context: Any = None
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def apply(self, reads: Sequence[Any], *, rounded: bool = False) -> list[Any]:
        """Execute on given tensors (host or device); numbers are in their places.

        Args:
            reads: tensors in the order of the operands that are tensors.
            rounded: numpy may carry it out although it rounds in another order than XLA.
        """
        if self.name == SLICE:
            return [reads[0][self.params["index"]]]
        if self.name == STACK:
            return [self._stack(reads)]
        needed = sum(not isinstance(spot, Fixed) for spot in self.inputs)
        if len(reads) != needed:
            raise ReplayError(
                "An equation got another number of values than it takes.",
                where=self.name,
                actual=str(len(reads)),
                expected=str(needed),
            )
        given = iter(reads)
        values = [spot.value if isinstance(spot, Fixed) else as_like(next(given), spot) for spot in self.inputs]
        if jax.default_backend() == "cpu":
            done = carried_out(self.name, self.params, [on_host(v) for v in values], self.outputs, rounded=rounded)
            if done is not None:
                return done
        with internals.evaluating(), self.traced():
            return internals.bind(self.primitive, values, self.params)

    def _stack(self, reads: Sequence[Any]) -> Any:
        items = list(reads)[::-1] if self.params["reverse"] else list(reads)
        if any(is_key(item) for item in items):
            return jnp.stack([as_like(item, self.outputs[0]) for item in items])
        return np.stack([np.asarray(item) for item in items])

    def traced(self) -> AbstractContextManager[Any]:
        """The configuration in which the equation was traced."""
        return internals.meant(self.context) if self.context is not None else nullcontext()


def on_host(value: Any) -> Any:
    """A value in host memory; keys and numbers stay what they are."""
    return value if is_key(value) or not isinstance(value, jax.Array) else np.asarray(value)


@dataclass(frozen=True)
class Fixed:
    """A number that the program holds itself.

    Attributes:
        value: in the dtype of its operand.
        exact: of one that was given in its place: as it was given; None: ``value`` is all that is known.
    """

    value: Any
    exact: float | None = None


def aval_of(value: Any) -> Any:
    """The abstract value of a concrete one."""
    return jax.typeof(value)

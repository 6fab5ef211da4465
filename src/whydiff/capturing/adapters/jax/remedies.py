"""Remedies that are tried: modes in which programs run with some operations carried out in another way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.host_ops import carried_out
from whydiff.capturing.adapters.jax.ops import on_host
from whydiff.capturing.adapters.jax.recording import alone, one_by_one
from whydiff.capturing.adapters.jax.tapped import control
from whydiff.errors import UsageError

_ELEMENTS = 1 << 10
_ELEMENTWISE = frozenset(
    [
        "add",
        "add_any",
        "sub",
        "mul",
        "div",
        "rem",
        "neg",
        "max",
        "min",
        "exp",
        "exp2",
        "log",
        "expm1",
        "log1p",
        "sin",
        "cos",
        "tan",
        "tanh",
        "sqrt",
        "rsqrt",
        "cbrt",
        "square",
        "logistic",
        "integer_pow",
        "pow",
        "erf",
        "erf_inv",
        "erfc",
        "atan2",
        "sign",
        "floor",
        "ceil",
        "round",
        "abs",
        "convert_element_type",
    ]
)


def remedy(name: str, ops: Sequence[str], value: Any = None) -> AbstractContextManager[Any]:
    """A mode for plain runs: programs run equation by equation, the named ops in fixed pieces.

    ``fixed-row-chunks``, value R: every sum of products is made of pieces of R rows (the last one padded), every
    batch element of its own; every reduction of R rows; element-wise ops of a fixed number of elements. Each
    piece is one kernel of one shape, whatever the batch.

    Raises:
        UsageError: JAX knows no such remedy.
    """
    if name != "fixed-row-chunks":
        raise UsageError("JAX knows no such remedy.", actual=name, expected="fixed-row-chunks")
    return internals.dispatching(_Pieces(frozenset(ops), int(value)))


class _Pieces:
    def __init__(self, ops: frozenset[str], rows: int) -> None:
        self.ops, self.rows = ops, rows

    def __call__(self, primitive: Any, args: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        with internals.evaluating():
            inner = internals.called(primitive.name, params)
            if inner is not None:
                return one_by_one(inner[0], inner[1], args, self._execute)[0]
            if primitive.name in ("scan", "while", "cond"):
                closed = internals.staged(primitive, args, params)
                return one_by_one(closed.jaxpr, closed.consts, args, self._execute)[0]
            return self._carry_out(primitive.name, params, args, lambda: internals.bind(primitive, args, params))

    def _execute(self, eqn: Any, given: Sequence[Any]) -> list[Any]:
        assert not control(eqn)
        with internals.meant(eqn.ctx):
            return self._carry_out(
                eqn.primitive.name,
                eqn.params,
                given,
                lambda: _whole(eqn, given),
                lambda values: internals.bind(eqn.primitive, values, eqn.params),
            )

    def _carry_out(
        self,
        name: str,
        params: Mapping[str, Any],
        given: Sequence[Any],
        whole: Callable[[], list[Any]],
        bind: Callable[[Sequence[Any]], list[Any]] | None = None,
    ) -> list[Any]:
        if name not in self.ops:
            return whole()
        if name == "dot_general":
            return [self._product(params, *given)]
        if name == "reduce_sum":
            return [self._sum(params, given[0])]
        if bind is not None and name in _ELEMENTWISE and _one_shape(given):
            return self._elements(given, bind)
        return whole()

    def _product(self, p: Mapping[str, Any], a: Any, b: Any) -> Any:
        (left, right), (batch_l, batch_r) = p["dimension_numbers"]
        free_l = [d for d in range(a.ndim) if d not in (*left, *batch_l)]
        free_r = [d for d in range(b.ndim) if d not in (*right, *batch_r)]
        shape = [a.shape[d] for d in (*batch_l, *free_l)] + [b.shape[d] for d in free_r]
        k = math.prod(a.shape[d] for d in left)
        one = np.asarray(a).transpose([*batch_l, *free_l, *left]).reshape(math.prod(a.shape[d] for d in batch_l), -1, k)
        other = np.asarray(b).transpose([*batch_r, *free_r, *right]).reshape(one.shape[0], -1, k)

        def piece(x: Any, y: Any) -> Any:
            return lax.dot_general(
                x,
                y,
                (((1,), (1,)), ((), ())),
                precision=p["precision"],
                preferred_element_type=p["preferred_element_type"],
            )

        blocks = []
        for x, y in zip(one, other, strict=True):
            lines = [
                np.concatenate([np.asarray(piece(s, t))[:, :m] for t, m in self._cut(y)], axis=1)[:n]
                for s, n in self._cut(x)
            ]
            blocks.append(np.concatenate(lines))
        return jnp.asarray(np.stack(blocks).reshape(shape))

    def _cut(self, rows: Any) -> list[tuple[Any, int]]:
        """Pieces of a fixed number of rows, the last one padded with zeros, and how many rows are real."""
        pieces = []
        for start in range(0, rows.shape[0], self.rows):
            piece = rows[start : start + self.rows]
            real = piece.shape[0]
            if real < self.rows:
                piece = np.concatenate([piece, np.zeros((self.rows - real, *piece.shape[1:]), piece.dtype)])
            pieces.append((np.ascontiguousarray(piece), real))
        return pieces

    def _sum(self, p: Mapping[str, Any], x: Any) -> Any:
        kept = [d for d in range(x.ndim) if d not in p["axes"]]
        rows = np.asarray(x).transpose([*kept, *p["axes"]]).reshape(math.prod(x.shape[d] for d in kept), -1)
        sums = [np.asarray(jnp.sum(piece, axis=1, dtype=x.dtype))[:real] for piece, real in self._cut(rows)]
        return jnp.asarray(np.concatenate(sums).reshape([x.shape[d] for d in kept]))

    def _elements(self, given: Sequence[Any], bind: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        shape = next(v.shape for v in given if np.ndim(v))
        flat = [np.asarray(v).reshape(-1) if np.ndim(v) else v for v in given]
        count = math.prod(shape)
        outs = []
        for start in range(0, count, _ELEMENTS):
            pieces = [v[start : start + _ELEMENTS] if np.ndim(v) else v for v in flat]
            missing = _ELEMENTS - min(_ELEMENTS, count - start)
            padded = [np.concatenate([v, np.ones(missing, v.dtype)]) if np.ndim(v) and missing else v for v in pieces]
            outs.append(np.asarray(bind(padded)[0])[: _ELEMENTS - missing])
        return [jnp.asarray(np.concatenate(outs).reshape(shape))] if outs else bind(given)


def _whole(eqn: Any, given: Sequence[Any]) -> list[Any]:
    done = carried_out(
        eqn.primitive.name, eqn.params, [on_host(v) for v in given], [v.aval for v in eqn.outvars], rounded=False
    )
    return alone(eqn, given) if done is None else done


def _one_shape(given: Sequence[Any]) -> bool:
    """Whether all operands that are arrays have one shape."""
    shapes = {np.shape(v) for v in given if np.ndim(v)}
    return len(shapes) == 1

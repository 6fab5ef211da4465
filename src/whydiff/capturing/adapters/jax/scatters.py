"""Scatters: how two numbers are joined is a program of JAX's own, which is made for their dtype."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

SCATTERS: Mapping[str, Any] = {
    "scatter-add": jax.lax.scatter_add,
    "scatter-mul": jax.lax.scatter_mul,
    "scatter-min": jax.lax.scatter_min,
    "scatter-max": jax.lax.scatter_max,
}
REMADE = ("update_jaxpr", "update_consts")
"""Parameters that hold that program."""
_TOLD = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")


def joining(name: str, operands: Sequence[Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A scatter's parameters with the program that joins numbers of the operands' dtype; it is what the name says.

    Args:
        name: one of `SCATTERS`.
        operands: numbers or abstract values.
        params: recorded, of whatever dtype.
    """
    scatter = functools.partial(SCATTERS[name], **{key: params[key] for key in _TOLD})
    program = jax.make_jaxpr(scatter)(*operands)
    (made,) = (one.params for one in program.eqns if one.primitive.name == name)
    return {**params, **{key: made[key] for key in REMADE if key in params}}

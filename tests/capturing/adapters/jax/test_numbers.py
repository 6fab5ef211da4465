"""Python's numbers, which are arrays of no axes op by op and part of the program once it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

DRAWN = np.random.default_rng(5)
X = jnp.asarray(DRAWN.normal(size=(10, 16)), jnp.float32)
UP = jnp.asarray(DRAWN.normal(0, 0.3, (16, 64)), jnp.float32)
DOWN = jnp.asarray(DRAWN.normal(0, 0.3, (64, 16)), jnp.float32)
GAIN = jnp.asarray(DRAWN.normal(1, 0.1, 16), jnp.float32)


def layer_norm(x: Any, eps: float = 1e-5) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * GAIN
    return x + jax.nn.gelu(normed @ UP, approximate=False) @ DOWN


def rms_norm(x: Any, eps: float = 1e-6) -> Any:
    return (x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * GAIN) @ UP


def gelu_tanh(x: Any, cubic: float = 0.044715) -> Any:
    h = x @ UP
    return (0.5 * h * (1 + jnp.tanh(0.7978845608028654 * (h + cubic * h**3)))) @ DOWN


def horner(x: Any, first: float = 0.3) -> Any:
    return ((x * first + 0.7) * x + 0.1) * x * 0.5 * (1.0 + x)


def of_no_axes(x: Any, first: float = 0.3) -> Any:
    """Everything is of no axes here, and only its place tells a number."""
    mean = (x * x).mean()
    return mean * first + 0.7 * mean * mean - 0.1


def attention(x: Any, scale: float = 0.5, masked: float = -1e9) -> Any:
    scores = jnp.where(jnp.tril(jnp.ones((10, 10), bool)), x @ x.T * scale, masked)
    return jax.nn.softmax(scores, -1) @ x


def swiglu(x: Any, sharp: float = 1.702) -> Any:
    h = x @ UP
    return (h[:, :32] * jax.nn.sigmoid(sharp * h[:, :32]) * h[:, 32:] + 0.5) @ DOWN[:32]


def mapped(x: Any, scale: float = 0.5) -> Any:
    return jax.vmap(lambda row: jax.nn.softmax((row * scale + 1.0) @ UP) * 3.0)(x)


def compiled_against(program: Callable[..., Any], **other: float) -> Diagnosis:
    """Op by op, with other numbers, against the compiled program."""
    fast = jax.jit(program)
    return compare(lambda: program(X, **other), lambda: fast(X))


@pytest.mark.parametrize("program", [layer_norm, gelu_tanh, horner, of_no_axes, attention, swiglu, mapped])
def test_a_number_of_the_compiled_program_is_no_origin(program: Callable[..., Any]) -> None:
    diagnosis = compiled_against(program)
    assert diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
    assert {origin.kind for origin in diagnosis.origins} <= {"implementation"}
    assert not any("more of them on one side" in count.reason for count in diagnosis.not_compared)


@pytest.mark.parametrize(
    ("program", "other", "op"),
    [
        (layer_norm, {"eps": 1e-2}, "add"),
        (rms_norm, {"eps": 1e-3}, "add"),
        (gelu_tanh, {"cubic": 0.04}, "mul"),
        (horner, {"first": 0.31}, "mul"),
        (of_no_axes, {"first": 0.31}, "mul"),
        (attention, {"scale": 0.45}, "mul"),
        (attention, {"masked": -1.0}, "convert_element_type"),
        (swiglu, {"sharp": 1.6}, "mul"),
        (mapped, {"scale": 0.6}, "mul"),
    ],
)
def test_another_number_is_found_at_its_op(program: Callable[..., Any], other: dict[str, float], op: str) -> None:
    diagnosis = compiled_against(program, **other)
    assert diagnosis.verdict is Verdict.SEMANTIC
    found = [(origin.kind, origin.site.op) for origin in diagnosis.origins if origin.verdict is Verdict.SEMANTIC]
    assert found == [("arguments", op)]

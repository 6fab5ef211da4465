"""Compiled programs against the same ops one by one: pairs of callables, each named after what is wrong, or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.Linear(16, 4)).eval()


def _compiled(backend: Any) -> Pair:
    model, x = _network(), torch.randn(3, 16)
    compiled = torch.compile(model, backend=backend)

    def run(program: Any) -> Any:
        with torch.no_grad():
            return program(x)

    return lambda: run(model), lambda: run(compiled)


def scaled() -> Pair:
    """A backend that is simply wrong: its outputs are 1.25 times too large."""
    return _compiled(lambda graph, _: lambda *args: [out * 1.25 for out in graph(*args)])


def slightly_scaled() -> Pair:
    """The same by 1 in 1000: as small as a rounding to 16 bits, and none."""
    return _compiled(lambda graph, _: lambda *args: [out * 1.001 for out in graph(*args)])


def autocast_inside() -> Pair:
    """A backend that computes in bfloat16 without being asked."""

    def backend(graph: Any, _: Any) -> Any:
        def run(*args: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return [out.float() if out.dtype is torch.bfloat16 else out for out in graph(*args)]

        return run

    return _compiled(backend)


def rotary(dtype: torch.dtype) -> Pair:
    """Rotary embeddings and a softmax, by inductor."""
    torch.manual_seed(0)
    q, cos, sin = (torch.randn(*shape).to(dtype) for shape in ((1, 2, 7, 16), (1, 7, 16), (1, 7, 16)))

    def turned(q: torch.Tensor) -> torch.Tensor:
        other = torch.cat((-q[..., 8:], q[..., :8]), dim=-1)
        return q * cos.unsqueeze(1) + other * sin.unsqueeze(1)

    compiled = torch.compile(turned)
    return lambda: turned(q), lambda: compiled(q)


def adds_otherwise() -> Pair:
    """A backend that adds up in another order, in float32."""
    torch.manual_seed(0)
    x = torch.randn(4, 4096)

    class Total(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(1)

    model = Total()
    compiled = torch.compile(model, backend=lambda graph, _: lambda x: [x.flip(1).cumsum(1)[:, -1]])
    return lambda: model(x), lambda: compiled(x)


def cross_product() -> Pair:
    """a1·b2 − a2·b1 under jit becomes a fused multiply-add: 1 instead of 0."""
    a, b = jnp.array([2396747.0, 2396747.0, 2396747.0, 1.5]), jnp.array([7.0, 7.0, 7.0, 2.0])

    def cross(a1: Any, a2: Any, b1: Any, b2: Any) -> Any:
        return a1 * b2 - a2 * b1

    return lambda: cross(a, a, b, b), lambda: jax.jit(cross)(a, a, b, b)


def polynomial() -> Pair:
    """A Horner scheme under jit: multiply-adds without cancellation."""
    x = jnp.linspace(-1.0, 1.0, 500)
    coefficients = [0.123, -0.77, 0.31, 0.9]

    def horner(x: Any) -> Any:
        total = jnp.full_like(x, 0.5)
        for c in coefficients:
            total = total * x + c
        return total

    return lambda: horner(x), lambda: jax.jit(horner)(x)


def other_operand() -> Pair:
    """Look-alike of `cross_product`: another number in one of the products, also under jit."""
    a, b = jnp.array([2396747.0, 2396747.0, 2396747.0, 1.5]), jnp.array([7.0, 7.0, 7.0, 2.0])

    def cross(a1: Any, a2: Any, b1: Any, b2: Any) -> Any:
        return a1 * b2 - a2 * b1

    return lambda: jax.jit(cross)(a, a, b, b), lambda: jax.jit(cross)(a, a * 1.0000005, b, b)


def exported() -> Pair:
    """An exported program against the module: another form of the same ops."""
    model, x = _network(), torch.randn(3, 16)
    program = torch.export.export(model, (x,)).module()

    def run(program: Any) -> Any:
        with torch.no_grad():
            return program(x)

    return lambda: run(model), lambda: run(program)


def scripted() -> Pair:
    """A scripted and frozen program against the module."""
    model, x = _network(), torch.randn(3, 16)
    program = torch.jit.freeze(torch.jit.script(model))

    def run(program: Any) -> Any:
        with torch.no_grad():
            return program(x)

    return lambda: run(model), lambda: run(program)


def traced_branch() -> Pair:
    """A program that was traced on inputs of the other branch."""

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x * 3

    traced, x = torch.jit.trace(scaled, torch.ones(3), check_trace=False), -torch.ones(3)
    return lambda: scaled(x), lambda: traced(x)


def exported_in_training() -> Pair:
    """A program that was exported in training mode."""
    model, x = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.ReLU()), torch.ones(3, 8)
    program = torch.export.export(model, (x,)).module()
    model.eval()
    return lambda: model(x), lambda: program(x)


def optimizer_step() -> Pair:
    """A step of Adam with decoupled weight decay, written out, with and without jit."""
    weights, gradient = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3)) * 0.3

    def step(state: Any, weights: Any) -> Any:
        count, first, second = state
        count = count + 1
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scaled = first / (1 - 0.9**count) / (jnp.sqrt(second / (1 - 0.999**count)) + 1e-8)
        return (count, first, second), weights - 1e-2 * (scaled + 0.1 * weights)

    def run(step: Any) -> Any:
        state, now = (jnp.int32(0), jnp.zeros_like(weights), jnp.zeros_like(weights)), weights
        for _ in range(2):
            state, now = step(state, now)
        return now

    return lambda: run(step), lambda: run(jax.jit(step))


def removed_casts() -> Pair:
    """Casts to bfloat16 and back, which a compiler may leave out."""
    x = jnp.linspace(-2.0, 2.0, 64)

    def chain(x: Any) -> Any:
        for _ in range(3):
            x = jnp.sin(x).astype(jnp.bfloat16).astype(jnp.float32) * 1.1
        return x

    return lambda: chain(x), lambda: jax.jit(chain)(x)

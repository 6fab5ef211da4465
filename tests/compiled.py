"""Programs that JAX compiles as fast as it can: for tests that ask what a program does, and not what XLA makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def quickly(function: Callable[..., Any]) -> Any:
    """``jax.jit`` without LLVM's optimisation, which takes half of the compiling; what is fused stays fused."""
    import jax

    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})

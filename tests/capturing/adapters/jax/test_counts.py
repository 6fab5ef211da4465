"""An equation that is given another number of values says so."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from whydiff.capturing.adapters import for_framework, for_target
from whydiff.errors import ReplayError


def test_too_few_values_are_a_replay_error() -> None:
    x = jnp.arange(3.0)
    trace = for_target(lambda: x + x * 2).run(lambda: x + x * 2, (), {}).capture()
    call = next(call for call in trace.calls if call.kind == "compute" and len(call.reads) == 2)
    executor = for_framework("jax").executor(trace)
    with executor.running(), pytest.raises(ReplayError, match="number of values"):
        executor.apply(call, [x])

"""Which adapter takes a program that two frameworks' objects are at hand for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.pipeline import compare
from whydiff.records import Verdict

X = jnp.asarray(np.cos(np.arange(40, dtype=np.float32)).reshape(5, 8))
torch.manual_seed(0)
NET = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 3)).eval()
W = {name: jnp.asarray(value.detach().numpy()) for name, value in NET.state_dict().items()}


def torch_of_a_jax_array() -> Any:
    with torch.no_grad():
        return NET(torch.from_numpy(np.array(X)))


def torch_that_names_jax() -> Any:
    with torch.no_grad():
        return NET(torch.from_numpy(np.array(jnp.asarray(X))))


def ported(act: Any) -> Any:
    return act(X @ W["0.weight"].T + W["0.bias"]) @ W["2.weight"].T + W["2.bias"]


def jax_port() -> Any:
    return ported(jax.nn.silu)


def jax_that_holds_torch() -> Any:
    first = jnp.asarray(NET[0].weight.detach().numpy())
    return jax.nn.silu(X @ first.T + W["0.bias"]) @ W["2.weight"].T + W["2.bias"]


def test_data_of_another_framework_does_not_make_a_program_its_own() -> None:
    adapter: Any = for_framework("jax")
    assert not adapter.owns(torch_of_a_jax_array, ())
    assert not adapter.owns(NET, (X,))
    assert adapter.owns(lambda: X + 1, ())
    assert adapter.owns(lambda a: a + 1, (X,))
    assert adapter.owns(jax_port, ()) and adapter.owns(jax_that_holds_torch, ())


def test_what_a_program_gives_back_decides_where_it_names_both() -> None:
    adapter: Any = for_framework("jax")
    assert adapter.owns(torch_that_names_jax, ())
    assert adapter.run(torch_that_names_jax, (), {}).at_home().framework == "torch"
    assert adapter.run(jax_that_holds_torch, (), {}).at_home().framework == "jax"
    torch_run: Any = for_framework("torch").run(torch_of_a_jax_array, (), {})
    assert torch_run.at_home() is torch_run


@pytest.mark.parametrize("reference", [torch_of_a_jax_array, torch_that_names_jax])
def test_a_port_is_compared_across_frameworks(reference: Any) -> None:
    assert compare(reference, jax_port).verdict is Verdict.ROUNDING
    assert compare(reference, jax_that_holds_torch).verdict is Verdict.ROUNDING
    found = compare(reference, lambda: ported(jax.nn.gelu))
    assert found.verdict is Verdict.SEMANTIC and found.causes[0].code.startswith("FO")

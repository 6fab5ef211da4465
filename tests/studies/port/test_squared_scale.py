"""A factor of the queries and of the keys is one scale of the scores, squared."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tests.compiled import quickly

from whydiff.records import Verdict
from whydiff.studies.port import check_port

HEADS, SIZE = 2, 8


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("factor", "named"), [(1.0, False), (1.5, True)])
def test_a_factor_on_both_operands_is_named_as_the_scale(factor: float, named: bool) -> None:
    torch.manual_seed(0)
    model = Attention().eval()
    t = {name: jnp.asarray(value.detach().numpy() * 2) for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    each = float(np.float32(factor * SIZE**-0.25))

    @quickly
    def port(x: Any) -> Any:
        qkv = (x @ t["qkv.weight"].T + t["qkv.bias"]).reshape(2, 5, 3, HEADS, SIZE)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        y = jax.nn.softmax((q * each) @ (k * each).swapaxes(-1, -2), -1) @ v
        return y.transpose(0, 2, 1, 3).reshape(2, 5, 16) @ t["out.weight"].T + t["out.bias"]

    x = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    with torch.no_grad():
        found = check_port(model, port, (torch.from_numpy(x),), (jnp.asarray(x),))
    assert (found.verdict is Verdict.SEMANTIC) is named, found.reason
    sure = [cause.says for cause in found.causes if cause.status == "confirmed"]
    assert sure == (
        ["the candidate scales the attention's scores by 0.795495, the reference by 0.353553"] if named else []
    )

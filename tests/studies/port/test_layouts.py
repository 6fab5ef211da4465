"""On square maps values say nothing of the layout where they are wrong: padding is named, and no origin is invented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import quickly

from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

jnp = pytest.importorskip("jax.numpy")
jax = pytest.importorskip("jax")
linen = pytest.importorskip("flax.linen")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1 = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = torch.nn.BatchNorm2d(8)
        self.c2, self.fc = torch.nn.Conv2d(8, 6, 3, padding=1), torch.nn.Linear(6, 5)
        self.bn.running_mean.uniform_(-0.3, 0.3)
        self.bn.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(self.bn.weight, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.c2(torch.relu(self.bn(self.c1(x))))).mean((2, 3)))


class Port(linen.Module):
    pad: Any = ((1, 1), (1, 1))
    eps: float = 1e-5

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(8, (3, 3), strides=(2, 2), padding=self.pad, name="c1")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=True, epsilon=self.eps, name="bn")(x))
        x = linen.relu(linen.Conv(6, (3, 3), padding="SAME", name="c2")(x)).mean((1, 2))
        return linen.Dense(5, name="fc")(x)


def checked(shape: tuple[int, int], **mistake: Any) -> Diagnosis:
    torch.manual_seed(0)
    model = Net().eval()
    t = {name: value.numpy() for name, value in model.state_dict().items()}
    kernels = {
        name: {"kernel": t[f"{name}.weight"].transpose(2, 3, 1, 0), "bias": t[f"{name}.bias"]} for name in ("c1", "c2")
    }
    variables = {
        "params": {
            **kernels,
            "bn": {"scale": t["bn.weight"], "bias": t["bn.bias"]},
            "fc": {"kernel": t["fc.weight"].T, "bias": t["fc.bias"]},
        },
        "batch_stats": {"bn": {"mean": t["bn.running_mean"], "var": t["bn.running_var"]}},
    }
    variables = jax.tree.map(jnp.asarray, variables)
    x = np.random.default_rng(0).standard_normal((2, 3, *shape)).astype(np.float32)
    port = quickly(lambda x: Port(**mistake).apply(variables, x))
    with torch.no_grad():
        return check_port(model, port, (torch.from_numpy(x),), (jnp.asarray(x.transpose(0, 2, 3, 1)),))


@pytest.mark.parametrize("shape", [(12, 12), (12, 8)])
def test_a_right_port_is_rounding(shape: tuple[int, int]) -> None:
    diagnosis = checked(shape)
    assert diagnosis.verdict is Verdict.ROUNDING, diagnosis.reason
    assert not diagnosis.causes


@pytest.mark.parametrize("shape", [(12, 12), (12, 8)])
def test_same_padding_is_named_at_its_layer_alone(shape: tuple[int, int]) -> None:
    diagnosis = checked(shape, pad="SAME")
    assert [origin.site.scope for origin in diagnosis.origins] == ["c1"]
    (cause,) = diagnosis.causes
    assert (cause.code, cause.status) == ("FO008", "confirmed")
    assert "(0, 1)×(0, 1)" in cause.says
    assert "SAME" in cause.says
    assert "(1, 1)×(1, 1)" in cause.says
    assert [e.direction for e in cause.experiments] == ["take_away", "put_in"]
    assert all(e.after is not None and e.before is not None and e.after < e.before / 1e9 for e in cause.experiments)
    assert cause.remedy is not None
    assert cause.remedy.carried_out


def test_two_mistakes_are_both_named_the_larger_first() -> None:
    diagnosis = checked((12, 12), pad="SAME", eps=1e-3)
    assert [origin.site.scope for origin in diagnosis.origins] == ["c1", "bn"]
    assert [(cause.code, cause.status) for cause in diagnosis.causes] == [
        ("FO008", "confirmed"),
        ("FO002", "confirmed"),
    ]
    first, second = diagnosis.causes
    assert first.size > second.size > 0

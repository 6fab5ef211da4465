"""Inputs that each framework makes for itself: what they differ by is not laid on the port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.compiled import quickly

import whydiff
from whydiff.records import Verdict

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

torch.manual_seed(0)
MODEL = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 4)).eval()
X = torch.linspace(-1, 1, 24).reshape(3, 8)
GIVEN: dict[str, Callable[[Any], Any]] = {
    "the same": lambda x: x,
    "by rounding": lambda x: np.nextafter(x, np.float32(2)),
    "in float64": lambda x: x.astype(np.float64),
    "others": lambda x: x + np.float32(1e-3),
}


def port(eps: float, jit: bool = True) -> Callable[[Any], Any]:
    weights = {name: jax.numpy.asarray(value.detach().numpy()) for name, value in MODEL.state_dict().items()}

    def run(x: Any) -> Any:
        x = x @ weights["0.weight"].T + weights["0.bias"]
        centred = x - x.mean(-1, keepdims=True)
        x = centred / jax.numpy.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weights["1.weight"]
        return (x + weights["1.bias"]) @ weights["2.weight"].T + weights["2.bias"]

    return quickly(run) if jit else run


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("the same", ""),
        ("by rounding", "by rounding"),
        ("in float64", ""),
        ("others", "what departs first may be theirs"),
    ],
)
def test_inputs_that_differ_are_told_and_a_right_port_stays_right(how: str, said: str) -> None:
    found = whydiff.check_port(MODEL, port(1e-5), (X,), (GIVEN[how](X.numpy()),))
    told = [count.reason for count in found.not_compared if count.what == "inputs as they were given"]
    assert len(told) == bool(said)
    assert all(said in reason for reason in told)
    if how != "others":
        assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), found.reason


def test_a_mistake_is_named_alone_where_inputs_differ_by_rounding() -> None:
    found = whydiff.check_port(MODEL, port(1e-3), (X,), (GIVEN["by rounding"](X.numpy()),))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO002", "confirmed")]
    assert [origin.site.scope for origin in found.origins] == ["1"]


@pytest.mark.parametrize("jit", [True, False], ids=["under jit", "called plainly"])
def test_an_epsilon_is_named_under_jit_and_without(jit: bool) -> None:
    """Without, it reaches the program as an array."""
    found = whydiff.check_port(MODEL, port(1e-3, jit), (X,), (X.numpy(),))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO002", "confirmed")]
    assert "0.001" in found.causes[0].says and "1e-05" in found.causes[0].says
    assert whydiff.check_port(MODEL, port(1e-5, jit), (X,), (X.numpy(),)).verdict in (
        Verdict.ROUNDING,
        Verdict.IDENTICAL,
    )

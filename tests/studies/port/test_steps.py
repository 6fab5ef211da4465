"""Steps that a port leaves out or does otherwise, each beside one that looks alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import quickly
from torch.nn import functional

from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

jax = pytest.importorskip("jax")
jnp = jax.numpy
lax = jax.lax


class Net(torch.nn.Module):
    """A convolution, something in between, a head of one weight per channel."""

    def __init__(self, between: Any = torch.relu, **how: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3, **how), torch.nn.Linear(4, 5)
        self.gain = torch.nn.Parameter(1 + torch.rand(4, 1, 1))
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.between(self.gain * self.conv(x)).movedim(1, -1))


def port(
    model: Net, between: Any = jax.nn.relu, *, gain: bool = True, padding: Any = "VALID", dilation: int = 1
) -> Any:
    t = {name: jnp.asarray(value.detach().numpy()) for name, value in model.named_parameters()}

    def forward(x: Any) -> Any:
        y = lax.conv_general_dilated(x, t["conv.weight"], (1, 1), padding, rhs_dilation=(dilation, dilation))
        y = y + t["conv.bias"][:, None, None]
        y = between(t["gain"] * y if gain else y)
        return jnp.moveaxis(y, 1, -1) @ t["head.weight"].T + t["head.bias"]

    return quickly(forward)


def checked(model: Net, other: Any, scale: float = 1.0) -> Diagnosis:
    x = scale * np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    with torch.no_grad():
        return check_port(model, other, (torch.from_numpy(x),), (jnp.asarray(x),))


def silent(found: Diagnosis) -> bool:
    return found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING) and not found.causes and not found.origins


def told(found: Diagnosis) -> tuple[str, str]:
    """Code and sentence of the only cause."""
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = found.causes
    assert cause.status == "confirmed", cause.reason
    return cause.code, cause.says


def most(pads: Any) -> Any:
    return lambda y: lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), *pads))


def mean(counted: bool) -> Any:
    def pool(y: Any) -> Any:
        around = (1, 1, 3, 3), (1, 1, 1, 1), ((0, 0), (0, 0), (1, 1), (1, 1))
        count = lax.reduce_window(jnp.ones_like(y), 0.0, lax.add, *around)
        return lax.reduce_window(y, 0.0, lax.add, *around) / (9.0 if counted else count)

    return pool


def test_the_padding_of_a_pooling_is_named() -> None:
    model = Net(lambda y: functional.max_pool2d(y, 3, 2, 1))
    assert silent(checked(model, port(model, most(((1, 1), (1, 1))))))
    code, says = told(checked(model, port(model, most(((1, 1), (0, 1))))))
    assert code == "FO008"
    assert "the candidate's pooling takes the largest of windows, pads (1, 1)×(0, 1)" in says


def test_what_a_mean_over_windows_counts_is_named() -> None:
    model = Net(lambda y: functional.avg_pool2d(y, 3, 1, 1))
    assert silent(checked(model, port(model, mean(True))))
    code, says = told(checked(model, port(model, mean(False))))
    assert code == "FO008"
    assert "does not count the padding; the reference's" in says


def test_the_largest_for_the_mean_is_named() -> None:
    model = Net(lambda y: functional.avg_pool2d(y, 3, 2))
    code, says = told(checked(model, port(model, most(((0, 0), (0, 0))))))
    assert code == "FO008"
    assert "the candidate's pooling takes the largest" in says


def test_another_dilation_is_named() -> None:
    model = Net(padding=2, dilation=2)
    assert silent(checked(model, port(model, padding=((2, 2), (2, 2)), dilation=2)))
    found = checked(model, port(model, padding=((1, 1), (1, 1))))
    code, says = told(found)
    assert code == "FO008"
    assert "the candidate dilates the kernel by 1×1, the reference dilates the kernel by 2×2" in says
    assert [one.site.scope for one in found.origins] == ["conv"]
    assert all(experiment.after is not None for experiment in found.causes[0].experiments)


def test_a_limit_that_one_side_has_is_named_where_something_is_beyond_it() -> None:
    model = Net(functional.relu6)
    assert silent(checked(model, port(model, jax.nn.relu6), scale=30))
    assert silent(checked(model, port(model), scale=0.1))  # nothing comes to the limit
    assert told(checked(model, port(model), scale=30)) == ("FO008", "the reference limits to 6, the candidate does not")
    plain = Net()
    found = checked(plain, port(plain, lambda y: 64.0 * jax.nn.relu6(y)), scale=30)
    assert not [cause for cause in found.causes if cause.code == "FO003" and "limit" in cause.says]
    other = Net(lambda y: functional.hardtanh(y, 0, 6) / 64.0)  # 64 is beyond all values: it would do for the limit
    found = checked(other, port(other, lambda y: jax.nn.relu(y) / 64.0), scale=3)
    assert not [cause for cause in found.causes if "64" in cause.says]
    found = checked(model, port(model, lambda y: jnp.clip(y, 0.0, 4.0)), scale=30)
    assert told(found) == ("FO003", "the candidate's limit is 4, the reference's 6")
    said = told(checked(plain, port(plain, jax.nn.relu6), scale=30))
    assert said == ("FO008", "the candidate limits to 6, the reference does not")


def test_a_gain_of_several_axes_that_is_left_out_is_named() -> None:
    model = Net()
    assert told(checked(model, port(model, gain=False))) == ("FO007", "the candidate leaves gain out")
    with torch.no_grad():
        model.gain.fill_(1.0)
    assert silent(checked(model, port(model, gain=False)))


@pytest.mark.parametrize("kept", [0, 1])
def test_a_term_that_is_left_out_is_named(kept: int) -> None:
    model = Net(lambda y: torch.tanh(y) + torch.sigmoid(y))
    forms = (jnp.tanh, jax.nn.sigmoid)
    assert silent(checked(model, port(model, lambda y: forms[0](y) + forms[1](y))))
    code, says = told(checked(model, port(model, forms[kept])))
    assert code in ("FO007", "FO001")
    assert ("leaves it out of the sum" in says) is (code == "FO007")


def test_a_residual_that_is_left_out_is_named_and_one_of_another_size_is_not() -> None:
    model = Net(lambda y: y.flip(-1) + y.cos())
    code, says = told(checked(model, port(model, lambda y: y[..., ::-1])))
    assert code == "FO007"
    assert says.startswith("the reference adds what ")
    assert says.endswith("the candidate leaves it out of the sum")
    other = checked(model, port(model, lambda y: y[..., ::-1] + 0.37 * jnp.cos(y) ** 2))
    assert other.verdict is Verdict.SEMANTIC
    assert not [cause for cause in other.causes if cause.code == "FO007"]


class Tokens(torch.nn.Module):
    """A norm, one position of it, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.head = torch.nn.Linear(6, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 5)
        torch.nn.init.normal_(self.norm.weight, 1.0, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.first(x))[:, 0])


@pytest.mark.parametrize("wrong", [False, True])
def test_a_place_is_no_layer_whose_result_agrees(wrong: bool) -> None:
    model = Tokens()
    t = {name: jnp.asarray(value.detach().numpy()) for name, value in model.named_parameters()}

    @quickly
    def forward(x: Any) -> Any:
        y = x @ t["first.weight"].T + t["first.bias"]
        y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
        y = y * t["norm.weight"] + t["norm.bias"]
        return (y.mean(1) if wrong else y[:, 0]) @ t["head.weight"].T + t["head.bias"]

    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    with torch.no_grad():
        found = check_port(model, forward, (torch.from_numpy(x),), (jnp.asarray(x),))
    assert [origin.site.scope for origin in found.origins] == (["head"] if wrong else [])


def test_a_norm_whose_weight_is_repeated_is_a_place() -> None:
    class Instance(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.head = torch.nn.InstanceNorm2d(3, affine=True), torch.nn.Conv2d(3, 4, 1)
            torch.nn.init.normal_(self.norm.weight, 1.0, 0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.nn.functional.elu(self.norm(x)))

    model = Instance()
    t = {name: jnp.asarray(value.detach().numpy()) for name, value in model.named_parameters()}

    def forward(eps: float) -> Any:
        def run(x: Any) -> Any:
            y = (x - x.mean((2, 3), keepdims=True)) * lax.rsqrt(x.var((2, 3), keepdims=True) + eps)
            y = jax.nn.elu(y * t["norm.weight"][:, None, None] + t["norm.bias"][:, None, None])
            return jnp.einsum("bchw,oc->bohw", y, t["head.weight"][..., 0, 0]) + t["head.bias"][:, None, None]

        return quickly(run)

    x = 0.1 * np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
    with torch.no_grad():
        right, wrong = (
            check_port(model, forward(eps), (torch.from_numpy(x),), (jnp.asarray(x),)) for eps in (1e-5, 1e-3)
        )
    assert silent(right)
    assert [origin.site.scope for origin in wrong.origins] == ["norm"]
    assert told(wrong)[0] == "FO002"


def test_a_bias_after_the_residual_is_no_origin_where_a_later_step_is_wrong() -> None:
    class Rest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.down, self.norm, self.head = torch.nn.Linear(6, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 5)
            torch.nn.init.normal_(self.norm.weight, 1.0, 0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(x + self.down(torch.tanh(x))))

    model = Rest()
    t = {name: jnp.asarray(value.detach().numpy()) for name, value in model.named_parameters()}

    def forward(eps: float, factor: float) -> Any:
        def run(x: Any) -> Any:
            y = x + factor * (jnp.tanh(x) @ t["down.weight"].T) + t["down.bias"]  # the sum first
            y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + eps)
            return (y * t["norm.weight"] + t["norm.bias"]) @ t["head.weight"].T + t["head.bias"]

        return quickly(run)

    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)

    def found(eps: float, factor: float) -> Diagnosis:
        with torch.no_grad():
            return check_port(model, forward(eps, factor), (torch.from_numpy(x),), (jnp.asarray(x),))

    assert silent(found(1e-5, 1.0))
    wrong = found(0.1, 1.0)
    assert [origin.site.scope for origin in wrong.origins] == ["norm"]
    assert told(wrong)[0] == "FO002"
    assert found(1e-5, 1.5).origins[0].site.scope == "down"  # a mistake in the layer stays one


def test_limits_that_a_library_sets_for_its_own_steps_stop_nothing() -> None:
    """jax.image.resize keeps its own indices between limits, in values of many shapes."""
    model = Net(lambda y: functional.interpolate(y, size=(14, 12), mode="bilinear", align_corners=True))
    found = checked(model, port(model, lambda y: jax.image.resize(y, (2, 4, 14, 12), "bilinear")))
    code, says = told(found)
    assert code == "FO008"
    assert "aligned corners" in says


def test_a_step_that_does_not_fit_where_it_is_tried_ends_no_check() -> None:
    from whydiff.studies.port.bench import UNFIT

    for raised in (StopIteration, IndexError, KeyError, ZeroDivisionError, ValueError):
        assert issubclass(raised, UNFIT)


def test_a_check_of_all_mistakes_that_cannot_be_carried_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    whole = checked(model, port(model, jax.nn.gelu))
    assert not [
        count for count in whole.not_compared if count.what == "rewritings" and "together" in str(count.examples)
    ]

    def outputs(*_: Any, **__: Any) -> Any:
        raise ValueError("not to be had")

    monkeypatch.setattr("whydiff.studies.port.bench.Bench.outputs", outputs)
    found = checked(model, port(model, jax.nn.gelu))
    (count,) = [count for count in found.not_compared if count.what == "rewritings"]
    assert "all together: ValueError: not to be had" in count.examples and count.count >= 1

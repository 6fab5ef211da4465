"""Activations written out on one side or both: proven both ways by computing the other one, and nothing else."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.explain.activations import ACTIVATIONS
from whydiff.explain.causes import _activations
from whydiff.pipeline import compare
from whydiff.records import Cause, Diagnosis

Form = Callable[[torch.Tensor], torch.Tensor]


def by_erf(h: torch.Tensor) -> torch.Tensor:
    return 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))


def by_tanh(h: torch.Tensor) -> torch.Tensor:
    return 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))


def quick(h: torch.Tensor) -> torch.Tensor:
    return h * torch.sigmoid(1.702 * h)


gelu = torch.nn.functional.gelu


def network(*forms: Form, last: Form | None = None) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 8) for _ in range(len(forms) + 1)]
    x = torch.randn(4, 8)

    def run() -> torch.Tensor:
        h = x
        with torch.no_grad():
            for layer, form in zip(layers, forms, strict=False):
                h = form(layer(h))
            h = layers[-1](h)
            return h if last is None else last(h)

    return run


@pytest.mark.parametrize("size", [9, 1000])
def test_a_few_elements_rule_an_activation_out_and_never_in(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=size)
    results = [form(x) for form in ACTIVATIONS.values()]
    results += [
        np.where(np.arange(size) == size - 2, y + 1e3, y) for y in results
    ]  # one between those that are looked at
    results += [np.where(x > 0, -3.4e38, y) for y in results] + [np.where(x > 1, np.inf, x), x[1:], 0 * x, 2 * x]
    found = _activations.activations(x, results)
    assert sum(one is not None for one in found) >= len(ACTIVATIONS)
    looked_at = _activations._near(x, results)
    monkeypatch.setattr(_activations, "_near", lambda x, results: range(len(results)))
    assert found == _activations.activations(x, results)
    assert len(looked_at) < len(results) - 2


def confirmed(diagnosis: Diagnosis) -> list[Cause]:
    return [cause for cause in diagnosis.causes if cause.status == "confirmed" and not cause.inert]


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(gelu, by_tanh), (by_tanh, gelu), (gelu, quick), (by_erf, by_tanh), (torch.relu, quick)],
)
@pytest.mark.parametrize("times", [1, 3])
def test_an_activation_is_proven_both_ways(reference: Form, candidate: Form, times: int) -> None:
    found = compare(network(*[reference] * times), network(*[candidate] * times))
    assert [cause.code for cause in confirmed(found)] == ["FO001"], found.causes
    (cause,) = confirmed(found)
    assert {item.name for item in cause.interventions} == {"compute"}
    assert len(cause.interventions) == times
    assert [experiment.direction for experiment in cause.experiments] == ["take_away", "put_in"]


@pytest.mark.parametrize(
    "candidate",
    [lambda h: 1.01 * quick(h), lambda h: quick(h) + 0.01, lambda h: quick(h.flip(0)), by_erf],
    ids=range(4),
)
def test_what_is_no_other_activation_is_not_confirmed(candidate: Form) -> None:
    found = compare(network(gelu), network(candidate))
    assert "FO001" not in {cause.code for cause in confirmed(found)}


def test_another_change_beside_it_is_left() -> None:
    found = compare(
        network(gelu, torch.tanh, last=lambda h: torch.softmax(h, -1)),
        network(by_tanh, torch.tanh, last=lambda h: torch.sigmoid(h)),
    )
    statuses = {cause.code: cause.status for cause in found.causes}
    assert statuses == {"FO001": "confirmed", "FO008": "located"}
    assert not [cause for cause in found.causes if "experiment failed" in cause.reason]


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs jax")
def test_the_same_in_jax() -> None:
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    x, one, other = (jax.random.normal(key, (8, 8)) for key in keys)

    def run(form: Callable[[jax.Array], jax.Array]) -> jax.Array:
        return form(x @ one) @ other

    found = compare(
        lambda: run(lambda h: 0.5 * h * (1 + jax.lax.erf(h / jnp.sqrt(2.0)))),
        lambda: run(lambda h: h * jax.nn.sigmoid(1.702 * h)),
    )
    assert found.causes[0].code == "FO001"
    assert found.causes[0].status in ("confirmed", "located")


def test_choices_alone_tell_another_function() -> None:
    """Tokens have no distance: the share of them that differs in float64 is one."""
    torch.manual_seed(0)
    x, first, head = torch.randn(50, 32), torch.randn(32, 64) / 4, torch.randn(64, 10) / 4

    def tokens(activation: Any) -> Any:
        return (activation(x @ first) @ head).argmax(-1)

    found = compare(lambda: tokens(torch.nn.functional.gelu), lambda: tokens(torch.relu))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO001", "confirmed")]
    found = compare(lambda: tokens(lambda h: h * 0.5), lambda: tokens(lambda h: h * 0.25))
    assert (str(found.verdict), [c.code for c in found.causes if c.status == "confirmed"]) == ("identical", [])

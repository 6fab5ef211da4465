"""Rotated and shared heads, joined and reversed values: mistakes that keep every shape; beside them what changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import quickly

from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

pytest.importorskip("flax")
pytest.importorskip("equinox")
jax = pytest.importorskip("jax")
jnp = jax.numpy


def rotary(**mistake: Any) -> Any:
    from tests.corpus.ports import layers

    return layers.rotary("wide", **mistake)


def stacked(**mistake: Any) -> Any:
    from tests.corpus.ports import layers

    return layers.nnx_stacked("wide", **mistake)


def checked(pair: Any) -> Diagnosis:
    ours, theirs, mine, other = pair
    with torch.no_grad():
        return check_port(ours, theirs, mine, other)


def sure(found: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.says) for cause in found.causes if cause.status == "confirmed"]


def test_features_that_are_rotated_in_other_pairs_are_named() -> None:
    found = checked(rotary(pairs=True))
    assert [origin.site.scope for origin in found.origins] == ["o"]
    ((code, says),) = sure(found)
    assert code == "FO008"
    assert "the candidate rotates neighbouring features together, the reference rotates a head's halves" in says


def test_heads_that_share_other_keys_are_named() -> None:
    ((code, says),) = sure(checked(rotary(tiled=True)))
    assert code == "FO008"
    assert "the candidate gives every 2th query head the same keys and values" in says


def test_positions_that_begin_elsewhere_change_nothing_and_a_turn_the_other_way_is_no_pairing() -> None:
    found = checked(rotary(begin=1))
    assert found.verdict is Verdict.ROUNDING
    assert not found.causes
    assert not [says for _, says in sure(checked(rotary(turn=-1.0))) if "rotates" in says]


@pytest.mark.slow
def test_a_fused_attention_is_judged_by_its_result() -> None:
    """PyTorch's own attention reads four weights in one call: what it reads is no operand of the output's projection."""
    assert checked(stacked()).verdict is Verdict.ROUNDING
    found = checked(stacked(swapped=True))
    assert found.verdict is Verdict.SEMANTIC
    assert [origin.site.scope for origin in found.origins] == ["attention"]


class Joined(torch.nn.Module):
    """Two layers, joined; the second perhaps turned around."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.head = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4), torch.nn.Linear(8, 3)
        self.turned = turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.two(x))
        return self.head(torch.cat([torch.tanh(self.one(x)), y.flip(1) if self.turned else y], -1))


def joined(*, turned: bool, here: bool | None = None, back: bool = False, scale: float = 1.0) -> Diagnosis:
    model = Joined(turned=turned)
    t = {name: jnp.asarray(value.detach().numpy()) for name, value in model.named_parameters()}

    @quickly
    def port(x: Any) -> Any:
        one, two = (jnp.tanh(x @ t[f"{name}.weight"].T + t[f"{name}.bias"]) for name in ("one", "two"))
        two = two[:, ::-1] if (turned if here is None else here) else two
        both = jnp.concatenate([two, one] if back else [one, scale * two], -1)
        return both @ t["head.weight"].T + t["head.bias"]

    x = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)
    return checked((model, port, (torch.from_numpy(x),), (jnp.asarray(x),)))


def test_values_joined_the_other_way_round_are_named() -> None:
    assert joined(turned=False).verdict is Verdict.ROUNDING
    ((code, says),) = sure(joined(turned=False, back=True))
    assert code == "FO004"
    assert "the candidate joins them the other way round" in says


@pytest.mark.parametrize("turned", [False, True])
def test_a_value_that_one_side_turns_around_is_named(turned: bool) -> None:
    assert joined(turned=turned).verdict is Verdict.ROUNDING
    ((code, says),) = sure(joined(turned=turned, here=not turned))
    assert code == "FO008"
    assert says.startswith("the candidate leaves it as it is" if turned else "the candidate turns a value around (rev)")


def test_another_factor_of_a_joined_value_is_no_other_order() -> None:
    assert {code for code, _ in sure(joined(turned=True, scale=1.7))} <= {"FO003"}

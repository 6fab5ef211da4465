"""One model in two frameworks: a correct port is rounding at every layer, three mistakes are named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import quickly

from whydiff.errors import UsageError
from whydiff.records import Diagnosis, Verdict
from whydiff.report.answer import answer
from whydiff.report.words import place
from whydiff.studies.port import check_port
from whydiff.studies.port.weights import exactly, layout_of, rearranged

jax = pytest.importorskip("jax")
jnp = jax.numpy

WIDTH, LAYERS = 24, 3


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.norm(x))
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


def reference() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(Block() for _ in range(LAYERS))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3)
    return model


def port(model: torch.nn.Module, *, eps: float = 1e-5, approximate: bool = False, transpose: bool = False) -> Any:
    """The same model in plain JAX, other names, kernels transposed; an option plants a mistake."""
    weights = []
    for number, block in enumerate(model):
        kernels = [np.asarray(layer.weight.detach()).T for layer in (block.mix, block.up, block.down)]
        if transpose and number == 1:
            kernels[0] = kernels[0].T
        biases = [np.asarray(layer.bias.detach()) for layer in (block.mix, block.up, block.down)]
        gains = [np.asarray(p.detach()) for p in (block.norm.weight, block.norm.bias)]
        weights.append(
            [
                jnp.asarray(np.ascontiguousarray(x))
                for x in (*gains, *itertools.chain(*zip(kernels, biases, strict=True)))
            ]
        )

    @quickly
    def forward(x: Any) -> Any:
        for g, h, a, ab, u, ub, d, db in weights:
            centred = x - x.mean(-1, keepdims=True)
            normed = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps)
            x = x + ((normed * g + h) @ a + ab)
            x = x + jax.nn.gelu(x @ u + ub, approximate=approximate) @ d + db
        return x

    return forward


def checked(**mistake: Any) -> Diagnosis:
    model = reference()
    x = np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)
    with torch.no_grad():
        return check_port(model, port(model, **mistake), (torch.from_numpy(x),), (jnp.asarray(x),))


def test_a_correct_port_is_rounding_with_every_layer_paired() -> None:
    diagnosis = checked()
    assert diagnosis.verdict is Verdict.ROUNDING, diagnosis.reason
    assert not diagnosis.origins
    assert not [count for count in diagnosis.not_compared if count.what == "weights"], diagnosis.not_compared
    assert f"{8 * LAYERS} weights matched" in diagnosis.notes[0]
    assert "a b -> b a" in diagnosis.notes[0]
    assert answer(diagnosis).fix == "nothing to do: a port may round in another order"
    sites = [str(growth.site) for growth in diagnosis.growth]
    for layer in range(LAYERS):
        for part in ("norm", "mix", "up", "down"):
            assert any(site.startswith(f"{layer}.{part}:") for site in sites), (layer, part)


@pytest.mark.parametrize(
    ("mistake", "code", "where"),
    [
        ({"transpose": True}, "FO004", "1.mix"),
        ({"eps": 1e-3}, "FO002", "0.norm"),
        ({"approximate": True}, "FO001", "0.down"),
    ],
)
def test_a_mistake_is_named_where_it_begins(mistake: dict[str, Any], code: str, where: str) -> None:
    diagnosis = checked(**mistake)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert [cause.code for cause in diagnosis.causes] == [code], (diagnosis.origins, diagnosis.causes)
    assert diagnosis.causes[0].status == "confirmed"
    assert [e.direction for e in diagnosis.causes[0].experiments] == ["take_away", "put_in"]
    assert diagnosis.origins[0].site.scope == where
    assert len(diagnosis.origins) == (1 if code == "FO004" else LAYERS)
    assert diagnosis.to_dict()["verdict"] == "semantic"
    assert all(Path(origin.line).name.startswith("test_port.py:") for origin in diagnosis.origins)
    said = answer(diagnosis).where
    assert place(str(diagnosis.origins[0].place)) in said and "(in the candidate: " in said and "(test_port.py:" in said


def test_a_real_port_of_llama_from_transformers_to_penzai_is_rounding() -> None:
    llamalike = pytest.importorskip("penzai.models.transformer.variants.llamalike_common")
    transformers = pytest.importorskip("transformers")
    from penzai import pz

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=64,
    )
    config.rope_theta = 10_000.0
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3)
    ported = llamalike.llamalike_from_huggingface_model(model)
    ids = np.array([[3, 14, 15, 9, 26, 5]])

    @quickly
    def logits(ids: Any) -> Any:
        positions = pz.nx.wrap(jnp.arange(ids.shape[1]), "seq")
        return ported(pz.nx.wrap(ids, "batch", "seq"), token_positions=positions).unwrap("batch", "seq", "vocabulary")

    with torch.no_grad():
        diagnosis = check_port(
            lambda ids: model(ids, use_cache=False).logits, logits, (torch.from_numpy(ids),), (jnp.asarray(ids),)
        )
    assert diagnosis.verdict is Verdict.ROUNDING, diagnosis.reason
    lone = [count for count in diagnosis.not_compared if count.what == "weights"]
    assert [(count.reason, count.count) for count in lone] == [("only the reference has these numbers", 2)]  # rotary


def test_other_weights_are_no_port() -> None:
    x = torch.ones(2, 3)
    w = jnp.ones((3, 3)) * 7.5
    with pytest.raises(UsageError, match="No weight"):
        check_port(torch.nn.Linear(3, 3), lambda y: y @ w, (x,), (jnp.ones((2, 3)),))


@pytest.mark.parametrize(
    ("reference_shape", "axes", "candidate_shape"),
    [
        ((6, 4), (1, 0), (4, 6)),
        ((6, 4), (0, 1, 2), (2, 3, 4)),
        ((1, 5, 6), (0, 1), (5, 6)),
        ((4, 2, 3), (2, 0, 1), (3, 8)),
    ],
)
def test_a_layout_is_found_and_can_be_taken_back(
    reference_shape: tuple[int, ...], axes: tuple[int, ...], candidate_shape: tuple[int, ...]
) -> None:
    ours = np.random.default_rng(0).standard_normal(reference_shape)
    theirs = (ours.transpose(axes) if len(axes) == ours.ndim else ours).reshape(candidate_shape)
    layout = layout_of(ours, theirs, exactly)
    assert layout is not None
    assert np.array_equal(rearranged(ours, layout, theirs.shape), theirs)
    assert np.array_equal(rearranged(theirs, layout.inverse, ours.shape), ours)
    assert layout_of(ours, theirs + 1, exactly) is None


def test_the_command_checks_two_files(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from whydiff.cli import app

    table = "[[0.5, -1.25, 2.0], [0.75, 3.5, -0.125]]"
    (tmp_path / "ours.py").write_text(
        "import torch\n"
        f"weight = torch.tensor({table})\n"
        "def model(x): return torch.tanh(torch.nn.functional.linear(x, weight))\n"
        "def inputs(): return torch.tensor([[0.1, 0.2, 0.3], [1.0, -2.0, 0.7]])\n"
    )
    ported = (
        "import jax, jax.numpy as jnp\n"
        f"kernel = jnp.array({table}).T\n"
        "@jax.jit\n"
        "def model(x): return jnp.tanh(x @ kernel)SCALE\n"
        "def inputs(): return (jnp.array([[0.1, 0.2, 0.3], [1.0, -2.0, 0.7]]),)\n"
    )
    found = {}
    for name, scale in (("right", ""), ("wrong", " * 1.01")):
        (tmp_path / f"{name}.py").write_text(ported.replace("SCALE", scale))
        sides = [f"{tmp_path / 'ours.py'}:model", f"{tmp_path / name}.py:model"]
        found[name] = CliRunner().invoke(app, ["port", *sides, "--json"])
    assert found["right"].exit_code == 0, found["right"].output
    assert json.loads(found["right"].stdout)["verdict"] in ("identical", "rounding")
    assert found["wrong"].exit_code == 1, found["wrong"].output
    assert json.loads(found["wrong"].stdout)["verdict"] == "semantic"


def test_an_output_that_no_point_is_at_is_no_agreement() -> None:
    model, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with torch.no_grad():
        whole = check_port(model, model, (x,), (x,))
        beside = check_port(lambda x: (model(x), 3.0), lambda x: (model(x), 4.0), (x,), (x,))
    assert whole.verdict is Verdict.IDENTICAL
    assert beside.verdict is Verdict.INCONCLUSIVE, beside.reason

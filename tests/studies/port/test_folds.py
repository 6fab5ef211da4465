"""Batch norms that one side computed into the layer before: layers are found, mistakes are placed at theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import quickly
from torch.nn import functional

from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(torch.nn.Module):
    """Two convolutions with batch norms behind, pooled, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.first = torch.nn.Conv2d(3, 4, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(4)
        self.two, self.second = torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.BatchNorm2d(6)
        self.head = torch.nn.Linear(6, 5)
        for norm in (self.first, self.second):
            for name in ("weight", "bias", "running_mean"):
                torch.nn.init.normal_(getattr(norm, name), 0.5, 0.3)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.max_pool2d(torch.relu(self.first(self.one(x))), 3, 2, 1)
        return self.head(torch.relu(self.second(self.two(y))).mean((2, 3)))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))


def ported(model: Net, *, padding: Any = ((1, 1), (1, 1)), eps: float = 1e-5) -> Any:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    t = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def folded(conv: str, norm: str) -> tuple[Any, Any]:
        scale = t[f"{norm}.weight"] / np.sqrt(t[f"{norm}.running_var"] + np.float32(eps))
        shift = (t.get(f"{conv}.bias", np.float32(0)) - t[f"{norm}.running_mean"]) * scale + t[f"{norm}.bias"]
        kernel = (t[f"{conv}.weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        return jnp.asarray(kernel), jnp.asarray(shift)

    one, two = folded("one", "first"), folded("two", "second")
    head = jnp.asarray(t["head.weight"].T), jnp.asarray(t["head.bias"])

    def convolved(x: Any, layer: Any, stride: int, padding: Any) -> Any:
        axes = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, layer[0], (stride, stride), padding, dimension_numbers=axes)
        return jax.nn.relu(y + layer[1])

    def forward(x: Any) -> Any:
        y = convolved(x, one, 2, ((1, 1), (1, 1)))
        around = ((0, 0), (1, 1), (1, 1), (0, 0))
        y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), around)
        return convolved(y, two, 1, padding).mean((1, 2)) @ head[0] + head[1]

    return quickly(forward)


def checked(**mistake: Any) -> Diagnosis:
    model, x = Net(), image()
    port = ported(model, **mistake)
    from jax import numpy as jnp

    with torch.no_grad():
        return check_port(model, port, (x,), (jnp.asarray(x.numpy().transpose(0, 2, 3, 1)),))


def test_folded_weights_are_counterparts() -> None:
    found = checked()
    assert found.verdict is Verdict.ROUNDING, found.reason
    assert not found.causes
    assert not [count for count in found.not_compared if count.what == "weights"], found.not_compared
    assert "6 weights matched" in found.notes[0]


def test_a_mistake_is_placed_at_the_folded_layer() -> None:
    found = checked(padding=((2, 0), (2, 0)))
    assert [origin.site.scope for origin in found.origins] == ["second"]
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO008", "confirmed")]


def test_a_norm_folded_with_another_epsilon_is_no_counterpart() -> None:
    found = checked(eps=1e-2)
    assert found.verdict is Verdict.SEMANTIC
    assert [count for count in found.not_compared if count.what == "weights"]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_an_exported_file_with_folded_norms(tmp_path: Path, dynamo: bool) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, x, path = Net(), image(), tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), str(path), dynamo=dynamo, verbose=False)
    held = onnx.load(path)
    nodes = [node for node in held.graph.node if node.op_type == "Conv"]
    pads = next(one for one in nodes[0].attribute if one.name == "pads")
    with torch.no_grad():
        right = check_port(model, path, (x,), (x,))
        pads.ints[:] = [0, 0, 2, 2]
        onnx.save(held, path)
        wrong = check_port(model, path, (x,), (x,))
    assert right.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING), right.reason
    assert not [count for count in right.not_compared if count.reason == "only the reference has these numbers"]
    (origin,) = wrong.origins
    assert origin.site.scope in ("one", "first")
    assert [cause.code for cause in wrong.causes if cause.status == "confirmed"] == ["FO008"]

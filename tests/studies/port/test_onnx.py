"""A PyTorch module against its exported file: right ones are rounding, what was changed in the file is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from whydiff.errors import UsageError
from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")
EXPORTERS = [pytest.param(False, id="torchscript"), pytest.param(True, id="dynamo")]


class Mixed(torch.nn.Module):
    """A convolution, a resize, a norm, a GELU, a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = (
            torch.nn.Conv2d(3, 4, 3, padding=1),
            torch.nn.LayerNorm(4),
            torch.nn.Linear(4, 5),
        )
        self.rnn = torch.nn.GRU(5, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.interpolate(self.conv(x), scale_factor=2, mode="bilinear").mean(3).transpose(1, 2)
        return self.rnn(functional.gelu(self.fc(self.norm(y))))[0]


class Block(torch.nn.Module):
    """A feed-forward layer with a residual and a norm, which the runtime fuses."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.up, self.down, self.norm = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16), torch.nn.LayerNorm(16)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.down(functional.gelu(self.up(x)) * self.scale))


def exported(tmp_path: Path, model: torch.nn.Module, x: torch.Tensor, *, dynamo: bool) -> Path:
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), str(path), dynamo=dynamo, verbose=False)
    return path


def checked(model: torch.nn.Module, path: Path, x: torch.Tensor, theirs: Any = None) -> Diagnosis:
    with torch.no_grad():
        return check_port(model, path, x, (x if theirs is None else theirs,))  # one input, bare or in a tuple


@pytest.fixture(scope="module", params=EXPORTERS)
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Mixed, Path, torch.Tensor]:
    """A model, its file as one of the exporters writes it, an input. Do not leave the file changed."""
    torch.manual_seed(0)
    model = Mixed().eval()
    torch.nn.init.normal_(model.norm.weight, 1.0, 0.3)
    x = torch.randn(2, 3, 4, 5)
    return model, exported(tmp_path_factory.mktemp("mixed"), model, x, dynamo=request.param), x


def with_attribute(path: Path, changed: Path, op: str, name: str, value: Any) -> Path:
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == op:
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    onnx.save(model, changed)
    return changed


@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_a_right_export_is_rounding_and_the_pass_that_changes_bits_is_named(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(4, 7, 16)
    diagnosis = checked(model, exported(tmp_path, model, x, dynamo=dynamo), x)
    assert diagnosis.verdict is Verdict.ROUNDING, diagnosis.reason
    assert not diagnosis.origins
    (cause,) = diagnosis.causes
    assert (cause.code, cause.status, cause.verdict) == ("CP003", "located", Verdict.ROUNDING)
    assert "SkipLayerNormFusion" in cause.says
    assert cause.experiments[0].before
    assert cause.experiments[0].after == 0


@pytest.mark.parametrize(
    ("change", "scope", "code", "words"),
    [
        (("LayerNormalization", "epsilon", 1e-2), "norm", "FO002", "0.01"),
        (("Gelu", "approximate", "tanh"), "rnn", "FO001", "GELU (tanh)"),
        (("Resize", "coordinate_transformation_mode", "align_corners"), "norm", "FO008", "aligned corners"),
        (("Resize", "mode", "nearest"), "norm", "FO008", "nearest"),
        (("Conv", "pads", [0, 0, 2, 2]), "conv", "FO008", "(0, 2)×(0, 2)"),
        (("GRU", "linear_before_reset", 0), "rnn", "FO008", "linear_before_reset = 0"),
    ],
    ids=["eps", "gelu", "corners", "nearest", "pads", "gru"],
)
def test_an_attribute_that_was_changed_is_named(
    tmp_path: Path,
    mixed: tuple[Mixed, Path, torch.Tensor],
    change: tuple[str, str, Any],
    scope: str,
    code: str,
    words: str,
) -> None:
    model, path, x = mixed
    diagnosis = checked(model, with_attribute(path, tmp_path / "changed.onnx", *change), x)
    assert diagnosis.verdict is Verdict.SEMANTIC
    (origin,) = diagnosis.origins
    assert (origin.site.scope, origin.candidate_site.scope) == (scope, scope)  # places are named as in the module
    named = [cause for cause in diagnosis.causes if cause.status == "confirmed"]
    assert [cause.code for cause in named] == [code], diagnosis.causes
    assert words in named[0].says


def test_a_file_in_sixteen_bits_is_precision(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(4, 7, 16)
    path = exported(tmp_path, model, x, dynamo=False)
    onnx.save(convert_float_to_float16(onnx.load(path)), path)
    diagnosis = checked(model, path, x, x.half())
    assert diagnosis.verdict is Verdict.PRECISION, diagnosis.reason
    assert not diagnosis.origins
    assert "PR002" in [cause.code for cause in diagnosis.causes]


def test_an_overflow_in_sixteen_bits_is_named_where_it_begins(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    torch.manual_seed(0)
    model, x = Block(scale=3e5).eval(), torch.randn(4, 7, 16)
    path = exported(tmp_path, model, x, dynamo=False)
    converted = convert_float_to_float16(onnx.load(path))
    onnx.save(converted, path)
    diagnosis = checked(model, path, x, x.half())
    assert diagnosis.verdict is Verdict.UNSTABLE, diagnosis.reason
    cause = next(cause for cause in diagnosis.causes if cause.code == "OV001")
    assert cause.status == "confirmed"
    assert {e.direction for e in cause.experiments} == {"take_away", "put_in"}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_eight_bits_are_told_by_their_scales(tmp_path: Path, per_channel: bool, bias: bool) -> None:
    from onnxruntime.quantization import quantize_dynamic

    torch.manual_seed(0)
    model, x = (
        torch.nn.Sequential(
            torch.nn.Linear(16, 32, bias=bias), torch.nn.ReLU(), torch.nn.Linear(32, 8, bias=bias)
        ).eval(),
        torch.randn(4, 16),
    )
    path, small = exported(tmp_path, model, x, dynamo=False), tmp_path / "small.onnx"
    quantize_dynamic(path, small, per_channel=per_channel)
    diagnosis = checked(model, small, x)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert [origin.site.scope for origin in diagnosis.origins] == ["0", "2"]
    named = [cause for cause in diagnosis.causes if cause.status == "confirmed"]
    assert {cause.code for cause in named} == {"ST003"}
    words = "one scale per channel" if per_channel else "one scale for the whole tensor"
    assert all(words in cause.says and "the range of the whole batch" in cause.says for cause in named)


def test_the_command_takes_a_file_and_the_other_sides_inputs(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from whydiff.cli import app

    (tmp_path / "ours.py").write_text(
        "import torch\ntorch.manual_seed(0)\nmodel = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh()).eval()\n"
        "def inputs(): return torch.linspace(-1, 1, 12).reshape(3, 4)\n"
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh()).eval()
    path = exported(tmp_path, model, torch.linspace(-1, 1, 12).reshape(3, 4), dynamo=False)
    done = CliRunner().invoke(app, ["port", f"{tmp_path / 'ours.py'}:model", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] in ("identical", "rounding")
    alone = CliRunner().invoke(app, ["port", str(path), str(path)])
    assert alone.exit_code == 2


def refusals(tmp_path: Path) -> list[tuple[Callable[[], object], str]]:
    (tmp_path / "text.onnx").write_text("no model")
    model, x = torch.nn.Linear(4, 6).eval(), torch.ones(3, 4)
    path = exported(tmp_path, model, x, dynamo=False)
    return [
        (lambda: check_port(model, tmp_path / "text.onnx", (x,), (x,)), "no ONNX model"),
        (lambda: check_port(model, path, (x,), (x, x)), "another number of inputs"),
        (lambda: check_port(model, tmp_path / "modle.onnx", x, x), r"no such file(.|\n)*expected: model.onnx or "),
    ]


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    for call, words in refusals(tmp_path):
        with pytest.raises(UsageError, match=words):
            call()


def test_the_file_is_not_changed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 3, 16)
    path = exported(tmp_path, model, x, dynamo=False)
    before = path.read_bytes()
    checked(model, path, x)
    assert path.read_bytes() == before
    assert np.isfinite(x.numpy()).all()

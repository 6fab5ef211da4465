"""An engine against three trainers: another temperature, one token late, and a benign one; each in the first line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from whydiff.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    logits = torch.randn(6, 40, 64) * 3
    tokens = logits.softmax(-1).flatten(0, 1).multinomial(1).view(6, 40)

    def picked(values: torch.Tensor) -> torch.Tensor:
        return values.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    engine = picked(logits)
    sides = {
        "engine": engine,
        "temperature": picked(logits / 0.6),
        "shift": engine.roll(1, dims=-1),
        "bf16": picked(logits.bfloat16()),
    }
    folder = tmp_path_factory.mktemp("logprobs")
    for name, values in sides.items():
        rows = zip(tokens.tolist(), values.tolist(), strict=True)
        lines = [json.dumps({"id": n, "token_ids": ids, "logprobs": row}) + "\n" for n, (ids, row) in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def first_line(folder: Path, trainer: str) -> tuple[str, int]:
    done = CliRunner().invoke(app, ["logprobs", str(folder / "engine.jsonl"), str(folder / f"{trainer}.jsonl")])
    return done.stdout.splitlines()[0], done.exit_code


def test_a_temperature(folder: Path) -> None:
    line, code = first_line(folder, "temperature")
    value = re.search(r"T = ([\d.]+)", line)
    assert value is not None
    assert float(value[1]) == pytest.approx(0.6, abs=0.01)
    assert code == 1


def test_one_token_late(folder: Path) -> None:
    line, code = first_line(folder, "shift")
    assert "the trainer is one token late" in line
    assert code == 1


def test_benign(folder: Path) -> None:
    line, code = first_line(folder, "bf16")
    assert line.startswith("ROUNDING: benign rounding")
    assert code == 0


def test_nothing_differs(folder: Path) -> None:
    line, code = first_line(folder, "engine")
    assert line == "IDENTICAL: no bit differs"
    assert code == 0

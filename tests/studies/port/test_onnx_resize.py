"""A cubic Resize is judged in float64 although its coefficient is a float32 attribute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

onnx = pytest.importorskip("onnx")

from tests.studies.port.test_onnx import checked, exported, with_attribute  # noqa: E402

from whydiff.records import Verdict  # noqa: E402


class Enlarged(torch.nn.Module):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.first, self.last, self.times = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 3, 1), times

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(functional.interpolate(self.first(x), scale_factor=self.times, mode="bicubic"))


def made(tmp_path: Path, times: int) -> tuple[torch.nn.Module, torch.Tensor, Path]:
    torch.manual_seed(0)
    model, x = Enlarged(times).eval(), torch.randn(2, 3, 8, 6)
    return model, x, exported(tmp_path, model, x, dynamo=True)


def test_thirds_of_a_pixel_are_rounding(tmp_path: Path) -> None:
    model, x, path = made(tmp_path, 3)
    found = checked(model, path, x)
    assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), (found.reason, found.origins)


def test_another_grid_is_named(tmp_path: Path) -> None:
    model, x, path = made(tmp_path, 2)
    changed = with_attribute(
        path, tmp_path / "changed.onnx", "Resize", "coordinate_transformation_mode", "align_corners"
    )
    found = checked(model, changed, x)
    says = [cause.says for cause in found.causes if cause.status == "confirmed"]
    assert says == [
        "the candidate resamples cubic (-0.75) on aligned corners, the reference cubic (-0.75) on half pixels"
    ]

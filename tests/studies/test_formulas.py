"""Formula comparison: the fourth seed's claim against an independent float64 calculation."""

from __future__ import annotations

import math

import pytest
import torch

import whydiff
from whydiff.cli.demos import megatron
from whydiff.errors import UsageError
from whydiff.studies.formulas import FormulaStudy


@pytest.fixture(scope="module")
def study() -> FormulaStudy:
    return whydiff.compare_formulas(megatron.FORMULAS, megatron.inputs(), dtypes=("float16", "bfloat16"), repeats=1)


def expected_first(study: FormulaStudy, factor: float) -> float:
    """The first scale at which the largest float64 score of the rounded inputs, times a factor, exceeds float16."""
    for scale in sorted({row.scale for row in study.rows}):
        q, k = ((x.double() * scale).half().double() for x in megatron.inputs())
        if float((q @ k.transpose(1, 2)).abs().max()) * factor >= 65520:
            return scale
    return math.inf


def test_alpha_and_scaled_operands_overflow_together_and_the_stored_product_earlier(study: FormulaStudy) -> None:
    first = {name: study.first_overflow(name, "float16") for name in megatron.FORMULAS}
    assert first["alpha"] == expected_first(study, 1 / math.sqrt(megatron.HEAD))
    assert first["alpha"] == first["inward"]
    assert first["stored"] == expected_first(study, 1.0)
    assert first["stored"] < first["alpha"]


def test_headroom_agrees_with_float64(study: FormulaStudy) -> None:
    for row in study.rows:
        if row.not_finite or row.dtype != "float16":
            continue
        q, k = ((x.double() * row.scale).half().double() for x in megatron.inputs())
        largest = float((q @ k.transpose(1, 2)).abs().max()) / math.sqrt(megatron.HEAD)
        assert row.headroom == pytest.approx(math.log2(65504 / largest), abs=0.01)


def test_bfloat16_never_overflows_here(study: FormulaStudy) -> None:
    assert all(study.first_overflow(name, "bfloat16") is None for name in megatron.FORMULAS)
    assert any("none overflows" in sentence for sentence in study.sentences)


def test_formulas_that_are_not_equal_are_refused() -> None:
    with pytest.raises(UsageError, match="not equal"):
        whydiff.compare_formulas({"a": torch.sin, "b": torch.cos}, [torch.ones(3)])
    with pytest.raises(UsageError, match="two formulas"):
        whydiff.compare_formulas([torch.sin], [torch.ones(3)])


def test_what_is_printed_first_says_which_to_write(study: FormulaStudy) -> None:
    said = dict(study.answer())
    assert said[""].startswith("ANOTHER RANGE: in float16 on cpu the output overflows with stored at input scale")
    assert "with alpha, inward at input scale 128" in said[""] and "none overflows" in said["where"]
    assert said["fix"].startswith("Write it as alpha")
    assert study.errors("float16")["alpha"] < study.errors("float16")["inward"]


def test_the_demo_answers_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    report = megatron.run()
    report.print(color="never", width=80)
    shown = capsys.readouterr().out
    assert shown.startswith("DOES NOT HELP: moving the factor inward, against alpha")
    said = dict(report.answer())
    assert "it gains 3.0 bits" in said["effect"] and said["where"].startswith("stored: :bmm#0.output")
    assert said["fix"].startswith("Write it as alpha") and "tried: the alarm is gone" in said["fix"]
    assert report.audits["stored"].causes[0].code == "OV003"
    assert not report.audits["inward"].causes

"""An op whose recorded inputs do not give its output: memory was changed outside torch where nobody saw it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.store import open_trace
from whydiff.explain.case import Case
from whydiff.explain.local_test import LocalResult
from whydiff.explain.local_test.unmade import unmade
from whydiff.locate.localization import Localization
from whydiff.pair.align import align
from whydiff.records import Diagnosis, Verdict
from whydiff.records.finding import NOT_MADE_OF
from whydiff.report.answer import answer


def program(changed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(12, 20)

    def run(x: torch.Tensor) -> torch.Tensor:
        held = weight.clone()
        before = x @ held
        ctypes.memset(held.untyped_storage().data_ptr(), 0, changed)
        return torch.tanh(x @ held) + before

    return run


def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(16, 12)


def said(diagnosis: Diagnosis) -> list[Any]:
    return [one.data[NOT_MADE_OF] for o in diagnosis.origins for one in o.evidence if NOT_MADE_OF in one.data]


@pytest.mark.parametrize("bytes_changed", [4, 80, 12 * 20 * 4 // 2])
def test_a_change_that_nobody_saw_is_no_matter_of_precision(bytes_changed: int, tmp_path: Path) -> None:
    for name, changed in (("reference", 0), ("candidate", bytes_changed)):
        with whydiff.capture(tmp_path / name):
            program(changed)(x())
    for sides, where in ((("reference", "candidate"), "candidate"), (("candidate", "reference"), "reference")):
        diagnosis = whydiff.compare(tmp_path / sides[0], tmp_path / sides[1])
        assert diagnosis.verdict is Verdict.INCONCLUSIVE and said(diagnosis) == [where]
        assert "outside torch" in answer(diagnosis).headline


def test_nor_in_a_live_run_which_in_float64_shows_two_functions() -> None:
    diagnosis = whydiff.compare(program(0), program(80), x())
    assert diagnosis.verdict is Verdict.SEMANTIC and not diagnosis.causes


def test_the_same_write_on_both_sides_is_no_difference(tmp_path: Path) -> None:
    for name in ("reference", "candidate"):
        with whydiff.capture(tmp_path / name):
            program(80)(x())
    assert whydiff.compare(tmp_path / "reference", tmp_path / "candidate").verdict is Verdict.IDENTICAL


def test_another_environment_or_another_switch_may_be_why(tmp_path: Path) -> None:
    for name in ("reference", "candidate"):
        with whydiff.capture(tmp_path / name):
            program(0)(x())
    traces = [open_trace(tmp_path / name) for name in ("reference", "candidate")]
    calls = [next(call for call in trace.calls if call.site.op == "mm") for trace in traces]
    result = LocalResult(Verdict.PRECISION, "of another class", unexplained="candidate")
    case = Case(traces[0], traces[1], align(*traces), Localization(origins=()), (None, None))
    assert unmade(case, *calls, result).verdict is Verdict.INCONCLUSIVE
    assert unmade(case, *calls, replace(result, unexplained="")).verdict is Verdict.PRECISION
    other = replace(calls[1], reads=(calls[1].reads[0], replace(calls[1].reads[1], spec=calls[1].reads[0].spec)))
    assert unmade(case, calls[0], other, result).verdict is Verdict.PRECISION
    assert unmade(case, calls[0], replace(calls[1], arguments=[[], {}]), result).verdict is Verdict.PRECISION
    vars(case)["environment_changes"] = (("versions.torch", "2.4", "2.13"),)
    assert unmade(case, *calls, result).verdict is Verdict.PRECISION
    vars(case)["environment_changes"] = (("rng.torch", "1", "2"),)
    assert unmade(case, *calls, result).verdict is Verdict.INCONCLUSIVE

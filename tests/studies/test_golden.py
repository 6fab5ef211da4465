"""Golden traces: what a tolerance may excuse and what not, and what is no golden trace at all."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.errors import UsageError
from whydiff.pipeline import Options
from whydiff.records import Diagnosis, Verdict
from whydiff.studies.golden import is_golden, record
from whydiff.studies.same import Differs, asserted
from whydiff.studies.same import assert_same as assert_same_programs
from whydiff.studies.watch import Watch, watched

torch.manual_seed(0)
MODEL = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)).eval()
X = torch.linspace(-1, 1, 192).reshape(3, 64)


def assert_same(golden: Path | str, program: Any, x: torch.Tensor, allow: str | None = None) -> Diagnosis:
    """As the fixture does it: the trace is the test's own."""
    return asserted(golden, program, (x,), {}, allow, Options(trust=True))


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("golden") / "of" / "model.trace", MODEL, X).path


class Pieces(torch.nn.Module):
    """The same model, with another order of one sum: what another machine's kernel is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = MODEL

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, act, last = self.layers
        hidden = x[:, :31] @ first.weight.T[:31] + x[:, 31:] @ first.weight.T[31:] + first.bias
        return last(act(hidden))


def test_it_is_small_and_holds_no_weights(golden: Path) -> None:
    trace = whydiff.open(golden)
    assert is_golden(golden) and list(trace.payloads) == ["output/0/output"]
    assert sum(file.stat().st_size for file in golden.iterdir()) < 10_000
    (justified,) = trace.captured["justified"].values()
    assert 0 < justified["atol"] < justified["magnitude"]
    assert [folder.name for folder in golden.parent.iterdir()] == ["model.trace"], "no part is left behind"


def test_equal_bits_and_another_order_pass(golden: Path) -> None:
    assert assert_same(golden, MODEL, X).verdict is Verdict.IDENTICAL
    passed = assert_same(str(golden), Pieces(), X)
    assert passed.verdict is Verdict.ROUNDING and "when the golden trace was recorded" in passed.reason
    with pytest.raises(Differs):
        assert_same(golden, Pieces(), X, allow="identical")


def test_weights_that_differ_are_not_excused_by_a_tolerance(golden: Path) -> None:
    other = copy.deepcopy(MODEL)
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-7
    with pytest.raises(Differs, match=r"0\.weight"):
        assert_same(golden, other, X)


def test_a_larger_difference_and_another_shape_fail(golden: Path) -> None:
    with pytest.raises(Differs):
        assert_same(golden, lambda x: Pieces()(x) + 1e-3, X)
    with pytest.raises(Differs):
        assert_same(golden, lambda x: MODEL(x)[:2], X)


def test_a_tolerance_as_large_as_the_outputs_excuses_nothing(golden: Path) -> None:
    from whydiff.judge.outputs import between
    from whydiff.studies.golden import _beyond

    ours = whydiff.open(golden).outputs or ()
    theirs = record(golden.with_name("b.trace"), Pieces(), X)
    (one,) = between(ours, whydiff.open(theirs.path).outputs or ()).outputs
    assert not _beyond(one, {"output": {"rtol": 0.1, "atol": 1.0, "magnitude": 2.0}})
    assert _beyond(one, {"output": {"rtol": 0.1, "atol": 1.0, "magnitude": 0.5}})
    assert _beyond(one, {"output": {"rtol": 0.0, "atol": 0.0, "magnitude": 2.0}})
    assert _beyond(one, {})


NORM = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 4)).eval()
ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.studies.test_golden import NORM, Differs, assert_same, torch
state, X = torch.load(sys.argv[2] + ".pt")  # made anew, they would be others
NORM.load_state_dict(state)
def said(program, x, allow=None):
    try:
        return str(assert_same(sys.argv[2], program, x, allow).verdict)
    except Differs as error:
        return str(error)
with torch.no_grad():
    print(said(NORM, X), said(lambda x: NORM(x) * 1.001, X), said(NORM, X + 1e-3), said(NORM, X, "identical"), sep="|")
"""


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="one instruction set only")
def test_under_another_instruction_set_the_recorded_tolerance_decides(tmp_path: Path) -> None:
    golden = record(tmp_path / "g.trace", NORM, X).path
    torch.save((NORM.state_dict(), X), f"{golden}.pt")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    words = [sys.executable, "-c", ELSEWHERE, str(Path(__file__).parents[2]), str(golden)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    alike, larger, inputs, strict = " ".join(done.stdout.split()).split("|")
    assert alike == "rounding"
    assert "INCONCLUSIVE: the outputs changed by up to 0.0" in larger
    assert "since the golden trace was recorded, more than rounding may make of them (rtol=" in larger
    assert "INCONCLUSIVE: input holds other numbers than when the golden trace was recorded" in inputs
    assert "pytest --whydiff-update" in larger and "pytest --whydiff-update" in inputs
    assert "ROUNDING: no more than rounding may make of the outputs" in strict
    assert "measured when the golden trace was recorded, in another environment (" in strict


def test_a_defect_is_a_change_with_its_size_and_why_is_guessed_once(golden: Path) -> None:
    norm = copy.deepcopy(NORM)
    trace = record(golden.with_name("n.trace"), NORM, torch.ones(3, 64)).path
    norm[1].eps = 1e-2
    with pytest.raises(Differs) as caught:
        assert_same(trace, norm, torch.ones(3, 64))
    said = " ".join(str(caught.value).split())
    assert "INCONCLUSIVE: the outputs changed by up to 0." in said
    assert "more than rounding may make of them (rtol=" in said
    assert said.count("eps is 0.01 in the candidate") == 1 and "; probably eps is 0.01" in said
    assert "fix set it back; if the change is meant, record it anew: pytest --whydiff-update" in said


CALLS = itertools.count()


def drifts(x: torch.Tensor) -> torch.Tensor:
    return x + next(CALLS)


@pytest.mark.parametrize(
    ("program", "options", "what"),
    [
        (drifts, {}, "differs from itself"),
        (lambda x: None, {}, "nothing to keep"),
        (MODEL, {"largest": 47}, "too large to be committed"),
    ],
)
def test_what_makes_no_golden_trace(program: Any, options: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=what):
        record(tmp_path / "g.trace", program, X, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_new_recording_replaces_the_old_one_whole(tmp_path: Path) -> None:
    record(tmp_path / "g.trace", MODEL, X)
    record(tmp_path / "g.trace", MODEL, X[:1])
    assert assert_same(tmp_path / "g.trace", MODEL, X[:1]).verdict is Verdict.IDENTICAL


def test_an_unknown_verdict_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="no such verdict"):
        assert_same_programs(lambda: pytest.fail("it ran"), lambda: 1.0, allow="rouding")


def test_a_listener_hears_what_passed_and_what_did_not() -> None:
    with watched(Watch("identical")) as watch:
        assert_same_programs(torch.sin, torch.sin, X)
        with pytest.raises(Differs) as caught:
            assert_same_programs(torch.sin, torch.cos, X)
    assert [d.verdict for d in watch.seen] == [Verdict.IDENTICAL] and watch.failed is caught.value.diagnosis
    assert str(caught.value).endswith("allowed is no difference")

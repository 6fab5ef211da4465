"""Every flag that is nearly always true has a test in which it is false, named here.

| flag | false in |
|---|---|
| `ObserverCheck.deterministic` | tests/test_flags.py::test_a_run_that_differs_from_itself_is_not_deterministic |
| `ObserverCheck.unchanged` | tests/test_flags.py::test_a_run_that_notices_the_recorder_is_not_unchanged |
| `Trace.complete` | tests/test_flags.py::test_a_trace_of_a_run_that_raised_is_not_complete |
| `Side.complete` | tests/test_flags.py::test_a_trace_of_a_run_that_raised_is_not_complete |
| `Diagnosis.accounted` | tests/test_flags.py::test_an_input_that_is_returned_as_it_is_is_not_accounted_for |
| `Resynchronised.accounted` | tests/locate/test_origins.py::test_an_input_that_is_returned_as_it_is_may_differ |
| `Anchor.agree`, `Anchor.equal` | tests/test_flags.py::test_outputs_that_agree_may_not_be_equal |
| `Inside.agree` | tests/judge/test_anchor.py::test_identical_exactly_when_every_output_is_bit_equal |
| `Outcome.equal` | tests/test_flags.py::test_an_experiment_that_changes_nothing_is_not_equal |
| `Experiments.supports`, `replays` | tests/test_flags.py::test_what_nobody_knows_how_to_change_is_not_supported |
| `Run.supports` | tests/test_flags.py::test_what_nobody_knows_how_to_change_is_not_supported |
| `Adapter.owns` | tests/test_flags.py::test_an_adapter_does_not_own_the_others_programs |
| `Adapter.changes_calls` | tests/test_flags.py::test_an_adapter_that_changes_no_calls_says_so |
| `Executor.faithful` | tests/test_flags.py::test_a_replay_that_gives_other_bits_is_not_faithful |
| `Executor.same` | tests/test_flags.py::test_one_bit_is_not_the_same |
| `Executor.overwrite` | tests/test_flags.py::test_the_users_own_tensor_is_not_overwritten |
| `Executor.testifies` | tests/test_flags.py::test_a_value_that_was_put_there_does_not_testify |
| `Look.agrees` | tests/pair/test_lockstep.py::test_the_candidate_goes_on_with_what_it_was_given |
| `Mixing.close` | tests/locate/test_mixing.py::test_an_order_of_all_rows_is_no_origin |
| `Cause.inert` (false where it acts) | tests/judge/test_verify.py::test_a_decoy_beside_a_cause_is_inert |
| `Way.tried`, `whole`, `works` | tests/judge/test_proof.py::test_what_was_only_taken_away_is_located |
| `Replay.exact` | tests/explain/reduction/test_prove.py::test_an_op_that_rounds_its_inputs_is_not_reproduced |
| `Proof.proved` | tests/explain/reduction/test_prove.py::test_equal_outputs_prove_nothing |
| `Proof.revealed`, `Proof.reproduced` | tests/test_flags.py::test_an_order_out_of_range_is_not_revealed |
| `RecordedSum.takes_factors` | tests/test_flags.py::test_overlapping_factors_cannot_be_chosen |
| `RecordedSum.products` | tests/test_flags.py::test_overlapping_factors_cannot_be_chosen |
| `float64_throughout` | tests/explain/test_scaling.py::test_float64_throughout_is_of_both |
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.store import open_trace, save
from whydiff.explain.case import Case
from whydiff.explain.reduction import prove
from whydiff.judge.outputs import anchor
from whydiff.locate.localize import localize
from whydiff.pair.align import align
from whydiff.pipeline import compare
from whydiff.records import Fingerprint, Intervention, Verdict

ROOT = Path(__file__).parents[1]
TORCH = for_framework("torch")
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def trace_of(function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    return TORCH.run(function, inputs or (X,), {}).capture()


def test_the_table_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (`.+) \| (\S+)::(\w+) \|$", __doc__ or "", re.MULTILINE)
    assert len(rows) >= 25
    for _, file, name in rows:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_a_run_that_differs_from_itself_is_not_deterministic() -> None:
    counter = itertools.count()  # nothing can set it back
    diagnosis = compare(lambda x: x + next(counter), lambda x: x + 1, X)
    assert [side.observer.deterministic for side in diagnosis.sides] == [False, True]
    assert diagnosis.verdict is Verdict.NONDETERMINISTIC


def test_a_run_that_notices_the_recorder_is_not_unchanged() -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    def shy(x: torch.Tensor) -> torch.Tensor:
        return x * (2.0 if _get_current_dispatch_mode_stack() else 3.0)

    diagnosis = compare(shy, lambda x: x * 3.0, X)
    assert [side.observer.unchanged for side in diagnosis.sides] == [False, True]
    assert diagnosis.verdict is Verdict.IDENTICAL  # as the outputs really were


def test_a_trace_of_a_run_that_raised_is_not_complete(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 4)
    for name, size in (("whole", 4), ("cut", 5)):
        try:
            with whydiff.capture(tmp_path / name):
                model(X)
                model(torch.ones(1, size))
        except RuntimeError:
            assert name == "cut"
    assert open_trace(tmp_path / "whole").complete and not open_trace(tmp_path / "cut").complete
    sides = compare(tmp_path / "whole", tmp_path / "cut").sides
    assert [side.complete for side in sides] == [True, False]


def test_an_input_that_is_returned_as_it_is_is_not_accounted_for(tmp_path: Path) -> None:
    for name, y in (("one", X), ("two", X + 1)):
        save(trace_of(lambda x, y: (x.exp(), y), X, y), tmp_path / name, payloads="all")
    diagnosis = compare(tmp_path / "one", tmp_path / "two")
    assert diagnosis.accounted is False
    assert [origin.kind for origin in diagnosis.origins] == ["input"]


def test_outputs_that_agree_may_not_be_equal() -> None:
    def judged(reference: Any, candidate: Any) -> tuple[bool, bool]:
        traces = trace_of(reference), trace_of(candidate)
        found = anchor(*traces, align(*traces))
        return found.agree, found.equal

    assert judged(lambda x: x + 1, lambda x: x + 1) == (True, True)
    assert judged(lambda x: (x + 1, x), lambda x: (x + 1,)) == (True, False)
    assert judged(lambda x: x + 1, lambda x: x + 2) == (False, False)


def test_an_experiment_that_changes_nothing_is_not_equal() -> None:
    case = case_of(lambda x: x * 2, lambda x: x * 3)
    assert case.experiments.try_out(()).equal is False


def case_of(reference: Callable[..., Any], candidate: Callable[..., Any]) -> Case:
    traces = trace_of(reference), trace_of(candidate)
    alignment = align(*traces)
    return Case(*traces, alignment, localize(*traces, alignment, None)[0], (None, None))


def test_what_nobody_knows_how_to_change_is_not_supported() -> None:
    unknown = Intervention("turn-off-the-light", "kitchen")
    case = case_of(lambda x: x * 2, lambda x: x * 3)
    assert not case.experiments.supports((unknown,)) and not case.experiments.replays((unknown,))
    assert not TORCH.run(lambda x: x, (X,), {}).supports(unknown)


def test_an_adapter_does_not_own_the_others_programs() -> None:
    jax = pytest.importorskip("jax")
    assert for_framework("jax").owns(jax.jit(lambda x: x), (jax.numpy.ones(4),))
    assert not for_framework("jax").owns(torch.nn.Linear(4, 4), (X,))
    assert not for_framework("jax").owns(lambda x: x, (X,))


def test_an_adapter_that_changes_no_calls_says_so() -> None:
    assert (for_framework("torch").changes_calls, for_framework("onnx").changes_calls) == (True, False)


def test_a_replay_that_gives_other_bits_is_not_faithful() -> None:
    trace = trace_of(lambda x: x.exp())
    (call,) = (call for call in trace.calls if call.kind == "compute")
    executor = TORCH.executor(trace)
    with executor.running():
        executor.execute(call)
        assert executor.faithful(call) is True
        (event,) = call.writes
        other = replace(call, writes=(replace(event, fingerprint=Fingerprint((1, 2), event.spec.numel * 4)),))
        assert executor.faithful(other) is False
        assert executor.faithful(replace(call, writes=(replace(event, fingerprint=None),))) is None


def test_one_bit_is_not_the_same() -> None:
    executor = TORCH.executor(trace_of(lambda x: x.exp()))
    assert executor.same(X, X.clone()) and executor.same(X, X.double())
    assert not executor.same(X, torch.nextafter(X, X + 1)) and not executor.same(X, X[:2])
    assert not executor.same(torch.zeros(1), -torch.zeros(1))


def test_the_users_own_tensor_is_not_overwritten() -> None:
    trace = trace_of(lambda x: x.exp().sin())
    executor = TORCH.executor(trace)
    first, second = (call for call in trace.calls if call.kind == "compute")
    with executor.running():
        executor.execute(first)
        executor.execute(second)
        assert executor.overwrite(second.writes[0], X)
        assert not executor.overwrite(first.reads[0], X)
        assert not executor.overwrite(second.writes[0], X[:1])


def test_a_value_that_was_put_there_does_not_testify() -> None:
    jax = pytest.importorskip("jax")
    adapter = for_framework("jax")
    trace = adapter.run(lambda x: jax.numpy.sin(jax.numpy.exp(x)), (jax.numpy.ones(4),), {}).capture()
    executor = adapter.executor(trace)
    first, second = (call for call in trace.calls if call.kind == "compute")
    with executor.running():
        executor.execute(first, recorded=True)
        assert executor.testifies(first)
        assert executor.overwrite(first.writes[0], jax.numpy.zeros(4))
        executor.execute(second)
        assert not executor.testifies(second)


def recorded(function: Callable[[], Any]) -> tuple[Any, Any, list[Any]]:
    """(executor, call, reads) of the only op."""
    trace = TORCH.run(function, (), {}).capture()
    executor = TORCH.executor(trace)
    (call,) = (call for call in trace.calls if call.kind == "compute")
    with executor.running():
        return executor, call, [executor.read(event) for event in call.reads]


def test_overlapping_factors_cannot_be_chosen() -> None:
    image, kernel = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    turned = X.T.contiguous()
    found = {}
    for name, function in (
        ("product", lambda: X @ turned),
        ("convolution", lambda: torch.nn.functional.conv2d(image, kernel)),
        ("sum", lambda: X.sum(-1)),
    ):
        total = TORCH.recorded_sum(*recorded(function))
        assert total is not None
        found[name] = total.products, total.takes_factors
    assert found == {"product": (True, True), "convolution": (True, False), "sum": (False, False)}


def test_an_order_out_of_range_is_not_revealed() -> None:
    half = X.half()
    proof = prove(*recorded(lambda: half.mean(-1)), *recorded(lambda: half.mean(-1)))
    assert proof is not None and "float16" in proof.reason
    assert (proof.proved, proof.revealed, proof.reproduced) == (False, False, False)

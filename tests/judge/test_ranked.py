"""Two ranks against one process, end to end: gloo, small processes, tiny models."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rank_programs import PARALLEL, clipped, gpt, piped, recorded_once, replicas

from whydiff.errors import UsageError
from whydiff.explain.causes._rank_runs import averaged, doubled, kept
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Verdict
from whydiff.report.answer import answer

torch = pytest.importorskip("torch")


def trusting(reference: str, candidate: str) -> Diagnosis:
    """Compared in this process, which has imported PyTorch already."""
    return compare(reference, candidate, options=Options(trust=True))


def proven(found: Diagnosis) -> dict[str, str]:
    return {cause.code: cause.status for cause in found.causes}


@pytest.mark.parametrize(("way", "dtype"), PARALLEL)
def test_parallel_training_of_a_small_gpt_is_rounding_at_the_reductions(way: str, dtype: str) -> None:
    found = trusting(recorded_once(gpt("none", dtype)), recorded_once(gpt(way, dtype), 2))
    assert (found.verdict, proven(found)) == (Verdict.ROUNDING, {"DS001": "confirmed"}), found.reason
    assert {experiment.left for cause in found.causes for experiment in cause.experiments} == {"nothing"}
    assert not [count for count in found.not_compared if "calls" in count.what], found.not_compared
    assert all(origin.verdict is Verdict.ROUNDING for origin in found.origins)
    assert any(origin.kind == "region" for origin in found.origins)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_stages_of_a_pipeline_are_identical_to_one_process_that_takes_the_same_micro_batches(dtype: str) -> None:
    found = trusting(recorded_once(piped(dtype)), recorded_once(piped(dtype), 2))
    assert (found.verdict, found.causes) == (Verdict.IDENTICAL, ()), found.reason
    assert [comparison.status for _, comparison in found.outputs] == ["agrees"] * 4
    missing = [example for count in found.not_compared for example in count.examples]
    assert missing and not [site for site in missing if not site.startswith(":")]  # every module has a counterpart


def test_a_stage_that_computes_something_else_is_found_where_it_begins() -> None:
    found = trusting(recorded_once(piped("float32")), recorded_once(piped("float32", wrong=True), 2))
    assert found.verdict is Verdict.SEMANTIC
    assert (found.origins[0].site.scope, found.origins[0].candidate_site.op) == ("blocks.0", "recv_")


def test_stages_that_take_other_passes_than_the_reference_are_not_judged() -> None:
    found = trusting(recorded_once(piped("float32")), recorded_once(piped("float32", told=False), 2))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "takes 4 forward passes, rank 0 5, rank 1 5" in found.reason
    assert "same micro-batches" in dict(answer(found).lines())["fix"]


def test_a_norm_of_all_gradients_is_benign_and_one_of_a_share_is_not() -> None:
    one = recorded_once(clipped(local=False))
    assert trusting(one, recorded_once(clipped(local=False), 2)).verdict is Verdict.ROUNDING
    found = trusting(one, recorded_once(clipped(local=True), 2))
    assert (found.verdict, proven(found)["DS002"]) == (Verdict.SEMANTIC, "located"), found.causes


def test_a_replica_that_differs_by_one_unit_in_the_last_place_is_named_with_its_step() -> None:
    found = trusting(recorded_once(replicas(0.0)), recorded_once(replicas(2.0**-23), 2))
    assert (found.verdict, proven(found)) == (Verdict.SEMANTIC, {"DS003": "located"}), found.causes
    assert "@step 3 @rank 1" in found.causes[0].site


def test_an_average_that_is_taken_twice_is_named() -> None:
    found = trusting(recorded_once(averaged), recorded_once(doubled, 2))
    assert (found.verdict, proven(found)) == (Verdict.SEMANTIC, {"DS005": "confirmed"}), found.causes
    assert "twice" in found.causes[0].says


def test_gradients_that_are_not_exchanged_are_named() -> None:
    found = trusting(recorded_once(averaged), recorded_once(kept, 2))
    assert (found.verdict, proven(found)) == (Verdict.SEMANTIC, {"DS005": "located"}), found.causes


def test_ranks_that_do_the_same_as_one_process_are_identical_to_it() -> None:
    found = compare(recorded_once(replicas(0.0)), recorded_once(replicas(0.0), 2))  # in a process of its own
    assert (found.verdict, found.causes) == (Verdict.IDENTICAL, ())


def test_sides_that_cannot_be_compared_are_refused() -> None:
    several: Any = recorded_once(replicas(0.0), 2)
    with pytest.raises(UsageError, match="with one process"):
        trusting(several, recorded_once(replicas(0.0)))
    with pytest.raises(UsageError, match="with one process"):
        trusting(several, several)

"""What a difference means in the output's own terms, against the formulas written out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from whydiff.judge.impact import Scores, by_position, choices, log_softmax, main_floor, position_errors, scores_of
from whydiff.judge.noise_floor import Floor, NoiseFloor
from whydiff.judge.outputs import Anchor, Compared
from whydiff.numbers.tolerance import Tolerance
from whydiff.pipeline import compare
from whydiff.records import Comparison, Measurement, Payload, Slot

SLOT = Slot(0, "output")
OURS = np.array(
    [
        [5.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 3.0, 2.5, 0.0, 0.0, 0.0],
        [0.0, 0.0, 4.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 2.0, 1.0, 0.0],
    ]
)


def scores(theirs: np.ndarray[Any, Any], tokens: tuple[int, ...] | None = (0, 1, 2, 3), length: int = 2) -> Scores:
    return Scores(SLOT, OURS, theirs, length if tokens else 1, None if tokens is None else np.array(tokens))


def named(found: list[Measurement]) -> dict[str, float]:
    return {m.metric: m.value for m in found}


def swapped(*rows: int) -> np.ndarray[Any, Any]:
    """The candidate: in these rows the first two alternatives of the reference change places."""
    theirs = OURS.copy()
    for row in rows:
        first, second = np.argsort(-OURS[row])[:2]
        theirs[row, [first, second]] = theirs[row, [second, first]]
    return theirs


def test_nothing_flips_where_nothing_differs() -> None:
    found = named(choices(scores(OURS)))
    assert (found["top1_flips"], found["first_flip"], found["next_token_flips"]) == (0, -1, 0)
    assert (found["kl_mean"], found["kl_max"], found["perplexity_change"]) == (0, 0, 0)
    assert "top1_margin_flipped" not in found
    assert found["top1_margin_smallest"] == 0.5


def test_a_flip_is_counted_and_its_lead_is_the_largest_that_was_lost() -> None:
    found = named(choices(scores(swapped(1, 2))))
    assert found["top1_flips"] == 0.5
    assert found["top1_margin_flipped"] == 3.0
    assert found["top1_margin_smallest"] == 0.5
    assert found["first_flip"] == 0  # position 0 of the second sequence
    assert found["next_token_flips"] == 0.5


def test_the_first_flip_is_a_position_in_its_sequence() -> None:
    assert named(choices(scores(swapped(3))))["first_flip"] == 1
    assert named(choices(scores(swapped(3))))["next_token_flips"] == 0.5
    assert named(choices(scores(swapped(2))))["next_token_flips"] == 0


def test_the_divergence_is_from_the_reference_to_the_candidate() -> None:
    theirs = swapped(1, 2)
    theirs[0] *= 2
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (OURS, theirs))
    each = (p * np.log(p / q)).sum(1)
    found = named(choices(scores(theirs)))
    assert found["kl_mean"] == pytest.approx(each.mean())
    assert found["kl_max"] == pytest.approx(each.max())
    assert (q * np.log(q / p)).sum(1).mean() != pytest.approx(each.mean(), rel=0.01)


def test_perplexity_is_of_the_token_that_follows_within_its_sequence() -> None:
    theirs = swapped(0, 2)
    losses = [-(log_softmax(x)[0, 1] + log_softmax(x)[2, 3]) / 2 for x in (OURS, theirs)]
    found = named(choices(scores(theirs)))
    assert found["perplexity_reference"] == pytest.approx(np.exp(losses[0]))
    assert found["perplexity_change"] == pytest.approx(np.exp(losses[1]) / np.exp(losses[0]) - 1)


def test_a_row_without_a_finite_number_flips_nothing() -> None:
    theirs = swapped(1)
    theirs[2] = np.nan
    found = named(choices(scores(theirs)))
    assert found["top1_flips"] == 0.25
    assert "kl_mean" not in found


def test_classes_are_rows_and_have_no_position() -> None:
    found = choices(scores(swapped(1), tokens=None))
    assert {m.per for m in found if m.metric == "top1_flips"} == {"rows"}
    assert not {"first_flip", "next_token_flips", "perplexity_reference"} & set(named(found))


def test_five_first_choices_are_a_set() -> None:
    ours = np.array([[6.0, 5, 4, 3, 2, 1]])
    same, other = np.array([[2.0, 5, 4, 3, 6, 1]]), np.array([[6.0, 5, 4, 3, 1, 2]])
    for theirs, changed in ((same, 0), (other, 1)):
        assert named(choices(Scores(SLOT, ours, theirs)))["top5_changes"] == changed


def test_errors_by_position_are_means_over_sequences_and_alternatives() -> None:
    theirs = OURS.copy()
    theirs[1] += 6
    theirs[3, 0] = np.inf
    assert position_errors(scores(theirs)).tolist() == [0, 3]


def test_growth_with_the_position_is_a_rank_correlation_and_quarters() -> None:
    found = named(by_position(np.array([1.0, 2, 3, 4, 5, 6, 7, 100]), SLOT))
    assert found == {
        "mean_abs_first_positions": 1.5,
        "mean_abs_last_positions": 53.5,
        "position_correlation": pytest.approx(1),
    }
    assert named(by_position(np.array([3.0, 2, 1]), SLOT))["position_correlation"] == pytest.approx(-1)
    assert "position_correlation" not in named(by_position(np.ones(8), SLOT))
    assert by_position(np.ones(1), SLOT) == []


def test_the_floor_is_that_of_the_scores() -> None:
    one = Floor(Slot(0, "other"), 1.0, Tolerance(0.1, 0.1, "test"), 1.0, 8)
    two = replace(one, slot=SLOT)
    assert main_floor(NoiseFloor((one, two)), scores(OURS)) is two
    assert main_floor(NoiseFloor((one, two)), None) is one
    assert main_floor(None, scores(OURS)) is None


def impact_of(reference: Any, candidate: Any, *inputs: torch.Tensor) -> dict[str, float]:
    return named(list(compare(reference, candidate, *inputs).impact))


def test_logits_are_told_by_the_integers_that_were_read() -> None:
    torch.manual_seed(0)
    table, head = nn.Embedding(11, 8), nn.Linear(8, 11)
    other = nn.Linear(8, 11)
    other.load_state_dict(head.state_dict())
    with torch.no_grad():
        other.bias[3] += 9
    ids = torch.randint(0, 11, (2, 5))
    found = impact_of(lambda ids: head(table(ids)), lambda ids: other(table(ids)), ids)
    assert found["top1_flips"] > 0.5 and found["first_flip"] >= 0 and "perplexity_change" in found


def test_integers_above_the_alternatives_are_no_tokens_of_them() -> None:
    table, head = nn.Embedding(50, 8), nn.Linear(8, 11)
    other = nn.Linear(8, 11)
    found = impact_of(lambda ids: head(table(ids)), lambda ids: other(table(ids)), torch.tensor([[1, 40, 2]]))
    assert "max_abs" in found and "top1_flips" not in found


def test_one_matrix_of_a_run_without_integers_holds_scores_of_classes() -> None:
    head, other = nn.Linear(8, 7), nn.Linear(8, 7)
    found = impact_of(head, other, torch.randn(4, 8))
    assert "top1_flips" in found and "first_flip" not in found
    assert "top1_flips" not in impact_of(lambda x: (head(x), x), lambda x: (other(x), x), torch.randn(4, 8))


def test_the_worst_output_is_named_and_the_smallest_cosine() -> None:
    diagnosis = compare(lambda x: (x, x + 1.0), lambda x: (x * 2, x - 1.0), torch.arange(1.0, 5.0))
    found = {m.metric: (m.value, m.per) for m in diagnosis.impact}
    outputs = dict(diagnosis.outputs)
    worst = max(outputs, key=lambda name: outputs[name].value("max_abs") or 0.0)
    assert found["max_abs"] == (4.0, worst)
    assert found["cosine"][0] == min(outputs[name].value("cosine") for name in outputs)


def test_the_generated_token_is_told_where_the_output_begins_with_ids_that_were_read() -> None:
    prompt, table = torch.tensor([[3, 1, 2]]), torch.eye(8).roll(1, 1)
    other = table.clone()
    other[4] = table[0]

    def generate(scores: torch.Tensor, whole: bool) -> torch.Tensor:
        ids = prompt
        for _ in range(4):
            ids = torch.cat([ids, scores[ids[:, -1:]].argmax(-1)], 1)
        return ids if whole else ids[:, 3:]

    def told(whole: bool) -> tuple[dict[str, float], Any]:
        found = compare(lambda: generate(table, whole), lambda: generate(other, whole))
        return {m.metric: m.value for m in found.impact}, found

    whole, found = told(True)
    assert (whole["parts_at"], whole["parts_at_generated"]) == (5, 3)
    undone = next(e for cause in found.causes for e in cause.experiments if e.before)
    assert undone.choices and undone.before == 2 / 7, "the share that differs, and no distance of ids"
    assert "parts_at_generated" not in told(False)[0], "no prompt stands before what was generated"


def test_scores_are_looked_at_where_they_are_and_read_by_their_dtype() -> None:
    bits = (np.ascontiguousarray(OURS, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    halves = Scores(SLOT, bits, bits, 2, np.array((0, 1, 2, 3)), ("bfloat16", "bfloat16"))
    assert named(choices(halves)) == named(choices(scores(OURS)))
    payloads = Payload(bits, "bfloat16"), Payload(bits, "bfloat16")
    case: Any = SimpleNamespace(reference=SimpleNamespace(leaves=()))
    found = scores_of(case, Anchor((Compared(SLOT, "values", Comparison("differs"), numbers=payloads),)))
    assert found is not None and found.dtypes == halves.dtypes
    assert np.shares_memory(found.reference, bits) and np.shares_memory(found.candidate, bits)

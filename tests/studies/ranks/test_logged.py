"""Logs of steps of several ranks: a replica that drifts is named; what a log does not tell is not said to agree."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.rank_programs import gpt, replicas

import whydiff
from whydiff.errors import TraceFormatError, UsageError
from whydiff.explain.causes._rank_runs import recorded
from whydiff.records import Verdict

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def logs() -> str:
    return recorded(replicas(2.0**-23), 2, level="step")


@pytest.fixture
def copied(logs: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(logs, tmp_path / "run.trace"))


def lines(path: Path, rank: int) -> list[str]:
    return (path / f"rank-0000{rank}" / "steps.jsonl").read_text().splitlines()


def write(path: Path, rank: int, kept: list[str]) -> None:
    (path / f"rank-0000{rank}" / "steps.jsonl").write_text("\n".join(kept) + "\n")


def test_a_weight_that_differs_by_one_unit_in_the_last_place_is_named_with_its_step(logs: str) -> None:
    found = whydiff.check_ranks(logs)
    (one,) = found.replicas.drifts
    assert (found.verdict, one.name, one.step, one.since, one.ranks) == (Verdict.SEMANTIC, "weight", 3, 2, (1,))
    assert found.replicas.equal == ("bias",)
    said = dict(found.answer())
    assert "weight holds other bits on rank 1 from step 3 on" in said[""]
    assert said["where"].startswith("before the update of step 3; equal on all ranks up to step 2")


@pytest.mark.parametrize(
    ("way", "verdict", "replicas", "shards"),
    [("ddp", "identical", 36, 0), ("fsdp", "inconclusive", 0, 36), ("tensor", "identical", 16, 20)],
)
def test_replicas_that_stay_equal_are_identical_and_shards_are_no_drift(
    way: str, verdict: str, replicas: int, shards: int
) -> None:
    found = whydiff.check_ranks(recorded(gpt(way, "float32", 3), 2, level="step"))
    assert (found.verdict, found.replicas.drifts) == (Verdict(verdict), ())
    assert (len(found.replicas.equal), len(found.replicas.never + found.replicas.parted)) == (replicas, shards)
    said = dict(found.answer())[""]
    assert "collective" not in said
    assert (f"{replicas} replicas equal in 4 steps" if replicas else "no replica was compared") in said
    assert ("the same on no two ranks" in said) == bool(found.replicas.never)


def test_the_same_rows_everywhere_are_told(logs: str) -> None:
    found = whydiff.check_ranks(recorded(replicas(0.0), 2, level="step"))
    assert found.verdict is Verdict.IDENTICAL
    assert [note for note in found.notes if "the same batch in every step" in note]
    assert not whydiff.check_ranks(recorded(gpt("ddp", "float32", 2), 2, level="step")).notes


def test_random_numbers_that_part_are_told(copied: Path) -> None:
    kept = lines(copied, 1)
    for at in range(4, len(kept) - 1):
        kept[at] = json.dumps(json.loads(kept[at]) | {"random": {"torch": "0" * 16}})
    write(copied, 1, kept)
    assert [
        note for note in whydiff.check_ranks(copied).notes if "random numbers of torch" in note and "step 3" in note
    ]


def test_a_rank_that_was_killed_is_read_up_to_its_last_step_and_nothing_is_said_to_agree(copied: Path) -> None:
    write(copied, 1, lines(copied, 1)[:3])  # two steps, before it drifts
    found = whydiff.check_ranks(copied)
    assert (found.verdict, found.ends, found.replicas.steps) == (Verdict.INCONCLUSIVE, ((1, "not complete"),), 2)
    shutil.rmtree(copied / "rank-00001")
    assert whydiff.check_ranks(copied).ends == ((1, "it left nothing"),)


def test_a_damaged_log_is_told_and_the_others_are_read(copied: Path) -> None:
    (copied / "rank-00001" / "steps.jsonl").write_text("no log")
    found = whydiff.check_ranks(copied)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "no log of steps" in dict(found.ends)[1]


def test_what_a_log_says_of_its_tensors_must_fit(copied: Path) -> None:
    kept = lines(copied, 1)
    kept[1] = json.dumps(json.loads(kept[1]) | {"forms": ["float32[4, 8]"]})
    write(copied, 1, kept)
    assert "1 forms of 2 names" in dict(whydiff.check_ranks(copied).ends)[1]
    with pytest.raises(TraceFormatError, match="1 forms of 2 names"):
        whydiff.compare_training(copied / "rank-00001", copied / "rank-00000")


@pytest.mark.parametrize(
    "fields",
    [
        {"number": "two"},
        {"number": -1},
        {"number": 0},
        {"number": True},
        {"number": None},
        {"names": [1, 2]},
        {"names": [["weight"], ["bias"]]},
        {"names": "wb"},
        {"names": ["weight"]},
        {"forms": [1, 2]},
        {"weights": [1, 2]},
        {"weights": [{}, {}]},
        {"weights": ["a"]},
        {"trained": [1, 0]},
        {"batch": ["a"]},
        {"random": ["a"]},
        {"random": {"torch": ["a"]}},
        {"state": []},
        {"losses": ["a"]},
        {"share": None},
    ],
    ids=str,
)
def test_a_line_of_other_types_is_told_and_not_read(copied: Path, fields: dict[str, Any]) -> None:
    kept = lines(copied, 1)
    kept[2] = json.dumps(json.loads(kept[2]) | fields)
    write(copied, 1, kept)
    found = whydiff.check_ranks(copied)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "not as whydiff writes it" in dict(found.ends)[1]


@pytest.mark.parametrize(
    "form",
    [
        "object[16777216]",
        "float32[99999999999]",
        f"float32[{'9' * 5000}]",
        "float32[1 2]",
        "float32[-1]",
        "tf32[8]",
        "?",
    ],
    ids=lambda form: str(form)[:30],
)
def test_what_a_log_says_of_sizes_is_not_believed(copied: Path, form: str) -> None:
    for rank in range(2):
        kept = lines(copied, rank)
        kept[1] = json.dumps(json.loads(kept[1]) | {"forms": [form, "float32[4]"]})
        write(copied, rank, kept)
    assert whydiff.check_ranks(copied).replicas.drifts[0].name == "weight"


def test_any_number_of_ranks_is_told_in_one_line_and_none_is_believed(copied: Path) -> None:
    for size, said in ((5, "ranks 2, 3, 4: it left nothing"), (10**9, "")):
        for rank in range(2):
            kept = lines(copied, rank)[:3]
            write(copied, rank, [json.dumps({"kind": "whydiff steps", "schema": 1, "ranks": size}), *kept[1:]])
        found = whydiff.check_ranks(copied)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert len(found.ends) == (5 if said else 2)
        assert said in dict(found.answer())["where"]


def test_a_header_that_is_nested_without_end_is_told(copied: Path) -> None:
    write(copied, 1, ["[" * 200_000])
    assert "no log of steps" in dict(whydiff.check_ranks(copied).ends)[1]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_replica_that_one_rank_does_not_update_at_last_is_a_drift(steps: int) -> None:
    found = whydiff.check_ranks(recorded(partial(left_out_at_last, steps), 2, level="step"))
    (one,) = found.replicas.drifts
    assert (found.verdict, one.name, one.step, one.ranks) == (Verdict.SEMANTIC, "weight", steps, (1,))


def left_out_at_last(steps: int, rank: int, ranks: int) -> None:
    """The weight is not updated on the second rank in the last step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).sum().backward()
        if rank and step == steps - 1:
            model.weight.grad = None
        optimizer.step()


def test_names_of_a_log_are_harmless(copied: Path) -> None:
    for rank in range(2):
        kept = lines(copied, rank)
        kept[1] = json.dumps(json.loads(kept[1]) | {"names": ["\x1b[2Jweight", "bias"]})
        write(copied, rank, kept)
    assert whydiff.check_ranks(copied).replicas.drifts[0].name == "\\x1b[2Jweight"


def test_zeros_that_every_rank_begins_with_are_no_replica(copied: Path) -> None:
    zeros = whydiff.check_ranks(recorded(begun_with_zeros, 2, level="step"))
    assert zeros.replicas.drifts == ()
    assert zeros.replicas.parted == ("bias",) and zeros.verdict is Verdict.INCONCLUSIVE


def begun_with_zeros(rank: int, ranks: int) -> None:
    """A bias that begins with zeros, and is trained on other rows everywhere; a weight that is not trained."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    torch.nn.init.zeros_(model.bias)
    model.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([model.bias], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.ones(2, 8)).sum() * (rank + 1)).backward()
        optimizer.step()


def test_one_log_is_not_several(logs: str) -> None:
    with pytest.raises(UsageError, match="the log of one process"):
        whydiff.check_ranks(Path(logs) / "rank-00000")
    with pytest.raises(UsageError, match="whydiff ranks"):
        whydiff.compare_training(logs, logs)

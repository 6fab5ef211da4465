"""Rows that hold what their column does not: a clear error, whatever it is and wherever it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whydiff
from whydiff.errors import WhydiffError

ROWS: list[dict[str, Any]] = [{"id": n, "logprobs": [-1.0, -2.0], "token_ids": [1, 2]} for n in range(5)]
FLAT: list[dict[str, Any]] = [{"id": n // 2, "logprob": -1.0, "position": n % 2, "token_id": 3} for n in range(10)]
VALUES: list[Any] = [
    *(None, True, "", "a", -5, 2**70, 10**400, 1e308, float("nan"), float("inf"), [], {}, [1], [[1], [2, 3]]),
    *([None, 1], ["a", 1], [2**70, 1], [10**400, 1.0], [1e300, 1], [{"logprob": 1, "token": 2}], {"a": {"b": 1}}),
]
NAMES = ["id", "logprobs", "token_ids", "loss_mask", "prompt_length", "length", "step", "worker", "entropy"]


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def said(reference: str, candidate: str) -> str:
    """What came of it; another error than a clear one comes through."""
    try:
        return str(whydiff.compare_logprobs(reference, candidate).to_dict())
    except WhydiffError as error:
        return str(error)


@pytest.mark.parametrize(("rows", "names"), [(ROWS, NAMES), (FLAT, ["id", "logprob", "position", "token_id"])])
@pytest.mark.parametrize("places", [(0,), (1,), range(10)])
def test_only_clear_errors_come_of_any_value(rows: list[Any], names: list[str], places: Any, tmp_path: Path) -> None:
    good = written(tmp_path / "good.jsonl", rows)
    for name in names:
        for value in VALUES:
            changed = [{**row, name: value} if n in places else row for n, row in enumerate(rows)]
            assert said(good, written(tmp_path / "bad.jsonl", changed)), (name, value)


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (2, 3, 4)])
def test_arrays_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    for side, form in (("a", (2, 2)), ("b", shape)):
        np.savez(tmp_path / f"{side}.npz", logprobs=-np.ones(form), token_ids=np.zeros((2, 2), np.int64))
    assert said(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"))


def test_a_row_that_says_two_things_says_nothing(tmp_path: Path) -> None:
    good = written(tmp_path / "good.jsonl", ROWS)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(Path(good).read_text().replace('"id": 3,', '"id": 3, "logprobs": [-9.0, -9.0],'))
    assert "an object has the key 'logprobs' twice" in said(good, str(bad))


def test_good_rows_are_read() -> None:
    rows = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    assert whydiff.compare_logprobs(rows, rows).to_dict()

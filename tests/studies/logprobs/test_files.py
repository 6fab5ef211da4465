"""The readers: which column is what, and files that are not what they should be."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import whydiff
from whydiff.cli import app
from whydiff.errors import TraceFormatError, UsageError
from whydiff.studies.logprobs import files
from whydiff.studies.logprobs.files import read


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_names_of_tools_are_guessed(tmp_path: Path) -> None:
    log = read(lines(tmp_path / "a.jsonl", {"rid": "x", "output_ids": [1, 2], "rollout_log_probs": [-1, -0.5]}))
    assert log.fields.found() == {"id": "rid", "tokens": "output_ids", "logprobs": "rollout_log_probs"}
    assert log.logprobs.tolist() == [-1.0, -0.5]


def test_sglang_and_openai_write_triples_and_records(tmp_path: Path) -> None:
    row = {"meta_info": {"id": "x", "output_token_logprobs": [[-0.5, 7, "a"], [-0.1, 8, None]]}}
    log = read(lines(tmp_path / "a.jsonl", row))
    assert log.tokens is not None
    assert (log.ids, log.tokens.tolist(), log.logprobs.tolist()) == (("x",), [7, 8], [-0.5, -0.1])
    log = read(lines(tmp_path / "b.jsonl", {"id": "x", "logprobs": [{"token": "a", "logprob": -0.5}]}))
    assert log.logprobs.tolist() == [-0.5]


def test_rows_of_one_token_are_gathered_by_id_and_position(tmp_path: Path) -> None:
    rows = [{"id": i, "position": p, "token": 10 * i + p, "logprob": -p - 1} for p in (1, 0, 2) for i in (0, 1)]
    log = read(lines(tmp_path / "a.jsonl", *rows))
    assert log.tokens is not None
    assert log.starts.tolist() == [0, 3, 6]
    assert log.tokens.tolist() == [0, 1, 2, 10, 11, 12]


def test_a_prompt_before_the_tokens_a_mask_and_a_length_are_left_out(tmp_path: Path) -> None:
    log = read({"token_ids": [[9, 9, 1, 2]], "logprobs": [[-1.0, -2.0]]})
    assert log.tokens is not None
    assert log.tokens.tolist() == [1, 2]
    log = read({"token_ids": [[9, 1, 5, 2, 0]], "logprobs": [[-1.0, -2, -3, -4, -5]], "mask": [[0, 1, 0, 1, 0]]})
    assert log.tokens is not None
    assert (log.tokens.tolist(), log.counts.tolist(), log.masked) == ([1, 5, 2], [True, False, True], 3)
    log = read({"logprobs": np.array([[-1.0, -2, 0]]), "length": [2]})
    assert log.logprobs.tolist() == [-1.0, -2.0]


def test_a_field_may_be_given_for_one_side(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", *({"n": n, "t": [n], "x": [-1.0 - n]} for n in range(3)))
    b = lines(tmp_path / "b.jsonl", *({"id": n, "token_ids": [n], "logprobs": [-1.0 - n]} for n in (2, 0, 1)))
    given = ["--field", "engine:id=n", "--field", "engine:tokens=t", "--field", "engine:logprobs=x"]
    done = CliRunner().invoke(app, ["logprobs", str(a), str(b), *given, "-v"])
    assert "IDENTICAL: no bit differs" in done.stdout
    assert "id = n, tokens = t, logprobs = x" in done.stdout
    assert done.exit_code == 0


@pytest.mark.parametrize(
    "option", [["--field", "tokens"], ["--field", "left:id=x"], ["--clip", "1"], ["--clip", "2,1"]]
)
def test_options_that_make_no_sense_are_refused(option: list[str], tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"logprobs": [-1.0]})
    assert CliRunner().invoke(app, ["logprobs", str(path), str(path), *option]).exit_code == 2


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match="no log-probabilities"):
        read(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="No column looks like"):
        read(lines(tmp_path / "a.jsonl", {"loss": 1}))
    with pytest.raises(UsageError, match="not there"):
        read(lines(tmp_path / "a.jsonl", {"logprobs": [-1]}), {"id": "name"})
    with pytest.raises(UsageError, match="more log-probabilities than tokens"):
        read({"tokens": [[1]], "logprobs": [[-1.0, -2.0]]})
    with pytest.raises(UsageError, match="mask does not fit"):
        read({"logprobs": [[-1.0, -2.0]], "mask": [[1]]})


@pytest.mark.parametrize(
    "text",
    ['{"logprobs": [', "[1, 2]", "3", '{"logprobs": [-1]}\n{"other": 1}', '{"logprobs": [-1]}\n{"logprobs": null}'],
)
def test_damaged_lines_are_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(TraceFormatError, match="damaged"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_damaged_binary_files_are_an_error(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"PK\x03\x04 no such thing")
    with pytest.raises(TraceFormatError, match="damaged"):
        read(tmp_path / f"a{suffix}")


def test_objects_in_an_npz_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", logprobs=np.array([object()], object))
    with pytest.raises((TraceFormatError, UsageError)):
        read(tmp_path / "a.npz")


def test_null_is_no_number_and_the_first_one_is_usual() -> None:
    side = {"token_ids": [[1, 2, 3]] * 20, "logprobs": [[None, -1.0, -2.0]] * 20}
    assert not whydiff.compare_logprobs(side, side).found
    other = {"token_ids": [[1, 2, 3]] * 20, "logprobs": [[None, -1.0, None]] * 20}
    found = whydiff.compare_logprobs(side, other)
    assert [one.test for one in found.found] == ["missing values"]
    assert found.verdict == "inconclusive"


def test_empty_lines_and_separators_within_a_text_end_no_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [json.dumps({"id": f"a\u2028{n}", "logprob": -1.0 - n}, ensure_ascii=False) for n in range(3)]
    path.write_text("\n \n".join(rows) + "\n\n", encoding="utf-8")
    log = read(path)
    assert log.ids == ("a\u20280", "a\u20281", "a\u20282")
    assert log.logprobs.tolist() == [-1.0, -2.0, -3.0]


def test_a_file_of_many_pieces_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": 2**70 if n == 6 else n, "logprob": -n if n % 3 else -n - 0.5, "token": 2**40 + n} for n in range(9)]
    whole = read(lines(tmp_path / "a.jsonl", *rows))
    monkeypatch.setattr(files, "CHARACTERS", 7)
    parts = read(tmp_path / "a.jsonl")
    assert whole.ids == parts.ids == (0, 1, 2, 3, 4, 5, 2**70, 7, 8)
    assert whole.logprobs.tolist() == parts.logprobs.tolist() == [-0.5, -1, -2, -3.5, -4, -5, -6.5, -7, -8]
    assert parts.tokens is not None
    assert parts.tokens.tolist() == [2**40 + n for n in range(9)]


@pytest.mark.parametrize("before", [True, False])
def test_reading_does_not_collect_and_leaves_the_collector_as_it_was(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    inner = files._objects
    monkeypatch.setattr(files, "_objects", lambda text: (seen.append(gc.isenabled()), inner(text))[1])
    good, bad = lines(tmp_path / "a.jsonl", {"logprob": -1.0}), tmp_path / "b.jsonl"
    bad.write_text("{")
    enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        read(good)
        assert gc.isenabled() is before
        with pytest.raises(TraceFormatError):
            read(bad)
        assert gc.isenabled() is before
    finally:
        (gc.enable if enabled else gc.disable)()
    assert seen == [False, False]

"""Dumps made to harm: no pipe is waited for, no name or nesting costs more than its length, every error is a clear one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.errors import TraceFormatError, UsageError
from whydiff.studies.dumps.readers import read_dump
from whydiff.studies.dumps.readers.files import natural

RECORD = {"dtype": "torch.float32", "shape": [2], "Max": 1.0}
SECONDS = 10.0


@pytest.fixture(autouse=True)
def at_once() -> Any:
    """Of the processor, for files of a few megabytes."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SECONDS


def msprobe(folder: Path, output: str, name: str = "Module.a.Linear.forward.0") -> Path:
    (folder / "dump.json").write_text(f'{{"data": {{"{name}": {{"output": {output}}}}}}}')
    return folder


def saved(path: Path, *names: str) -> None:
    arrays: dict[str, Any] = dict.fromkeys(names, np.ones(2))
    np.savez(path, **arrays)


PIPES = ["dump.json", "x_debug_tree_SUMMARY.json", "name=a___dump_index=0.pt", "a.npy"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_is_no_file_and_nobody_waits_for_it(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="No tool that is known"):
        read_dump(tmp_path)
    np.save(tmp_path / "b.npy", np.ones(2))
    assert [entry.scope for entry in read_dump(tmp_path).entries] == ["b"]


@pytest.mark.parametrize("depth", [250, 900, 100_000])
def test_nesting_beyond_all_tensors_is_refused(depth: int, tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="damaged"):
        read_dump(msprobe(tmp_path, "[" * depth + json.dumps(RECORD) + "]" * depth))


def test_nesting_of_a_program_is_none(tmp_path: Path) -> None:
    (entry,) = read_dump(msprobe(tmp_path, "[" * 50 + json.dumps(RECORD) + "]" * 50)).entries
    assert entry.part.count("0") == 50


def test_an_index_that_says_two_things_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="'shape' twice"):
        read_dump(msprobe(tmp_path, '[{"shape": [2], "shape": [3]}]'))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b.pt", "..", "/etc/passwd"])
def test_a_file_that_no_system_has_is_not_there(name: str, tmp_path: Path) -> None:
    found = read_dump(msprobe(tmp_path, json.dumps([{**RECORD, "data_name": name}])))
    assert found.skipped == {"the tensor's file is not there": (name,)} and found.entries[0].stored is None


@pytest.mark.parametrize("children", [5, {"a": 1}, "abc", [5], [[]]])
def test_children_that_are_no_modules(children: Any, tmp_path: Path) -> None:
    tree = {"module_path": "m", "children": children, "outputs": {"shape": [1], "value": "./" + "a" * 5000}}
    (tmp_path / "x_debug_tree_SUMMARY.json").write_text(json.dumps(tree))
    with pytest.raises(TraceFormatError, match="A tree of calls is damaged"):
        read_dump(tmp_path)


def test_digits_of_other_scripts_and_numbers_of_any_length_are_names(tmp_path: Path) -> None:
    saved(tmp_path / "²", "9" * 5000, "٣", "2")
    torch.save(torch.ones(2), tmp_path / "name=a___dump_index=².pt")
    found = read_dump(tmp_path)
    assert found.tool == "a folder of tensors" and len(found.entries) == 3
    assert found.skipped == {"its name is longer than 4096 characters": (f"².npz: {'9' * 4096}",)}


def test_names_are_in_the_order_of_people() -> None:
    names = ["a.2.b", "a.10.b", "a.009.b", "a.9.c", "a.b", f"a.{'9' * 5000}.b", "a.0.b", "a²"]
    ordered = ["a.0.b", "a.2.b", "a.009.b", "a.9.c", "a.10.b", f"a.{'9' * 5000}.b", "a.b", "a²"]
    assert sorted(names, key=natural) == ordered


LONG: dict[str, Callable[[], str]] = {
    "a log that begins again and again": lambda: "aten::t(t: f32[8, 4])" + "  # {" * 300_000,
    "signs": lambda: "aten::t(t: f32[8, 4])  # {'hash': " + "-" * 1_000_000 + "1}",
    "brackets": lambda: "aten::t(t: f32[8, 4])  # {'hash': " + "(" * 1_000_000 + "}",
    "a name": lambda: "a." * 1_000_000 + "(t: f32[8, 4])",
    "blanks": lambda: " " * 2_000_000 + "aten::t(t: f32[8, 4])",
}


@pytest.mark.parametrize("line", LONG)
def test_a_long_line_costs_its_length(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(f"[nn.Mod] A.0\n{LONG[line]()}\n")
    (entry,) = read_dump(tmp_path / "x.txt").entries
    assert entry.spec == "f32[8, 4]" and not entry.summary


def test_a_long_name_of_a_tensor_costs_its_length(tmp_path: Path) -> None:
    saved(tmp_path / "x.npz", "out" * 20_000 + "!", "out" * 1000 + "!")
    assert len(read_dump(tmp_path).entries) == 1

"""A trace from a stranger is data: what was once done with one is refused in clear words, and nothing else happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import process_state
from tests.scores import strangers
from tests.scores.strangers import call_instead, calls, computing, copied, executed, parts, spec, text
from tests.sealed import Rows, seal

import whydiff
from whydiff.capturing.apart import comparing
from whydiff.errors import WhydiffError
from whydiff.records import Diagnosis, Verdict

LONGEST = 10
"""Seconds of the processor that one comparison of these may take."""
MEMORY = 1 << 30
Change = Callable[[Rows], Any]


def model(bias: float = 0.5) -> torch.nn.Module:
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    with torch.no_grad():
        made[2].bias.fill_(bias)
    return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two honest traces whose last bias differs, so that everything is replayed."""
    root = tmp_path_factory.mktemp("honest")
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    for name, made in (("r", model()), ("c", model(0.75))):
        with torch.no_grad(), whydiff.capture(root / name):
            made(x)
    strangers.warm(root / "r", root / "c")
    return root / "r", root / "c"


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is counted, as for users."""
    monkeypatch.delenv("WHYDIFF_RAISE", raising=False)


@pytest.fixture
def compared(pair: tuple[Path, Path], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Compare the reference with a changed candidate, in a fork; everything that was said, in one text."""

    def compare(change: Change, manifest: Callable[[dict[str, Any]], None] | None = None) -> str:
        reference, candidate = copied(pair[0], tmp_path / "r"), copied(pair[1], tmp_path / "c")
        head, rows = parts(candidate)
        change(rows)
        if manifest is not None:
            manifest(head)
        seal(candidate, head, rows)
        before = {**process_state.of_python(), **process_state.of_torch()}
        begun = time.process_time()
        with strangers.forking() as forks:
            try:
                found: Diagnosis = whydiff.compare(str(reference), str(candidate))
                said = json.dumps(found.to_dict(), ensure_ascii=False)
            except WhydiffError as error:
                said = str(error)
        assert time.process_time() - begun < LONGEST
        assert sum(fork.seconds for fork in forks) < LONGEST
        assert {**process_state.of_python(), **process_state.of_torch()} == before
        assert forks
        return said

    yield compare


def test_an_honest_copy_is_judged_as_in_this_process(pair: tuple[Path, Path], tmp_path: Path) -> None:
    own = whydiff.compare(*map(str, pair))
    with strangers.forking() as forks:
        far = whydiff.compare(str(copied(pair[0], tmp_path / "r")), str(copied(pair[1], tmp_path / "c")))
    assert len(forks) == 1 and far.verdict is Verdict.SEMANTIC
    assert {k: v for k, v in far.to_dict().items() if k != "sides"} == {
        k: v for k, v in own.to_dict().items() if k != "sides"
    }


EFFECTS = {
    "aten.__setattr__.__call__": [["mul", 5], {}],
    "aten.__dict__.clear": [[], {}],
    "aten.__delattr__.__call__": [["mul"], {}],
    "aten.add.__setattr__": [["x", 5], {}],
    "aten._print.default": [["\x1b[2J"], {}],
    "aten.set_grad_enabled.default": [[False], {}],
    "aten.manual_seed.default": [[7], {}],
    "aten.from_file.default": [["/etc/passwd", False, 100], {}],
    "aten.save.default": [[{"$read": 0}, "/tmp/whydiff-was-here"], {}],
    "aten.rand.default": [[[3, 6]], {}],
    "builtins.eval.default": [["1"], {}],
    "torchvision.nms.default": [[], {}],
}


@pytest.mark.parametrize("target", EFFECTS)
def test_what_is_no_operator_without_effects_is_refused(target: str, compared: Callable[..., str]) -> None:
    said = compared(lambda rows: call_instead(rows, 1, target, EFFECTS[target]))
    words = ("is not registered", "not executed from a trace", "state was not recorded", "not name an operator")
    assert any(word in said for word in words), said[-3000:]
    assert not Path("/tmp/whydiff-was-here").exists()


def look(shape: list[int], strides: list[int], target: str, arguments: Any) -> Change:
    """The relu reads such a look at its memory, in another operator."""

    def change(rows: Rows) -> None:
        call = call_instead(rows, 1, target, arguments)
        call[5][0][1] = spec(rows, shape, strides)
        call[5][0][4] = None

    return change


FIRST = [[{"$read": 0}], {}]
LARGE: dict[str, Change] = {
    "a sum of one number 2^40 times": look([2**20, 2**20], [0, 0], "aten.sum.default", FIRST),
    "relu": look([2**20, 2**20], [0, 0], "aten.relu.default", FIRST),
    "repeat": look([1], [1], "aten.repeat.default", [[{"$read": 0}, [2**20, 2**20]], {}]),
    "ones": look([1], [1], "aten.ones.default", [[[2**20, 2**20]], {}]),
    "a span of 2^50": look([2], [2**50], "aten.relu.default", FIRST),
    "a product of 2^39 steps": look([2**13, 2**13], [0, 0], "aten.mm.default", [[{"$read": 0}, {"$read": 0}], {}]),
    "one number as a size": look([1], [1], "aten.arange.default", [[2**46], {}]),
    "zeros to the edge": look([1], [1], "aten.zeros.default", [[[2**26, 20]], {}]),
}


@pytest.mark.parametrize("name", LARGE)
def test_work_is_bounded_before_it_is_done(name: str, compared: Callable[..., str]) -> None:
    said = compared(LARGE[name])
    words = ("larger than a replay may", "ask for more elements", "more operations than", "memory", "recorded [")
    assert any(word in said for word in words), said[-3000:]


def test_a_returned_look_is_bounded_too(compared: Callable[..., str]) -> None:
    def change(rows: Rows) -> None:
        executed(rows)
        calls(rows)[-1][5][0][1] = spec(rows, [2**20, 2**20], [0, 0])

    assert "replay may look at" in compared(change)


WILD = np.frombuffer(bytes(range(7, 255)), np.int64)[:12]


def wild(target: str, arguments: Any, dtype: str = "int64") -> Change:
    """The relu reads memory of wild integers, in an operator whose kernel believes them."""

    def change(rows: Rows) -> None:
        call = call_instead(rows, 1, target, arguments)
        leaf = next(row for row in rows if row[0] == "leaf" and row[3] == "0.weight")
        call[5][0][1:3] = [spec(rows, [8], [1], dtype=dtype), leaf[1]]
        call[5][0][3:5] = [-1, None]
        call[5].append([text(rows, "read.1"), spec(rows, [24], [1]), leaf[1], -1, None, text(rows, ""), text(rows, "")])

    return change


CRASHING: dict[str, Change] = {
    "coo to csr": wild("aten._convert_indices_from_coo_to_csr.default", [[{"$read": 0}, 6], {}]),
    "csr to coo": wild("aten._convert_indices_from_csr_to_coo.default", [[{"$read": 0}, {"$read": 0}], {}]),
    "segment reduce": wild(
        "aten.segment_reduce.default", [[{"$read": 1}, "sum"], {"lengths": {"$read": 0}, "axis": 0, "unsafe": True}]
    ),
    "segment reduce backward": wild(
        "aten._segment_reduce_backward.default",
        [[{"$read": 1}, {"$read": 1}, {"$read": 1}, "sum"], {"offsets": {"$read": 0}, "axis": 0}],
    ),
    "ctc loss": wild("aten._ctc_loss.default", [[{"$read": 1}, {"$read": 0}, [2**40, 3], [2**40, 2], 0, False], {}]),
    "gather": wild("aten.gather.default", [[{"$read": 1}, 0, {"$read": 0}], {}]),
    "embedding": wild("aten.embedding.default", [[{"$read": 1}, {"$read": 0}], {}]),
    "embedding bag": wild("aten._embedding_bag_forward_only.default", [[{"$read": 1}, {"$read": 0}, {"$read": 0}], {}]),
    "as strided": wild("aten.as_strided.default", [[{"$read": 1}, [5], [2**40], 2**50], {}]),
    "rnn": wild(
        "aten.mkldnn_rnn_layer.default", [[{"$read": 1}] * 7 + [False, [2**40], 2, 4, 1, True, False, True, False], {}]
    ),
}


@pytest.mark.parametrize("name", CRASHING)
def test_bytes_that_kernels_believe_harm_nobody(name: str, compared: Callable[..., str]) -> None:
    said = compared(CRASHING[name])
    assert said  # an honest diagnosis or a clear refusal; that this line is reached is the point


@pytest.mark.parametrize("threads", [2**31 - 1, 0, -1, 2**40, "all", 1.5, False, None, [1]])
def test_a_switch_no_run_has(threads: Any, compared: Callable[..., str]) -> None:
    def change(rows: Rows) -> None:
        executed(rows)
        next(row for row in rows if row[0] == "context")[1]["threads"] = threads

    assert "A switch cannot be set so" in compared(change)


def test_texts_of_a_trace_reach_nobody_as_they_are(compared: Callable[..., str], capsys: Any) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egnp\ud800\x9b31m\r"

    def change(rows: Rows) -> None:
        executed(rows)
        for leaf in (row for row in rows if row[0] == "leaf"):
            leaf[3] = f"{leaf[3]}{evil}"
        for call in computing(rows):
            call[2][0] = text(rows, f"layer{evil}")
            call[2][1] = text(rows, f"op{evil}")
        computing(rows)[1][3] = text(rows, f"aten.{evil}.x")

    def manifest(head: dict[str, Any]) -> None:
        head["note"] = head["observer"]["note"] = evil
        head["environment"]["versions"]["torch"] = evil
        head["environment"]["hardware"][evil] = evil
        head["config"] = {evil: evil}

    said = compared(change, manifest)
    assert "owned" in said
    said.encode()
    assert said == whydiff.errors.harmless(said)


def test_a_process_that_dies_costs_one_call(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a kernel does: here one that ends its process, as a wild pointer would."""
    candidate = copied(pair[1], tmp_path / "c")
    head, rows = parts(candidate)
    call_instead(rows, 1, "aten.relu.default")
    seal(candidate, head, rows)
    kernel = torch.ops.aten.relu.default
    monkeypatch.setattr(type(kernel), "__call__", dying(type(kernel).__call__, kernel))
    with strangers.forking() as forks:
        found = whydiff.compare(str(copied(pair[0], tmp_path / "r")), str(candidate))
    denied = [count for count in found.not_compared if count.what == "calls that are not executed"]
    assert denied and "signal 11 (SIGSEGV)" in denied[0].reason and "relu" in denied[0].examples[0]
    assert len(forks) > 1 and forks[0].code == -11


def dying(call: Any, kernel: Any) -> Any:
    import os
    import signal

    def instead(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is kernel:
            os.kill(os.getpid(), signal.SIGSEGV)
        return call(self, *args, **kwargs)

    return instead


def test_a_stranger_beside_a_live_run_is_rehearsed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """What would end the process is not executed in the process of the live run."""
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    reference = copied(pair[0], tmp_path / "r")
    with strangers.forking() as forks, torch.no_grad():
        found = whydiff.compare(str(reference), model(0.75), x)
    assert len(forks) == 1
    with torch.no_grad():
        own = whydiff.compare(str(pair[0]), model(0.75), x)
    assert found.verdict is own.verdict and found.causes == own.causes and found.origins == own.origins


def test_live_programs_that_hold_nothing_are_not_taken_for_strangers() -> None:
    with strangers.forking() as forks:
        found = whydiff.compare(lambda: torch.ones(3) * 2, lambda: torch.ones(3) * 3)
    assert not forks and found.verdict is Verdict.SEMANTIC


def test_a_real_worker_gives_the_same_and_can_be_left_out(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Once without forks: a new interpreter, as users have it."""
    sides = [str(copied(path, tmp_path / path.name)) for path in pair]
    stages: list[str] = []
    far = whydiff.compare(*sides, options=whydiff.pipeline.Options(progress=lambda stage, *_: stages.append(stage)))
    near = whydiff.compare(*sides, options=whydiff.pipeline.Options(trust=True))
    assert stages and far == near
    assert comparing.strange(sides[0]) and not comparing.strange(str(pair[0]))

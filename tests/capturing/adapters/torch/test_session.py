"""Captures to disk: leaves and inputs over steps, bounded memory, failures."""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import whydiff
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.store import open_trace
from whydiff.errors import UsageError
from whydiff.records import Trace

Replay = Callable[[Trace], Any]


def train(model: nn.Module, steps: int, fail_at: int = -1) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    criterion = nn.MSELoss()
    for step in range(steps):
        if step == fail_at:
            model(torch.randn(2, 99))
        optimizer.zero_grad()
        criterion(model(torch.randn(2, 4)), torch.randn(2, 4)).backward()
        optimizer.step()


def test_a_training_loop(tmp_path: Path, replay: Replay) -> None:
    torch.manual_seed(0)
    with whydiff.capture(tmp_path / "t"):
        train(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.2)), steps=3)
    trace = open_trace(tmp_path / "t")
    assert trace.complete
    names = [leaf.name for leaf in trace.leaves]
    assert len(set(names)) == len(names)
    assert {call.site.step for call in trace.calls} == {0, 1, 2}
    assert {call.site.phase for call in trace.calls} == {"forward", "backward", "update"}
    assert {"MSELoss", "0", "1", "2", "AdamW"} <= {call.site.scope for call in trace.calls}
    found = replay(trace)
    assert found.faithful, (found.failed, found.unfaithful)


def test_inputs_of_later_steps_and_roots_have_their_own_names(tmp_path: Path, replay: Replay) -> None:
    encoder, decoder = nn.Linear(4, 4), nn.Tanh()
    batches = [torch.randn(2, 4) for _ in range(2)]
    hidden = torch.ones(2, 4)
    with whydiff.capture(tmp_path / "t"):
        for batch in batches:
            encoder(batch)
            decoder(hidden)
    trace = open_trace(tmp_path / "t")
    assert [leaf.name for leaf in trace.leaves if leaf.role == "input"] == ["input", "Tanh.input", "input @step 1"]
    assert replay(trace).faithful


def test_batches_are_let_go(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    alive = []
    with whydiff.capture(tmp_path / "t") as session:
        for _ in range(20):
            batch = torch.randn(64, 4)
            alive.append(weakref.ref(batch))
            model(batch)
            del batch
        gc.collect()
        assert sum(reference() is not None for reference in alive) <= 2
        assert len(session.recorder.storages.known) < 40


@pytest.mark.parametrize("payloads", ["none", ["*nothing*"], ["0:addmm#0"]])
def test_payload_choices(payloads: Any, tmp_path: Path) -> None:
    with whydiff.capture(tmp_path / "t", payloads=payloads):
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))(torch.randn(2, 4))
    trace = open_trace(tmp_path / "t")
    kept = [str(call.site) for call in trace.calls if any(event.payload for event in call.writes)]
    assert kept == (["0:addmm#0"] if payloads == ["0:addmm#0"] else [])
    assert all(bool(leaf.payload) == (payloads != "none") for leaf in trace.leaves)


def test_payloads_are_what_the_ops_wrote(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    with whydiff.capture(tmp_path / "t"):
        y = model(x).t()
        y.mul_(2)
    trace = open_trace(tmp_path / "t")
    call = next(call for call in trace.calls if call.site.op == "mul_")
    payload = trace.payload(call.writes[0].payload)
    assert payload is not None and (payload.bits == y.detach().numpy()).all()


@pytest.mark.parametrize("fail_at", [0, 2])
def test_an_exception_leaves_an_incomplete_trace_and_no_hooks(fail_at: int, tmp_path: Path, replay: Replay) -> None:
    original = nn.Module.__call__
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), whydiff.capture(tmp_path / "t"):
        train(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), steps=4, fail_at=fail_at)
    assert nn.Module.__call__ is original
    trace = open_trace(tmp_path / "t")
    assert not trace.complete and "RuntimeError: mat1 and mat2" in trace.note
    steps = {call.site.step for call in trace.calls if call.site.phase == "update"}
    assert steps == set(range(fail_at))
    assert trace.environment.versions["torch"] == torch.__version__
    if fail_at:
        assert replay(trace).faithful


def test_module_level(tmp_path: Path) -> None:
    with whydiff.capture(tmp_path / "t", level="module"):
        train(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2)), steps=2)
    trace = open_trace(tmp_path / "t")
    assert trace.level == "module" and {call.kind for call in trace.calls} == {"module", "return"}
    assert [call.site.scope for call in trace.calls if call.kind == "module"][:4] == ["0", "1", "", "MSELoss"]
    first, second = (call for call in trace.calls if call.site.scope == "0")
    assert first.reads[0].fingerprint != second.reads[0].fingerprint


def test_module_level_sees_in_place_changes_between_modules() -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x + 0)
            x.add_(1)
            return self.second(x)  # type: ignore[no-any-return]

    session = Session(level="module")
    with session:
        Changes()(torch.ones(3))
    calls = [call for call in session.calls if call.kind == "module"]
    assert calls[0].writes[0].fingerprint != calls[1].reads[0].fingerprint


def test_module_level_survives_a_caught_error(tmp_path: Path) -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = nn.Linear(9, 9), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with contextlib.suppress(RuntimeError):
                self.bad(x)
            return self.good(x)  # type: ignore[no-any-return]

    with whydiff.capture(tmp_path / "t", level="module"):
        Catches()(torch.ones(1, 4))
    calls = [call for call in open_trace(tmp_path / "t").calls if call.kind == "module"]
    assert [call.site.scope for call in calls] == ["good", ""]
    assert all(len(call.reads) == 1 for call in calls)


def test_looking_leaves_no_calls_of_its_own(tmp_path: Path) -> None:
    """Payloads, leaves and results are read without being recorded."""
    model = nn.Linear(4, 4)
    with whydiff.capture(tmp_path / "t"):
        for _ in range(3):
            model(torch.ones(1, 4).t().contiguous().t())
    ops = [call.site.op for call in open_trace(tmp_path / "t").calls]
    assert ops == ["ones", "t", "t", "t", "addmm", "return"] * 3


@pytest.mark.parametrize("options", [{"level": "tensor"}, {"payloads": "some"}])
def test_unknown_options(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError), whydiff.capture(tmp_path / "t", **options):
        pass


def test_a_path_in_use(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine.txt").write_text("x")
    with pytest.raises(UsageError), whydiff.capture(tmp_path / "t"):
        pass
    assert (tmp_path / "t" / "mine.txt").exists()


def test_other_threads_are_left_alone(tmp_path: Path) -> None:
    import threading

    model = nn.Linear(4, 4)
    with whydiff.capture(tmp_path / "t"):
        thread = threading.Thread(target=lambda: model(torch.ones(1, 4)))
        thread.start()
        thread.join()
    assert len(open_trace(tmp_path / "t").calls) == 0


def test_a_recursion_limit_that_the_program_sets_stays(tmp_path: Path) -> None:
    before = sys.getrecursionlimit()
    try:
        with whydiff.capture(tmp_path / "a"):
            nn.Linear(1, 1)(torch.ones(1, 1))
        assert sys.getrecursionlimit() == before
        with whydiff.capture(tmp_path / "b"):
            sys.setrecursionlimit(before + 123)
        assert sys.getrecursionlimit() == before + 123
    finally:
        sys.setrecursionlimit(before)


def test_what_cannot_be_read_before_a_cuda_graph_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    with whydiff.capture(tmp_path / "t") as session, monkeypatch.context() as patch:
        patch.setattr(session.recorder.storages.queue, "flush", broken)
        session.recorder.before_graph()
    (hole,) = open_trace(tmp_path / "t").holes
    assert hole.kind == "failed" and "out of memory" in hole.why


@pytest.mark.parametrize("level", ["op", "module"])
@pytest.mark.parametrize("whole", [False, True])
def test_what_a_capture_kept_goes_with_it_and_does_not_wait_for_garbage_to_be_looked_for(
    level: str, whole: bool
) -> None:
    """It holds copies of weights that a step changed: on a GPU a few captures' would fill the card."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 8)).sum().backward()
        optimizer.step()

    step()
    was = gc.isenabled()
    gc.disable()
    try:
        with Session(roots=[("", model)], level=level, whole=whole) as session:
            step()
        assert session.calls
        recorder, leaf = weakref.ref(session.recorder), weakref.ref(session.recorder.leaves[0])
        del session
        assert recorder() is None and leaf() is None
    finally:
        if was:
            gc.enable()


def test_young_garbage_is_found_before_a_capture_makes_it_old() -> None:
    class Ring:
        pass

    ring: Any = Ring()
    ring.itself, gone = ring, weakref.ref(ring)
    del ring
    with Session():
        torch.ones(2) + 1
    assert gone() is None

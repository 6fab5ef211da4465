"""Devices of a run that this machine has not, or calls otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests import sealed

import whydiff
from whydiff.capturing.adapters.torch.places import Places
from whydiff.records import Verdict


def moved(root: Path, device: str) -> str:
    """The trace with everything that says ``cpu`` saying another device."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(item) for item in value]
        if isinstance(value, dict):
            return {key: told(item) for key, item in value.items()}
        return device if value == "cpu" else value

    manifest, rows = sealed.parts(root)
    sealed.seal(root, manifest, told(rows))
    return str(root)


class Model(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.linear = torch.nn.Linear(4, 3, bias=False)
        torch.nn.init.constant_(self.linear.weight, 0.3)

    def forward(self) -> torch.Tensor:
        places = torch.arange(3, device="cpu").to(torch.float32)
        return self.linear(places[:, None] * torch.linspace(0, 1, 4)) * self.factor


def captured(root: Path, factor: float) -> Path:
    model = Model(factor)
    with whydiff.capture(root, roots=[("", model)], payloads=["linear.weight"]):
        model()
    return root


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_a_gpu_ran_is_executed_where_there_is_none(tmp_path: Path) -> None:
    one = moved(captured(tmp_path / "one", 1.0), "cuda:1")
    two = moved(captured(tmp_path / "two", 1.5), "cuda:1")
    assert "cuda:1" in (tmp_path / "one" / "events.jsonl").read_text()
    found = whydiff.compare(one, two)
    assert found.verdict is Verdict.SEMANTIC, found.reason
    assert [cause.status for cause in found.causes] == ["confirmed"]


class Recorded:
    """A trace's calls on given devices."""

    def __init__(self, source: str, *devices: str) -> None:
        self.source, self.leaves = source, ()
        self.calls = [_Call([_Event(_Spec(device))]) for device in devices]


class _Spec:
    def __init__(self, device: str) -> None:
        self.device = device


class _Event:
    def __init__(self, spec: _Spec) -> None:
        self.spec = spec


class _Call:
    def __init__(self, reads: list[_Event]) -> None:
        self.reads, self.writes = reads, ()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("recorded", "asked", "expected"),
    [
        (Recorded("a.trace", "cpu", "cuda:1"), "cuda:1", "cuda:0"),  # a rank on the second GPU
        (Recorded("a.trace", "cuda:0", "cuda:1"), "cuda:1", "cuda:1"),  # one process on two
        (Recorded("a.trace", "cuda:0", "cuda:7"), "cuda:7", "cuda:0"),  # there is no eighth here
        (Recorded("live", "cuda:1"), "cuda:1", "cuda:1"),  # what the user holds stays where it is
        (Recorded("a.trace", "cpu"), "cpu", "cpu"),
        (Recorded("a.trace", "meta"), "meta", "meta"),
    ],
)
def test_a_device_of_the_run_is_one_of_this_machine(recorded: Any, asked: str, expected: str) -> None:
    assert Places(recorded).of(asked) == torch.device(expected)


def test_no_device_is_called_so() -> None:
    with pytest.raises(RuntimeError):
        Places(Recorded("a.trace")).of("the moon")  # type: ignore[arg-type]

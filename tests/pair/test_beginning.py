"""What two programs begin with alike is carried out once, and nothing else changes by it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.store import DiskTrace, open_trace
from whydiff.pair import beginning
from whydiff.pair.align import align
from whydiff.pair.beginning import CommonBeginning
from whydiff.pair.replay import replay
from whydiff.records import Lift

BATCHES = torch.linspace(-1, 1, 6 * 4 * 6).view(6, 4, 6)


def _trained(other: str = "") -> None:
    """Six steps that part at the fifth, in what ``other`` says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Dropout(0.25), nn.Linear(5, 3))
    if other == "weights":
        with torch.no_grad():
            model[3].weight[0, 0] += 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step, batch in enumerate(BATCHES):
        optimizer.zero_grad()
        kept = model(batch).half().float()  # a cast that is kept or lifted
        loss = kept.square().mean() + kept.argmax(-1).float().mean()
        loss.backward()
        if step == 4:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(2.0 if other == "factor" else 1.0)
            if other == "another op":
                optimizer.param_groups[0]["params"][0].grad.abs_()
        optimizer.step()
        if step in (2, 5):
            print(loss.item())


Captured = Callable[..., list[str]]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """The traces of runs, each recorded once: they are only read."""

    @functools.cache
    def recorded(other: str) -> str:
        path = tmp_path_factory.mktemp("beginning") / "trace"
        with whydiff.capture(path):
            _trained(other)
        return str(path)

    return lambda *others: [recorded(other) for other in others]


def _beginning(paths: list[str]) -> tuple[DiskTrace, DiskTrace, CommonBeginning]:
    ours, theirs = (open_trace(path, trust=True) for path in paths)
    return ours, theirs, CommonBeginning(ours, theirs, align(ours, theirs), upto=len(ours.calls))


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "_LEAST", 8)


def _told(paths: list[str]) -> Any:
    found = whydiff.compare(*paths).to_dict()
    return json.loads(json.dumps(found, default=str, sort_keys=True))


@pytest.mark.parametrize("other", ["factor", "another op"])
def test_the_diagnosis_is_the_same_as_with_every_replay_from_the_first_call(
    other: str, captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = captured("", other)
    whole = _told(paths)
    entered: list[int] = []
    enter = CommonBeginning.enter

    def counted(self: CommonBeginning, executors: Any) -> Any:
        found = enter(self, executors)
        entered.append(found.calls)
        return found

    monkeypatch.setattr(beginning, "_LEAST", 8)
    monkeypatch.setattr(CommonBeginning, "enter", counted)
    begun = _told(paths)
    assert any(entered), "nothing began later"
    assert begun == whole


@pytest.mark.usefixtures("early")
def test_the_beginning_ends_at_the_first_call_that_is_another_or_gives_other_bits(captured: Captured) -> None:
    paths = captured("", "factor", "weights")
    ours, theirs, found = _beginning(paths[:2])
    first = next(i for i, call in enumerate(ours.calls) if call.arguments != theirs.calls[i].arguments)
    assert found.calls == first and ours.calls[first].site.step == 4
    assert _beginning([paths[0], paths[0]])[2].calls == len(ours.calls)
    ours, theirs, found = _beginning([paths[0], paths[2]])
    parted = next(i for i, call in enumerate(ours.calls) if call.writes != theirs.calls[i].writes)
    assert found.calls <= parted


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("lift", [None, Lift("float32"), Lift("float64", "kept")])
def test_a_replay_that_is_changed_within_the_beginning_does_not_take_it_up(
    lift: Lift | None, captured: Captured
) -> None:
    ours, theirs, found = _beginning(captured("", "factor"))
    executor = for_framework("torch").executor
    assert found.enter([executor(ours, lift=lift), executor(theirs, lift=lift)]).calls == found.calls
    assert found.enter([executor(theirs, lift=lift, exchanged={3: theirs.calls[3]})]).calls == 0
    later = found.calls + 1
    assert found.enter([executor(theirs, lift=lift, exchanged={later: theirs.calls[later]})]).calls == found.calls
    name = next(leaf.name for leaf in theirs.leaves if leaf.storage >= 0)
    leaf = executor(ours).leaf_value(next(leaf for leaf in ours.leaves if leaf.name == name))
    assert found.enter([executor(theirs, lift=lift, restore={name: leaf})]).calls == 0
    assert found.enter([executor(ours, lift=Lift("float32", "kept", seed=1))]).calls == 0


@pytest.mark.usefixtures("early")
def test_a_call_that_is_to_read_what_was_forgotten_is_replayed_from_the_first_call(captured: Captured) -> None:
    _, theirs, found = _beginning(captured("", "factor"))
    held = {event.storage for call in theirs.calls[found.calls :] for event in (*call.reads, *call.writes)}
    gone = next(e for call in theirs.calls[: found.calls] for e in call.writes if e.storage not in held and e.payload)
    call = theirs.calls[found.calls]
    reads = (replace(gone, site=call.reads[0].site), *call.reads[1:])
    executor = for_framework("torch").executor(theirs, exchanged={call.index: replace(call, reads=reads)})
    assert found.enter([executor]).calls == 0


@pytest.mark.usefixtures("early")
def test_what_an_early_call_wrote_into_a_leaf_is_not_read_as_it_was_before_the_run(tmp_path: Path) -> None:
    def written(factor: float) -> None:
        scale, x = torch.ones(4), torch.arange(4.0)
        scale.mul_(3.0)  # a leaf of the trace, written in place and not read behind the cut
        y = x * scale
        for _ in range(9):
            y = y + 1
        print((y / factor).sum().item())

    for name, factor in (("0", 1.0), ("1", 2.0)):
        with whydiff.capture(tmp_path / name):
            written(factor)
    _, theirs, found = _beginning([str(tmp_path / "0"), str(tmp_path / "1")])
    wrote = next(call.writes[0] for call in theirs.calls if call.target.startswith("aten.mul_"))
    call = theirs.calls[found.calls]
    assert call.target.startswith("aten.div")
    for read in (wrote, replace(wrote, producer=-1)):
        changed = replace(call, reads=(replace(read, site=call.reads[0].site), *call.reads[1:]))
        assert found.enter([for_framework("torch").executor(theirs, exchanged={call.index: changed})]).calls == 0


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("lift", [None, Lift("float64")])
def test_values_whose_bits_are_read_otherwise_are_not_copied_by_their_bytes(lift: Lift | None, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 3, dtype=torch.complex64, generator=generator) + 3 * torch.eye(3)
    right = torch.randn(2, 3, dtype=torch.complex64, generator=generator)
    for name, factor in (("0", 1.0), ("1", 2.0)):
        with whydiff.capture(tmp_path / name):
            solved = torch.linalg.solve(matrix, right, left=False)  # its result is lazily conjugated
            y = solved
            for _ in range(9):
                y = y * 1.1
            print(torch.view_as_real(y / factor + solved).sum().item())
    _, theirs, found = _beginning([str(tmp_path / "0"), str(tmp_path / "1")])
    seen: dict[int, Any] = {}
    for whole in (True, False):
        executor = for_framework("torch").executor(theirs, lift=lift)
        begun = 0 if whole else found.enter([executor]).calls

        def last(one: Any, call: Any, whole: bool = whole) -> None:
            if call.target.startswith("aten.add"):
                seen[whole] = one.read(call.writes[0]).clone()

        replay(executor, begun=begun, watch=last)
    assert torch.equal(seen[True], seen[False])


def test_nothing_begins_behind_the_first_origin(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints are what a trace says; the walk looked at the values."""
    monkeypatch.setattr(beginning, "_LEAST", 1)
    ours, theirs, found = _beginning(captured("", "factor"))
    assert found.calls > 8
    assert CommonBeginning(ours, theirs, align(ours, theirs), upto=8).calls == 8


def test_few_calls_or_much_memory_are_not_worth_it(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = captured("", "factor")
    ours, _, found = _beginning(paths)
    assert found.calls > beginning._LEAST
    monkeypatch.setattr(beginning, "_MOST", 8)
    assert found.enter([for_framework("torch").executor(ours)]).calls == 0
    monkeypatch.setattr(beginning, "_LEAST", len(ours.calls))
    assert _beginning(paths)[2].calls == 0

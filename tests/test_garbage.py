"""Work on many records looks for no garbage meanwhile, and leaves the collector as it was."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff import pipeline
from whydiff.capturing.store.layout import INDEX
from whydiff.errors import TraceFormatError
from whydiff.garbage import frozen, lasting, not_collecting, set_aside
from whydiff.judge.listing import listing
from whydiff.locate.by_fingerprint import from_fingerprints
from whydiff.numbers.comparison import same
from whydiff.pair.align import align
from whydiff.pair.scripts import with_ends


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Every time that garbage is looked for, and at once: after every few objects."""
    seen: list[str] = []

    def told(phase: str, _: Any) -> None:
        seen.append(phase)

    before = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(told)
    gc.set_threshold(50, 2, 2)
    try:
        yield seen
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(told)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(200):
            x = torch.tanh(x)
        return x

    with whydiff.capture(tmp_path / "a.trace", payloads="all"):
        chain(torch.ones(4))
    return tmp_path / "a.trace"


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_as_it_was_also_after_an_error(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), not_collecting():
            assert not gc.isenabled()
            with not_collecting():
                pass
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_lasts_is_old_at_once_and_garbage_before_it_is_found() -> None:
    gc.collect()
    Ring()
    with lasting():
        assert not gc.isenabled()
        made = [[n] for n in range(3000)]
    young = {id(item) for item in gc.get_objects(generation=0)}
    assert not young & set(map(id, made))
    assert not any(type(item) is Ring for item in gc.get_objects())
    assert gc.isenabled() and gc.get_freeze_count() == 0
    assert id(made[0]) in {id(item) for item in gc.get_objects(generation=2)}  # a whole collection looks at it


@pytest.mark.parametrize("way", ["off", "frozen"])
def test_a_collector_that_somebody_else_has_set_stays_so(way: str) -> None:
    (gc.disable if way == "off" else gc.freeze)()
    before = gc.isenabled(), gc.get_freeze_count()
    try:
        with lasting():
            _ = [[n] for n in range(100)]
        assert (gc.isenabled(), gc.get_freeze_count()) == before
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_the_interpreter_froze_as_it_began_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not frozen()
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 375)  # as in Python 3.12
    assert not frozen()
    with lasting():
        made = [[n] for n in range(3000)]
    assert not {id(item) for item in gc.get_objects(generation=0)} & set(map(id, made))
    monkeypatch.undo()
    gc.freeze()
    try:
        assert frozen()
    finally:
        gc.unfreeze()


def test_what_is_set_aside_is_not_counted_again_and_thawed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted() -> int:
        raise AssertionError("what is frozen was walked through")

    with pytest.raises(KeyError), set_aside():
        assert gc.get_freeze_count() > 1000
        with monkeypatch.context() as context:
            context.setattr(gc, "get_freeze_count", counted)
            assert frozen()
            with set_aside():
                pass
        assert gc.get_freeze_count() > 1000, "the inner block thawed what the outer one had set aside"
        raise KeyError
    assert not frozen()
    gc.freeze()
    try:
        with set_aside():
            pass
        assert frozen(), "what somebody else froze was thawed"
    finally:
        gc.unfreeze()


def test_lasting_ends_after_an_error() -> None:
    with pytest.raises(KeyError), lasting():
        raise KeyError
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_damaged_trace_leaves_it_on(trace: Path) -> None:
    index = trace / INDEX
    index.write_bytes(index.read_bytes().replace(b"tanh", b"tahn", 1))
    with pytest.raises(TraceFormatError):
        whydiff.open(trace)
    assert gc.isenabled()


def test_neither_pairing_nor_listing_looks_for_garbage(trace: Path, collections: list[str]) -> None:
    opened = whydiff.open(trace)
    work: list[Callable[[], Any]] = [
        lambda: align(opened, opened),
        lambda: with_ends(opened, opened, alignment),
        lambda: from_fingerprints(opened, opened, alignment, same),
        lambda: listing(opened, opened, alignment, ()),
    ]
    alignment = align(opened, opened)
    for one in work:
        before = len(collections)
        found = one()
        looked = len(collections) - before
        assert found is not None
        assert looked <= 2  # at the border, when it is on again
    before = len(collections)
    _ = [[n] for n in range(1000)]
    assert len(collections) - before > 2  # elsewhere it does


def test_one_trace_is_opened_once(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    open_side = pipeline.open_side
    monkeypatch.setattr(pipeline, "open_side", lambda *a, **k: opened.append(a) or open_side(*a, **k))
    found = whydiff.compare(trace, str(trace))
    assert found.verdict is whydiff.Verdict.IDENTICAL
    assert len(opened) == 1
    assert any("the same one" in note for note in found.notes)

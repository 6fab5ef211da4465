"""Models of a training program are found whenever they were made, and whatever is hidden from the garbage collector."""

from __future__ import annotations

import gc
import threading

import pytest
from torch import nn

from whydiff.capturing.adapters.torch.training import following
from whydiff.capturing.adapters.torch.training.following import models, settled


def found(*made: nn.Module) -> list[nn.Module]:
    mine = {id(p) for model in made for p in model.parameters()}
    return sorted((module for _, module in models(lambda p: id(p) in mine)), key=id)


def test_what_was_made_before_or_inside_of_the_block_is_found_by_every_thread() -> None:
    early = nn.Linear(3, 3)
    gone = nn.Linear(3, 3)
    with settled():
        del gone
        late, told = nn.Sequential(nn.Linear(3, 3)), list[nn.Module]()
        assert found(early, late) == sorted((early, late), key=id)
        whole = nn.Sequential(early, late)
        thread = threading.Thread(target=lambda: told.extend(found(early, late)))
        thread.start()
        thread.join()
        assert told == [whole]
    assert found(early, late) == [whole]


def test_what_exists_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    objects = gc.get_objects

    def counted() -> list[object]:
        found = objects()
        looked.append(len(found))
        return found

    early = nn.Linear(3, 3)
    monkeypatch.setattr(following.gc, "get_objects", counted)
    with settled():
        found(early)
        with settled():
            found(early)
    whole, *others = looked
    assert len(others) == 2 and all(count < whole / 10 for count in others)


def test_the_collector_is_as_it_was() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(KeyError), settled():
        assert gc.get_freeze_count() > before
        raise KeyError
    assert gc.get_freeze_count() == before
    gc.freeze()
    try:
        with settled():
            pass
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()

"""Whether a global generator was drawn from, told from the state that it is left in."""

from __future__ import annotations

import random
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from whydiff.capturing import process
from whydiff.capturing.process import Draws, Process


@pytest.fixture(autouse=True)
def _generators() -> Any:
    before = random.getstate(), np.random.get_state()
    random.seed(3)
    np.random.seed(3)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])


@pytest.mark.parametrize("count", [1, 623, 624, 625, 20_000])
def test_drawing_any_number_of_words_is_told(count: int) -> None:
    with Draws() as draws:
        np.random.bytes(4 * count)
    assert draws.found == ("numpy",)
    with Draws() as draws:
        for _ in range(count):
            random.getrandbits(32)
    assert draws.found == ("python",)


def test_seeding_is_not_drawing() -> None:
    with Draws() as draws:
        np.random.seed(4)
        random.seed(4)
    assert draws.found == ()


def test_more_blocks_than_are_followed_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_BLOCKS", 3)
    for blocks, found in ((3, ("numpy",)), (5, ())):
        with Draws() as draws:
            np.random.bytes(4 * 624 * blocks)
        assert draws.found == found


def test_one_word_of_a_state_is_not_all_of_it() -> None:
    with Draws() as draws:
        np.random.bytes(4 * 624)
        name, words, *rest = np.random.get_state()
        words = words.copy()
        words[5] ^= 1
        np.random.set_state((name, words, *rest))
    assert draws.found == ()


class Own(ModuleType):
    """What stands for a module, and cannot be compared."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError


@pytest.mark.parametrize("instead", [None, ModuleType("stand_in"), Own("stand_in")])
@pytest.mark.parametrize("loads", [False, True])
def test_a_module_that_was_removed_or_replaced_is_put_back_and_one_that_was_loaded_stays(
    instead: ModuleType | None, loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {**sys.modules, "stand_in": (module := ModuleType("stand_in"))}
    monkeypatch.setattr(sys, "modules", modules)
    found = Process()
    del modules["stand_in"]
    if instead is not None:
        modules["stand_in"] = instead
    if loads:
        modules["loaded"] = ModuleType("loaded")
    found.restore()
    assert modules["stand_in"] is module and ("loaded" in modules) is loads

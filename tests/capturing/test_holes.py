"""Holes are counted by every thread at once, and reasons beyond a limit together."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from whydiff.capturing.holes import MOST, Holes


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_count_together(often: None) -> None:
    holes, raised = Holes(), list[BaseException]()

    def work(name: str) -> None:
        try:
            for number in range(400):
                holes.add("thread", f"{name} {number % 40}")
                holes.add("failed", "shared")
        except RuntimeError as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not raised
    found = {(hole.kind, hole.why): hole.count for hole in holes.all()}
    assert found["failed", "shared"] == 8 * 400
    assert sum(found.values()) == 2 * 8 * 400
    assert len(found) == MOST + 2  # one reason of the other kind, and "other reasons"

"""How programs of several ranks are run for examples of causes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.rank_programs import HELD, failing, killed, locked

from whydiff.capturing.store.reader import open_ranks
from whydiff.errors import CaptureError
from whydiff.explain.causes._rank_runs import recorded


def test_what_threads_of_this_process_hold_is_not_held_in_the_ranks() -> None:
    with HELD:
        found, unreadable = open_ranks(Path(recorded(locked, 2)))
    assert (sorted(found), unreadable) == ([0, 1], {})
    assert all(trace.complete for trace in found.values())


def test_a_rank_that_fails_is_named_with_its_traceback_and_the_others_are_not_waited_for() -> None:
    with pytest.raises(CaptureError, match="rank 1: ValueError: no rows are left") as error:
        recorded(failing, 2)
    assert 'raise ValueError("no rows are left")' in str(error.value.__cause__)


def test_a_rank_that_dies_silently_is_named_with_its_status() -> None:
    with pytest.raises(CaptureError, match="rank 1: status 7"):
        recorded(killed, 2)

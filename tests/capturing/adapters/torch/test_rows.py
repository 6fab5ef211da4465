"""Calls made of what a recorder wrote down, before and after a device has read what they were given."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch")
from whydiff.capturing.adapters.torch.arguments import PLACES, Place, encode, encoded  # noqa: E402
from whydiff.capturing.adapters.torch.device.queue import Pending  # noqa: E402
from whydiff.capturing.adapters.torch.operators import describe  # noqa: E402
from whydiff.capturing.adapters.torch.rows import Making, Row  # noqa: E402
from whydiff.records import Call  # noqa: E402

SPEC = ((2, 3), torch.float32, torch.device("cpu"), (3, 1), 0)


def row(lanes: object, index: int = 0) -> tuple[Row, Row]:
    read = (SPEC, 4, -1, lanes, 24, True, "", "")
    written = (SPEC, 5, index, lanes, 40, False, "", "")
    mm = describe(torch.ops.aten.mm.default)
    template = ([PLACES[0], PLACES[0]], {})
    return read, (index, "a", mm, "forward", 0, "compute", [read, read], [written], template, (), 0, "", index)


def made(lanes: object) -> tuple[Call, Making]:
    making = Making(rank=2)
    _, call = row(lanes)
    return making.call_of(call), making


def test_a_call_whose_lanes_are_told_later_is_the_call_whose_lanes_were_known() -> None:
    known, _ = made((1, 2))
    ticket = Pending()
    waiting, making = made(ticket)
    assert waiting.site.rank == 2
    ticket.lanes = (1, 2)
    making.settle()
    assert waiting == known and repr(waiting) == repr(known)
    assert pickle.loads(pickle.dumps(waiting)) == known
    assert known.reads[0].fingerprint is known.reads[1].fingerprint  # one look, however often it is read
    assert [event.fingerprint.covers for event in (*known.reads, *known.writes) if event.fingerprint] == [
        "content",
        "content",
        "span",
    ]


def test_what_a_device_did_not_read_has_no_fingerprint_silently() -> None:
    _, making = made(Pending())
    with pytest.raises(AssertionError, match="gave no fingerprint"):
        making.settle()


def test_what_was_not_looked_at_has_none() -> None:
    call, making = made(None)
    making.settle()
    assert call.reads[0].fingerprint is None


def test_positional_arguments_at_once_are_each_ones_template() -> None:
    values = [
        1,
        None,
        "a",
        PLACES[3],
        Place(1, ("conj",)),
        [PLACES[0], 2],
        torch.float16,
        torch.device("cpu"),
        1j,
        True,
    ]
    assert encoded(values) == [encode(value) for value in values]

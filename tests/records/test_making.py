"""Records made in bulk are the records."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from whydiff.records import Call, Event, Fingerprint, Site, TensorSpec, making

SPEC, PRINT = TensorSpec((2,), "float32", strides=(1,)), Fingerprint((1, 2), 8)


def both() -> list[tuple[object, object]]:
    at = Site("a.b", "mm", "backward", 3, 1, 2)
    place = making.site(scope="a.b", op="mm", phase="backward", step=3, rank=1, occurrence=2)
    looks = [(SPEC, PRINT, 4, 5, "", ""), (SPEC, None, -1, -1, "view", "call/1/0")]
    reads = making.events(place, ("read.0", "read.1"), looks)
    fields = {"index": 7, "target": "aten.mm.default", "kind": "compute", "writes": (), "arguments": [[], {}]}
    rest = {"mutates": (1,), "context": 2, "rng": "rng/0", "source": "x.py:1"}
    events = (Event(at.at("read.0"), SPEC, 4, 5, PRINT), Event(at.at("read.1"), SPEC, -1, -1, None, "view", "call/1/0"))
    return [
        (place, at),
        *zip(reads, events, strict=True),
        (
            making.call(site=place, reads=reads, **fields, **rest),
            Call(site=at, reads=events, **fields, **rest),  # type: ignore[arg-type]
        ),
    ]


@pytest.mark.parametrize("number", range(4))
def test_what_is_made_in_bulk_is_what_the_class_makes(number: int) -> None:
    made, expected = both()[number]
    assert type(made) is type(expected)
    assert made == expected and repr(made) == repr(expected)
    assert pickle.loads(pickle.dumps(made)) == expected
    if not isinstance(expected, Call):  # arguments are lists
        assert hash(made) == hash(expected)


def test_it_is_frozen_and_can_be_replaced() -> None:
    made = both()[0][0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.scope = "other"  # type: ignore[attr-defined]
    assert dataclasses.replace(made, scope="other") == Site("other", "mm", "backward", 3, 1, 2)  # type: ignore[type-var]


def test_every_field_is_filled() -> None:
    for made, _ in both():
        for field in dataclasses.fields(made):  # type: ignore[arg-type]
            getattr(made, field.name)  # an empty slot raises


def test_slots_and_looks_are_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        making.events(Site("", "mm"), ("read.0",), [])

"""What a process hands over is what it found."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

import whydiff.records
from whydiff.records import Cause, Count, Evidence, Experiment, Intervention, Verdict, wire


def there_and_back(value: Any) -> Any:
    return wire.decode(json.loads(json.dumps(wire.encode(value), allow_nan=False)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -(2**80),
        0.1,
        -0.0,
        math.inf,
        "×\n",
        (),
        (1, [2, (3,)], {"a": (4,), 5: None}),
        1 + 2j,
        Verdict.UNSTABLE,
        Count("a", "b", 3, ("c",), "flip"),
        {"verdict": 1},
        {"record": ["Count", []]},
    ],
    ids=str,
)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    found = there_and_back(value)
    assert found == value and type(found) is type(value)
    assert math.copysign(1, found) == math.copysign(1, value) if isinstance(value, float) else True


def test_nan_and_numpy() -> None:
    assert math.isnan(there_and_back(math.nan))
    assert there_and_back(np.float32(0.5)) == 0.5 and there_and_back(np.int64(3)) == 3


def test_a_cause_in_full() -> None:
    step = Intervention("set-flag", "threads", (1, {"a": [math.inf]}))
    tried = Experiment((step,), "equal", "equal", "confirmed", before=0.5)
    cause = Cause("ST001", "x", "y", Verdict.SEMANTIC, (Evidence("e", {"n": 1}),), experiments=(tried,))
    assert there_and_back(cause) == cause


def test_every_record_can_be_handed_over() -> None:
    """Also those that somebody adds."""
    public = [
        part for part in vars(whydiff.records).values() if isinstance(part, type) and dataclasses.is_dataclass(part)
    ]
    assert len(public) > 20
    for part in public:
        assert wire._records()[part.__name__] is part


def test_what_is_no_record_is_no_text_either() -> None:
    @dataclasses.dataclass
    class Mine:
        x: int = 1

    with pytest.raises(TypeError, match="Mine is no record"):
        wire.encode({"a": Mine()})


@pytest.mark.parametrize(
    "data",
    [
        {"record": ["os.system", ["true"]]},
        {"record": ["Count", [1]]},
        {"record": 3},
        {"tuple": 3},
        {"mapping": [[1]]},
        {"float": "1"},
        {"verdict": "fine"},
        {"pickle": "x"},
        {},
        {"tuple": [], "record": []},
        {"mapping": [[{"mapping": []}, 1]]},
    ],
    ids=str,
)
def test_nothing_else_is_made_of_what_is_received(data: Any) -> None:
    with pytest.raises(ValueError):
        wire.decode(data)


def test_texts_are_harmless_on_arrival() -> None:
    assert wire.decode({"tuple": ["\x1b[2J", {"mapping": [["\u202e", "\ud800"]]}]}) == (
        "\\x1b[2J",
        {"\\u202e": "\\ud800"},
    )

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from golden import GOLDEN, TWO_CAUSES
from hypothesis import given
from hypothesis import strategies as st

from whydiff.records import Diagnosis, Site, Verdict
from whydiff.report.json import JsonReporter, encode, write


def refuse(literal: str) -> None:
    raise AssertionError(f"{literal} is not JSON")


@pytest.mark.parametrize("case", GOLDEN)
def test_json_is_strict_and_round_trips(case: str) -> None:
    rendered = JsonReporter().render(GOLDEN[case])
    assert json.loads(rendered, parse_constant=refuse) == GOLDEN[case].to_dict()


def test_the_keys_are_the_fields_of_the_record() -> None:
    keys = list(TWO_CAUSES.to_dict())
    assert keys[0] == "schema_version"
    assert set(keys) == {f.name for f in dataclasses.fields(Diagnosis)} | {"answer"}


def test_non_finite_numbers_are_strings() -> None:
    measured = TWO_CAUSES.to_dict()["origins"][0]["comparison"]["measurements"]
    assert {m["metric"]: m["value"] for m in measured}["max_abs"] == "Infinity"
    assert {m["metric"]: m["value"] for m in measured}["rel_l2"] == "NaN"


def test_sites_carry_their_text() -> None:
    site = Site("layers.3", "bmm", phase="backward", step=2)
    assert encode(site)["text"] == "layers.3:bmm#0 [backward] @step 2"


def test_foreign_values_are_scalars_lists_or_named() -> None:
    assert encode({"n": np.float32(0.5), "a": np.arange(3), "s": {2, 1}}) == {"n": 0.5, "a": [0, 1, 2], "s": [1, 2]}
    assert encode(1j) == {"type": "complex", "repr": "1j"}
    assert encode(-math.inf) == "-Infinity"


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(scalars, lambda v: st.lists(v) | st.tuples(v) | st.dictionaries(st.text(), v)))
def test_anything_encodes_to_strict_json(value: object) -> None:
    json.dumps(encode(value), allow_nan=False)


@pytest.mark.parametrize("indent", [None, 0, 2, 4])
def test_it_is_written_as_the_standard_library_does(indent: int | None) -> None:
    scalars = [1, 10**30, 2.5, -0.0, 1e300, 1e-7, None, True, False, 'x\u2028é"\\\n', Verdict.ROUNDING.value]
    data = {"scalars": scalars, "é": {"empty": [[], {}, ()], "keys": {1: 2, None: 3, False: 4, 2.5: 1}}, "t": (1, [2])}
    assert write(data, indent) == json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    with pytest.raises(ValueError, match="JSON"):
        write({"not finite": [math.inf]}, indent)
    with pytest.raises(TypeError, match="serializable"):
        write({"an object": object()}, indent)

"""What a run gives back, of whatever type, becomes values under unambiguous paths."""

from __future__ import annotations

import collections
import dataclasses
import enum
import fractions
import functools
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.capturing.adapters._outputs import MAX_DEPTH, outputs_of, same_outputs
from whydiff.capturing.adapters.torch.reading import READER

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Made:
    scores: Any
    hidden: Any = dataclasses.field(default=None, repr=False)


class Cache:
    def __init__(self) -> None:
        self.layers = [{"keys": torch.ones(2)}, {"keys": torch.zeros(2)}]


class Colour(enum.IntEnum):
    RED = 1


def closure(held: Any) -> Any:
    return lambda: held


def shown(value: Any) -> dict[str, Any]:
    return {str(o.slot): o.payload.bits.tolist() if o.payload else (o.kind, o.text) for o in outputs_of(value, READER)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([1.5, 2]), {"output": [1.5, 2.0]}),
        (torch.tensor([1 + 2j]).conj(), {"output": [1 - 2j]}),
        (torch.tensor([1 + 2j]).conj().imag, {"output": [-2.0]}),
        (torch.ones(2, requires_grad=True) * 2, {"output": [2.0, 2.0]}),
        (np.float32(1.5), {"output": 1.5}),
        (np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]), {"a": [1], "b": [2.5]}),
        (np.array(["x", "y"]), {"output": ("text", "<U1 ['x', 'y']")}),
        (np.array([1, None], object), {"[0]": 1, "[1]": ("empty", "None")}),
        (np.ma.array([1, 2], mask=[False, True]), {"data": [1, 2], "mask": [False, True]}),
        (np.arange(4, dtype=">i2").reshape(2, 2).T, {"output": [[0, 2], [1, 3]]}),
        (2**63, {"output": 2**63}),
        (-(2**63), {"output": -(2**63)}),
        (2**64, {"output": ("text", str(2**64))}),
        (True, {"output": True}),
        (1j, {"output": 1j}),
        (Colour.RED, {"output": ("text", "<Colour.RED: 1>")}),
        (fractions.Fraction(1, 3), {"output": ("text", "Fraction(1, 3)")}),
        (b"a", {"output": ("text", "b'a'")}),
        (None, {"output": ("empty", "None")}),
        ([], {"output": ("empty", "empty")}),
        ({2, 1}, {"output": ("text", "{1, 2}")}),
        (len, {"output": ("left_out", "builtin_function_or_method")}),
        (lambda: 1, {"output": ("left_out", "function")}),
        (closure(torch.ones(1)), {"held": [1.0]}),
        (torch.ones(1).sum, {"__self__": [1.0]}),
        (ValueError(torch.ones(1)), {"args[0]": [1.0]}),
        (io.BytesIO(b"a"), {"output": ("unreadable", "BytesIO cannot be looked into")}),
        (Point(1, [2]), {"x": 1, "y[0]": 2}),
        (Made(1.0, "t"), {"scores": 1.0, "hidden": ("text", "t")}),
        (Cache(), {"layers[0].keys": [1.0, 1.0], "layers[1].keys": [0.0, 0.0]}),
        (functools.partial(len, [1]), {"args[0][0]": 1, "keywords": ("empty", "empty")}),
        ({0: 1, "0": 2, "a.b": 3, "a": {"b": 4}, "": 5}, {"[0]": 1, "0": 2, "['a.b']": 3, "a.b": 4, "['']": 5}),
        (torch.nn.Linear(1, 1, bias=False).requires_grad_(False), {'["weight"]': None}),
        (iter([1]), {"output": ("unreadable", "list_iterator cannot be looked into")}),
        (torch.ones(1, device="meta"), {"output": ("unreadable", "meta tensor (no data)")}),
        (torch.float32, {"output": ("text", "torch.float32")}),
    ],
)
def test_values_of_every_type(value: Any, expected: dict[str, Any]) -> None:
    found = shown(value)
    assert list(found) == list(expected)
    assert all(want is None or found[path] == want for path, want in expected.items())


def test_tensors_that_consist_of_parts() -> None:
    eye = torch.eye(2)
    assert shown(eye.to_sparse())["values"] == [1.0, 1.0]
    assert shown(eye.to_sparse_csr())["crow_indices"] == [0, 1, 2]
    per_tensor = shown(torch.quantize_per_tensor(eye, 0.5, 3, torch.qint8))
    assert per_tensor["values"] == eye.tolist() and (per_tensor["scale"], per_tensor["zero_point"]) == (0.5, 3)
    scales = torch.tensor([0.5, 0.25])
    per_channel = shown(torch.quantize_per_channel(eye, scales, torch.tensor([0, 1]), 0, torch.qint8))
    assert per_channel["scale"] == [0.5, 0.25] and per_channel["axis"] == 0
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.ones(1), torch.zeros(2)], layout=layout)
        assert shown(nested) == {"[0]": [1.0], "[1]": [0.0, 0.0]}


def test_cycles_and_depth_are_bounded() -> None:
    ring: dict[str, Any] = {"x": 1}
    ring["self"] = ring
    assert shown(ring) == {"x": 1, "self": ("text", "itself, 1 levels up")}
    deep: Any = 1
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    assert [kind for kind, _ in shown(deep).values()] == ["unreadable"]


def test_nothing_is_consumed_or_changed() -> None:
    line = iter([1, 2])
    outputs_of({"line": line}, READER)
    assert list(line) == [1, 2]


PLAIN = st.one_of(st.integers(-3, 3), st.booleans(), st.text("ab.0[]@'", max_size=3), st.none())
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3))


@given(NESTED)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_no_two_values_share_a_path(value: Any) -> None:
    slots = [output.slot for output in outputs_of(value, READER)]
    assert slots and len(set(slots)) == len(slots)


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), ""),
        (torch.tensor([0.0]), torch.tensor([-0.0]), "output"),
        (torch.ones(1), torch.ones(1).double(), "output"),
        (torch.ones(1), torch.ones(1, 1), "output"),
        ([1], [1, 2], "the structure of the result"),
        ({"t": "a"}, {"t": "b"}, "t"),
        (1, "1", "output"),
    ],
)
def test_sameness_is_of_bits(one: Any, other: Any, where: str) -> None:
    assert same_outputs(outputs_of(one, READER), outputs_of(other, READER)) == (not where, where)

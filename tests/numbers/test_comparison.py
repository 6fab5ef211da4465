"""Every row of the two rule tables of `whydiff.numbers.comparison`."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff import registry
from whydiff.numbers.comparison import compare_payloads, same
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.numbers.tolerance import Tolerance
from whydiff.records import Event, Fingerprint, Payload, Site, TensorSpec


def f32(*values: float) -> Payload:
    return Payload(np.array(values, np.float32), "float32")


def bf16(*values: float) -> Payload:
    bits = np.array(values, np.float32).view(np.uint32) >> np.uint32(16)
    return Payload(bits.astype(np.uint16), "bfloat16")


def test_zero_bits_agree_and_every_metric_is_taken() -> None:
    found = compare_payloads(f32(1, math.nan), f32(1, math.nan))
    assert (found.status, found.reason) == ("agrees", "")
    assert tuple(m.metric for m in found.measurements) == registry.names("metrics")
    assert found.value("different") == 0.0
    assert {m.metric: m.per for m in found.measurements}["max_rel"] == "abs(reference)"


@pytest.mark.parametrize("candidate", [f32(1.0, 0.0), f32(1 + 2**-23, -0.0)])
def test_any_bit_differs_even_the_sign_of_zero(candidate: Payload) -> None:
    found = compare_payloads(f32(1, -0.0), candidate)
    assert (found.status, found.reason) == ("differs", "1 of 2 elements differ")


def test_shapes_differ_although_values_agree() -> None:
    line = f32(1, 2, 3, 4)
    square = Payload(line.bits.reshape(2, 2), "float32")
    found = compare_payloads(line, square)
    assert (found.status, found.measurements) == ("differs", ())
    assert found.reason == "shape [4] in the reference, [2,2] in the candidate"


def test_dtypes_differ_and_values_agree() -> None:
    found = compare_payloads(f32(1, -2), bf16(1, -2))
    assert found.status == "agrees"
    assert found.reason == "equal values, but dtype float32 in the reference, bfloat16 in the candidate"


def test_dtypes_and_values_differ() -> None:
    found = compare_payloads(f32(1, 0.1), bf16(1, 0.1))
    assert (found.status, found.value("different")) == ("differs", 0.5)
    assert found.reason.startswith("1 of 2 elements differ; dtype float32")


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Payload(np.array([2**53 + 1]), "int64"), "no dtype holds the values of both exactly: dtype float32"),
        (Payload(np.zeros(1, np.uint8), "float4_e2m1fn_x2"), "no metric reads the dtype float4_e2m1fn_x2"),
    ],
)
def test_what_cannot_be_compared_says_so(candidate: Payload, reason: str) -> None:
    found = compare_payloads(f32(1), candidate)
    assert (found.status, found.measurements) == ("not_compared", ())
    assert found.reason.startswith(reason)


def test_a_tolerance_changes_the_mismatches_but_never_the_status() -> None:
    loose = compare_payloads(f32(1, 1), f32(1, 1.5), tolerance=Tolerance(1.0, 1.0, "a test"))
    default = compare_payloads(f32(1, 1), f32(1, 1.5))
    assert (loose.status, loose.value("mismatched")) == ("differs", 0.0)
    assert (default.status, default.value("mismatched")) == ("differs", 0.5)


def test_empty_tensors_agree() -> None:
    assert compare_payloads(f32(), f32()).status == "agrees"


def event(
    array: np.ndarray, *, dtype: str = "float32", covers: str = "content", strides: tuple[int, ...] = ()
) -> Event:
    found = dataclasses.replace(fingerprint_bytes(array), covers=covers)
    return Event(Site("m", "op"), TensorSpec(array.shape, dtype, strides=strides), 0, fingerprint=found)


ONE, TWO = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
SKIPPED = Event(Site("m", "op"), TensorSpec((2, 3), "float32"), 0, skipped="sparse")


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (SKIPPED, SKIPPED, None),
        (SKIPPED, event(ONE), None),
        (event(ONE), event(ONE.reshape(3, 2)), False),
        (event(ONE), event(ONE.reshape(3, 2), dtype="int32"), False),
        (event(ONE), event(ONE, dtype="int32"), None),
        (event(ONE), event(ONE), True),
        (event(ONE, strides=(3, 1)), event(ONE, strides=(1, 2)), True),
        (event(ONE), event(TWO), False),
        (event(ONE, covers="span", strides=(6, 2)), event(ONE, covers="span", strides=(6, 2)), True),
        (event(ONE, covers="span", strides=(6, 2)), event(ONE, covers="span", strides=(2, 6)), None),
        (event(ONE, covers="span"), event(ONE, covers="span"), None),
        (event(ONE, covers="span", strides=(6, 2)), event(TWO, covers="span", strides=(6, 2)), None),
        (event(ONE, covers="span", strides=(6, 2)), event(ONE, strides=(6, 2)), None),
    ],
)
def test_same_follows_its_table_in_both_directions(a: Event, b: Event, answer: bool | None) -> None:
    assert same(a, b) is answer
    assert same(b, a) is answer


def test_the_length_decides_too() -> None:
    a = event(ONE)
    b = dataclasses.replace(a, fingerprint=Fingerprint(a.fingerprint.lanes, a.fingerprint.nbytes + 4))
    assert same(a, b) is False


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0]), min_size=1, max_size=6), st.data())
def test_fingerprints_and_payloads_give_one_answer(values: list[float], data: st.DataObject) -> None:
    other = data.draw(st.permutations(values))
    a, b = f32(*values), f32(*other)
    assert same(event(a.bits), event(b.bits)) is (compare_payloads(a, b).status == "agrees")

"""Tensors that no module registered, under another name: paired by their keys, then by their bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.pair.align.build import trace

from whydiff.pair.align import align
from whydiff.pair.align.rules import Rule
from whydiff.records import Fingerprint, Leaf, LeafRole, TensorSpec


def leaf(number: int, name: str, content: int, role: LeafRole = "attribute", width: int = 4) -> Leaf:
    spec = TensorSpec((width,), "float32")
    return Leaf(number, role, name, spec, Fingerprint((content, 2), spec.numel * 4))


def rules(reference: dict[str, int], candidate: dict[str, int], **more: Any) -> tuple[Rule, ...]:
    traces = [
        replace(
            trace([]), leaves=tuple(leaf(n, name, content, **more) for n, (name, content) in enumerate(held.items()))
        )
        for held in (reference, candidate)
    ]
    return align(*traces).renamed


@pytest.mark.parametrize(
    ("reference", "candidate", "found"),
    [
        ({"obs.a": 1, "obs.b": 2}, {"other.b": 2, "other.a": 1}, (("other", "obs"),)),
        ({"obs.a": 1, "obs.b": 2}, {"other.b": 3, "other.a": 4}, (("other", "obs"),)),
        ({"xs[0]": 1, "xs[1]": 2}, {"ys[0]": 2, "ys[1]": 1}, (("ys", "xs"),)),
        ({"m.kept[0].k": 1, "m.kept[1].k": 2}, {"m.state[0].k": 1}, (("m.state", "m.kept"),)),
        ({"obs.a": 1, "obs.b": 2}, {"other.a": 1, "other.c": 2}, (("other.c", "obs.b"), ("other", "obs"))),
        ({"obs.a": 1, "obs.b": 2}, {"other.y": 2, "other.x": 1}, (("other.x", "obs.a"), ("other.y", "obs.b"))),
        ({"first": 1}, {"second": 1}, (("second", "first"),)),
    ],
    ids=["another order", "other contents", "a list", "part of it", "another key", "all other keys", "one tensor"],
)
def test_what_is_held_under_another_name(reference: Any, candidate: Any, found: Any) -> None:
    assert rules(reference, candidate) == found


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ({"first": 1}, {"second": 2}),
        ({"obs.a": 1}, {"obs.a": 2}),
        ({"one.a": 1, "two.a": 2}, {"other.a": 3}),
        ({"first": 1, "second": 1}, {"other": 1}),
        ({"a.0.k": 1, "a.1.k": 2, "a.2.k": 3}, {"b_0.k": 4, "b_1.k": 5, "b_2.k": 6}),
        ({"obs.a": 1, "other.a": 2}, {"obs.a": 1, "other.b": 3}),
    ],
    ids=["neither key nor bits", "one name", "two have the key", "two hold the bits", "any of several", "both have it"],
)
def test_what_could_be_anything_keeps_its_name(reference: Any, candidate: Any) -> None:
    assert rules(reference, candidate) == ()


def test_bits_tell_which_of_two_mappings_it_is() -> None:
    found = rules({"one.a": 1, "one.b": 2, "two.a": 3, "two.b": 4}, {"x.a": 3, "x.b": 4, "y.a": 1, "y.b": 5})
    assert set(found) == {("x", "two"), ("y", "one")}


def test_what_modules_register_is_renamed_with_their_scopes() -> None:
    assert rules({"old.weight": 1}, {"new.weight": 1}, role="parameter") == ()


def test_a_rule_says_how_every_name_below_it_is_called() -> None:
    held = {"xs[0].k": 1}, {"ys[0].k": 1}
    traces = [replace(trace([]), leaves=tuple(leaf(0, name, bits) for name, bits in side.items())) for side in held]
    alignment = align(*traces)
    assert [alignment.rename(name) for name in ("ys[3].v", "ys.w", "ys", "yst.w", "z.ys")] == [
        "xs[3].v",
        "xs.w",
        "xs",
        "yst.w",
        "z.ys",
    ]

"""Nested containers as named leaves, and the limits on what a few bytes may unfold to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.capturing.store import nested
from whydiff.capturing.store.nested import named_leaves


def entries(value: Any) -> Iterable[tuple[Any, Any]] | None:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else None


def test_names_are_paths() -> None:
    document = {"model": {"layers": [{"w": 1}, {"w": 2}], "x.y": 3}, "empty": [], "": 4}
    assert list(named_leaves(document, entries)) == [
        ("model.layers[0].w", 1),
        ("model.layers[1].w", 2),
        ("model.x.y", 3),
        ("(all)", 4),
    ]
    assert list(named_leaves(5, entries)) == [("(all)", 5)]


@given(st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_every_leaf_comes_out_once_and_under_its_place(document: Any) -> None:
    for name, leaf in named_leaves(document, entries):
        assert eval(f"document{name.removeprefix('(all)')}") == leaf  # a position reads as Python


def test_nesting_has_a_limit() -> None:
    def deep(levels: int) -> Any:
        value: Any = 7
        for _ in range(levels):
            value = [value]
        return value

    assert [leaf for _, leaf in named_leaves(deep(nested.MAX_DEPTH), entries)] == [7]
    with pytest.raises(ValueError, match="nested deeper"):
        list(named_leaves(deep(nested.MAX_DEPTH + 1), entries))


@pytest.mark.parametrize("core", [[], 1])
def test_a_list_that_names_itself_many_times(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "MAX_NODES", 1000)
    value = core
    for _ in range(100):
        value = [value] * 10  # 10^100 leaves
    with pytest.raises(ValueError, match="unfolds to more"):
        list(named_leaves(value, entries))


def test_long_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="longer than"):
        list(named_leaves({"k" * 3000: {"k" * 3000: 1}}, entries))
    monkeypatch.setattr(nested, "MAX_NAMES", 10_000)
    with pytest.raises(ValueError, match="characters of names"):
        list(named_leaves({"k" * 3000: dict.fromkeys("abcd", 1)}, entries))

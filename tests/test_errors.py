"""Messages hold no control character, whoever made what they tell of."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.errors import WhydiffError, harmless


@given(st.text() | st.characters(categories=["Cs", "Cc", "Cf"]))
def test_what_a_terminal_obeys_becomes_visible(text: str) -> None:
    shown = harmless(text)
    shown.encode("utf-8")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert not [c for c in shown if unicodedata.bidirectional(c) in ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI")]
    assert harmless(shown) == shown
    assert "\n" not in harmless(text, one_line=True) and "\t" not in harmless(text, one_line=True)


@pytest.mark.parametrize("text", ["layers.0.weight", "größe", "模型", "a\nb\tc", "×√–", "\\x1b"])
def test_everything_else_stays(text: str) -> None:
    assert harmless(text) == text


def test_an_error_is_harmless_wherever_its_words_come_from() -> None:
    error = WhydiffError("a\x1b[2J", where="\u202eb", actual="\ud800", expected="\x07", next_step="\x9b")
    assert str(error) == "a\\x1b[2J\n  where: \\u202eb\n  actual: \\ud800\n  expected: \\x07\n  next: \\x9b"
    assert error.where == "\\u202eb"

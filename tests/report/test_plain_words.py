"""The words of the first screen: every cause's sentence, the demos, and pairs of the corpus."""

from __future__ import annotations

import re
import string

import pytest
from golden import GOLDEN

from plain import JARGON, unplain
from whydiff.explain.causes import detectors
from whydiff.explain.causes._rule import CauseRule
from whydiff.report.answer import WIDTH

LONGEST = WIDTH + 12
"""Of a cause's sentence: with verdict and code it takes two lines at most."""


@pytest.mark.parametrize("rule", detectors(), ids=lambda rule: rule.code)
def test_a_cause_says_what_happened_in_plain_words(rule: CauseRule) -> None:
    said = rule.sentence()
    assert said and not said.endswith(".") and len(said) <= LONGEST
    assert not JARGON.findall(said) and "because" not in said
    assert not re.search(r"[A-Z]{2}\d{3}", said)
    fields = [field for _, field, _, _ in string.Formatter().parse(said) if field is not None]
    assert all(field.isidentifier() for field in fields)


@pytest.mark.parametrize("case", GOLDEN)
def test_the_headings_and_cards_of_a_report_to_send_are_plain(case: str) -> None:
    assert unplain(GOLDEN[case]) == []

"""The style of the first screen, held against any diagnosis: plain words, five labelled lines, 80 columns."""

from __future__ import annotations

import re

from whydiff.records import Diagnosis
from whydiff.report._page import of_diagnosis
from whydiff.report.answer import WIDTH, answer, leading, short_code
from whydiff.report.markdown import MarkdownReporter
from whydiff.report.view import build

JARGON = re.compile(
    r"\b(D32|D64|slope|lifted|resynchron\w*|inert|unpaired|origins?|anchor\w*|oracle|propagated|fingerprints?|(?<!--)payloads?"
    r"|intervention|leaf|leaves|[a-z]+#\d+|substitute|restore-state|restore-values|hold-in|set-scalar|put-back"
    r"|mean_abs|rel_l2|scaling test)\b"
)
"""Words of those who know whydiff; they stand behind -v and on the explanation pages."""
SHORT = 3
"""Lines of code that stand in the answer."""
LINES = 10
"""Most lines of the five sentences together, code aside."""


def faults(diagnosis: Diagnosis) -> list[str]:
    """What of the answer is not plain, not whole or too wide."""
    found = answer(diagnosis)
    text = found.text()
    said = [f"jargon: {word}" for word in JARGON.findall(text)]
    said += [f"too wide: {line}" for line in text.splitlines() if len(line) > WIDTH]
    said += [f"empty: {label}" for label, sentence in found.lines() if not sentence]
    cause = leading(diagnosis)
    code = cause.remedy.code.splitlines() if cause is not None and cause.remedy is not None else []
    if found.code and len(code) <= SHORT and not short_code(found.code):
        said.append(f"the fix's code is too wide: {found.code}")
    if "because" in text and any(cause.status == "located" for cause in diagnosis.causes):
        said.append("a place is given as a reason")
    if sum(1 + len(sentence) // 72 for _, sentence in found.lines()[:5]) > LINES:
        said.append(f"more than {LINES} lines: {text}")
    return said


SECRET = re.compile(r"\b(D32|D64|slope|lifted|casts kept|leave one out|resynchron\w*|inert)\b", re.IGNORECASE)
"""Words that stand nowhere in a report that is sent, however far down; pages of explanation say what they are."""


def unplain(diagnosis: Diagnosis) -> list[str]:
    """What of a report to send is not plain: its headings and cards, and `SECRET` anywhere."""
    page = of_diagnosis(diagnosis)
    said = [text for part in page.parts for text in (part.title, part.hint)]
    said += [section.title for section in build(diagnosis).sections]
    for card in (card for part in page.parts for card in part.cards):
        said += [card.standing, card.says, card.effect, card.reason, card.fix, card.tried]
        said += [text for one in card.experiments for text in (one.way, one.status, one.outcome)]
    found = [f"jargon: {word} in {text!r}" for text in said for word in JARGON.findall(text)]
    whole = MarkdownReporter(verbose=True).render(diagnosis)
    return found + [f"jargon: {line}" for line in whole.splitlines() if SECRET.search(line)]


def is_cut_short(diagnosis: Diagnosis) -> bool:
    """Whether the fix ends in the middle, because it is longer than the answer has room for."""
    return " … (" in answer(diagnosis).fix or answer(diagnosis).fix.endswith(" …")

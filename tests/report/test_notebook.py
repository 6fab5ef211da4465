"""What a notebook shows: the five lines, nothing that runs, and one line where a cell prints text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

import whydiff
from whydiff.records import Diagnosis
from whydiff.report.answer import answer
from whydiff.report.notebook import write
from whydiff.studies.base import Study

HOSTILE = "<script>alert(1)</script> \"x\" 'y' &amp; <img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.met: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "href")]
        self.met.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    return whydiff.compare(torch.sin, lambda x: torch.sin(x) * 2, torch.linspace(0, 1, 8))


def test_a_cell_shows_the_answer(diagnosis: Diagnosis) -> None:
    shown = Tags(diagnosis._repr_html_())
    assert not shown.open and {"div", "table", "details", "summary"} <= shown.met
    for _, sentence in answer(diagnosis).lines():
        assert sentence in shown.text


def test_names_are_text_and_never_markup(diagnosis: Diagnosis) -> None:
    hostile = replace(
        diagnosis,
        notes=(HOSTILE,),
        causes=tuple(replace(c, site=HOSTILE, name=HOSTILE) for c in diagnosis.causes),
        outputs=tuple((HOSTILE, comparison) for _, comparison in diagnosis.outputs),
        environment_changes=((HOSTILE, HOSTILE, HOSTILE),),
    )
    shown = Tags(hostile._repr_html_())
    assert not shown.open and not {"script", "img"} & shown.met and "alert(1)" in shown.text


def test_one_line_says_what_it_is(diagnosis: Diagnosis) -> None:
    assert re.fullmatch(r"<Diagnosis: semantic, \w{2}\d{3} [\w-]+ \(proven\), 1 place>", repr(diagnosis))
    nothing = whydiff.compare(torch.sin, torch.sin, torch.ones(2))
    assert re.fullmatch(r"<Cause: \w{2}\d{3} [\w-]+ at .+ \(proven\)>", repr(diagnosis.causes[0]))
    assert repr(nothing) == "<Diagnosis: identical, 0 places>"


def studies(kind: type[Study] = Study) -> list[type[Study]]:
    from whydiff.cli.demos import megatron  # noqa: F401 - its report is a study too
    from whydiff.studies import formulas, port  # noqa: F401
    from whydiff.studies.artifacts import report as a  # noqa: F401
    from whydiff.studies.decoding import report as d  # noqa: F401
    from whydiff.studies.logprobs import report as b  # noqa: F401
    from whydiff.studies.matrix import report as m  # noqa: F401
    from whydiff.studies.ranging import report as r  # noqa: F401
    from whydiff.studies.sweep import report as s  # noqa: F401

    return [
        sub
        for one in kind.__subclasses__()
        if one.__module__.startswith("whydiff.")
        for sub in (one, *one.__subclasses__())
    ]


@pytest.mark.parametrize("study", studies(), ids=lambda study: study.__name__)
def test_a_study_has_the_short_repr_too(study: type[Study]) -> None:
    assert study.__repr__ is Study.__repr__, "say @dataclass(repr=False)"


def test_a_study_shows_itself() -> None:
    found = whydiff.sweep(lambda x: x / x.shape[0], lambda batch: (torch.ones(batch, 2),), batch="1,2", remedies=False)
    assert repr(found) == f"<Sweep: {found.verdict}>"
    shown = Tags(found._repr_html_())
    assert not shown.open and all(sentence in shown.text for _, sentence in found.answer())
    assert write(found.view()) == found._repr_html_()

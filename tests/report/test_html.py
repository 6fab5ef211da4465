"""The HTML report without a browser: complete, loads nothing, and no text of a diagnosis is markup in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from golden import GOLDEN, PRECISION

from whydiff.errors import UsageError
from whydiff.records import Diagnosis, OpRow, Picture
from whydiff.report import html
from whydiff.report._page import of_diagnosis, table
from whydiff.report.answer import answer
from whydiff.report.blocks import Chart, Section, Text, View
from whydiff.report.html import HtmlReporter

OPS = (
    OpRow(scope="model.a", op="mm", state="agrees", target="aten.mm.default", writes=("float32[2]",)),
    OpRow(scope="model.a", op="add", state="starts here", target="aten.add.Tensor", reads=("float32[2]",) * 2),
    OpRow(scope="model.b", op="add", state="differs", target="aten.add.Tensor", phase="backward", step=2, occurrence=1),
    OpRow(scope="model.b", op="mul", state="candidate only", target="aten.mul.Tensor", source="run.py:3"),
)
PICTURE = Picture(
    name="logits",
    spec="float32[2,2]",
    grid=((0.0, 1.0), (float("inf"), 0.0)),
    rows=1,
    columns=1,
    ulps=((1, 1), (4, 1)),
    first=(0, 1),
    values=("1", "2"),
    seen=(4, 4),
)
FULL = replace(PRECISION, ops=OPS, pictures=(PICTURE,))


class Page(HTMLParser):
    """Tags with their attributes, the text, and what the scripts hold."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(HtmlReporter().render(diagnosis))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self.inside in ("script", "style") else self.texts).append(data)

    @property
    def data(self) -> Any:
        return json.loads(next(text for text in self.scripts if text.startswith("{")))


@pytest.mark.parametrize("case", GOLDEN)
def test_it_has_the_words_of_the_answer_and_loads_nothing(case: str) -> None:
    page = Page(GOLDEN[case])
    shown = " ".join(" ".join(page.texts).split())
    for _, sentence in answer(GOLDEN[case]).lines():
        assert sentence in shown
    assert not [value for _, given in page.tags for key, value in given.items() if key in ("src", "srcset", "data-src")]
    assert all(str(given["href"]).startswith("#") for _, given in page.tags if "href" in given)
    policy = next(given["content"] for _, given in page.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    assert not re.search(r"@import|url\(", "".join(text for text in page.scripts if text.startswith(":root")))


def test_the_ops_are_rows_of_indices_that_read_back() -> None:
    ops = Page(FULL).data["ops"]
    at = {name: i for i, name in enumerate(ops["columns"])}
    rows = [{name: ops[name][row[at[name]]] for name in ("scope", "op", "state", "target")} for row in ops["rows"]]
    assert rows == [{"scope": o.scope, "op": o.op, "state": o.state, "target": o.target} for o in OPS]
    assert [ops["spec"][i] for i in ops["rows"][1][at["reads"]]] == ["f32[2]", "f32[2]"]
    assert ops["suffix"][ops["rows"][2][at["suffix"]]] == ", backward, step 2"


def test_an_op_carries_what_was_measured_at_its_place() -> None:
    site = PRECISION.origins[0].site
    here = OpRow(scope=site.scope, op=site.op, state="starts here", target="cos")
    found = table(replace(PRECISION, ops=(here, replace(here, state="candidate only"), replace(here, occurrence=1))))
    largest = [row[found["columns"].index("max")] for row in found["rows"]]
    assert largest == [PRECISION.origins[0].comparison.value("max_abs"), None, None]


def test_charts_mark_where_a_difference_starts_and_carry_infinities() -> None:
    page = Page(FULL)
    depth, grid, bars = page.data["charts"]
    assert depth["kind"] == "line" and depth["opens"]
    assert all(depth["x"][i] == PRECISION.origins[0].site.scope for i in depth["marks"])
    assert grid["series"][1][1] == ["Infinity", 0.0] and bars["series"][0][1] == [1.0, 1.0]
    assert "first mismatch at [0, 1]: 1 ↔ 2" in " ".join(page.texts)


def test_a_page_of_sections_has_the_same_dress() -> None:
    chart = Chart(title="rows", kind="heat", x=("1", "2"), series=(("a", (0.0, None)),))
    view = View(
        "rounding", (("", "ROUNDING: it is"), ("fix", "accept it")), "", (Section("Table", (Text("x<b>y"), chart)),)
    )
    text = html.write(view)
    assert "<h1>ROUNDING: it is</h1>" in text and "x&lt;b&gt;y" in text and 'data-chart="0"' in text


def test_without_charts_there_is_no_library() -> None:
    text = html.write(View("identical", (("", "IDENTICAL"),), "", (Section("A", (Text("x"),)),)))
    assert len(text) < 100_000


def test_parts_have_names_of_their_own() -> None:
    ids = [part.id for part in of_diagnosis(FULL).parts]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"part-[a-z0-9-]+", one) for one in ids)


def test_what_is_not_installed_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from whydiff import registry

    monkeypatch.setattr(html, "NEEDED", ("jinja2", "no_such_package"))
    with pytest.raises(UsageError, match=r"whydiff\[html\]"):
        registry.reporter_for("report.html")

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import GOLDEN, PRECISION
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from whydiff.records import Cause, Remedy, Verdict
from whydiff.report.markdown import MarkdownReporter, escape

parser = MarkdownIt("commonmark").enable("table")


@pytest.mark.parametrize("case", GOLDEN)
def test_every_table_row_has_as_many_cells_as_its_header(case: str) -> None:
    tokens = parser.parse(MarkdownReporter().render(GOLDEN[case]))
    counts: list[int] = []
    for token in tokens:
        if token.type == "table_open":
            counts = []
        elif token.type == "tr_open":
            counts.append(0)
        elif token.type in ("td_open", "th_open"):
            counts[-1] += 1
        elif token.type == "table_close":
            assert len(counts) > 1 and len(set(counts)) == 1


def test_the_answer_is_a_list_under_the_title() -> None:
    html = parser.render(MarkdownReporter().render(PRECISION))
    assert html.startswith("<h1>whydiff: precision</h1>\n<p><strong>PRECISION, proven: ")
    for label in ("where", "effect", "proof", "fix"):
        assert f"<li><strong>{label}</strong>: " in html


def test_names_cannot_inject_html_or_break_a_table() -> None:
    hostile = replace(PRECISION, environment_changes=(("a|b", "<script>x</script>", "`c`\n## d"),))
    html = parser.render(MarkdownReporter().render(hostile))
    assert "<script>" not in html and "<td>a|b</td>" in html and "<h2>d" not in html


def test_code_with_backticks_stays_inside_its_fence() -> None:
    cause = Cause("X001", "x", "", Verdict.SEMANTIC, remedy=Remedy("t", "a = 1\n```\n# b\n"), status="confirmed")
    html = parser.render(MarkdownReporter().render(replace(PRECISION, causes=(cause,))))
    assert "a = 1\n```\n# b" in html and "<h1>b" not in html


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"])))
@example("&lt; &amp;")
def test_escaped_text_is_read_back_as_it_was(text: str) -> None:
    html = parser.renderInline(f"x{escape(text)}x")
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        html = html.replace(entity, char)
    assert html == f"x{text}x"

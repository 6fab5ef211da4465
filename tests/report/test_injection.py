"""Names from a stranger's trace stay text in every reporter: no escape sequence, no markup, no turned writing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from golden import PRECISION
from markdown_it import MarkdownIt

from whydiff import registry
from whydiff.records import Cause, Count, Diagnosis, Evidence, Experiment, Intervention, OpRow, Picture, Remedy, Site
from whydiff.report.answer import answer

HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
    "\x9b2J",
    "a\rFAKE: IDENTICAL",
    "a\nIDENTICAL: every output is bit-equal",
    "[bold red]x[/bold red] [link=http://evil.example]y[/link]",
    "[/]",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "' onmouseover='alert(1)",
    '"><svg onload=alert(1)>',
    "{{ 7*7 }}{% raw %}",
    "![x](http://evil.example/x.png) [y](javascript:alert(1))",
    "`code` | cell | @everyone #1",
    "\u202ereversed\u202c \u2066x\u2069 \u200f",
    "\ud800 half \udfff",
    "\u2028line\u2029paragraph\ufeff",
    "$x^2$ \\(y\\)",
)
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def hostile(name: str) -> Diagnosis:
    """A diagnosis with the name in every place that a trace or a plug-in can fill."""
    origin = PRECISION.origins[0]
    site = Site(name, name)
    cause = Cause(
        code="XX001",
        name=name,
        site=f"{name}:{name}#0",
        verdict=PRECISION.verdict,
        says=name,
        evidence=(Evidence(name, {name: name}),),
        remedy=Remedy(name, name),
        status="confirmed",
        experiments=(
            Experiment(
                interventions=(Intervention(name, name, name),), prediction=name, outcome=name, status="confirmed"
            ),
        ),
        interventions=(Intervention(name, name, name),),
    )
    return replace(
        PRECISION,
        reason=name,
        origins=(replace(origin, site=site, candidate_site=site, leaves=(name,), evidence=(Evidence(name),)),),
        causes=(cause, replace(cause, status="located", reason=name)),
        outputs=((name, PRECISION.outputs[0][1]),),
        growth=tuple(replace(one, site=site) for one in PRECISION.growth[:3]),
        environment_changes=((name, name, name),),
        not_compared=(Count(name, name, 1, (name,)),),
        notes=(name,),
        sides=tuple(replace(side, source=name, note=name) for side in PRECISION.sides),  # type: ignore[arg-type]
        ops=(OpRow(scope=name, op=name, state="differs", target=name, reads=(name,), writes=(name,), source=name),),
        pictures=(
            Picture(
                name=name,
                spec=name,
                grid=((1.0,),),
                rows=1,
                columns=1,
                ulps=((1, 1),),
                first=(0,),
                values=("0", "1"),
                seen=(1, 1),
            ),
        ),
    )


def without_charts(html: str) -> str:
    """Without the library that draws them, which is megabytes."""
    before, _, rest = html.partition('<script type="text/plain"')
    return before + rest.partition("</script>")[2]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(without_charts(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


@pytest.mark.parametrize("reporter", registry.names("reporters"))
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_reporter_writes_what_moves_a_cursor_or_cannot_be_written(reporter: str, name: str) -> None:
    text = registry.get("reporters", reporter)().render(hostile(name))
    text.encode("utf-8")
    if reporter == "html":  # the library of charts holds such characters as escapes of its own
        text = without_charts(text)
    if reporter != "json":
        assert not UNSAFE.findall(text)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_the_html_has_the_same_tags_whatever_the_names_are(name: str) -> None:
    reporter = registry.get("reporters", "html")()
    tame, wild = (Tags(reporter.render(hostile(one))).found for one in ("name", name))
    assert wild == tame


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_markdown_renders_no_tag_link_or_image_from_a_name(name: str) -> None:
    html = (
        MarkdownIt("commonmark").enable("table").render(registry.get("reporters", "markdown")().render(hostile(name)))
    )
    assert not re.search(r"<(script|img|svg|a)\b", html)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_the_answer_stays_its_lines(name: str) -> None:
    lines = answer(hostile(name)).text().splitlines()
    labels = [line.split(" ")[0] for line in lines if line[:1].isalpha()]
    assert labels == ["PRECISION,", "where", "effect", "proof", "fix", "causes", "also"]


def test_json_carries_them_as_strings() -> None:
    for name in HOSTILE:
        text = registry.get("reporters", "json")().render(hostile(name))
        (note,) = json.loads(text)["notes"]
        assert note and not UNSAFE.findall(note)

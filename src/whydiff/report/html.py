"""The report as one HTML file that loads nothing: the answer, what to look at, then everything else."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from whydiff.errors import UsageError
from whydiff.records import Diagnosis
from whydiff.report._page import Numbered, Page, of_diagnosis, of_view
from whydiff.report.base import Reporter
from whydiff.report.blocks import View
from whydiff.report.words import plain, tone

NEEDED = ("jinja2", "plotly")


class HtmlReporter(Reporter):
    """One self-contained file: no network, light and dark, keyboard and screen reader.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """

    suffixes = (".html",)

    def __init__(self) -> None:
        check_installed()

    def render(self, diagnosis: Diagnosis) -> str:
        """The document as HTML text."""
        return _rendered(of_diagnosis(diagnosis))


def check_installed() -> None:
    """Refuse before a long run what could not be written after it.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            "The HTML report needs packages that are not installed.",
            actual=f"no {' and no '.join(missing)}",
            next_step="pip install 'whydiff[html]'",
        )


def write(view: View) -> str:
    """A report's data as HTML text.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    check_installed()
    return _rendered(of_view(view))


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("whydiff.report"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.jinja")


def _file(name: str) -> Any:
    """A file of ours, as it is: no text of a diagnosis is in it."""
    from markupsafe import Markup

    source, _, _ = _template().environment.loader.get_source(_template().environment, name)
    return Markup(source)


def _plotly() -> Any:
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _rendered(page: Page) -> str:
    from jinja2.utils import htmlsafe_json_dumps

    numbered = Numbered()
    parts = [
        {
            "id": f"{part.id}-{number}",
            "title": part.title,
            "hint": part.hint,
            "widget": part.widget,
            "cards": part.cards,
            "blocks": [numbered(block) for block in part.blocks],
        }
        for number, part in enumerate(page.parts, 1)
    ]
    (first, headline), *lines = page.view.answer or (("", page.view.verdict or page.view.title),)
    data = {"charts": numbered.charts, "ops": page.ops}
    rendered: str = _template().render(
        title=plain(page.view.title),
        verdict=plain(page.view.verdict),
        tone=tone(page.view.verdict),
        headline=f"{first}: {headline}" if first else headline,
        lines=lines,
        remedy=plain(page.view.remedy),
        parts=parts,
        data=htmlsafe_json_dumps(data, allow_nan=False, separators=(",", ":")),
        style=_file("report.css"),
        script=_file("report.js"),
        plotly=_plotly() if numbered.charts else "",
        made="Made by whydiff. This file is complete: it loads nothing from the network.",
    )
    return rendered


REGISTER = HtmlReporter

"""The report in a notebook's cell: the five lines, the fix, and the sections folded away.

A fragment of HTML with the cell's own colours, so that it reads in light and dark; no script, nothing from a network.
"""

from __future__ import annotations

from html import escape as escaped

from whydiff.records import Diagnosis
from whydiff.report.base import Reporter
from whydiff.report.blocks import Bar, Cell, Code, Readable, Table, Text, View, readable
from whydiff.report.view import build
from whydiff.report.words import tone

_COLOURS = {"good": "#2e7d32", "mild": "#b26a00", "bad": "#c62828"}
_CELL = "padding:2px 10px 2px 0;vertical-align:top;text-align:left;white-space:pre-wrap"


class NotebookReporter(Reporter):
    """What a notebook shows of a Diagnosis; it writes no kind of file."""

    def render(self, diagnosis: Diagnosis) -> str:
        """A fragment of HTML."""
        return write(build(diagnosis))


def write(view: View) -> str:
    """A report's data as a fragment of HTML; every string is text, never markup."""
    colour = _COLOURS[tone(view.verdict)]
    parts = [f'<div class="whydiff" style="border-left:4px solid {colour};padding-left:12px">', "<table>"]
    for number, (label, text) in enumerate(view.answer):
        weight = "" if number else "font-weight:bold;"
        shown = f'<td style="{_CELL}">{escape(label)}</td><td style="{weight}{_CELL}">{escape(text)}</td>'
        if not label:
            shown = f'<td colspan="2" style="{weight}{_CELL}">{escape(text)}</td>'
        parts.append(f"<tr>{shown}</tr>")
    parts.append("</table>")
    parts += [_code(view.remedy)] if view.remedy else []
    for section in view.sections:
        blocks = "".join(map(_block, readable(section.blocks)))
        parts.append(f"<details><summary>{escape(section.title)}</summary>{blocks}</details>")
    return "\n".join([*parts, "</div>\n"])


def escape(text: str) -> str:
    """Text between tags: quotes mean nothing there."""
    return escaped(text, quote=False)


def _block(block: Readable) -> str:
    if isinstance(block, Text):
        return f'<div style="margin-left:{block.depth + 1}em;white-space:pre-wrap">{escape(block.text)}</div>'
    return _code(block.code) if isinstance(block, Code) else _table(block)


def _table(table: Table) -> str:
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in table.columns)
    rows = ["".join(map(_cell, row)) for row in table.rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Bar):
        width = round(100 * cell.fraction)
        inner = f'<div style="background:currentColor;opacity:.4;height:.8em;width:{width}px"></div>'
        return f'<td style="{_CELL}" aria-label="{cell.fraction:.0%}">{inner}</td>'
    return f'<td style="{_CELL}">{escape(cell)}</td>'


def _code(code: str) -> str:
    return f'<pre style="margin:4px 0 4px 1em">{escape(code.rstrip())}</pre>'


REGISTER = NotebookReporter

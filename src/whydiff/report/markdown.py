"""The report as Markdown (tables of the GitHub flavour), for issues and pull requests."""

from __future__ import annotations

import re

from whydiff.records import Diagnosis
from whydiff.report.base import Reporter
from whydiff.report.blocks import Bar, Cell, Code, Readable, Text, View, readable
from whydiff.report.view import build
from whydiff.report.words import bar

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@&])")


class MarkdownReporter(Reporter):
    """The same content as on the terminal.

    Args:
        verbose: list every origin and depth instead of grouping and summarising.
    """

    suffixes = (".md", ".markdown")

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose

    def render(self, diagnosis: Diagnosis) -> str:
        """The document as Markdown text."""
        return write(build(diagnosis, verbose=self.verbose))


def write(view: View) -> str:
    """A report's data as Markdown text."""
    parts = [f"# {view.title}: {view.verdict}" if view.verdict else f"# {view.title}"]
    parts += [f"**{escape(text)}**" for label, text in view.answer[:1] if not label]
    rest = view.answer[len(parts) - 1 :]
    parts.append("\n".join(f"- **{label}**: {escape(text)}" if label else f"- {escape(text)}" for label, text in rest))
    parts += [_code(view.remedy)] if view.remedy else []
    for section in view.sections:
        shown = readable(section.blocks)
        parts += [f"## {escape(section.title)}", _blocks(shown)] if shown else []
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text in which no character has a meaning in Markdown or HTML; line breaks become spaces."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split("\n")))


def _blocks(blocks: tuple[Readable, ...]) -> str:
    parts: list[str] = []
    previous: Readable | None = None
    for block in blocks:
        item = _block(block)
        joined = isinstance(block, Text) and isinstance(previous, Text)
        parts += [item if not parts else ("\n" if joined else "\n\n") + item]
        previous = block
    return "".join(parts)


def _block(block: Readable) -> str:
    if isinstance(block, Text):
        return f"{'  ' * block.depth}- {escape(block.text)}"
    if isinstance(block, Code):
        return _code(block.code)
    rule = ["---:" if name in block.numeric else "---" for name in block.columns]
    lines = [[escape(name) for name in block.columns], rule]
    lines += [[_cell(cell) for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    return bar(cell.fraction, 10) if isinstance(cell, Bar) else escape(cell)


def _code(code: str) -> str:
    # A fence longer than any run of backticks inside it.
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{code.rstrip()}\n{fence}"


REGISTER = MarkdownReporter

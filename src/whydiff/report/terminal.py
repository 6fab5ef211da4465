"""The report on a terminal (rich). Piped, it is the same text without a width and without colour."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import Literal

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text as RichText

from whydiff.records import Diagnosis
from whydiff.report.answer import LABEL, WIDTH, folded, short_code
from whydiff.report.base import Reporter
from whydiff.report.blocks import Bar, Block, Cell, Chart, Code, Table, Text, View
from whydiff.report.view import build
from whydiff.report.words import bar, tone
from whydiff.takes import HOW_MUCH, NUMBER, one_of, takes

Color = Literal["always", "auto", "never"]

COLOR = one_of("always", "auto", "never")
_UNLIMITED = 10_000
_BAR_CELLS = 20
_MORE = {
    True: "more    -v shows everything; --save report.html keeps it in one file to send",
    False: "more    print(verbose=1) shows everything; save('report.html') writes a file",
}
"""How to see what is not shown: on the command line, and in Python."""
_TONES = {"": "", "good": "green", "bad": "bold red", "dim": "dim"}
_VERDICTS = {"good": "bold green", "mild": "bold yellow", "bad": "bold red"}
_ASCII = str.maketrans(
    {**dict.fromkeys("█▏▎▍▌▋▊▉", "#"), "–": "-", "→": "->", "↔": "<->", "…": "...", "✓": "+", "✗": "x", "×": "x"}
)


class TerminalReporter(Reporter):
    """The answer in five lines, then the sections.

    Args:
        color: ``"always"`` survives a pipe; ``"auto"`` follows the terminal, ``NO_COLOR`` and
            ``FORCE_COLOR`` (in this order); ``"never"`` writes no escape sequence at all.
        width: columns to fold at; None: the terminal's, and no limit if there is no terminal.
        verbose: 0: the answer; 1 or True: also every section; 2: nothing in them is grouped or shortened.
        command: it is shown on the command line, whose options are named then.
        console: write here instead of standard output; the other settings are then the console's own.
    """

    suffixes = (".txt",)

    @takes("Diagnosis.print", color=COLOR, width=NUMBER, verbose=HOW_MUCH)
    def __init__(
        self,
        color: Color = "auto",
        width: int | None = None,
        verbose: int = 0,
        command: bool = False,
        console: Console | None = None,
    ) -> None:
        self.command = command
        self.color, self.width, self.verbose, self.console = color, width, verbose, console

    def print(self, diagnosis: Diagnosis) -> None:
        """Write the answer to the console; with ``verbose`` the sections too."""
        write(self._view(diagnosis, self.verbose), self.console or make_console(self.color, self.width))

    def render(self, diagnosis: Diagnosis) -> str:
        """The report with its sections, whatever is printed: a file is there to be looked things up in.

        It has escape sequences only if ``color`` is ``"always"``.
        """
        color: Color = "always" if self.color == "always" else "never"
        return as_text(self._view(diagnosis, self.verbose or 1), color, self.width)

    def _view(self, diagnosis: Diagnosis, verbose: int) -> View:
        view = build(diagnosis, verbose=verbose > 1)
        return view if verbose else without_sections(view, self.command)


def without_sections(view: View, command: bool) -> View:
    """The answer alone, and how to see the rest on the command line or in Python."""
    return replace(view, sections=(), more=_MORE[command])


def write(view: View, console: Console) -> None:
    """Put a report's data on a console."""
    out = _Writer(console)
    width = min(WIDTH, console.width)
    for number, (label, text) in enumerate(view.answer):
        out.labelled(label, text, width, "" if number else _VERDICTS[tone(view.verdict)])
        if label == "fix":
            for line in short_code(view.remedy, width):
                out.line(line, "cyan", LABEL)
    if view.remedy and not view.more and not short_code(view.remedy, width):
        console.print()
        out.block(Code(view.remedy))
    if view.more:
        out.line(view.more, "dim")
    for section in view.sections:
        console.print()
        out.line(section.title, "bold")
        for block in section.blocks:
            out.block(block)


def as_text(view: View, color: Color = "never", width: int | None = None) -> str:
    """A report's data as text, unfolded if no width is given."""
    file = io.StringIO()
    write(view, make_console(color, width or _UNLIMITED, file))
    return file.getvalue()


class _Writer:
    """Puts blocks on one console; every string is literal text, never markup."""

    def __init__(self, console: Console) -> None:
        self.console = console
        encoding = console.encoding.lower().replace("-", "")
        self.unicode = encoding.startswith("utf") or isinstance(console.file, io.StringIO)

    def text(self, text: str, style: str = "") -> RichText:
        return RichText(text if self.unicode else text.translate(_ASCII), style, overflow="fold")

    def line(self, text: str, style: str = "", indent: int = 0) -> None:
        self.put(self.text(text, style), indent)

    def put(self, renderable: RenderableType, indent: int) -> None:
        self.console.print(Padding(renderable, (0, 0, 0, indent), expand=False))

    def labelled(self, label: str, text: str, width: int, style: str) -> None:
        for line in folded(label, text, width):
            shown = self.text(line, style)
            if label and line.startswith(label):
                shown.stylize("bold cyan", 0, len(label))
            self.console.print(shown)

    def block(self, block: Block) -> None:
        if isinstance(block, Text):
            self.line(block.text, _TONES[block.tone], 2 + 2 * block.depth)
        elif isinstance(block, Code):
            for line in block.code.rstrip().splitlines():
                self.line(line, "cyan", 6)
        elif not isinstance(block, Chart):
            self.rows(block)

    def rows(self, block: Table) -> None:
        """The table if it fits, else each row as its first cell and a sentence, so that names stay whole."""
        table = self.table(block)
        needed = Measurement.get(self.console, self.console.options.update(width=_UNLIMITED), table).maximum
        if needed + 2 <= self.console.width:
            self.put(table, 2)
            return
        for first, *rest in block.rows:
            self.put(self.cell(first), 2)
            named = zip(block.columns[1:], rest, strict=True)
            figures = [
                f"{name} {cell}".strip() for name, cell in named if not isinstance(cell, Bar) and cell not in ("", "–")
            ]
            self.line("; ".join(figures), indent=4)

    def table(self, block: Table) -> RichTable:
        table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in block.columns:
            right = name in block.numeric
            table.add_column(self.text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
        for row in block.rows:
            table.add_row(*(self.cell(cell) for cell in row))
        return table

    def cell(self, cell: Cell) -> RichText:
        if isinstance(cell, Bar):
            return self.text(bar(cell.fraction, _BAR_CELLS), "magenta")
        return self.text(cell)


def make_console(color: Color = "auto", width: int | None = None, file: io.StringIO | None = None) -> Console:
    """A console that keeps colour exactly when it was asked for, and never cuts text that is piped."""
    plain = Console(file=file, width=width, highlight=False, color_system=None)
    if color == "auto":
        environment = os.environ
        if environment.get("NO_COLOR"):
            color = "never"
        elif environment.get("FORCE_COLOR"):
            color = "always"
    if width is None and not plain.file.isatty():
        width = _UNLIMITED
    if color == "never":
        return Console(file=file, width=width, highlight=False, color_system=None, force_terminal=False)
    if color == "always":
        return Console(file=file, width=width, highlight=False, color_system="standard", force_terminal=True)
    return Console(file=file, width=width, highlight=False)


REGISTER = TerminalReporter

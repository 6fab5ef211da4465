"""What every study's result can do: answer in short, show sections, print, save, become JSON."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from whydiff.errors import UsageError
from whydiff.report import html, json, markdown, notebook, terminal
from whydiff.report.base import write_file
from whydiff.report.blocks import Lines, Section, View
from whydiff.report.words import plain
from whydiff.takes import HOW_MUCH, NUMBER, PATH, takes

SUFFIXES = (".html", ".json", ".md", ".txt")
"""Kinds of file that a study can be saved as."""


class Study(abc.ABC):
    """The document that one study makes; a subclass is a frozen dataclass (``repr=False``) of what was found."""

    __slots__ = ()
    title: ClassVar[str]
    schema_version: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def word(self) -> str:
        """The result in one word, for headings and colour: a verdict's, if the study has one."""

    @abc.abstractmethod
    def answer(self) -> Lines:
        """(label, sentence) pairs: the `headline`, where, why, effect, proof, fix, as far as the study knows them."""

    @abc.abstractmethod
    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Everything else, in reading order; sections without blocks are left out of the report.

        Args:
            verbose: shorten no table.
        """

    def remedy(self) -> str:
        """Code to paste; empty if there is none."""
        return ""

    def fields(self) -> dict[str, Any]:
        """The record's fields as JSON-able data."""
        encoded: dict[str, Any] = json.encode(self)
        return encoded

    def to_dict(self) -> dict[str, Any]:
        """The whole document as JSON-able data, `schema_version` and the answer first."""
        return json.document(
            self.fields(), {label or "headline": text for label, text in self.answer()}, self.schema_version
        )

    def view(self, verbose: bool = False) -> View:
        """The report as data, for whoever renders it."""
        filled = tuple(section for section in self.sections(verbose) if section.blocks)
        return View(
            verdict=self.word,
            answer=self.answer(),
            remedy=self.remedy(),
            sections=filled,
            title=f"whydiff {self.title}",
        )

    def text(self) -> str:
        """The answer and the code of its fix, in lines."""
        return terminal.as_text(replace(self.view(), sections=()))

    def __repr__(self) -> str:
        """One line: what was studied and the result; `print` shows the report."""
        return f"<{type(self).__name__}: {self.word or self.title}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return notebook.write(self.view())

    @takes("Diagnosis.print", color=terminal.COLOR, width=NUMBER, verbose=HOW_MUCH)
    def print(
        self, *, color: terminal.Color = "auto", width: int | None = None, verbose: int = 0, command: bool = False
    ) -> None:
        """Print the answer; options as those of `whydiff.report.terminal.TerminalReporter`."""
        view = self.view(verbose > 1)
        shown = view if verbose or not view.sections else terminal.without_sections(view, command)
        terminal.write(shown, terminal.make_console(color, width))

    @takes("Diagnosis.save", path=PATH)
    def save(self, path: str) -> None:
        """Write the report: ``.html``, ``.json``, ``.md`` or ``.txt``.

        Raises:
            UsageError: another suffix, or the file cannot be written.
        """
        check_suffixes([path])
        renderers = {
            ".html": lambda: html.write(self.view()),
            ".json": lambda: json.write(self.to_dict()),
            ".md": lambda: markdown.write(self.view()),
            ".txt": lambda: terminal.as_text(self.view()),
        }
        write_file(path, renderers[Path(path).suffix.lower()]())


def headline(word: str, sentence: str) -> tuple[str, str]:
    """The first line of a study's answer: the result in capitals, and a sentence."""
    return "", plain(f"{word.upper()}: {sentence}")


def check_suffixes(paths: Iterable[str]) -> None:
    """Refuse an unknown kind of file before a long study runs.

    Raises:
        UsageError: a suffix other than `SUFFIXES`, or what an HTML report needs is not installed.
    """
    for path in paths:
        if Path(path).suffix.lower() == ".html":
            html.check_installed()
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UsageError(
                "A study cannot be written as this kind of file.",
                where=path,
                actual=Path(path).suffix or "(no suffix)",
                expected=" or ".join(SUFFIXES),
            )

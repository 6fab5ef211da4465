"""How the commands whose result is no Diagnosis show it: labelled lines, then titled sections."""

from __future__ import annotations

import io
import json as jsons
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from whydiff.cli._options import Color
from whydiff.errors import UsageError
from whydiff.report.blocks import Section
from whydiff.report.json import encode
from whydiff.report.terminal import write_sections

SUFFIXES = (".json", ".txt")
"""Kinds of file that a study's report can be saved as."""


def check_suffixes(paths: Sequence[str]) -> None:
    """Refuse an unknown kind of file before a long study runs.

    Raises:
        UsageError: a suffix other than `SUFFIXES`.
    """
    for path in paths:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UsageError(
                "This report cannot be written as this kind of file.",
                where=path,
                actual=Path(path).suffix or "(no suffix)",
                expected=" or ".join(SUFFIXES),
            )


def show_study(
    result: Any,
    labelled: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    *,
    json: bool,
    save: Sequence[str],
    color: Color,
) -> None:
    """Write a study's result to standard output (text or JSON) and to every file in ``save``.

    Args:
        result: the frozen record; JSON has every field under its own name, `schema_version` first.
        labelled: (label, sentence) pairs, the answer in short.
        sections: the rest, in reading order; empty ones are left out.
        json: JSON instead of text.
        save: paths that end in ``.json`` or ``.txt``.
        color: when to write colour.
    """
    fields = encode(result)
    data = {"schema_version": fields.pop("schema_version"), "answer": dict(labelled), **fields}
    text = jsons.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for path in save:
        written = text if path.lower().endswith(".json") else _text(labelled, sections)
        try:
            Path(path).write_text(written, encoding="utf-8")
        except OSError as error:
            raise UsageError("The report cannot be written.", where=path, actual=str(error)) from error
    if json:
        typer.echo(text, nl=False)
    else:
        write_sections(labelled, sections, color.value)


def _text(labelled: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    file = io.StringIO()
    write_sections(labelled, sections, "never", file)
    return file.getvalue()

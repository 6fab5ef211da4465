"""The reporters' contract: a Diagnosis in, text out; options belong to the constructor."""

from __future__ import annotations

import abc
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from whydiff.errors import UsageError
from whydiff.records import Diagnosis


class Reporter(abc.ABC):
    """One way to show a Diagnosis.

    A subclass renders; its file defines ``REGISTER`` as the class, and ``suffixes`` names the kinds of file
    that it writes.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def render(self, diagnosis: Diagnosis) -> str:
        """The report as plain text, ending with a newline."""

    def print(self, diagnosis: Diagnosis) -> None:
        """Write the report to standard output."""
        sys.stdout.write(self.render(diagnosis))

    def save(self, diagnosis: Diagnosis, path: str) -> None:
        """Write the report to a file in UTF-8, replacing what was there.

        Raises:
            UsageError: the file cannot be written.
        """
        write_file(path, self.render(diagnosis))


def check_file(path: str) -> None:
    """Refuse a file that cannot be written, before a long run is made for it.

    Raises:
        UsageError: its folder is missing, or it may not be written there.
    """
    folder = Path(path).absolute().parent
    why = ""
    if Path(path).is_dir():
        why = "a folder of this name exists"
    elif not folder.is_dir():
        why = f"there is no folder {folder}"
    elif not os.access(path if Path(path).exists() else folder, os.W_OK):
        why = "permission denied"
    if why:
        raise _unwritable(path, why)


def write_file(path: str, text: str) -> None:
    """Write a report to a file in UTF-8, replacing what was there.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _unwritable(path: str, why: str) -> UsageError:
    return UsageError(
        "The report cannot be written.",
        where=str(path),
        actual=why,
        expected="a file in a folder that exists and may be written",
    )


def demands(part: Any, name: str) -> Iterator[str]:
    """What a registered reporter lacks."""
    if not isinstance(part.suffixes, tuple):
        yield f"suffixes is {part.suffixes!r}, not a tuple of strings"
    else:
        for suffix in part.suffixes:
            if not isinstance(suffix, str) or not re.fullmatch(r"\.[a-z0-9_.-]+", suffix):
                yield f"the suffix {suffix!r} is not a dot and small letters"
    try:
        inspect.signature(part).bind()
    except TypeError:
        yield f"{part.__name__}{inspect.signature(part)} cannot be made without arguments"

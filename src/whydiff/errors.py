"""Every error that whydiff raises on purpose.

```
WhydiffError
├── UsageError          the call itself is wrong (unknown target, bad option)        exit status 2
│   ├── UnsupportedError     the framework's adapter has no such ability
│   └── MissingPackageError  a package that this needs is not installed
├── TargetError         the user's target cannot be loaded, or raised while running   exit status 2
├── TraceError          a trace cannot be opened
│   ├── TraceFormatError     not a trace, corrupted, or hostile
│   └── TraceVersionError    written by a schema this version does not read
├── PayloadError        a full tensor is needed and is not there
├── CaptureError        an instrumented run could not be recorded
├── ReplayError         a recorded call could not be executed again
└── PluginError         a registered part is broken, or clashes with another
```

`Interrupted` is no error: it is the KeyboardInterrupt that stops a comparison, with what was found until then.

A message always says: what, where, actual, expected, next step.

Where a part (a rule, an experiment, a metric, a section of a report) may fail without the rest, it works inside
`guarded`: what it raises is noted by the innermost `collecting`, and the work goes on. With ``WHYDIFF_RAISE=1`` in the
environment (as in whydiff's own tests), or where nobody collects, the error comes through.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What moves the cursor, colours, turns the direction of writing, or cannot be written: all of it but tab and line feed."""


def harmless(text: str, *, one_line: bool = False) -> str:
    """A text that may come from a stranger, safe for a terminal, a file and JSON: what is not becomes a visible escape.

    Args:
        text: of a name, a version, a note, an error.
        one_line: tabs and line feeds become visible too.
    """
    if text.isprintable():  # nearly every text
        return text
    shown = _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
    return shown.replace("\n", "\\n").replace("\t", "\\t") if one_line else shown


class WhydiffError(Exception):
    """Base class. ``str(error)`` is the whole designed message.

    Args:
        what: what went wrong, one sentence.
        where: site, file or option; omitted from the message if empty.
        actual: what was found.
        expected: what should have been there.
        next_step: what the user can do now.
    """

    def __init__(
        self, what: str, *, where: str = "", actual: str = "", expected: str = "", next_step: str = ""
    ) -> None:
        given = (what, where, actual, expected, next_step)
        what, where, actual, expected, next_step = (harmless(str(text)) for text in given)
        self.what, self.where, self.actual = what, where, actual
        self.expected, self.next_step = expected, next_step
        labelled = (("where", where), ("actual", actual), ("expected", expected), ("next", next_step))
        super().__init__("\n".join([what, *(f"  {label}: {text}" for label, text in labelled if text)]))


class UsageError(WhydiffError):
    """The call itself is wrong."""


class UnsupportedError(UsageError):
    """The framework's adapter has no such ability."""


class MissingPackageError(UsageError):
    """A package that this needs is not installed."""

    @classmethod
    def of(cls, error: ModuleNotFoundError, what: str = "This", extra: str = "") -> MissingPackageError:
        """What to install, for an import that failed.

        Args:
            error: the import's.
            what: needs the package, in words.
            extra: of whydiff, that brings it; else it is looked up.
        """
        name = (error.name or "").partition(".")[0]
        extra = extra or _EXTRAS.get(name, "")
        return cls(
            f"{what} needs a package that is not installed.",
            where=sys.executable,
            actual=f"no module named {error.name}",
            next_step=f"pip install 'whydiff[{extra}]'"
            if extra
            else f"install {name} there, or put its folder on PYTHONPATH",
        )


_EXTRAS = {
    "torch": "torch",
    **dict.fromkeys(("jax", "jaxlib", "ml_dtypes"), "jax"),
    **dict.fromkeys(("transformers", "gguf", "sentencepiece", "penzai"), "demo"),
    **dict.fromkeys(("jinja2", "plotly"), "html"),
    "pyarrow": "tables",
    "fsspec": "remote",
}
"""Package → the extra of whydiff that brings it."""


INTERRUPTED = 130
"""Exit status after Ctrl-C, and after a request to end (SIGTERM), which is answered in the same way."""


class Interrupted(KeyboardInterrupt):
    """A comparison was stopped by Ctrl-C.

    Attributes:
        found: what was known by then: an inconclusive Diagnosis or a study's result.
    """

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found


class TargetError(WhydiffError):
    """The user's target cannot be loaded, or raised while running (the original is ``__cause__``)."""


class TraceError(WhydiffError):
    """A trace cannot be opened."""


class TraceFormatError(TraceError):
    """Not a trace, corrupted, or hostile."""


class TraceVersionError(TraceError):
    """Written by a schema that this version does not read."""


class PayloadError(WhydiffError):
    """A full tensor is needed and is not there."""


class CaptureError(WhydiffError):
    """An instrumented run could not be recorded."""


class ReplayError(WhydiffError):
    """A recorded call could not be executed again."""


class PluginError(WhydiffError):
    """A registered part is broken, or clashes with another; the message names it and where it comes from."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that raised.

    Attributes:
        part: which, in words: ``"cause ST001"``.
        error: type and message, on one line.
    """

    part: str
    error: str


@dataclass(slots=True)
class Failures:
    """What failed while somebody collected: failure → how often."""

    found: dict[Failure, int] = field(default_factory=dict)

    def add(self, failure: Failure) -> None:
        """Note one more."""
        self.found[failure] = self.found.get(failure, 0) + 1


_COLLECTING: ContextVar[Failures | None] = ContextVar("whydiff_failures", default=None)
_LONGEST = 300


@contextmanager
def collecting() -> Iterator[Failures]:
    """Note what fails inside `guarded` blocks, instead of letting it through."""
    failures = Failures()
    token = _COLLECTING.set(failures)
    try:
        yield failures
    finally:
        _COLLECTING.reset(token)


class guarded:
    """Let a part fail alone: ``with guarded("cause ST001") as guard: …``.

    Args:
        part: who works in the block, in words.

    Attributes:
        error: after the block, what it raised, on one line; empty if it did not.
    """

    def __init__(self, part: str) -> None:
        self.part, self.error = part, ""

    def __enter__(self) -> guarded:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        failures = _COLLECTING.get()
        if not isinstance(error, Exception) or failures is None or os.environ.get("WHYDIFF_RAISE") == "1":
            return False
        self.error = one_line(error)
        failures.add(Failure(self.part, self.error))
        return True


def attempted(part: str, work: Callable[[], T], otherwise: T) -> T:
    """What ``work()`` gives; ``otherwise`` if it raises (see `guarded`)."""
    with guarded(part):
        return work()
    return otherwise


def meant(wanted: str, known: Iterable[str]) -> str:
    """``precision or …?`` for a word that nobody knows; empty if nothing is near.

    Args:
        wanted: as it was written.
        known: the words there are.
    """
    near = difflib.get_close_matches(wanted, sorted(set(known)), n=3)
    return f"{' or '.join(near)}?" if near else ""


def one_line(error: BaseException) -> str:
    """Type and message of an error, cut to a readable length."""
    text = harmless(" ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

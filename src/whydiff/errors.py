"""Every error that whydiff raises on purpose.

```
WhydiffError
├── UsageError          the call itself is wrong (unknown target, bad option)        exit status 2
├── TargetError         the user's target cannot be loaded, or raised while running   exit status 2
├── TraceError          a trace cannot be opened
│   ├── TraceFormatError     not a trace, corrupted, or hostile
│   └── TraceVersionError    written by a schema this version does not read
├── PayloadError        a full tensor is needed and is not there
├── CaptureError        an instrumented run could not be recorded
└── ReplayError         a recorded call could not be executed again
```

A message always says: what, where, actual, expected, next step.
"""

from __future__ import annotations


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
        self.what, self.where, self.actual = what, where, actual
        self.expected, self.next_step = expected, next_step
        labelled = (("where", where), ("actual", actual), ("expected", expected), ("next", next_step))
        super().__init__("\n".join([what, *(f"  {label}: {text}" for label, text in labelled if text)]))


class UsageError(WhydiffError):
    """The call itself is wrong."""


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

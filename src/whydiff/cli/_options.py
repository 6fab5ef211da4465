"""Options that several commands share, each defined once."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from whydiff.records import Verdict


class Color(str, enum.Enum):
    """When to write colour."""

    ALWAYS = "always"
    AUTO = "auto"
    NEVER = "never"


class Level(str, enum.Enum):
    """What a comparison looks at."""

    OP = "op"
    MODULE = "module"


class CaptureLevel(str, enum.Enum):
    """What a capture records."""

    OP = "op"
    MODULE = "module"
    STEP = "step"


Allow = Annotated[
    Verdict,
    typer.Option(
        "--allow",
        metavar="VERDICT",
        help="The worst verdict that still exits with status 0: identical, rounding, precision, semantic, unstable, "
        "nondeterministic, incomparable; inconclusive only if it is named.",
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGS", help="Given to the target: JSON where it is valid JSON, else text."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")]
Save = Annotated[
    list[str] | None,
    typer.Option(
        "--save", "-s", metavar="PATH", help="Also write the report here: .html, .json, .md, .txt; repeatable."
    ),
]
ColorOption = Annotated[
    Color, typer.Option("--color", help="'always' survives a pipe; 'auto' follows NO_COLOR, FORCE_COLOR, the terminal.")
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, help="Show everything behind the answer; -vv groups and shortens nothing."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="On an error, show the Python traceback too.")]

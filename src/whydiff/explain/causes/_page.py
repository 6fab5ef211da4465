"""Documentation pages of causes from their docstrings; `make docs` writes them."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path

from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._telling import detectors


def sections(detector: CauseRule) -> dict[str, str]:
    """Heading → text of a cause's docstring; the summary line has the heading ``""``."""
    text = inspect.getdoc(type(detector)) or ""
    found, heading = {"": ""}, ""
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][\w -]*:", line):
            heading = line[:-1]
            found[heading] = ""
        else:
            found[heading] += line.removeprefix("    ") + "\n"
    return {name: body.strip() for name, body in found.items()}


def page(detector: CauseRule) -> str:
    """A cause's page as Markdown, the code of its example included."""
    found = sections(detector)
    parts = [f"# {detector.code} {detector.name}", found.pop("")]
    for heading, body in found.items():
        parts += [f"## {heading}", body]
        if heading == "Example":
            parts.append(f"```python\n{_source(detector)}```")
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """The page that lists every cause."""
    rows = [f"| {d.code} | `{d.name}` | {sections(d)['']} |" for d in detectors()]
    return "\n".join(
        [
            "# Causes",
            "",
            "Every cause that whydiff can name. `whydiff cause CODE` prints its page, `make docs` writes all of them to",
            "`docs/causes`.",
            "",
            "| code | name | what it is |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _source(detector: CauseRule) -> str:
    return textwrap.dedent(inspect.getsource(type(detector).example)).replace("(self)", "()", 1)


def write(docs: Path) -> list[Path]:
    """Write ``causes/CODE.md`` and ``reference/causes.md`` (which is checked in) below the documentation's folder."""
    pages = {docs / "causes" / f"{d.code}.md": page(d) for d in detectors()}
    pages[docs / "reference" / "causes.md"] = index()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(pages)


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        print(written)

"""How Sphinx builds the site: ``make site``. Pages of causes, commands and names are written anew from the code."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "src"))

import whydiff  # noqa: E402
from whydiff.cli._page import write as write_commands  # noqa: E402
from whydiff.explain.causes._page import write as write_causes  # noqa: E402

write_causes(HERE)
write_commands(HERE / "reference" / "help.md")


def directive(name: str) -> str:
    """How autodoc shows a public name."""
    value = getattr(whydiff, name)
    kind = "class" if isinstance(value, type) else "function"
    return "exception" if kind == "class" and issubclass(value, BaseException) else kind


API = "\n".join(
    f"```{{eval-rst}}\n.. auto{directive(name)}:: whydiff.{name}\n```\n"
    for name in whydiff.__all__
    if name != "__version__"
)
(HERE / "reference" / "api.md").write_text(
    "# The API\n\nEvery public name, from its docstring. [Names in Python](python.md) has them in one table.\n\n" + API,
    encoding="utf-8",
)

project, author, release = "whydiff", "The whydiff authors", whydiff.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "whydiff"
html_static_path = ["_static"]
exclude_patterns = ["_build"]
autodoc_typehints = "none"  # the text says shapes and units, the signature is in the source
autodoc_member_order = "bysource"

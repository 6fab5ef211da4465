"""The documentation points at files that exist and speaks of every verdict, error and public name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import whydiff
from whydiff import errors
from whydiff.records import Verdict

ROOT = Path(__file__).parents[1]
BUILT = [ROOT / "docs" / name for name in ("causes", "_build", "reference/help.md", "reference/api.md")]
EVERY = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
PAGES = sorted(p for p in EVERY if not any(p.is_relative_to(built) for built in BUILT))
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[\w-]+)?\)")


def broken_links(page: Path, text: str) -> list[str]:
    return [target for target, _ in LINK.findall(text) if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_the_test_above_can_fail() -> None:
    text = "[a](README.md) [b](README.md#see) [c](https://example.org) [d](docs/no-such-page.md#x)"
    assert broken_links(ROOT / "README.md", text) == ["docs/no-such-page.md"]


def test_every_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target, _ in LINK.findall(index) if target}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page.name != "index.md"}
    menu = re.findall(r"^```{toctree}\n(.*?)^```", index, re.MULTILINE | re.DOTALL)
    globs = [line for block in menu for line in block.splitlines() if "*" in line]
    listed = {page for pattern in globs for page in (ROOT / "docs").glob(f"{pattern}.md")}
    assert pages <= listed, "the site's menu has every page"
    assert {p for p in pages if p not in linked and p.parent.name != "decisions"} == set()


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_explained(verdict: Verdict) -> None:
    page = (ROOT / "docs/explanation/verdicts.md").read_text(encoding="utf-8")
    assert f"\n| `{verdict}` |" in page


def test_every_error_and_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    own = {name: value for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    named = {name for name, value in own.items() if isinstance(value, type)}
    named |= set(whydiff.__all__) - {"__version__"}
    assert {name for name in named if not re.search(rf"\b{name}\b", page)} == set()

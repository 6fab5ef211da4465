"""What a release is made of agrees with itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import whydiff

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", ["pyproject.toml", "CITATION.cff"])
def test_every_file_says_the_same_version(file: str) -> None:
    found = re.search(r'^version(?: =|:) "?([\w.]+)"?$', (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None and found[1] == whydiff.__version__


def test_workflows_call_targets_that_exist() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = [
        t for f in (ROOT / ".github/workflows").glob("*.yml") for t in re.findall(r"make ([a-z-]+)", f.read_text())
    ]
    assert called and set(called) <= made

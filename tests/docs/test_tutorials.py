"""Tutorial pages are programs: every Python block of a page runs, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted((ROOT / "docs/tutorial").glob("*.md"))


def given(page: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a page takes as given: a checkpoint and a prompt."""
    if page.stem == "first-comparison":
        _, _, ids = request.getfixturevalue("smollm")
        return {"path": request.getfixturevalue("smollm_dir"), "input_ids": ids}
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs(page: Path, request: pytest.FixtureRequest) -> None:
    namespace = given(page, request)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    if page.stem == "gemma":
        pytest.importorskip("penzai")
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)

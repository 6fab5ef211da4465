"""The report in a real headless Chromium: `make browser`. Skipped elsewhere, with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
ASKED = "WHYDIFF_BROWSER"


def _executable() -> str:
    if not os.environ.get(ASKED):
        pytest.skip(f"only `make browser` opens a browser (it sets {ASKED}=1)", allow_module_level=True)
    pytest.importorskip("playwright", reason="playwright is not installed: pip install 'whydiff[browser]'")
    pytest.importorskip("plotly", reason="plotly is not installed: pip install 'whydiff[html]'")
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        pytest.skip("no Chromium is installed: apt-get install chromium", allow_module_level=True)
    return found


@dataclass
class Opened:
    """A page with everything that it logged and asked for."""

    page: Any
    path: Path
    logged: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def quiet(self) -> bool:
        """Whether nothing was logged and nothing but the file itself was asked for."""
        return not self.logged and self.requested == [self.path.as_uri()]

    def faults(self) -> list[str]:
        """Serious violations that axe finds."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['impact']} {one['id']}: {node['html'][:120]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    executable = _executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a file: ``opened(path, scheme="dark", width=390)``."""
    contexts = []

    def open_file(path: Path, *, scheme: str = "light", width: int = 1280) -> Opened:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 850})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        result = Opened(page, path)
        page.on("console", lambda message: result.logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: result.logged.append(f"error: {error}"))
        page.on("request", lambda request: result.requested.append(request.url))
        page.on("dialog", lambda dialog: (result.logged.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        return result

    yield open_file
    for context in contexts:
        context.close()

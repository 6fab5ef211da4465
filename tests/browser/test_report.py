"""What a person does with the report: read, look, search, filter, sort, copy; by mouse, by keyboard, on a phone."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "report")]
from reports import diagnosis  # noqa: E402

Open = Callable[..., Any]
PAGES = {
    "light": {},
    "dark": {"scheme": "dark"},
    "phone": {"width": 390},
    "phone, dark": {"scheme": "dark", "width": 390},
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    diagnosis(layers=6, ops=4).save(str(path))
    return path


def rows(page: Any) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("\t")]
        for line in page.locator("#ops tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent).join('\\t'))"
        )
    ]


def becomes(locator: Any, text: str) -> None:
    """The text that the page comes to; typing is answered after a pause, which a busy machine makes longer."""
    from playwright.sync_api import expect

    expect(locator).to_contain_text(text, timeout=30_000)


@pytest.mark.parametrize("name", PAGES)
def test_it_is_quiet_accessible_and_as_wide_as_the_window(report: Path, opened: Open, name: str) -> None:
    found = opened(report, **PAGES[name])
    found.page.locator(".chart .main-svg").first.wait_for() if "phone" not in name else None
    for holder in found.page.locator(".chart").all():
        holder.scroll_into_view_if_needed()
        holder.locator(".main-svg").first.wait_for()
    width = found.page.evaluate("document.documentElement.scrollWidth")
    assert width <= PAGES[name].get("width", 1280)
    assert found.faults() == []
    assert found.quiet(), (found.logged, found.requested)


def test_the_first_screen_answers(report: Path, opened: Open) -> None:
    page = opened(report).page
    assert page.locator("h1").inner_text().startswith("SEMANTIC, proven: the candidate adds 1e-3")
    box = page.locator("#answer").bounding_box()
    assert box and box["y"] + box["height"] < 850
    said = page.locator("#answer").inner_text()
    for words in ("model.layers.1.norm.eps", "60.0 % of the", "all 182,016 numbers agree", "same epsilon"):
        assert words in said


def test_the_theme_follows_the_system_and_the_button(report: Path, opened: Open) -> None:
    page = opened(report, scheme="dark").page
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(theme) == "light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_ops_are_filtered_sorted_and_turned_over(report: Path, opened: Open) -> None:
    page = opened(report).page
    count = page.locator("#op-count")
    assert count.inner_text() == "168 of 168 ops; page 1 of 4"
    page.get_by_role("button", name="Next").click()
    assert "page 2 of 4" in count.inner_text()
    page.get_by_label("Filter").fill("layers.1.norm")
    becomes(count, "4 of 168")
    assert count.inner_text().startswith("4 of 168") and all(row[0] == "model.layers.1.norm" for row in rows(page))
    page.get_by_label("Filter").fill("")
    becomes(count, "168 of 168")
    page.get_by_label("State").select_option("starts here")
    becomes(count, "1 of 168")
    assert [row[:3] for row in rows(page)] == [["model.layers.1.norm", "native_layer_norm", "starts here"]]
    page.get_by_label("State").select_option("")
    page.get_by_role("button", name="rel L2").click()
    errors = [float(row[6]) for row in rows(page) if row[6] not in ("–", "0")]
    assert errors and errors == sorted(errors, reverse=True)
    page.get_by_role("button", name="rel L2").click()
    assert page.locator("#ops th[aria-sort=ascending]").inner_text() == "rel L2"
    page.get_by_role("button", name="place").press("Enter")
    assert rows(page)[0][0] == "model.layers.0.mlp"


def test_the_tree_opens_searches_and_leads_to_ops(report: Path, opened: Open) -> None:
    page = opened(report).page
    tree = page.locator("#tree")
    assert "differences start" in tree.inner_text() or "a difference starts here" in tree.inner_text()
    model = tree.locator("summary").nth(1)
    model.press("Enter")
    page.get_by_label("Search modules").fill("layers.1.norm")
    becomes(page.locator("#tree-count"), "1 module matches")
    assert "4 of 4 ops differ" in tree.inner_text()
    page.get_by_role("button", name="show ops of model.layers.1.norm", exact=True).click()
    assert page.locator("#op-count").inner_text().startswith("4 of 168")
    page.get_by_role("button", name="Close all").click()
    assert tree.locator("details[open]").count() == 0


def test_code_is_copied(report: Path, opened: Open) -> None:
    page = opened(report).page
    button = page.locator("#answer .copy")
    button.click()
    page.get_by_role("button", name="Copied").first.wait_for()


def test_charts_are_drawn_with_their_marks_and_a_point_leads_to_its_ops(report: Path, opened: Open) -> None:
    page = opened(report).page
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    chart.locator(".main-svg").first.wait_for()
    assert "a difference starts" in chart.inner_text()
    page.evaluate("document.querySelector('.chart').emit('plotly_click', {points: [{x: 13}]})")
    page.wait_for_function(
        "value => document.getElementById('op-filter').value === value", arg="model.layers.1.norm", timeout=30_000
    )


def test_everything_is_reached_by_keyboard(report: Path, opened: Open) -> None:
    page = opened(report).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert {"theme", "copy", "tree-search", "SUMMARY", "op-filter", "op-state"} <= reached


def test_hostile_names_stay_text(tmp_path: Path, opened: Open) -> None:
    specification = importlib.util.spec_from_file_location("injection", HERE.parent / "report/test_injection.py")
    assert specification and specification.loader
    injection = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(injection)
    for number, name in enumerate((" ".join(injection.HOSTILE), "</script><script>alert(1)</script>", "$x^2$")):
        path = tmp_path / f"{number}.html"
        injection.hostile(name).save(str(path))
        found = opened(path)
        for holder in found.page.locator(".chart").all():
            holder.scroll_into_view_if_needed()
            holder.locator(".main-svg").first.wait_for()
        assert found.quiet(), (name, found.logged, found.requested)
        assert found.page.evaluate("document.querySelectorAll('main img, main a[href], svg script').length") == 0
        assert re.sub(r"\s", "", found.page.locator("#ops tbody").inner_text())


def test_a_hundred_thousand_ops_open_and_are_filtered(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "large.html"
    diagnosis(layers=1430, ops=10).save(str(path))
    assert path.stat().st_size < 30_000_000
    page = opened(path, width=390).page
    assert page.locator("#op-count").inner_text().startswith("100100 of 100100")
    page.get_by_label("Filter").fill("layers.777.mlp.up")
    becomes(page.locator("#op-count"), "10 of 100100")
    page.get_by_label("Search modules").fill("layers.77.")
    becomes(page.locator("#tree-count"), "modules match")

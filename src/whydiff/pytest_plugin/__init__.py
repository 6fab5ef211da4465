"""The pytest plugin: markers, golden traces, and a failure that names place and cause, in JUnit, SARIF and GitHub too.

pytest loads it in every project beside which whydiff is installed, so it imports nothing heavy before a test uses it.
What it knows of a test travels in the test's ``user_properties``: pytest writes them to JUnit's XML, and pytest-xdist
sends them from the workers to the process that writes the summary.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from whydiff.errors import WhydiffError
from whydiff.pytest_plugin._findings import Findings
from whydiff.pytest_plugin._given import wrong
from whydiff.pytest_plugin._golden import Goldens
from whydiff.pytest_plugin._marks import MARKERS, guarded_by
from whydiff.pytest_plugin._told import end_at_the_call, tell

__all__ = ["whydiff_golden"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and settings."""
    group = parser.getgroup("whydiff", "numbers that must not change")
    group.addoption("--whydiff-update", action="store_true", help="Record golden traces anew instead of comparing.")
    group.addoption("--whydiff-reports", metavar="DIR", help="Save the report of a failed comparison here.")
    group.addoption("--whydiff-sarif", metavar="FILE", help="Write failed comparisons as SARIF 2.1.0.")
    parser.addini("whydiff_golden_max", "Bytes that the outputs of a golden trace may take.", default="1048576")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; where results arrive, collect them."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Findings(config), "whydiff-findings")


@pytest.fixture
def whydiff_golden(request: pytest.FixtureRequest) -> Goldens:
    """Compare a program with its golden trace: ``whydiff_golden(model, x)``; see `Goldens.__call__`."""
    return Goldens(request)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Check what a marked test returns."""
    original = pyfuncitem.obj
    checks = guarded_by(pyfuncitem)
    if checks:
        pyfuncitem.obj = checks(original)
    try:
        return (yield)
    finally:
        if checks:
            pyfuncitem.obj = original


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that says nothing: a test that it should guard would pass unguarded."""
    if said := wrong(item):
        pytest.fail(said, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let a test's assertions know what its marker allows; note what they found."""
    try:
        with tell(item):
            return (yield)
    except WhydiffError as error:
        if not item.config.getoption("fulltrace"):
            end_at_the_call(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say below a failure where its whole report lies."""
    report = yield
    told = dict(item.user_properties)
    path = told.get("whydiff_report")
    if report.when == "call" and report.failed and "whydiff_no_report" in told:
        report.sections.append(("whydiff report", str(told["whydiff_no_report"])))
    if report.when == "call" and report.failed and path:
        report.sections.append(("whydiff report", str(path)))
        if item.config.pluginmanager.hasplugin("html"):  # pytest-html shows what it finds under this name
            link = {"name": "whydiff", "format_type": "url", "content": str(path), "mime_type": None, "extension": None}
            vars(report)["extras"] = [*vars(report).get("extras", ()), link]
    return report

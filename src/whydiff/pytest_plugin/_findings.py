"""What the process that hears of every test does with it: the summary, SARIF and GitHub's annotations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_LEVELS = {"rounding": "note", "precision": "warning"}


class Findings:
    """Collects the properties of reports; registered where no xdist worker runs."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: list[tuple[pytest.TestReport, dict[str, str]]] = []
        self._recorded: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test says of itself."""
        if report.when != "call":
            return
        said = {name: str(value) for name, value in report.user_properties}
        if report.failed and "whydiff_verdict" in said:
            self._failed.append((report, said))
        self._recorded += [f"recorded {value}" for name, value in report.user_properties if name == "whydiff_golden"]
        self._recorded += [str(value) for name, value in report.user_properties if name == "whydiff_golden_note"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name recorded golden traces; annotate where GitHub reads."""
        if self._recorded:
            terminalreporter.section("golden traces")
            for line in self._recorded:
                terminalreporter.line(line)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for report, said in self._failed:
                terminalreporter.line(annotation(report, said))

    def pytest_sessionfinish(self) -> None:
        """Write the SARIF file that was asked for, also without findings: no file means no run."""
        chosen = self._config.getoption("--whydiff-sarif")
        if chosen:
            Path(chosen).write_text(json.dumps(sarif(self._failed), indent=2) + "\n", encoding="utf-8")


def annotation(report: pytest.TestReport, said: dict[str, str]) -> str:
    """A line that GitHub shows beside the test's code."""
    file, line, name = report.location
    title = _property(f"{name}: {said['whydiff_verdict']} {said.get('whydiff_cause', '')}".strip())
    return f"::error file={_property(file)},line={(line or 0) + 1},title={title}::{_data(said['whydiff_message'])}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def sarif(failed: list[tuple[pytest.TestReport, dict[str, str]]]) -> dict[str, Any]:
    """Failed comparisons as a SARIF 2.1.0 log: a rule per cause, a result per test, at the test's line."""
    rules = sorted({_rule(said) for _, said in failed})
    results = [
        {
            "ruleId": _rule(said),
            "level": _LEVELS.get(said["whydiff_verdict"], "error"),
            "message": {"text": said["whydiff_message"]},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": Path(report.location[0]).as_posix()},
                        "region": {"startLine": (report.location[1] or 0) + 1},
                    },
                    "logicalLocations": [{"fullyQualifiedName": report.nodeid}],
                }
            ],
        }
        for report, said in failed
    ]
    driver = {"name": "whydiff", "rules": [{"id": rule} for rule in rules]}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _rule(said: dict[str, str]) -> str:
    """The cause's code; the verdict where no cause is known."""
    return said.get("whydiff_cause", "").partition(" ")[0] or said["whydiff_verdict"]

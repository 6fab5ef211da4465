"""What a test is told (the verdict that its marker allows) and what it tells (properties of its report)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from whydiff.errors import TargetError, WhydiffError
from whydiff.pytest_plugin._given import ALLOW, given
from whydiff.studies.watch import Watch, watched

if TYPE_CHECKING:
    from whydiff.records import Diagnosis
    from whydiff.studies.sweep.report import Sweep


@contextmanager
def tell(item: pytest.Item) -> Iterator[None]:
    """A block in which a test runs; afterwards its properties hold what its assertions found."""
    marker = item.get_closest_marker(ALLOW)
    watch = Watch("" if marker is None else str(given(marker)["verdict"]))
    try:
        with watched(watch):
            yield
    except BaseException:
        if watch.failed is not None:
            item.user_properties += _properties(watch.failed)
            item.user_properties += _saved(item, watch.failed)
        raise
    if watch.seen:
        worst = max(watch.seen, key=lambda diagnosis: diagnosis.verdict.severity)
        item.user_properties += _properties(worst)


def end_at_the_call(error: WhydiffError) -> None:
    """Let an error's traceback end at the user's line that called whydiff: the message says the rest.

    What a program of the user's raised keeps its own frames.
    """
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None and not _own(frame.tb_next):
        frame = frame.tb_next
    if frame is not None:
        frame.tb_next = None
    theirs = error.__cause__ if isinstance(error, TargetError) else None
    error.__cause__ = theirs
    if theirs is not None:
        while theirs.__traceback__ is not None and theirs.__traceback__.tb_next and _own(theirs.__traceback__):
            theirs.__traceback__ = theirs.__traceback__.tb_next


def _own(frame: TracebackType) -> bool:
    module = str(frame.tb_frame.f_globals.get("__name__", ""))
    return module.startswith("whydiff.") and not module.startswith("whydiff.pytest_plugin")


def _properties(found: Diagnosis | Sweep) -> list[tuple[str, object]]:
    """Names and texts, as JUnit's XML and xdist's messages carry them."""
    from whydiff.records import STANDING, Diagnosis
    from whydiff.report.answer import answer, leading

    if isinstance(found, Diagnosis):
        cause, said = leading(found), answer(found).text()
    else:
        cause, said = next((c for c in found.causes if c.status in STANDING), None), found.text()
    told = {
        "verdict": str(found.verdict),
        "cause": f"{cause.code} {cause.name}" if cause else "",
        "message": said.rstrip(),
    }
    return [(f"whydiff_{name}", text) for name, text in told.items() if text]


def _saved(item: pytest.Item, found: Diagnosis | Sweep) -> list[tuple[str, object]]:
    """Where the whole report was written, or why not; nothing if pytest keeps no cache and no folder was asked for."""
    chosen = item.config.getoption("--whydiff-reports")
    if chosen is None and not item.config.pluginmanager.hasplugin("cacheprovider"):
        return []
    folder = Path(chosen) if chosen else item.config.rootpath / str(item.config.getini("cache_dir")) / "whydiff"
    path = folder / (file_name(item.nodeid) + _suffix())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(str(path))
    except (OSError, WhydiffError) as error:  # the test's own failure is what counts
        return [("whydiff_no_report", str(error))]
    return [("whydiff_report", str(path))]


def _suffix() -> str:
    """``.html`` where it can be written, else ``.md``."""
    from whydiff import registry
    from whydiff.errors import UsageError

    try:
        registry.reporter_for("report.html")
    except UsageError:
        return ".md"
    return ".html"


def file_name(nodeid: str) -> str:
    """A test's id as the name of a file or folder, the same on every system."""
    return re.sub(r"[^\w.-]+", "-", nodeid).strip("-.")

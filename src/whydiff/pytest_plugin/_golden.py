"""The fixture ``whydiff_golden``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whydiff.pytest_plugin._told import file_name

FOLDER = "golden"
"""Beside the test's file."""


class Goldens:
    """Golden traces of one test.

    Args:
        request: of the test.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def path(self, name: str = "") -> Path:
        """Where a golden trace lies: ``golden/FILE-TEST.trace`` beside the test's file."""
        item = self._request.node
        inside = item.nodeid.partition("::")[2]
        words = "-".join(word for word in (item.path.stem, inside, name) if word)
        return Path(item.path.parent / FOLDER / f"{file_name(words)}.trace")

    def __call__(self, program: Any, *args: Any, name: str = "", allow: str | None = None, **kwargs: Any) -> None:
        """Compare a program with its golden trace; with ``--whydiff-update`` record it, unless it is as before.

        Args:
            program: a module or callable.
            args, kwargs: its inputs.
            name: tells several golden traces of one test apart.
            allow: the worst verdict that passes; see `whydiff.assert_same`.

        Raises:
            AssertionError: they differ by more than is allowed.
        """
        __tracebackhide__ = True
        from whydiff.pipeline import Options
        from whydiff.studies.golden import record
        from whydiff.studies.same import asserted, verdict

        if allow is not None:
            verdict(allow)  # a word that is misspelt is told before anything runs, or is recorded
        path, config = self.path(name), self._request.config
        most = str(config.getini("whydiff_golden_max"))
        if not most.isdecimal():
            pytest.fail(f"whydiff_golden_max is {most!r}, not a number of bytes", pytrace=False)
        if not config.getoption("--whydiff-update"):
            if not path.exists():
                pytest.fail(
                    f"There is no golden trace {path}. Run pytest --whydiff-update once, look at it and commit it.",
                    pytrace=False,
                )
            own = Options(trust=True)  # it lies beside the test, whose code runs as well
            asserted(path, program, args, kwargs, allow, own)
            return
        if path.exists() and _as_before(path, program, args, kwargs):
            return
        written = record(path, program, *args, largest=int(most), **kwargs)
        self._request.node.user_properties.append(("whydiff_golden", f"{path} ({written.size} bytes)"))
        for note in written.notes:
            self._request.node.user_properties.append(("whydiff_golden_note", note))


def _as_before(path: Path, program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    from whydiff.errors import TraceError
    from whydiff.pipeline import Options, compare
    from whydiff.records import Verdict

    try:
        return compare(path, program, *args, options=Options(trust=True), **kwargs).verdict is Verdict.IDENTICAL
    except TraceError:  # damaged, or of a version that is not read any more: it is to be replaced
        return False

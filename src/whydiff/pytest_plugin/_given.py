"""What the markers are given, and one line that says what is wrong with it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from whydiff.errors import meant

ALLOW, INVARIANT, DETERMINISTIC = "whydiff_allow", "whydiff_batch_invariant", "whydiff_deterministic"


def _allow(verdict: Any) -> None: ...


def _invariant(sizes: Any = None, rows: Any = None) -> None: ...


def _deterministic() -> None: ...


_TAKES = {
    name: inspect.signature(function, eval_str=False)
    for name, function in ((ALLOW, _allow), (INVARIANT, _invariant), (DETERMINISTIC, _deterministic))
}


def given(marker: pytest.Mark) -> dict[str, Any]:
    """What a marker was given, by name, however it was written."""
    return dict(_TAKES[marker.name].bind(*marker.args, **marker.kwargs).arguments)


def wrong(item: pytest.Item) -> str:
    """What is wrong with the first of a test's markers that is wrong; empty if none is."""
    declared = {line.partition(":")[0].partition("(")[0].strip() for line in item.config.getini("markers")}
    for marker in item.iter_markers():
        said = _wrong(marker) if marker.name in _TAKES else ""
        if marker.name.startswith("whydiff_") and marker.name not in declared:
            near = meant(marker.name, _TAKES)
            said = f"there is no such marker; {f'did you mean {near} T' if near else 't'}here are {', '.join(_TAKES)}"
        if said:
            return f"{marker.name}: {said}"
    return ""


def _wrong(marker: pytest.Mark) -> str:
    names = ", ".join(_TAKES[marker.name].parameters)
    try:
        arguments = given(marker)
    except TypeError as error:
        return f"{error}; it takes {f'({names})' if names else 'nothing'}"
    from whydiff.records import Verdict
    from whydiff.takes import SIZES, WHOLES, Kind, described

    verdicts = Kind(f"one of {', '.join(Verdict)}", lambda value: value in {*Verdict})
    kinds = {"verdict": verdicts, "sizes": SIZES, "rows": WHOLES}
    for name, value in arguments.items():
        if value is not None and not kinds[name].fits(value):
            near = meant(value, Verdict) if name == "verdict" and isinstance(value, str) else ""
            return f"{name} is {described(value)}, not {kinds[name].words}{f'; did you mean {near}' if near else ''}"
    return ""

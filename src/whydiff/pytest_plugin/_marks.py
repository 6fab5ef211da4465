"""Markers of tests that return a program and its inputs, and the checks that these stand for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from whydiff.errors import UsageError
from whydiff.pytest_plugin._given import ALLOW, DETERMINISTIC, INVARIANT, given

MARKERS = (
    f"{ALLOW}(verdict): the worst verdict that whydiff's assertions, fixture and {INVARIANT} let pass in this test.",
    f"{INVARIANT}(sizes=None, rows=None): the test returns (model, batch); no row may depend on the others.",
    f"{DETERMINISTIC}: the test returns (program, inputs); run twice, it must give the same bits.",
)
Test = Callable[..., Any]
Check = Callable[[Any, Any], None]


def guarded_by(item: pytest.Item) -> Callable[[Test], Test] | None:
    """What makes a test check what it returns; None if no marker asks for it."""
    checks = [make(marker) for name, make in _CHECKS.items() if (marker := item.get_closest_marker(name))]
    return functools.partial(_checked, checks) if checks else None


def _checked(checks: list[Check], test: Test) -> Test:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        returned = test(*args, **kwargs)
        if not isinstance(returned, tuple) or len(returned) != 2 or not callable(returned[0]):
            kind = type(returned).__name__
            pytest.fail(
                f"a test with this marker returns (program, inputs), and this one returned {kind}", pytrace=False
            )
        for check in checks:
            said = ""
            try:
                check(*returned)
            except (AssertionError, UsageError) as error:
                said = str(error)
            if said:  # not within the block: pytest would print the first error beside its own
                pytest.fail(said, pytrace=False)

    return run


def _batch_invariant(marker: pytest.Mark) -> Check:
    def check(model: Any, batch: Any) -> None:
        __tracebackhide__ = True
        from whydiff.studies.sweep.guard import assert_batch_invariant

        assert_batch_invariant(model, batch, **given(marker))

    return check


def _deterministic(marker: pytest.Mark) -> Check:
    def check(program: Any, inputs: Any) -> None:
        __tracebackhide__ = True
        from whydiff.studies.same import assert_same

        args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
        kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
        assert_same(program, program, *args, allow="identical", **kwargs)

    return check


_CHECKS = {INVARIANT: _batch_invariant, DETERMINISTIC: _deterministic}

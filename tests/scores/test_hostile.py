"""A small sample of ``python -m tests.scores.hostile``: a change of every kind."""

from __future__ import annotations

import re

import pytest
from tests.scores.changed_traces import Traces, operators
from tests.scores.commands import done


@pytest.mark.slow
def test_changed_files_give_clear_errors_or_honest_reports() -> None:
    """And every two-hundredth operator, executed alone, changes nothing."""
    hostile = done("tests.scores.hostile", "--traces", "16", "--artifacts", "20", "--operators", "200")
    assert hostile.returncode == 0, hostile.stdout + hostile.stderr
    told = dict(re.findall(r"^(artifacts|traces|operators): (.*)$", hostile.stdout, re.MULTILINE))
    assert set(told) == {"artifacts", "traces", "operators"} and "WRONG" not in hostile.stdout
    assert "'executed'" in told["operators"] and "'refused'" in told["operators"]


def test_every_registered_operator_has_its_turn() -> None:
    """Within the changes of the whole run each is named once."""
    every, kinds = operators(), Traces.KINDS
    assert len(every) == len(set(every)) and {"aten.__setattr__.__call__", "aten._print.default"} < set(every)
    assert 20_000 * kinds.count("operator") // len(kinds) >= len(every)

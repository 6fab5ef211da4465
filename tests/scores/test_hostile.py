"""A small sample of ``python -m tests.scores.hostile``: a change of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scores.changed_artifacts import Artifacts
from tests.scores.changed_traces import Traces, operators
from tests.scores.every_operator import Operators

pytestmark = pytest.mark.fresh


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tempfile

    monkeypatch.delenv("WHYDIFF_RAISE", raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_changed_traces_give_clear_errors_or_honest_diagnoses(tmp_path: Path) -> None:
    traces = Traces(tmp_path)
    tried = [traces.tried(number) for number in range(2 * len(Traces.KINDS))]
    assert {kind.partition(" ")[0] for kind, _, _ in tried} == set(Traces.KINDS)
    assert not [one for one in tried if one[1]]
    assert len({outcome for _, _, outcome in tried}) > 2


def test_changed_artifacts_give_clear_errors_or_honest_reports(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    tried = [artifacts.tried(number) for number in range(2 * len(artifacts.files))]
    assert not [one for one in tried if one[1]]


def test_every_registered_operator_has_its_turn() -> None:
    """Within the changes of the whole run each is named once."""
    every, kinds = operators(), Traces.KINDS
    assert len(every) == len(set(every)) and {"aten.__setattr__.__call__", "aten._print.default"} < set(every)
    assert 20_000 * kinds.count("operator") // len(kinds) >= len(every)


def test_operators_executed_alone_change_nothing(tmp_path: Path) -> None:
    """Every two-hundredth one, by a replay of a stranger's trace; the whole run takes them all."""
    tried = Operators(tmp_path)
    tried.every = [name for n, name in enumerate(tried.every) if n % 200 == 0 and name.startswith("aten.")]
    lines: list[str] = []
    outcomes = tried.run(lines.append)
    assert outcomes["executed"] and outcomes["refused"] and not outcomes["WRONG"], lines

"""What raises is counted in one line, and the report goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.errors import collecting, guarded
from whydiff.explain.causes import by_code
from whydiff.explain.experiments import Experiments
from whydiff.pipeline import compare
from whydiff.records import Diagnosis


def pair() -> tuple[Any, Any, torch.Tensor]:
    torch.manual_seed(0)
    reference, candidate = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    candidate.load_state_dict(reference.state_dict())
    candidate.weight.data[0, 0] += 1
    return reference, candidate, torch.randn(2, 4)


def failed(diagnosis: Diagnosis) -> dict[str, tuple[str, int]]:
    return {count.what: (count.reason, count.count) for count in diagnosis.not_compared if "failed" in count.reason}


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHYDIFF_RAISE", "0")


def broken(*_: Any, **__: Any) -> Any:
    raise ValueError("on purpose")


def test_nothing_is_counted_where_nothing_fails() -> None:
    assert failed(compare(*pair())) == {}


def test_a_rule_that_raises_is_counted_and_the_others_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(by_code("IN001")), "detect", broken)
    found = compare(*pair())
    assert failed(found) == {"cause in001": ("it failed: ValueError: on purpose", 1)}
    assert [(cause.code, cause.status) for cause in found.causes] == [("ST001", "confirmed")]


def test_an_experiment_that_raises_is_counted_and_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experiments, "try_out", broken)
    found = compare(*pair())
    reason, _ = failed(found)["the experiment of ST001 at weight"]
    assert "on purpose" in reason
    (cause,) = found.causes
    assert (cause.status, cause.reason) == ("inconclusive", "the experiment failed: ValueError: on purpose")


@pytest.mark.parametrize("method", ["take_away", "put_in"])
def test_a_cause_that_cannot_say_its_experiment_is_counted(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(by_code("ST001")), method, broken)
    found = compare(*pair())
    assert failed(found) == {"the experiment of ST001 at weight": ("it failed: ValueError: on purpose", 1)}
    (cause,) = found.causes
    assert (cause.status, cause.reason) == ("inconclusive", "the experiment failed: ValueError: on purpose")


@pytest.mark.parametrize("made", [1.5, 2.5])
def test_an_output_of_python_that_cannot_be_looked_into_is_not_called_rounding(
    made: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whydiff.judge.outside.rerun", broken)
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0))
    found = compare(lambda: (x.sum(1), 1.5), lambda: (x.reshape(8, 64, 64).sum(2).sum(1), made))
    assert str(found.verdict) == ("rounding" if made == 1.5 else "inconclusive")
    assert ("the outputs that no op returned" in failed(found)) == (made != 1.5)


@pytest.mark.parametrize(("name", "what"), [("measure_scaling", "the scaling test"), ("impact", "the impact")])
def test_a_probe_that_raises_is_counted(name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"whydiff.pipeline.{name}", broken)
    found = compare(*pair())
    assert failed(found) == {what: ("it failed: ValueError: on purpose", 1)}
    assert str(found.verdict) == "semantic"


def test_a_noise_floor_that_raises_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whydiff.pipeline.noise_floor", broken)
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0))
    found = compare(lambda: x.sum(1), lambda: x.reshape(8, 64, 64).sum(2).sum(1))
    assert str(found.verdict) == "rounding"
    assert failed(found) == {"the noise floor": ("it failed: ValueError: on purpose", 1)}


def test_a_section_that_raises_is_named_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    from whydiff import registry

    found = compare(*pair())
    monkeypatch.setattr("whydiff.report.view._causes", broken)
    for name in ("markdown", "terminal"):
        shown = registry.get("reporters", name)().render(found).replace("\\", "")
        assert "ValueError: on purpose" in shown
        assert "Not compared" in shown and "Which calls correspond" in shown


def test_what_interrupts_the_program_comes_through() -> None:
    with collecting(), pytest.raises(KeyboardInterrupt), guarded("a part"):
        raise KeyboardInterrupt


def test_where_nobody_collects_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="on purpose"), guarded("a part"):
        broken()


def test_equal_failures_are_counted_together() -> None:
    with collecting() as failures:
        for _ in range(3):
            with guarded("a part") as guard:
                broken()
        assert guard.error == "ValueError: on purpose"
    assert [(f.part, f.error, n) for f, n in failures.found.items()] == [("a part", "ValueError: on purpose", 3)]

"""The whole pipeline on small programs: live, from disk and mixed."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.errors import TargetError, TraceError, UsageError
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Verdict

Program = Callable[[], Any]


class Table(torch.nn.Module):
    """Multiplies by a table that no checkpoint holds, between two linear layers."""

    def __init__(self, dtype: torch.dtype = torch.float32, activation: str = "none") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -1, 1, generator=generator)
        self.register_buffer("table", torch.rand(32, generator=generator).to(dtype), persistent=False)
        self.act = torch.nn.GELU(approximate=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(x)) * self.table.float())


def inputs() -> torch.Tensor:
    return torch.rand(64, 16, generator=torch.Generator().manual_seed(1))


def ulp(model: torch.nn.Module) -> torch.nn.Module:
    changed = copy.deepcopy(model)
    with torch.no_grad():
        weight = next(changed.parameters())
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(9.0))
    return changed


PAIRS: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], torch.nn.Module]]] = {
    "the same": (Table, Table),
    "a cast table": (Table, lambda: Table(torch.bfloat16)),
    "one ulp in a weight": (Table, lambda: ulp(Table())),
    "another activation": (Table, lambda: Table(activation="tanh")),
    "a cast table and another activation": (Table, lambda: Table(torch.bfloat16, "tanh")),
}


def traced(model: torch.nn.Module, path: Path) -> str:
    given = inputs()
    with torch.no_grad(), whydiff.capture(path):
        model(given)
    return str(path)


def without_provenance(diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything but where a side came from (its code's lines too), what a fix's names stand for there, how it was tried."""
    sides = tuple(
        dataclasses.replace(
            side,
            source="",
            observer=dataclasses.replace(side.observer, deterministic=None, unchanged=None, outputs=0, note=""),
        )
        for side in diagnosis.sides
    )
    causes = tuple(
        dataclasses.replace(
            cause,
            experiments=tuple(dataclasses.replace(e, method="replay") for e in cause.experiments),
            remedy=cause.remedy
            and dataclasses.replace(cause.remedy, code=re.sub("(?m)^# .*\n", "", cause.remedy.code)),
        )
        for cause in diagnosis.causes
    )
    origins = tuple(dataclasses.replace(origin, line="") for origin in diagnosis.origins)
    return dataclasses.replace(diagnosis, sides=sides, causes=causes, origins=origins).to_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PAIRS)
def test_live_disk_and_mixed_give_the_same_diagnosis(name: str, tmp_path: Path) -> None:
    reference, candidate = (make() for make in PAIRS[name])
    paths = [traced(model, tmp_path / side) for model, side in ((reference, "r"), (candidate, "c"))]
    with torch.no_grad():
        live = without_provenance(compare(reference, candidate, inputs()))
        mixed = without_provenance(compare(paths[0], candidate, inputs()))
        other = without_provenance(compare(reference, paths[1], inputs()))
    disk = without_provenance(compare(*paths))
    assert live == mixed == other == disk


@pytest.mark.parametrize("change", [copy.deepcopy, lambda model: model])
def test_clean_pairs_are_identical(change: Callable[[Any], Any]) -> None:
    model = Table()
    diagnosis = compare(model, change(model), inputs())
    assert diagnosis.verdict is Verdict.IDENTICAL
    assert not diagnosis.origins and not diagnosis.causes
    assert all(side.observer.unchanged and side.observer.deterministic for side in diagnosis.sides)


def test_a_reloaded_checkpoint_is_identical(tmp_path: Path) -> None:
    model, again = Table(), Table()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    again.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert compare(model, again, inputs()).verdict is Verdict.IDENTICAL


def test_one_ulp_in_one_weight_is_found_and_named() -> None:
    diagnosis = compare(Table(), ulp(Table()), inputs())
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert [origin.leaves for origin in diagnosis.origins] == [("up.weight",)]
    assert diagnosis.accounted


def test_every_origin_is_found_not_only_the_first() -> None:
    diagnosis = compare(Table(), Table(torch.bfloat16, "tanh"), inputs())
    assert [(o.site.op, o.kind) for o in diagnosis.origins] == [("gelu", "arguments"), ("mul", "state")]
    assert diagnosis.accounted


def test_an_unpaired_region_is_one_origin() -> None:
    def halves(x: torch.Tensor) -> torch.Tensor:
        return (x / 2 + x / 2).exp().sin()

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x * 1.0000001).exp().sin()

    diagnosis = compare(halves, scaled, inputs())
    assert [origin.kind for origin in diagnosis.origins] == ["region"]
    assert diagnosis.accounted


def test_models_with_nothing_in_common_are_incomparable() -> None:
    conv = torch.nn.Conv1d(3, 2, 1)
    diagnosis = compare(lambda: Table()(inputs()), lambda: conv(torch.ones(1, 3, 4)))
    assert diagnosis.verdict is Verdict.INCOMPARABLE
    assert diagnosis.not_compared


def test_module_level_names_the_module_without_replay() -> None:
    diagnosis = compare(Table(), Table(activation="tanh"), inputs(), options=Options(level="module"))
    assert [origin.site.scope for origin in diagnosis.origins] == ["act"]
    assert any("module level" in note for note in diagnosis.notes)


def test_a_target_that_raises_is_a_clear_error() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    with pytest.raises(TargetError, match="raised while it ran") as caught:
        compare(broken, broken, inputs())
    assert "test_pipeline.py" in caught.value.where
    with pytest.raises(UsageError, match="neither a callable nor a trace"):
        compare(3, broken, inputs())


def test_an_option_among_the_targets_arguments_is_said_to_be_one() -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    with pytest.raises(TargetError, match=r"options=whydiff\.Options\(level=…\)"):
        compare(plain, plain, inputs(), level="module")
    with pytest.raises(TargetError) as caught:
        compare(plain, plain, inputs(), depth=3)
    assert "Options" not in str(caught.value)


def test_a_training_step_is_compared_in_all_phases() -> None:
    def step(rate: float) -> Program:
        model = Table()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)

        def run() -> Any:
            model(inputs()).square().mean().backward()
            optimizer.step()
            return dict(model.named_parameters())

        return run

    diagnosis = compare(step(1e-3), step(2e-3))
    assert {origin.site.phase for origin in diagnosis.origins} == {"update"}
    assert diagnosis.accounted


def test_a_trace_that_breaks_the_comparison_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with whydiff.capture(tmp_path / "a.trace", payloads="all"):
        linear(x)

    def broken(*_: object, **__: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr("whydiff.pipeline.align", broken)
    with pytest.raises(TraceError, match="cannot be followed") as caught:
        whydiff.compare(tmp_path / "a.trace", tmp_path / "a.trace")
    assert "a.trace" in str(caught.value) and "no such thing" in str(caught.value)
    with pytest.raises(AttributeError):  # nobody is blamed for what is not in a file
        whydiff.compare(linear, linear, x)


def test_both_sides_run_plainly_before_either_is_observed(tmp_path: Path) -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    log = tmp_path / "runs"  # a list would be set back between the runs

    def side(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            with log.open("a") as file:
                file.write(f"{name} {'observed' if _get_current_dispatch_mode_stack() else 'plain'}\n")
            return x * 2

        return run

    compare(side("reference"), side("candidate"), inputs())
    runs = log.read_text().splitlines()
    assert runs[:2] == ["reference plain", "candidate plain"]
    assert {"reference observed", "candidate observed"} <= set(runs)

"""Localizing: what is an origin, of which kind, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from whydiff.capturing.adapters import for_framework, for_target
from whydiff.capturing.store import save
from whydiff.locate.origins import find_origins
from whydiff.locate.resynchronised import Resynchronised
from whydiff.pair.align import align
from whydiff.pipeline import compare
from whydiff.records import Verdict

X = torch.linspace(-1, 1, 24).reshape(4, 6)


def found(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> Resynchronised:
    adapter = for_framework("torch")
    traces = [adapter.run(side, inputs or (X,), {}).capture() for side in (reference, candidate)]
    return find_origins(*(adapter.executor(trace) for trace in traces), align(*traces))


def kinds(result: Resynchronised) -> list[tuple[str, str]]:
    return [(origin.site.op, origin.kind) for origin in result.origins]


def test_another_argument_is_an_origin_and_what_follows_is_not() -> None:
    result = found(lambda x: x.sin().mul(2.0).exp(), lambda x: x.sin().mul(2.5).exp())
    assert kinds(result) == [("mul", "arguments")]
    assert (result.accounted, result.propagated) == (True, 0)


def test_every_place_is_found_not_only_the_first() -> None:
    result = found(lambda x: x.mul(2.0).exp().add(1.0), lambda x: x.mul(2.5).exp().add(1.5))
    assert kinds(result) == [("mul", "arguments"), ("add", "arguments")]


def test_a_differing_weight_is_state_and_names_it() -> None:
    torch.manual_seed(0)
    result = found(torch.nn.Linear(6, 3), torch.nn.Linear(6, 3))
    assert kinds(result) == [("addmm", "state")]
    assert set(result.origins[0].leaves) == {"weight", "bias"}


def test_another_input_is_an_input() -> None:
    adapter = for_framework("torch")
    traces = [adapter.run(lambda x: x.exp(), (x,), {}).capture() for x in (X, X + 1)]
    result = find_origins(*(adapter.executor(trace) for trace in traces), align(*traces))
    assert kinds(result) == [("exp", "input")]


def test_ops_of_one_side_alone_are_one_region_with_all_of_them() -> None:
    result = found(lambda x: x.sin().exp(), lambda x: x.sin().mul(2.0).add(1.0).exp())
    ((origin),) = result.origins
    assert origin.kind == "region"
    assert [site.op for site in origin.region] == ["mul", "add"]
    assert (result.accounted, result.propagated) == (True, 0)  # what reads it goes on with the reference's


def test_a_region_that_reads_differing_state_or_input_is_called_by_it() -> None:
    class Read(torch.nn.Module):
        def __init__(self, weight: float, function: Callable[..., Any]) -> None:
            super().__init__()
            self.register_buffer("weight", torch.full((6,), weight))
            self.function = function

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.exp(x + self.function(self.weight, y))

    adapter = for_framework("torch")

    def region(weight: float, y: torch.Tensor) -> tuple[str, tuple[str, ...]]:
        sides = ((Read(1.0, lambda w, y: (w * y).sin()), X.clone()), (Read(weight, lambda w, y: (y - w).cos()), y))
        traces = [adapter.run(model, (X, other), {}).capture() for model, other in sides]
        (one,) = find_origins(*(adapter.executor(trace) for trace in traces), align(*traces)).origins
        return one.kind, one.leaves

    assert region(1.0, X.clone()) == ("region", ())
    assert region(2.0, X.clone()) == ("state", ("weight",))
    assert region(1.0, X + 1)[0] == "input"


def test_ops_of_one_side_alone_that_change_nothing_are_no_origin() -> None:
    result = found(lambda x: x.sin().exp(), lambda x: x.sin().mul(1.0).exp())
    assert result.origins == () and result.accounted is True


def test_the_same_values_looked_at_otherwise_are_a_layout() -> None:
    square = torch.arange(16.0).reshape(4, 4)
    result = found(lambda x: x.sin().t().exp(), lambda x: x.sin().exp(), square)
    assert ("exp", "layout") in kinds(result)


def test_an_op_that_differs_on_its_own_beside_its_state_is_two_origins() -> None:
    """The weight differs, and on the reference's weight the op still gives something else."""

    class Scaled(torch.nn.Module):
        def __init__(self, weight: float, alpha: float) -> None:
            super().__init__()
            self.register_buffer("weight", torch.full((6,), weight))
            self.alpha = alpha

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.add(x, self.weight, alpha=self.alpha)

    assert [kind for _, kind in kinds(found(Scaled(1.0, 1.0), Scaled(2.0, 1.0)))] == ["state"]
    assert [kind for _, kind in kinds(found(Scaled(1.0, 1.0), Scaled(2.0, 3.0)))] == ["state", "implementation"]


def test_an_input_that_is_returned_as_it_is_may_differ() -> None:
    adapter = for_framework("torch")
    traces = [adapter.run(lambda x, y: (x.exp(), y), (X, y), {}).capture() for y in (X, X + 1)]
    result = find_origins(*(adapter.executor(trace) for trace in traces), align(*traces))
    assert [kind for _, kind in kinds(result)] == ["input"]
    assert result.accounted is False


def test_a_by_product_that_nothing_reads_is_counted_and_is_no_origin() -> None:
    x = torch.tensor([[3.0, 1.0, 3.0]])

    diagnosis = compare(lambda: torch.max(x, dim=1)[0], lambda: torch.max(x + 0 * x, dim=1)[0])
    assert diagnosis.verdict is Verdict.IDENTICAL
    parted = compare(lambda: torch.max(x, dim=1)[0], lambda: torch.max(torch.tensor([[1.0, 3.0, 3.0]]), dim=1)[0])
    assert all("output.1" not in str(origin.site) for origin in parted.origins)
    assert any("nothing reads" in count.reason for count in parted.not_compared)


def test_an_output_of_one_side_alone_is_counted() -> None:
    x = torch.arange(3.0)
    diagnosis = compare(lambda: {"a": x + 1, "b": x * 2}, lambda: {"a": x + 2})
    assert any("more of them on one side" in count.reason for count in diagnosis.not_compared)


def test_an_output_of_one_side_alone_is_counted_by_fingerprints_too(tmp_path: Path) -> None:
    x = torch.arange(3.0)
    sides = (lambda: {"a": x + 1, "b": x + 1}, lambda: {"b": x + 1, "c": x + 1, "d": x + 1})
    paths = [tmp_path / "reference.trace", tmp_path / "candidate.trace"]
    for path, side in zip(paths, sides, strict=True):
        save(for_target(side).run(side, (), {}).capture(), path, payloads="none")
    diagnosis = compare(*paths)
    compared = [slot for slot, one in diagnosis.outputs if one.status != "not_compared"]
    assert compared == ["b"]  # by name, not by position
    assert [c.count for c in diagnosis.not_compared if "more of them on one side" in c.reason] == [3]


class Layers(nn.Module):
    def __init__(self, change: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.change = change
        for name, layer in (("one", self.one), ("two", self.two), ("three", self.three)):
            layer.bias.data[0] += 0.1 * (change == name)
            layer.weight.data[0, 0] += 0.1 * (change == f"{name}.weight")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(torch.relu(self.one(x + 1 if self.change == "input" else x)))
        x = torch.sigmoid(x) if self.change == "formula" else torch.relu(x) * (1.5 if self.change == "factor" else 1)
        return self.three(x).tanh() if self.change == "end" else self.three(x)


@pytest.mark.parametrize("change", ["one", "two", "two.weight", "three", "input", "formula", "factor", "end"])
def test_fingerprints_alone_name_the_place_that_a_live_comparison_names(change: str, tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    path = tmp_path / "reference.trace"
    save(for_target(Layers()).run(Layers(), (x,), {}).capture(), path, payloads="none")
    live, recorded = compare(Layers(), Layers(change), x), compare(path, Layers(change), x)
    assert len(live.origins) == 1
    assert [one.site.at("") for one in recorded.origins] == [one.site.at("") for one in live.origins]
    if change != "two.weight":  # seen through a transposed view, whose fingerprint decides nothing when it differs
        assert recorded.origins[0].leaves == live.origins[0].leaves
    assert not compare(path, Layers(), x).origins


def test_a_read_that_is_another_input_is_where_a_difference_starts(tmp_path: Path) -> None:
    paths = [tmp_path / "reference.trace", tmp_path / "candidate.trace"]
    for number, path in enumerate(paths):
        save(for_target(Layers()).run(Layers(), (torch.ones(3, 8) * number,), {}).capture(), path, payloads="none")
    assert [(one.kind, one.leaves) for one in compare(*paths).origins] == [("input", ("x",))]


def test_one_value_in_another_shape_is_no_origin_until_an_op_minds_the_shape() -> None:
    steps = torch.arange(6)
    silent = found(
        lambda t: t[:, None].float().mul(2.0) * torch.ones(4),
        lambda t: torch.outer(t.float().mul(2.0), torch.ones(4)),
        steps,
    )
    assert (kinds(silent), silent.accounted) == ([], True)
    column = found(lambda x: x[:, :1].exp() - x[:, 0], lambda x: x[:, 0].exp() - x[:, 0])
    assert kinds(column) == [("sub", "layout")]
    folded = found(lambda x: x.view(4, 6).exp().sum(0), lambda x: x.view(4, 6).reshape(6, 4).exp().sum(0))
    assert [kind for _, kind in kinds(folded)] == ["layout"]
    turned = found(lambda x: x.view(4, 6).exp(), lambda x: x.view(4, 6).T.exp().T)
    assert kinds(turned) == [("exp", "layout")]


def test_a_column_where_a_row_is_meant_stays_a_defect() -> None:
    target = torch.linspace(0, 1, 4)
    reference, candidate = (lambda x: (x[:, 0].exp() - target).square()), (lambda x: (x[:, :1].exp() - target).square())
    found = compare(lambda x: reference(x).mean(), lambda x: candidate(x).mean(), X)
    assert found.verdict is Verdict.SEMANTIC
    assert [origin.site.op for origin in found.origins][:1] == ["sub"]

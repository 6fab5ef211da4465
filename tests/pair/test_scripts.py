"""What a script came to is what it returns: by name, once, and of functions nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.store import open_trace
from whydiff.pair.align import align
from whydiff.pair.replay import recorded_outputs
from whydiff.pair.scripts import with_ends
from whydiff.records import Trace, Verdict
from whydiff.report.answer import answer

Ends = Callable[[Callable[[], Any], Callable[[], Any]], tuple[Trace, Trace]]
X = torch.linspace(0, 1, 16).view(2, 8)


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    """Two scripts' traces with what they came to."""

    def make(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[Trace, Trace]:
        sides = []
        for name, run in (("one", one), ("other", other)):
            with whydiff.capture(tmp_path / name):
                torch.manual_seed(0)
                run()
            sides.append(open_trace(tmp_path / name))
        ours, theirs, alignment = with_ends(*sides, align(*sides))
        assert [pair.reference for pair in alignment.pairs] == sorted(pair.reference for pair in alignment.pairs)
        return ours, theirs

    return make


def names(trace: Trace) -> list[str]:
    return [str(output.slot) for output in recorded_outputs(trace)]


def test_what_ends_with_what_is_returned_is_as_it_was(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with whydiff.capture(tmp_path / name):
            X.sum().item()
            torch.nn.Linear(8, 4)(X)
    sides = [open_trace(tmp_path / name) for name in ("one", "other")]
    ours, theirs, _ = with_ends(*sides, align(*sides))
    assert ours is sides[0] and theirs is sides[1]


def test_numbers_results_and_partly_written_memory_are_returned_in_order(ends: Ends) -> None:
    def run() -> None:
        y = torch.nn.Linear(8, 4)(X)
        y.sum().item()
        out = torch.zeros(4, 2)
        out[:, 0], out[:, 1] = y[0], y[1]
        values, _ = y.max(-1)
        values.sqrt()

    ours, theirs = ends(run, run)
    assert names(ours) == names(theirs)
    assert names(ours)[:2] == ["output", "given to Python@1"]
    written = [name for name in names(ours)[2:] if "copy_" in name]
    assert len(written) == 3 and sum("sqrt" in name for name in names(ours)) == 1
    assert not any("max" in name for name in names(ours)), "a by-product of what is read is no result"
    kept = [output.fingerprint or output.payload for output in recorded_outputs(ours)]
    assert all(one is not None for one in kept)


def test_state_goes_by_its_names_and_an_optimizers_own_numbers_are_not_returned(ends: Ends) -> None:
    model = torch.nn.Linear(8, 4)

    def run() -> None:
        optimizer = torch.optim.AdamW(model.parameters())
        model(X).sum().backward()
        optimizer.step()

    ours, _ = ends(run, run)
    assert {"weight@1", "bias@1"} <= set(names(ours))
    assert not any("given to Python" in name for name in names(ours))


def test_what_only_one_script_comes_to_has_a_name_of_its_own(ends: Ends) -> None:
    def short() -> None:
        torch.nn.Linear(8, 4)(X)

    def long() -> None:
        torch.nn.Linear(8, 4)(X).softmax(-1)

    ours, theirs = ends(short, long)
    assert names(ours) == ["output"]
    assert len(names(theirs)) == 2 and "softmax" in names(theirs)[1]


def _run(kind: str, number: float) -> Callable[[], None]:
    def run() -> None:
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4)
        y = model(X)
        if kind == "one goes on":
            _ = y.softmax(-1) if number > 1 else None
        elif kind == "one looks":
            _ = y.abs().max().item() if number > 1 else None
        elif kind == "gradients":
            (y.square().sum() * number).backward()
        elif kind == "a column":
            out = torch.zeros(4, 3)
            for column in range(3):
                out[:, column] = y[0] * (number if column == 1 else 1.0)
        elif kind == "average":
            kept = model.weight.detach().clone()
            for _ in range(2):
                kept.mul_(0.5).add_(model.weight.detach(), alpha=0.5 * number)
        elif kind == "order of sums":
            terms = torch.randn(10_000) * y.sum()
            (terms.sum() if number == 1 else terms.cumsum(0)[-1]).item()

    return run


@pytest.mark.parametrize(
    ("kind", "verdict", "status"),
    [
        ("one goes on", Verdict.INCOMPARABLE, None),
        ("one looks", Verdict.INCOMPARABLE, None),
        ("gradients", Verdict.SEMANTIC, "confirmed"),
        ("a column", Verdict.SEMANTIC, "confirmed"),
        ("average", Verdict.SEMANTIC, "confirmed"),
        ("order of sums", Verdict.ROUNDING, None),
    ],
)
def test_the_verdict_is_on_what_scripts_came_to(
    kind: str, verdict: Verdict, status: str | None, tmp_path: Path
) -> None:
    for name, number in (("reference", 1.0), ("same", 1.0), ("candidate", 2.0)):
        with whydiff.capture(tmp_path / name):
            _run(kind, number)()
    paths = [str(tmp_path / name) for name in ("reference", "same", "candidate")]
    assert whydiff.compare(paths[0], paths[1]).verdict is Verdict.IDENTICAL
    found = whydiff.compare(paths[0], paths[2])
    assert found.verdict is verdict
    assert status is None or [cause.status for cause in found.causes][:1] == [status]
    if verdict is Verdict.INCOMPARABLE:
        assert [comparison.only for _, comparison in found.outputs if comparison.only] == ["candidate"]
        assert "only the candidate has more" in answer(found).headline


@pytest.mark.parametrize("several", [False, True])
def test_a_hyperparameter_is_proven_from_two_traces_if_it_alone_differs(several: bool, tmp_path: Path) -> None:
    for name, decay in (("reference", 0.01), ("candidate", 0.5)):
        with whydiff.capture(tmp_path / name):
            torch.manual_seed(0)
            model = torch.nn.Linear(8, 4)
            rate = 0.1 if several and name == "candidate" else 0.01
            optimizer = torch.optim.AdamW(
                [{"params": [model.weight], "weight_decay": decay}, {"params": [model.bias]}], lr=rate
            )
            for _ in range(2):
                optimizer.zero_grad()
                model(X).square().sum().backward()
                optimizer.step()
    found = whydiff.compare(str(tmp_path / "reference"), str(tmp_path / "candidate"))
    assert found.verdict is Verdict.SEMANTIC
    status = {cause.status for cause in found.causes if cause.code == "TR003"}
    assert status == ({"inconclusive"} if several else {"confirmed"})
    assert several or "(untried)" in answer(found).fix  # what follows from the value was replayed, the fix was not run


def _in_parts(kind: str, other: bool) -> Callable[[], None]:
    def run() -> None:
        torch.manual_seed(0)
        y = torch.nn.Linear(8, 4)(X)
        if kind == "columns":
            out = torch.zeros(2, 2)
            first, second = (1, 0) if other else (0, 1)
            out[:, first] = y[:, 0]
            out[:, second] = y[:, 1]
        elif kind == "fewer":
            out = torch.zeros(3, 4)
            out[0], out[1] = y[0] * (5 if other else 1), y[1]
            if not other:
                out[2] = y[1]
        elif kind == "one place":
            kept = torch.empty(2, 4)
            kept[1 if other else 0] = y[0]
        elif kind == "asked":
            p = (y / (3.0 if other else 1.0)).softmax(-1)
            assert torch.isfinite(p).all().item()
        elif kind == "by-product asked":
            most, which = (y.flip(-1) if other else y).max(-1)
            most.mean().item()
            which.tolist()
        elif kind == "total":
            total = torch.zeros(())
            for _ in range(20):
                total += y.sum() * (2.0 if other else 1.0)

    return run


@pytest.mark.parametrize("kind", ["columns", "fewer", "one place", "asked", "by-product asked", "total"])
def test_memory_written_in_parts_and_values_that_python_asked_about_are_ends(kind: str, tmp_path: Path) -> None:
    for name, other in (("reference", False), ("same", False), ("candidate", True)):
        with whydiff.capture(tmp_path / name):
            _in_parts(kind, other)()
    paths = [str(tmp_path / name) for name in ("reference", "same", "candidate")]
    same = whydiff.compare(paths[0], paths[1])
    assert same.verdict is Verdict.IDENTICAL and same.alignment.scripts
    found = whydiff.compare(paths[0], paths[2])
    assert found.verdict in (Verdict.SEMANTIC, Verdict.INCOMPARABLE)
    assert any(comparison.status == "differs" or comparison.only for _, comparison in found.outputs)
    if kind == "total":
        assert len(found.outputs) == 2  # what the module returned, and one sum however often it is added to


def test_a_number_measured_before_is_no_factor_of_the_script(tmp_path: Path) -> None:
    for name, measure in (("reference", torch.Tensor.max), ("candidate", torch.Tensor.mean)):
        with whydiff.capture(tmp_path / name):
            torch.manual_seed(0)
            y = torch.nn.Linear(8, 4)(X).detach()
            (y / float(measure(y.abs()))) @ torch.ones(4)
    found = whydiff.compare(str(tmp_path / "reference"), str(tmp_path / "candidate"))
    assert found.verdict is Verdict.SEMANTIC
    assert not [cause for cause in found.causes if cause.code == "FO003" and cause.status == "confirmed"]


def _read_out(folder: Path, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    for name, run in (("one", one), ("other", other)):
        with whydiff.capture(folder / name):
            torch.manual_seed(0)
            run()
    return whydiff.compare(folder / "one", folder / "other")


@pytest.mark.parametrize("turned", [False, True])
def test_a_script_that_only_reads_out_more_numbers_comes_to_the_same(turned: bool, tmp_path: Path) -> None:
    def run(more: bool) -> None:
        weight = torch.randn(8, 4)
        for step in range(3):
            loss = (X @ weight).square().mean()
            if more and step:
                loss.item()
                weight.abs().max().item()
            weight.sub_(0.1 * (X.T @ (X @ weight)))

    found = _read_out(tmp_path, lambda: run(turned), lambda: run(not turned))
    (count,) = [one for one in found.not_compared if one.code == "read out"]
    assert found.verdict is Verdict.IDENTICAL and count.count == 4
    assert "4 numbers were read out on one side only" in answer(found).effect


def test_scripts_that_come_to_numbers_alone_have_to_give_the_same_ones(tmp_path: Path) -> None:
    def run(more: bool) -> None:
        weight = torch.randn(8, 4)
        (X @ weight).mean().item()
        if more:
            (X @ weight).std().item()

    assert _read_out(tmp_path, lambda: run(False), lambda: run(True)).verdict is Verdict.INCOMPARABLE


def test_more_numbers_beside_another_end_are_still_outputs(tmp_path: Path) -> None:
    def run(rate: float, more: bool) -> None:
        weight = torch.randn(8, 4)
        for _ in range(2):
            if more:
                weight.norm().item()
            weight.sub_(rate * (X.T @ (X @ weight)))

    found = _read_out(tmp_path, lambda: run(0.1, False), lambda: run(0.2, True))
    assert found.verdict is Verdict.SEMANTIC
    assert not any(one.code == "read out" for one in found.not_compared)


@pytest.mark.parametrize("trained", [False, True])
def test_what_modules_made_meanwhile_write_over_is_what_a_script_came_to(tmp_path: Path, trained: bool) -> None:
    """Running statistics of the only call: what reads them, a backward pass at most, does not show them."""

    def run(momentum: float) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.BatchNorm1d(8, momentum=momentum))
        loss = model(X).square().mean()
        if trained:
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            loss.backward()
            optimizer.step()

    for name, momentum in (("one", 0.1), ("other", 0.9)):
        with whydiff.capture(tmp_path / name):
            run(momentum)
            torch.ones(1)
    found = whydiff.compare(tmp_path / "one", tmp_path / "other")
    assert found.verdict is Verdict.SEMANTIC
    assert [cause.code for cause in found.causes if cause.status == "confirmed"] == ["ST006"]

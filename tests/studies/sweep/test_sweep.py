from __future__ import annotations

import json
import math
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Experts, Mixed, Normed, mixed_program, narrow_rows, rows, tokens

import whydiff
from whydiff.errors import TargetError, TraceFormatError, UsageError
from whydiff.records import Verdict
from whydiff.report import markdown
from whydiff.report.terminal import as_text
from whydiff.studies.sweep import one_cell, study
from whydiff.studies.sweep.findings import Size, cell_from_dict, cell_to_dict
from whydiff.studies.sweep.program import Program, arguments, sizes


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def mixed() -> Any:
    with torch.no_grad():
        return whydiff.sweep(Mixed(), rows, batch="1,2,3,4,8")


def test_cells_say_what_plain_torch_says(mixed: Any) -> None:
    model = Mixed()
    alone = model(*rows(1))
    for cell in mixed.cells:
        assert cell.outputs_equal == torch.equal(model(*rows(cell.size.batch))[:1], alone), cell.size


def test_only_the_op_that_changes_is_an_origin(mixed: Any) -> None:
    sites = {found.site for cell in mixed.cells for found in cell.found}
    assert sites == {":ordered#0.output"}  # relu and add differ downstream and are no origins
    assert all(cell.accounted for cell in mixed.cells if cell.status == "differs")
    assert mixed.variant_ops == ("ordered",)


def test_sizes_group_into_classes_that_agree(mixed: Any) -> None:
    groups = {one.what: one.groups for one in mixed.classes}
    assert groups["outputs"] == (("1", "2", "3"), ("4", "8"))
    assert groups[":ordered#0"] == (("1", "2", "3"), ("4", "8"))


def test_it_is_rounding_by_measurement(mixed: Any) -> None:
    assert mixed.verdict is Verdict.ROUNDING
    assert [judged.size for judged in mixed.judged] == [Size(4)]
    assert mixed.causes[0].code == "SH001"


def test_remedies_are_tried_and_one_that_cannot_be_applied_says_why(mixed: Any) -> None:
    by_name = {one.name: one for one in mixed.remedies}
    assert "No batch-invariant form" in by_name["fixed-row-chunks (16)"].failed
    assert by_name["upcast (float64)"].tried == 2
    assert by_name["upcast (float64)"].cost > 0


def test_separation_lists_failing_and_passing_sizes_apart(mixed: Any) -> None:
    assert mixed.separation("batch") == (("4", "8"), ("2", "3"), ())


def test_batch_statistics_are_semantic_and_no_kernel(mixed: Any) -> None:
    found = whydiff.sweep(Normed().train(), narrow_rows, batch=(2, 8))
    assert found.verdict is Verdict.SEMANTIC
    assert found.causes == found.remedies == ()
    assert found.judged[0].ops["norm:native_batch_norm#0.output.0"] is Verdict.SEMANTIC


def test_batch_statistics_in_eval_mode_are_not() -> None:
    found = whydiff.sweep(Normed().eval(), narrow_rows, batch=(2, 4))
    assert found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)


def test_dropping_by_capacity_is_semantic() -> None:
    found = whydiff.sweep(Experts(), tokens, batch=(1, 4), length=6)
    assert found.verdict is Verdict.SEMANTIC
    assert found.causes == ()


def test_attention_beyond_the_common_positions_is_semantic() -> None:
    def attend(x: torch.Tensor, causal: bool) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=causal)

    full = whydiff.sweep(lambda x: attend(x, False), tokens, batch=2, length=(4, 8))
    causal = whydiff.sweep(lambda x: attend(x, True), tokens, batch=2, length=(4, 8))
    assert (full.axis, full.verdict) == ("length", Verdict.SEMANTIC)
    assert causal.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)


def test_a_layout_that_changes_the_order_of_a_sum() -> None:
    x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    found = whydiff.sweep(lambda x: x.sum(1), (x,), batch=64, layout="transposed")
    assert (found.axis, found.verdict) == ("layout", Verdict.ROUNDING)
    assert [c.code for c in found.causes] == ["SH003"]
    assert found.remedies[0].name == "contiguous"
    assert found.remedies[0].works


def test_classes_show_in_which_order_they_add_up() -> None:
    x = torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    found = whydiff.sweep(lambda x: x.sum(1), (x,), batch=16, layout="transposed", remedies=False)
    one = next(c for c in found.classes if c.what != "outputs")
    assert one.groups == (("contiguous",), ("transposed",))
    assert len({order.text for order in one.orders}) == 2
    assert all(order.text and order.proved for order in one.orders)
    text = as_text(found.view())
    for order in one.orders:
        assert order.text in text
    assert any(order.text in e.statement for order in one.orders for e in found.causes[0].evidence)
    silent = whydiff.sweep(lambda x: x.sum(1), (x,), batch=16, layout="transposed", remedies=False, orders=False)
    assert not any(c.orders or c.no_orders for c in silent.classes)


def test_an_order_that_cannot_be_revealed_says_why(mixed: Any) -> None:
    one = next(c for c in mixed.classes if c.what != "outputs")
    assert (one.orders, one.no_orders) == ((), "no sum whose terms can be chosen")


def test_nothing_that_differs_is_identical() -> None:
    found = whydiff.sweep(lambda x: torch.relu(x) + 1, rows, batch="1..3")
    assert found.verdict is Verdict.IDENTICAL
    assert found.cells == tuple(cell for cell in found.cells if cell.status == "identical")


def test_inputs_that_are_no_counterparts_are_incomparable() -> None:
    found = whydiff.sweep(lambda x: x * 2, lambda batch: (torch.full((batch, 3), float(batch)),), batch=(1, 2))
    assert found.verdict is Verdict.INCOMPARABLE
    assert "must be the same at every size" in found.reason


def test_a_program_that_does_not_repeat_itself() -> None:
    def drifting(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + int.from_bytes(os.urandom(2), "big"))

    assert whydiff.sweep(drifting, rows, batch=(1, 2)).verdict is Verdict.NONDETERMINISTIC


def test_a_cell_that_fails_is_a_cell_and_a_note() -> None:
    def fussy(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 3:
            raise RuntimeError("not three")
        return x + 1

    found = whydiff.sweep(fussy, rows, batch="1..4")
    assert [cell.status for cell in found.cells] == ["identical", "failed", "identical"]
    assert "not three" in found.notes[0]
    assert found.verdict is Verdict.INCONCLUSIVE


# --------------------------------------------------------------------------- resume, executors


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran, stop = Mixed(), [], [2]
    original = one_cell.run_cell

    def counting(job: Any) -> Any:
        if len(ran) == stop[0]:
            raise KeyboardInterrupt
        ran.append(job.size)
        return original(job)

    monkeypatch.setattr(study, "run_cell", counting)
    path = tmp_path / "cells.jsonl"
    with pytest.raises(KeyboardInterrupt):
        whydiff.sweep(model, rows, batch="1,2,4,8,16", resume=path)
    with open(path, "ab") as file:
        file.write(b'{"size": {"batch"')  # the process died while it wrote the third
    stop[0] = 99
    again = whydiff.sweep(model, rows, batch="1,2,4,8,16", resume=path, remedies=False)
    assert ran == [Size(2), Size(4), Size(8), Size(16)]
    monkeypatch.setattr(study, "run_cell", original)
    assert again.cells == whydiff.sweep(model, rows, batch="1,2,4,8,16", remedies=False).cells


def test_cells_of_another_row_or_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    whydiff.sweep(torch.relu, rows, batch=(1, 2), resume=path)
    with pytest.raises(UsageError, match="another sweep"):
        whydiff.sweep(torch.relu, lambda batch: rows(2), batch=(1, 2), row=1, resume=path)
    path.write_text('{"format": "other"}\n')
    with pytest.raises(TraceFormatError):
        whydiff.sweep(torch.relu, rows, batch=(1, 2), resume=path)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_any_executor_gives_the_same_study(mixed: Any, where: str) -> None:
    program = Program(mixed_program, "mixed")
    with ThreadPoolExecutor(1) if where == "threads" else ProcessPoolExecutor(2, get_context("spawn")) as executor:
        sent = whydiff.sweep(program, batch="1,2,3,4,8", executor=executor, remedies=False)
    assert sent.cells == mixed.cells
    assert sent.judged == mixed.judged
    assert sent.classes == mixed.classes
    assert (sent.verdict, sent.reason) == (mixed.verdict, mixed.reason)


# --------------------------------------------------------------------------- inputs and sizes


@pytest.mark.parametrize(
    ("text", "found"), [("1,2,4", (1, 2, 4)), ("3..5", (3, 4, 5)), ("8", (8,)), ("4,1..2", (1, 2, 4))]
)
def test_sizes(text: str, found: tuple[int, ...]) -> None:
    assert sizes(text) == found


@pytest.mark.parametrize("text", ["", "0", "5..3", "a", "1,,2", "-1"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        sizes(text)


def test_rows_and_positions_are_cut_from_given_arguments() -> None:
    ids, scale = torch.arange(12).reshape(3, 4), torch.ones(5)
    _, cut = arguments({"ids": ids, "scale": scale}, Size(2, 3))
    assert torch.equal(cut["ids"], ids[:2, :3])
    assert cut["scale"] is scale
    (again,), _ = arguments((ids,), Size(5))
    assert torch.equal(again, torch.cat([ids, ids[:2]]))
    with pytest.raises(UsageError, match="not that long"):
        arguments((ids,), Size(1, 9))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"batch": 4}, {"batch": (1, 2), "layout": "transposed"}, {"length": (1, 2)}, {"batch": (1, 2), "row": 7}],
)
def test_what_cannot_be_swept_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        whydiff.sweep(torch.relu, rows, **wrong)


# --------------------------------------------------------------------------- reports


def test_the_answer_has_the_five_lines_of_every_comparison(mixed: Any) -> None:
    said = dict(mixed.answer())
    assert list(said) == ["", "where", "effect", "proof", "fix"]
    assert said[""] == "ROUNDING, proven: the same rows give other bits in a batch than alone (SH001)"
    assert said["where"] == "ordered – equal bits only within batch {1–3}, {4, 8}"
    assert said["effect"].startswith("the outputs change at 2 of 4 sizes, at most by ")
    assert said["proof"].startswith("with ") and "bit for bit at all" in said["proof"]
    text = " ".join(said.values())
    assert not [word for word in ("D32", "slope", "origin", "#", "0.0e+00") if word in text]


def test_where_rows_mix_an_op_that_only_rounds_is_not_the_place() -> None:
    mixed = Mixed()
    leaks = whydiff.sweep(lambda x: (h := mixed(x)) - h.amax(0), rows, batch="1,4")
    said = dict(leaks.answer())
    assert leaks.verdict is Verdict.SEMANTIC and {"ordered", "amax"} <= {one.op for one in leaks.cells[0].found}
    assert (
        said["where"]
        == "amax – equal bits only within batch {1}, {4}; beside it, only rounding by other kernels: ordered"
    )
    assert said["fix"].startswith("compute amax for each row alone")
    assert said["proof"].startswith("in float64, where rounding plays no part, the outputs still differ")


def test_the_answer_of_sizes_that_agree_proves_nothing_and_asks_for_nothing() -> None:
    same = dict(whydiff.sweep(torch.relu, lambda batch: (torch.ones(batch, 3),), batch="1,2").answer())
    assert same[""] == "IDENTICAL: every output is bit-equal" and same["where"] == "nowhere"
    assert same["effect"] == "none: the outputs are bit-equal at 1 size"
    assert same["fix"] == "nothing to do"


def test_every_report_names_verdict_op_and_classes(mixed: Any, tmp_path: Path) -> None:
    for text in (as_text(mixed.view()), markdown.write(mixed.view())):
        for word in ("ROUNDING", "ordered", "{1–3}", "{4, 8}", "SH001"):
            assert word in text.replace("\\", "")
    data = json.loads(json.dumps(mixed.to_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert data["heat_map"][":ordered#0"]["2"] == 0
    assert data["heat_map"][":ordered#0"]["4"] > 0
    for suffix in (".html", ".md", ".json", ".txt"):
        mixed.save(str(tmp_path / f"report{suffix}"))
    with pytest.raises(UsageError):
        mixed.save(str(tmp_path / "report.pdf"))


def test_cells_survive_json(mixed: Any) -> None:
    for cell in mixed.cells:
        assert cell_from_dict(json.loads(json.dumps(cell_to_dict(cell)))) == cell
        assert math.isfinite(cell.seconds)


def test_a_target_without_inputs_or_that_runs_at_no_size_is_an_error() -> None:
    with pytest.raises(UsageError, match="given no inputs"):
        whydiff.sweep(torch.ones, lambda batch: (), batch=(1, 2))
    with pytest.raises(UsageError, match="cannot be made at this size"):
        whydiff.sweep(torch.sin, lambda: torch.ones(2), batch=(1, 2))
    with pytest.raises(TargetError, match="runs at no size"):
        whydiff.sweep(lambda: torch.ones(3), lambda batch: torch.ones(batch, 2), batch=(1, 2))

"""What turns one side's tensor into the other's is named; what does not is only 'differs'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from whydiff import compare_artifacts
from whydiff.cli import app
from whydiff.studies.artifacts import ArtifactComparison, Item

W = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
LENGTHS = np.linalg.norm(W, axis=1, keepdims=True)


def compared(folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> ArtifactComparison:
    for name, tensors in (("a", ours), ("b", theirs)):
        (folder / name).mkdir(exist_ok=True)
        np.savez(folder / name / "x.npz", **tensors)
    return compare_artifacts(folder / "a", folder / "b")


def only(found: ArtifactComparison) -> Item:
    ((item,),) = (file.items for file in found.files)
    return item


@pytest.mark.parametrize(
    ("theirs", "kind", "factor"),
    [
        (W.T.copy(), "transposed", None),
        (W.reshape(8, 12), "reshaped", None),
        (W[[3, 1, 0, 2, 11, 10, 9, 8, 7, 6, 5, 4]], "permuted", None),
        (W[:, ::-1].copy(), "permuted", None),
        (W.reshape(3, 4, 8)[[2, 0, 1]].reshape(12, 8), "permuted heads", None),
        (W.reshape(12, 2, 4).transpose(0, 2, 1).reshape(12, 8), "permuted", None),
        (-W, "negated", None),
        (W * np.float32(0.125), "scaled", 0.125),
        (W / np.float32(3), "scaled", 0.333333),
        (W / LENGTHS, "normalised", None),
        (W.astype(np.float16), "cast", None),
        (W.astype(np.float64), "cast", None),
        (W.astype(np.float16).astype(np.float32), "cast", None),
        (np.round(W / 0.05).astype(np.int8), "quantised", None),
    ],
)
def test_what_was_done_to_a_tensor_is_named(tmp_path: Path, theirs: Any, kind: str, factor: float | None) -> None:
    found = compared(tmp_path, {"w": W}, {"w": theirs})
    item = only(found)
    if kind == "cast" and theirs.dtype == np.float32:  # hidden casts need more numbers to be believed
        assert item.relation is None or item.relation.kind == kind
        return
    assert item.relation is not None and item.relation.kind == kind
    assert item.status == found.status == "differs" and item.relation.says() in item.reason
    if factor is not None:
        assert item.relation.factor == pytest.approx(factor, rel=1e-5)
    if kind == "quantised":
        assert "one scale" in item.relation.detail or "scales" in item.relation.detail


@pytest.mark.parametrize("change", ["one", "noise", "nearly scaled", "two rows", "signs of some"])
def test_what_is_no_relation_is_not_named(tmp_path: Path, change: str) -> None:
    other = W.copy()
    match change:
        case "one":
            other[0, 0] += 1
        case "noise":
            other += np.random.default_rng(1).standard_normal(W.shape).astype(np.float32) * 1e-3
        case "nearly scaled":
            other = W * np.float32(2)
            other[0, 0] *= np.float32(1.0001)
        case "two rows":
            other[0] = other[1]
        case "signs of some":
            other[::2] *= -1
    assert only(compared(tmp_path, {"w": W}, {"w": other})).relation is None


def test_fortran_order_is_no_difference(tmp_path: Path) -> None:
    found = compared(tmp_path, {"w": W}, {"w": np.asfortranarray(W)})
    assert found.status == "identical"
    other = np.asfortranarray(W)
    other[3, 2] += 1
    assert only(compared(tmp_path, {"w": W}, {"w": other})).max_abs == pytest.approx(1, rel=1e-5)
    pair = W[:, :4] + 1j * W[:, 4:]
    assert compared(tmp_path, {"w": pair}, {"w": np.asfortranarray(pair)}).status == "identical"


def test_renamed_fused_and_split_tensors_are_found(tmp_path: Path) -> None:
    q, k, v = W, W[:4] + 1, W[4:8] - 1
    ours = {"norm.scale": LENGTHS, "q": q, "k": k, "v": v, "layer.0": W[0], "layer.1": W[1]}
    theirs = {"ln.weight": LENGTHS, "qkv": np.concatenate([q, k, v]), "layers": W[:2]}
    (file,) = compared(tmp_path, ours, theirs).files
    told = {item.name: item.relation.kind for item in file.items if item.relation is not None}
    assert told == {
        "norm.scale → ln.weight": "renamed",
        "q + k + v → qkv": "fused",
        "layer.0 + layer.1 → layers": "fused",
    }
    assert len(file.items) == 3
    (file,) = compared(tmp_path, theirs, ours).files
    assert {item.relation.kind for item in file.items if item.relation} == {"renamed", "split"}
    theirs["qkv"] = np.concatenate([q, k + 1e-3, v])
    (file,) = compared(tmp_path, ours, theirs).files
    assert not any(item.relation and item.relation.kind == "fused" and "q" in item.name for item in file.items[:4])


def test_another_format_is_paired_by_its_stem(tmp_path: Path) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
    np.savez(tmp_path / "a" / "model.npz", w=W)
    save_file({"w": W}, tmp_path / "b" / "model.safetensors")
    np.save(tmp_path / "a" / "other.npy", W)
    np.save(tmp_path / "b" / "other.npy", W)
    found = compare_artifacts(tmp_path / "a", tmp_path / "b")
    assert found.status == "identical" and found.identical == 2 and not found.missing
    torch.save({"w": torch.from_numpy(W + 1)}, tmp_path / "c.pt")
    assert only(compare_artifacts(tmp_path / "a" / "model.npz", tmp_path / "c.pt")).max_abs == pytest.approx(1)


def test_rows_are_paired_by_id(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    order = np.random.default_rng(0).permutation(12)
    for side, rows in (("a", np.arange(12)), ("b", order[:10])):
        (tmp_path / side).mkdir()
        text = ["id,x,name"] + [f"doc-{n},{float(W[n, 0])},n{n}" for n in rows.tolist()]
        (tmp_path / side / "t.csv").write_text("\n".join(text) + "\n")
        lines = [json.dumps({"id": int(n), "x": W[n].tolist()}) for n in rows]
        (tmp_path / side / "t.jsonl").write_text("\n".join(lines))
    found = {file.path: file for file in compare_artifacts(tmp_path / "a", tmp_path / "b").files}
    (rows,) = found["t.csv"].items
    assert rows.reason == "2 rows only in the reference, 0 only in the candidate, by id"
    assert found["t.csv"].note == "rows are paired by their id"
    assert all(item.reason.startswith("only the reference has it") for item in found["t.jsonl"].items)


def test_comparing_stored_files_points_to_artifacts(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, w=W)
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a.npz"), str(tmp_path / "b.npz")])
    assert done.exit_code == 2 and "whydiff artifacts" in done.output


def test_bfloat16_of_another_format_is_a_cast(tmp_path: Path) -> None:
    save_file({"w": W}, tmp_path / "a.safetensors")
    torch.save({"w": torch.from_numpy(W).bfloat16()}, tmp_path / "b.pt")
    item = only(compare_artifacts(tmp_path / "a.safetensors", tmp_path / "b.pt"))
    assert item.relation is not None and "bfloat16" in item.relation.detail
    assert np.array_equal(W.astype(ml_dtypes.bfloat16).astype(np.float32), torch.from_numpy(W).bfloat16().float())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.ones((30, 30), np.int16), np.random.default_rng(2).uniform(0.6, 1.4, (30, 30)).astype(np.float32)),
        (np.arange(1, 31, dtype=np.int16)[:, None], np.random.default_rng(3).uniform(1, 9, (30, 1)).astype(np.float32)),
        (np.abs(W[:, :1]), np.ones((12, 1), np.float32)),
        (np.abs(W[:1]), np.ones((1, 8), np.float32)),
    ],
)
def test_what_any_numbers_would_fit_is_no_relation(tmp_path: Path, ours: Any, theirs: Any) -> None:
    assert only(compared(tmp_path, {"w": ours}, {"w": theirs})).relation is None


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_scale_is_found_where_there_is_one(tmp_path: Path, axis: int | None) -> None:
    values = np.random.default_rng(4).standard_normal((64, 32)).astype(np.float32)
    scale = np.abs(values).max(axis, keepdims=True) / 127
    item = only(compared(tmp_path, {"w": values}, {"w": np.round(values / scale).astype(np.int8)}))
    assert item.relation is not None and item.relation.kind == "quantised"
    wrong = np.round(values / scale)
    wrong[5, 5] += 3
    assert only(compared(tmp_path, {"w": values}, {"w": wrong.astype(np.int8)})).relation is None


def test_tensors_under_other_names_are_not_said_to_differ(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": W}, {"b": W})
    assert found.status == "differs" and found.reason == "tensors have other names in 1 of 1 files"

"""Localizing: what is no origin."""

from __future__ import annotations

from pathlib import Path

import torch

from whydiff.capturing.adapters import for_target
from whydiff.capturing.store import save
from whydiff.pipeline import compare
from whydiff.records import Verdict


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
    assert [slot for slot, _ in diagnosis.outputs] == ["b"]  # by name, not by position
    assert [c.count for c in diagnosis.not_compared if "more of them on one side" in c.reason] == [3]

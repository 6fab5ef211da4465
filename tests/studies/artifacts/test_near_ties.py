"""Changed codes: near ties are told from real changes, and arrays that made nothing are not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from whydiff import compare_artifacts
from whydiff.studies.artifacts import CodeExplanation


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("reference", "candidate"):
        (tmp_path / name).mkdir()
    return tmp_path / "reference", tmp_path / "candidate"


def made(rule: str, rows: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    draw = np.random.default_rng(seed)
    book = draw.standard_normal((48, 16)).astype(np.float32)
    embedded = draw.standard_normal((rows, 16)).astype(np.float32)
    # Row 7 lies on the border between two codebook rows: either may win by rounding.
    one, two = book[3].astype(np.float64), book[5].astype(np.float64)
    if rule == "dot":
        target = one + two
        target -= (one - two) * (target @ (one - two)) / ((one - two) @ (one - two))
        embedded[7] = 40 * target
    else:
        embedded[7] = (one + two) / 2
    return book, embedded


def codes(book: np.ndarray, embedded: np.ndarray, rule: str) -> np.ndarray:  # type: ignore[type-arg]
    scores = embedded.astype(np.float64) @ book.astype(np.float64).T
    if rule != "dot":
        scores = 2 * scores - (book.astype(np.float64) ** 2).sum(1)
    return scores.argmax(1).astype(np.int32)


def explained(trees: tuple[Path, Path]) -> CodeExplanation:
    (found,) = compare_artifacts(*trees).explanations
    return found


@pytest.mark.parametrize("rule", ["dot", "distance"])
def test_a_flip_at_the_border_is_a_near_tie_and_another_is_not(trees: tuple[Path, Path], rule: str) -> None:
    book, embedded = made(rule)
    ours = codes(book, embedded, rule)
    assert ours[7] in (3, 5)
    theirs = ours.copy()
    theirs[7] = 8 - ours[7]
    theirs[11] = (ours[11] + 1) % 48  # no tie: somebody changed it
    for tree, ids in zip(trees, (ours, theirs), strict=True):
        np.save(tree / "some_book.npy", book)
        torch.save({"rows": torch.from_numpy(embedded)}, tree / "data.pt")
        torch.save(torch.from_numpy(ids), tree / "ids.pt")
    found = explained(trees)
    assert found.codes == "ids.pt: (all)"
    assert (found.codebook, found.embeddings) == ("some_book.npy: array", "data.pt: rows")
    assert found.rule == ("largest dot product" if rule == "dot" else "smallest distance")
    assert (found.changed, found.examined, found.near_ties) == (2, 2, 1)
    assert [(c.row, c.near_tie) for c in found.examples] == [(11, False), (7, True)]
    tie = found.examples[1]
    assert abs(tie.margin) <= tie.moved + tie.rounding
    assert found.typical_margin is not None and found.typical_margin > 100 * abs(tie.margin)


def test_moved_embeddings_explain_what_they_can_move(trees: tuple[Path, Path]) -> None:
    book, embedded = made("dot")
    moved = embedded + np.float32(2e-2) * np.random.default_rng(1).standard_normal(embedded.shape).astype(np.float32)
    for tree, rows in zip(trees, (embedded, moved), strict=True):
        np.savez(tree / "x.npz", book=book, rows=rows, ids=codes(book, rows, "dot"))
    found = explained(trees)
    assert found.changed == found.near_ties == found.examined > 1


def test_unrelated_arrays_are_not_believed(trees: tuple[Path, Path]) -> None:
    draw = np.random.default_rng(2)
    for n, tree in enumerate(trees):
        ids = draw.integers(0, 48, 600)
        ids[0] += n
        np.savez(tree / "x.npz", book=made("dot")[0], rows=made("dot")[1], ids=ids)
    found = explained(trees)
    assert found.near_ties == 0 and "no arrays in the tree made these codes" in found.reason
    assert found.evidence < 0.2


def test_without_embeddings_it_says_so(trees: tuple[Path, Path]) -> None:
    for n, tree in enumerate(trees):
        np.savez(tree / "x.npz", book=made("dot")[0], ids=np.arange(40) + n)
    assert "no float arrays" in explained(trees).reason


def test_several_codes_per_row_are_counted_and_not_explained(trees: tuple[Path, Path]) -> None:
    for n, tree in enumerate(trees):
        np.save(tree / "x.npy", np.array([[1, 2], [3, 4 + n], [5, 6 + n]]))
    found = explained(trees)
    assert (found.changed, found.rows) == (2, 6) and "one code per row" in found.reason

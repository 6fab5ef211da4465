from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from whydiff.errors import UsageError
from whydiff.locate.rows import Rows, fitted, within
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Payload, Verdict


class Encoder(nn.Module):
    """Attention over tokens; what the mask hides is no key."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 8)
        self.project = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
        h = self.table(x)
        scores = h @ h.transpose(-1, -2) * scale
        if mask is not None:
            scores = scores.masked_fill(~mask.bool()[:, None, :], -math.inf)
        return self.project(torch.softmax(scores, -1) @ h)  # type: ignore[no-any-return]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(12).view(2, 6)
    mask = torch.ones_like(x)
    mask[0, 4:] = 0
    mask[1, 3:] = 0
    return x, mask


def filled(model: Encoder, token: int) -> Callable[..., torch.Tensor]:
    return lambda x, mask: model(torch.where(mask.bool(), x, token), mask)


def notes(diagnosis: Diagnosis) -> str:
    return "\n".join(note for note in diagnosis.notes if "compared" in note)


def test_rows_that_a_mask_hides_are_left_out_and_counted() -> None:
    model = Encoder()
    diagnosis = compare(filled(model, 0), filled(model, 1), *inputs())
    assert diagnosis.verdict is Verdict.INCOMPARABLE
    assert "only what was found to be padding differs (5 rows of output)" in diagnosis.reason
    known = [(c.code, c.status, c.site) for c in diagnosis.causes if c.status != "refuted"]
    assert known == [("NC001", "located", "output")]
    assert diagnosis.causes[0].evidence[0].data["rows"] == [[0, 4], [0, 5], [1, 3], [1, 4], [1, 5]]
    asked = compare(filled(model, 0), filled(model, 1), *inputs(), options=Options(rows="mask"))
    assert asked.verdict is Verdict.IDENTICAL
    assert "not compared: 5 of 12 rows of output are padding, because mask hides them in both runs" in notes(diagnosis)
    assert [count.count for count in diagnosis.not_compared if count.what == "rows of outputs"] == [5]
    assert dict(diagnosis.outputs)["output"].status == "agrees"


def heads(model: Encoder, token: int, scale: float = 1.0) -> Callable[..., Any]:
    """The result, and what a cache would hold: [sequences, 4 heads, positions, 2]."""

    def run(x: torch.Tensor, mask: torch.Tensor) -> Any:
        found = filled(model, token)(x, mask)
        kept = torch.where(mask.bool()[..., None], found * scale, found + token)
        return found, kept.unflatten(-1, (4, 2)).transpose(1, 2)

    return run


def test_padding_is_left_out_of_caches_with_heads_as_well() -> None:
    model = Encoder()
    diagnosis = compare(heads(model, 0), heads(model, 1), *inputs())
    assert diagnosis.verdict is Verdict.INCOMPARABLE, diagnosis.reason
    assert [count.count for count in diagnosis.not_compared if count.what == "rows of outputs"] == [5, 20]
    assert [c.code for c in diagnosis.causes if c.status != "refuted"] == ["NC001", "NC001"]
    found = compare(heads(model, 0), heads(model, 1, scale=1.5), *inputs())
    assert found.verdict is Verdict.SEMANTIC


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((2, 4, 6, 8), (2, 4, 6)), ((2, 3, 4, 6, 8), (2, 3, 4, 6)), ((2, 6, 4), (2, 6)), ((2, 4, 8, 6), None)],
)
def test_a_mask_fits_around_heads(shape: tuple[int, ...], fits: tuple[int, ...] | None) -> None:
    keep = np.arange(12).reshape(2, 6) % 4 > 0
    found = within(keep, shape)
    assert (None if found is None else found.shape) == fits
    if found is not None:
        assert np.array_equal(found.reshape(2, -1, 6)[:, 0], keep)


def test_a_defect_in_the_other_rows_is_still_found() -> None:
    model = Encoder()
    diagnosis = compare(filled(model, 0), lambda x, mask: model(torch.where(mask.bool(), x, 1), mask, 1.1), *inputs())
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert "5 of 12 rows" in notes(diagnosis)
    assert "NC001" not in [cause.code for cause in diagnosis.causes]


def test_a_forgotten_mask_leaves_every_row_in_and_says_so() -> None:
    model = Encoder()
    diagnosis = compare(model, lambda x, mask: model(x), *inputs())
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert "mask hides 5 of 12 rows in the reference and not in the candidate" in notes(diagnosis)
    assert not [count for count in diagnosis.not_compared if count.what == "rows of outputs"]


def test_a_flag_of_single_rows_is_no_mask_of_padding() -> None:
    table = Encoder().table
    x, flags = inputs()

    def run(filler: float) -> Any:
        return lambda x, flags: torch.where(flags[..., None].bool(), table(x), filler) * 2

    diagnosis = compare(run(0.0), run(1.0), x, flags)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert not notes(diagnosis)


def test_rows_are_left_out_where_the_caller_says_so() -> None:
    table = Encoder().table
    x, flags = inputs()

    def run(filler: float) -> Any:
        return lambda x, flags: torch.where(flags[..., None].bool(), table(x), filler) * 2

    for rows in ("flags", flags.numpy()):
        diagnosis = compare(run(0.0), run(1.0), x, flags, options=Options(rows=rows))
        assert dict(diagnosis.outputs)["output"].status == "agrees"
        assert "5 of 12 rows of output are padding, because they were named" in notes(diagnosis)


@pytest.mark.parametrize("rows", ["nothing of this name", np.ones((3, 5), bool)])
def test_rows_that_fit_nothing_are_an_error(rows: Any) -> None:
    model = Encoder()
    with pytest.raises(UsageError):
        compare(filled(model, 0), filled(model, 1), *inputs(), options=Options(rows=rows))


def test_padding_that_is_nan_in_one_run_is_compared() -> None:
    model = Encoder()
    x, mask = inputs()

    def run(filler: float) -> Any:
        return lambda x, mask: torch.where(mask[..., None].bool(), model(x, mask), filler)

    diagnosis = compare(run(0.0), run(math.nan), x, mask)
    assert diagnosis.verdict is Verdict.UNSTABLE
    assert not [count for count in diagnosis.not_compared if count.what == "rows of outputs"]
    assert any("hold NaN or infinity in one run only, so every row is compared" in note for note in diagnosis.notes)


def test_a_row_of_numbers_that_is_hidden_throughout_is_compared() -> None:
    scores, keep = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.ones(4, 6, dtype=torch.bool)
    keep[2] = False

    def run(hidden: float) -> Any:
        return lambda s, m: torch.softmax(s.masked_fill(~m, hidden), -1)

    assert compare(run(-1e9), run(-math.inf), scores, keep).verdict is Verdict.UNSTABLE


def test_a_difference_that_reaches_no_output_is_told_by_experiment() -> None:
    model = Encoder()

    def run(token: int) -> Any:
        return lambda x, mask: model(torch.where(mask.bool(), x, token), mask)[:, :3]

    diagnosis = compare(run(0), run(1), *inputs())
    assert diagnosis.verdict is Verdict.IDENTICAL
    assert "differ and reach no output: with other values in them no bit of the outputs changes" in diagnosis.reason


def test_a_difference_that_a_choice_hides_is_not_dismissed() -> None:
    model = Encoder()
    diagnosis = compare(lambda x: model(x).argmax(-1), lambda x: model(x, scale=1.0000001).argmax(-1), inputs()[0])
    assert diagnosis.verdict is Verdict.IDENTICAL  # as the outputs are
    assert diagnosis.origins and "places differ" in diagnosis.reason
    assert "reach no output" not in diagnosis.reason  # on another input they may


def test_a_program_that_pads_its_inputs_is_compared_where_they_stand() -> None:
    model = Encoder()
    x = torch.arange(5)[None]

    def padded(x: torch.Tensor) -> torch.Tensor:
        more = nn.functional.pad(x, (2, 0), value=9)
        return model(more, (torch.arange(7) >= 2)[None])

    diagnosis = compare(model, padded, x)
    assert diagnosis.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), diagnosis.reason
    assert "2 of 7 rows of output have no counterpart, because only the candidate has them (length 5 → 7" in notes(
        diagnosis
    )
    wrong = compare(model, lambda x: padded(x) * 1.01, x)
    assert wrong.verdict is Verdict.SEMANTIC


def test_a_mask_fits_merged_axes() -> None:
    keep = np.array([[True, False], [True, True]])
    merged = fitted(keep, (4, 7))
    assert merged is not None
    assert merged.tolist() == [True, False, True, True]
    assert fitted(keep, (2, 3, 4)) is None


def test_rows_keep_the_places_of_what_is_compared() -> None:
    rows = Rows("output", np.array([True, False, True]), "of a test")
    ours, theirs = (Payload(np.full((3, 2), float(n), np.float32), "float32") for n in (1, 2))
    assert rows.of(theirs).bits.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert rows.covered(ours, theirs).bits.tolist() == [[2.0, 2.0], [1.0, 1.0], [2.0, 2.0]]
    assert str(rows) == "1 of 3 rows of output are padding, because of a test"
    assert rows.count().examples == ("[1]",)

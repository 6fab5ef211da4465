"""Every program of `formulas` with its right answer: the verdict, the cause that comes first, what may be confirmed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.field import formulas as field

import whydiff
from whydiff.pipeline import compare
from whydiff.records import Diagnosis

Case = tuple[Callable[[], Any], Callable[[], Any], str, str]
CASES: dict[str, Case] = {  # (reference, candidate, verdicts, families of the first cause; empty: none is confirmed)
    "a GRU's bias outside of the gate": (field.gru_fused, field.gru_wrong, "semantic", "FO"),
    "a GRU by hand": (field.gru_fused, field.gru_right, "rounding identical", ""),
    "the bias outside, both by hand": (field.gru_right, field.gru_wrong, "semantic", "FO ST"),
    "a contribution against its sum": (field.contribution, field.with_residual, "incomparable", "NC"),
    "a sum against its contribution": (field.with_residual, field.contribution, "incomparable", "NC"),
    "a hidden state counted from the embedding": (
        lambda: field.stream_after(2),
        lambda: field.stream_after(1),
        "incomparable",
        "NC",
    ),
    "the embedding for a hidden state": (
        lambda: field.stream_after(2),
        lambda: field.stream_after(0),
        "incomparable",
        "NC",
    ),
    "a contribution of other weights": (field.contribution, field.contribution_of_other_weights, "semantic", "FO ST"),
    "rotary pairs, complex": (field.rotary(field.by_complex), field.rotary(field.by_pairs), "rounding identical", ""),
    "rotary halves for complex pairs": (
        field.rotary(field.by_complex),
        field.rotary(field.by_halves),
        "semantic",
        "FO",
    ),
    "a rotation the other way": (field.rotary(field.by_complex), field.rotary(field.conjugate), "semantic", "FO"),
    "a linear layer by hand": (field.linear_old, field.linear_new, "identical rounding", ""),
    "a linear layer without its bias": (field.linear_old, field.linear_without_bias, "semantic", "FO ST"),
    "smoothing over ignored tokens": (field.smoothed(None), field.smoothed(field.over_all), "semantic", "FO TR"),
    "smoothing over kept tokens": (field.smoothed(None), field.smoothed(field.over_kept), "rounding identical", ""),
    "a decay coupled by foreach": (field.sgd("loop"), field.sgd("coupled"), "semantic", "FO TR"),
    "a decay decoupled by foreach": (field.sgd("loop"), field.sgd("right"), "rounding identical", ""),
    "a loss scale too late": (field.scaled_training(False), field.scaled_training(True), "semantic", "FO"),
    "a graph normalised otherwise": (field.graph_layer("row"), field.graph_layer("symmetric"), "semantic", ""),
    "a graph normalised in another order": (
        field.graph_layer("row"),
        field.graph_layer("row, in another order"),
        "rounding",
        "",
    ),
    "the same, with casts of its own": (
        field.graph_layer("row", torch.float32),
        field.graph_layer("row, in another order", torch.float32),
        "rounding inconclusive",
        "",
    ),
    "an array that is normalised": (field.normalised, field.encoded, "semantic inconclusive", ""),
    "a number": (
        lambda: float(field.encoded().sum()),
        lambda: 2 * float(field.encoded().sum()),
        "semantic inconclusive",
        "",
    ),
    "a list": (lambda: field.encoded().tolist(), lambda: (2 * field.encoded()).tolist(), "semantic inconclusive", ""),
    "packed weights that differ": (field.quantized(1.0), field.quantized(3.0), "semantic inconclusive", ""),
}


def wrong(found: Diagnosis, verdicts: str, families: str) -> list[str]:
    """What is not as it should be."""
    faults = [] if str(found.verdict) in verdicts.split() else [f"verdict {found.verdict}: {found.reason}"]
    first = [cause.code[:2] for cause in found.causes[:1] if cause.status != "refuted"]
    if families and not set(first) & {*families.split()}:
        faults.append(f"the first cause is of {first}")
    allowed = {*families.split(), "OR", "SH", "CP", "EN", "PR"} if families or "rounding" in verdicts else {"FO", "ST"}
    faults += [f"{c.code} confirmed" for c in found.causes if c.status == "confirmed" and c.code[:2] not in allowed]
    return faults


@cache
def diagnosed(name: str) -> Diagnosis:
    """Several tests look at one."""
    return compare(*CASES[name][:2])


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_right(name: str) -> None:
    _, _, verdicts, families = CASES[name]
    assert wrong(diagnosed(name), verdicts, families) == []


def test_the_late_scale_is_found_at_its_step_and_proven_both_ways() -> None:
    (cause,) = diagnosed("a loss scale too late").causes
    assert (cause.code, cause.status) == ("FO003", "confirmed")
    assert "@step" not in cause.site or cause.site.endswith("@step 3")
    assert {e.direction for e in cause.experiments} == {"take_away", "put_in"}


@pytest.mark.parametrize("form", ["arguments", "closures", "defaults", "traces"])
def test_every_form_of_call_has_the_same_answer(form: str, tmp_path: Path) -> None:
    """Inputs are told from constants by how the program is called; what is computed is not."""
    x = field.STEPS
    sides: list[Any] = [lambda given: field.FUSED(given).detach(), lambda given: field.WRONG(given).detach()]
    if form == "arguments":
        found = compare(*sides, x)
    elif form == "closures":
        found = compare(*(lambda side=side: side(x) for side in sides))
    elif form == "defaults":
        found = compare(lambda given=x: sides[0](given), lambda given=x: sides[1](given))
    else:
        for number, side in enumerate(sides):
            with torch.no_grad(), whydiff.capture(tmp_path / str(number)):
                side(x)
        found = compare(tmp_path / "0", tmp_path / "1")
    assert wrong(found, "semantic", "FO") == []
    assert [(c.code, c.status) for c in found.causes] == [("FO008", "inconclusive")]  # too much of it to be exchanged

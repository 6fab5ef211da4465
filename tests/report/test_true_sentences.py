"""The report's sentences against the record's fields: over generated diagnoses, and over real comparisons."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from whydiff.judge.claims import Claims
from whydiff.pipeline import compare
from whydiff.records import (
    Alignment,
    Cause,
    Comparison,
    Diagnosis,
    Environment,
    Experiment,
    Intervention,
    ObserverCheck,
    Origin,
    Pair,
    Side,
    Site,
    Verdict,
)
from whydiff.report.answer import answer, leading
from whydiff.report.view import status

STATUSES = ("confirmed", "located", "refuted", "inconclusive")
SIDE = Side(
    source="live",
    framework="torch",
    level="op",
    calls=3,
    environment=Environment(),
    observer=ObserverCheck(True, True, 1),
)


@st.composite
def causes(draw: Any) -> Cause:
    chosen = draw(st.sampled_from(STATUSES))
    tried = tuple(
        Experiment(
            interventions=(Intervention("set-flag", "deterministic", True),),
            prediction="gives the reference's outputs bit for bit",
            outcome="bit-equal: 0 of 4 output elements differ",
            status=draw(st.sampled_from(("confirmed", "refuted", "inconclusive"))),
            direction=draw(st.sampled_from(("take_away", "put_in"))),
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    return Cause(
        code="FO008",
        name="formula-differs",
        site=draw(st.sampled_from((":add#0", "head:mm#1", ""))),
        verdict=Verdict.SEMANTIC,
        status=chosen,
        reason="" if chosen == "confirmed" else "it was not proven",
        experiments=tried,
        inert=draw(st.booleans()),
    )


@st.composite
def diagnoses(draw: Any) -> Diagnosis:
    site = Site("head", "mm")
    origin = Origin(
        site=site, candidate_site=site, kind="region", verdict=Verdict.SEMANTIC, comparison=Comparison("differs")
    )
    pairs = tuple(Pair(i, i) for i in range(draw(st.integers(0, 3))))
    places = draw(st.integers(0, 3))
    return Diagnosis(
        verdict=draw(st.sampled_from(list(Verdict))),
        reason="a reason",
        origins=tuple(
            replace(origin, site=replace(origin.site, occurrence=n, step=step))
            for step in range(draw(st.integers(1, 2)))
            for n in range(places)
        ),
        causes=tuple(draw(st.lists(causes(), max_size=3))),
        impact=(),
        outputs=(),
        growth=(),
        alignment=Alignment(pairs),
        sides=(SIDE, SIDE),
        accounted=draw(st.sampled_from((True, False, None))),
    )


@given(diagnoses())
def test_the_answer_says_what_the_record_holds(diagnosis: Diagnosis) -> None:
    said = answer(diagnosis)
    assert said.headline.startswith(str(diagnosis.verdict).upper())
    nothing = diagnosis.verdict is Verdict.IDENTICAL
    assert ("nowhere" in said.where) == nothing
    counted = re.search(r"(?:starts in|first of|one of) (\d+) places", said.where)
    if not nothing:
        places = len({replace(origin.site, step=0) for origin in diagnosis.origins})  # a step comes to each again
        assert (int(counted[1]) if counted else min(places, 1)) == places
        steps = {origin.site.step for origin in diagnosis.origins}
        assert ("more step" in said.where) == (len(steps) > 1)
    named = leading(diagnosis)
    proven = named is not None and named.status == "confirmed"
    assert ("proven" in said.headline) == (
        proven and diagnosis.verdict not in (Verdict.IDENTICAL, Verdict.INCONCLUSIVE)
    )
    acting = [c for c in diagnosis.causes if c.status in ("confirmed", "located") and not c.inert]
    assert bool(said.causes) == (len(acting) > 1 or (len(acting) == 1 and named not in acting))
    assert named is None or named not in acting or diagnosis.verdict in (named.verdict, Verdict.INCONCLUSIVE)


@given(causes())
def test_only_a_confirmed_cause_is_said_to_be_why(cause: Cause) -> None:
    said = status(cause)
    assert said.startswith("confirmed") == (cause.status == "confirmed")
    assert said.startswith("starts here") == (cause.status == "located")
    assert ("no effect here" in said) == (cause.inert and cause.status != "located")


X, W = (torch.randn(*shape, generator=torch.Generator().manual_seed(3)) for shape in ((4, 16), (16, 16)))


def norm(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, (16,), eps=eps)


PAIRS: dict[str, tuple[Any, Any]] = {
    "an eps": (lambda: norm(X) @ W, lambda: norm(X, 1e-3) @ W),
    "two layers": (lambda: norm(norm(X) @ W) @ W, lambda: norm(norm(X, 1e-3) @ W, 1e-3) @ W),
    "a step": (lambda: norm(torch.tanh(X)) @ W, lambda: torch.tanh(X) @ W),
    "float32 and bfloat16": (lambda: norm(X) @ W, lambda: norm(X.bfloat16()) @ W.bfloat16()),
    "an infinity": (lambda: (X @ W) / 1.0, lambda: (X @ W) / torch.tensor([[1.0], [1.0], [1.0], [0.0]])),
    "other shapes": (lambda: X @ W, lambda: X @ W[:, :8]),
    "a batch": (lambda: torch.tanh(X[:1] @ W).softmax(-1), lambda: torch.tanh(X @ W).softmax(-1)),
    "what is returned": (
        lambda: (lambda h: (h, norm(h) @ W))(X @ W),
        lambda: (lambda h: (norm(h), norm(h) @ W))(X @ W),
    ),
    "nothing": (lambda: X @ W, lambda: X @ W),
}


def test_a_proven_cause_of_what_is_not_the_verdict_is_told_besides() -> None:
    table = torch.linspace(0.1, 1.7, 16)

    class Scaled(torch.nn.Module):
        def __init__(self, table: torch.Tensor, made: float) -> None:
            super().__init__()
            self.made = lambda: made  # no setting: Python's own number
            self.register_buffer("table", table, persistent=False)
            self.register_buffer("weight", W)

        def forward(self, x: torch.Tensor) -> Any:
            return (x * self.table) @ self.weight, self.made()

    found = compare(Scaled(table, 1.5), Scaled(table.bfloat16().float(), 1.6), X)
    said = answer(found)
    assert found.verdict is Verdict.SEMANTIC and [c.status for c in found.causes if c.code == "ST003"] == ["confirmed"]
    assert "proven" not in said.headline and "from_pretrained" not in said.fix
    assert said.proof == "of what ST003 does not explain no experiment decided"
    assert "(ST003, proven), at table" in said.causes[0]


@pytest.mark.parametrize("name", PAIRS)
def test_sentences_of_a_real_comparison_hold(name: str) -> None:
    found = compare(*PAIRS[name])
    counted = re.search(r"explains (\d+) of (\d+) origin", found.reason)
    if counted:
        why = next(c for c in found.causes if c.status == "confirmed")
        assert (int(counted[1]), int(counted[2])) == (sum(map(Claims.of(why).holds, found.origins)), len(found.origins))
    for note in found.notes:
        told = re.search(r"the mean abs error, (\S+), is (within|over)", note)
        if told:
            measured = [c for _, c in found.outputs if c.value("mean_abs") is not None]
            assert any(f"{c.value('mean_abs'):.1e}" == told[1] for c in measured)
            assert not any(c.value("nan_mismatch") or c.value("inf_mismatch") for c in measured)
        if "an origin was missed" in note:
            assert found.accounted is False
            assert name != "float32 and bfloat16"
    for origin in found.origins:
        if origin.evidence and origin.evidence[0].statement.startswith("its inputs and arguments agree bit for bit"):
            assert name != "a batch"
    assert answer(found).where.startswith("nowhere") == (found.verdict is Verdict.IDENTICAL)

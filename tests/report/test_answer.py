"""The first screen, word for word."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden import GOLDEN, PRECISION

from whydiff.records import Verdict
from whydiff.report._answer import answer
from whydiff.report.terminal import TerminalReporter

FIVE_LINES = {
    "identical": """\
verdict identical – zero bits differ in everything that was paired
where   nowhere: no origin in 2135 paired calls
why     nothing to explain
proof   reference: plain and captured runs agree; candidate: plain and captured runs agree
do      nothing
""",
    "precision": """\
verdict precision – the same formula is carried out with a table that was cast to bf16
where   model.rotary_emb:cos#0.output (state; the only origin); 1 kind of things not compared (below)
why     PR001 state-cast-to-lower-precision at model.rotary_emb.inv_freq – confirmed; \
also 2 others refuted or inert on this input (below)
proof   rerun with restore-state model.rotary_emb.inv_freq: 0 of 147456 elements differ \
(mean abs error 7.6e-02 → 0); resynchronising at the origins leaves no bit of difference
do      Load the weights in bf16 instead of casting the whole model afterwards.
""",
    "two causes": """\
verdict semantic – another epsilon is used; besides, the kernels differ
where   model.norm:add#1.output (arguments; first of 6 origins); 1 kind of things not compared (below)
why     SE003 other-epsilon at model.norm.eps – confirmed; \
also RO001 shape-dependent-kernel at model.layers.*.mlp (inconclusive)
proof   replay with set-scalar model.norm.eps = 1e-05: only rounding is left \
(mean abs error 1.0e-02 → 1.0e-07); resynchronising at the origins leaves a difference
do      Use the reference's epsilon.
""",
    "inconclusive": """\
verdict inconclusive because the trace holds no payloads, so no experiment could run
where   model.rotary_emb:cos#0.output (state; the only origin); 1 kind of things not compared (below)
why     no known cause fits
proof   no experiment decided
do      give the programs (FILE.py:name), or traces captured with --payloads all, and compare again
""",
    "incomparable": """\
verdict incomparable – no call of the reference has a counterpart
where   not found: no call could be paired; 40 unpaired in the reference; 4 unpaired in the candidate; \
1 kind of things not compared (below)
why     no known cause fits
proof   no experiment decided
do      make both sides run the same program on the same inputs, then compare again
""",
    "nondeterministic": """\
verdict nondeterministic – the candidate differs from itself
where   model.rotary_emb:cos#0.output (state; the only origin); 1 kind of things not compared (below)
why     no known cause fits
proof   no experiment decided; candidate: two plain runs DIFFER (nondeterminism); \
capturing CHANGED the numbers (observer effect) (3 outputs compared); \
output.1 differs between two plain runs by 2.0e-07
do      make each run repeat itself (seeds, deterministic kernels) and compare again
""",
}


@pytest.mark.parametrize("case", FIVE_LINES)
def test_the_answer_in_five_lines(case: str) -> None:
    rendered = TerminalReporter().render(GOLDEN[case])
    lines = [line.rstrip() for line in rendered.splitlines()]
    assert lines[:5] == FIVE_LINES[case].splitlines()
    assert lines[5] == ""


def test_an_incomplete_trace_is_in_the_answer() -> None:
    where = dict(answer(GOLDEN["incomplete"]))["where"]
    assert "1039 unpaired in the reference" in where and "the candidate is incomplete" in where


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_five_whole_lines_without_a_reason_or_a_cause(verdict: Verdict) -> None:
    lines = answer(replace(PRECISION, verdict=verdict, reason="", causes=()))
    assert [label for label, _ in lines] == ["verdict", "where", "why", "proof", "do"]
    assert all(sentence for _, sentence in lines)


def test_a_refuted_cause_is_never_the_answer() -> None:
    refuted = PRECISION.causes[1]
    why = dict(answer(replace(PRECISION, causes=(refuted,))))["why"]
    assert why.startswith("no known cause fits") and "1 other refuted" in why


def test_the_next_step_of_an_inconclusive_diagnosis_follows_what_is_missing() -> None:
    def step(name: str, **changes: object) -> str:
        changed = replace(GOLDEN[name], verdict=Verdict.INCONCLUSIVE, causes=(), **changes)  # type: ignore[arg-type]
        return dict(answer(changed))["do"]

    assert "capture the candidate again to its end" in step("incomplete")
    assert "--payloads all" in step("inconclusive")
    assert step("precision", sides=(PRECISION.sides[0],) * 2) == "try another input"

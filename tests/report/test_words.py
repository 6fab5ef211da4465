from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.records import Comparison, Environment, Measurement, ObserverCheck, Side, Site
from whydiff.report import words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.0013, "1.3e-03"),
        (6.0, "6.0e+00"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (None, "–"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(0.25, "25.0 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (1e-9, "< 0.1 %"), (1 - 1e-9, "> 99.9 %")],
)
def test_percentages(fraction: float, shown: str) -> None:
    assert words.percent(fraction) == shown


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_no_percentage_rounds_to_none_or_all(fraction: float) -> None:
    assert words.percent(fraction) not in ("0.0 %", "100.0 %")


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("float32[2,3]", "f32[2,3]"),
        ("bfloat16[3, 49152]", "bf16[3,49152]"),
        ("float8_e4m3fn[4]", "f8_e4m3fn[4]"),
        ("int64[]", "i64[]"),
        ("float32 is not a tensor", "float32 is not a tensor"),
    ],
)
def test_tensors_are_short(long: str, short: str) -> None:
    assert words.plain(f"a {long} b") == f"a {short} b"


@given(st.text())
def test_no_escape_sequence_of_a_stranger_reaches_the_terminal(text: str) -> None:
    assert "\x1b" not in words.plain(text + "\x1b[2J") and "\\x1b" in words.plain(text + "\x1b[2J")


def test_the_root_scope_has_no_leading_colon() -> None:
    assert words.site(Site("", "mm", slot="output")) == "mm#0.output"


def test_different_elements() -> None:
    assert words.different(Comparison("differs", "", (Measurement("different", 0.25, "elements"),))) == "25.0 %"
    assert words.different(Comparison("differs")) == "–"


@pytest.mark.parametrize(
    ("measurement", "name", "figure"),
    [
        (Measurement("mean_abs", 0.0013, "elements"), "mean abs error", "1.3e-03"),
        (Measurement("different", 0.25, "elements"), "elements that differ", "25.0 %"),
        (Measurement("rel_l2", 0.5, "abs(reference)"), "relative L2 error", "5.0e-01"),
        (Measurement("top1_flips", 0.5, "positions"), "first choices that flip (of positions)", "50.0 %"),
        (Measurement("max_abs", 0.5, "output.logits"), "max abs error (of output.logits)", "5.0e-01"),
        (Measurement("different", 0.5, "output.logits"), "elements that differ (of output.logits)", "50.0 %"),
        (Measurement("my_own", 2.0), "my own", "2.0e+00"),
        (Measurement("different", math.nan, "elements"), "elements that differ", "nan"),
    ],
)
def test_measurements(measurement: Measurement, name: str, figure: str) -> None:
    assert (words.metric(measurement), words.figure(measurement)) == (name, figure)


def test_a_note_names_reasons_and_what_no_finite_error_can_show() -> None:
    alarms = (Measurement("nan_mismatch", 0.5, "elements"), Measurement("inf_mismatch", 0.0, "elements"))
    assert words.note(Comparison("differs", "2 of 4 elements differ", alarms)) == (
        "2 of 4 elements differ; NaN on one side only: 50.0 %"
    )
    assert words.note(Comparison("not_compared", "no payload")) == "not compared: no payload"
    assert words.note(Comparison("agrees")) == ""


@given(st.sets(st.integers(0, 50), min_size=1))
def test_ranges_name_every_index_once(indices: set[int]) -> None:
    named: list[int] = []
    for part in words.ranges(indices).split(", "):
        first, _, last = part.partition("–")
        named.extend(range(int(first), int(last or first) + 1))
    assert named == sorted(indices)


@given(st.floats(0, 1), st.integers(1, 30))
def test_bars_are_visible_and_never_too_long(fraction: float, cells: int) -> None:
    drawn = words.bar(fraction, cells)
    assert len(drawn) <= cells and bool(drawn) == (fraction > 0)


@pytest.mark.parametrize(
    ("check", "sentence", "proven"),
    [
        (ObserverCheck(None, None, note="a trace"), "not checked: a trace", False),
        (ObserverCheck(None, None), "not checked: no reason was recorded", False),
        (ObserverCheck(True, None), "whether capturing changes it was not checked", False),
        (ObserverCheck(True, False), "capturing CHANGED the numbers (observer effect)", False),
        (ObserverCheck(False, True), "two plain runs DIFFER (nondeterminism)", False),
        (ObserverCheck(True, True, 2), "bit for bit (2 outputs compared)", True),
    ],
)
def test_the_observer_check_in_words(check: ObserverCheck, sentence: str, proven: bool) -> None:
    shown, ok = words.observer(Side("live", "torch", "op", 1, Environment(), check))
    assert sentence in shown and ok is proven


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("model.norm:add#1.output [backward]", "model.norm: add (2nd), backward"),
        (":_to_copy#0.output @step 2", "to_copy, step 2"),
        (":return#0.[0]", "the returned value [0]"),
        ("model:return#1.logits", "model: the returned value logits (2nd)"),
        (":return#0.output", "the returned value"),
        ("model.return.weight", "model.return.weight"),
        ("args[0]", "args[0]"),
        ("_extra.weight", "_extra.weight"),
    ],
)
def test_a_place_is_named_as_people_name_it(site: str, said: str) -> None:
    assert words.place(site) == said

"""The data behind the reports: grouping and summarising lose nothing without saying so."""

from __future__ import annotations

from dataclasses import replace

from golden import GOLDEN, INCOMPARABLE, PRECISION, TWO_CAUSES, differs

from whydiff.records import Comparison, Count, Growth, Measurement, Origin, Remedy, Site, Verdict
from whydiff.report._growth import LONGEST, depths, growth_blocks
from whydiff.report._origins import MOST, groups, origin_blocks
from whydiff.report.blocks import Bar, Block, Table, Text
from whydiff.report.view import build


def table(blocks: tuple[Block, ...]) -> Table:
    (found,) = [block for block in blocks if isinstance(block, Table)]
    return found


def texts(blocks: tuple[Block, ...]) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, Text))


def at(scope: str, mean: float = 0.5, **site: object) -> Growth:
    here = Site(scope, "op", slot="output", **site)  # type: ignore[arg-type]
    return Growth(here, differs(mean, 1.0, 1, 2, 0.1) if mean else Comparison("agrees"))


def test_growth_has_one_row_per_layer_with_a_bar_against_the_largest() -> None:
    rows = table(growth_blocks(PRECISION.growth, verbose=False)).rows
    assert [row[0] for row in rows] == [f"model.layers.{n}" for n in range(30)]
    assert rows[0][2:5] == ("1.8e-03", "6.2e-02", "66.6 %")
    assert rows[-1][-1] == Bar(1.0)


def test_a_depth_without_numbers_says_why() -> None:
    shapes = Growth(Site("h.1", "op"), Comparison("differs", "shape [2] in the reference, [3] in the candidate"))
    nan = Measurement("nan_mismatch", 0.5, "elements")
    hidden = Growth(Site("h.2", "op"), Comparison("differs", "1 of 2", (Measurement("mean_abs", 0.0), nan)))
    rows = table(growth_blocks((at("h.0"), shapes, hidden), verbose=False)).rows
    assert [row[-1] for row in rows] == [
        "",
        "shape [2] in the reference, [3] in the candidate",
        "NaN on one side only: 50.0 %",
    ]
    assert table(growth_blocks((at("h.0"),), verbose=False)).columns[-1] == ""


def test_a_layer_is_shown_by_its_own_output_wherever_that_was_recorded() -> None:
    (row,) = depths((at("h.0.attn", 0.1), at("h.0", 0.2), at("h.0.mlp", 0.3)))
    assert (row.label, row.sites, row.growth.comparison.value("mean_abs")) == ("h.0", 3, 0.2)
    (row,) = depths((at("h.0.attn", 0.1), at("h.0.mlp", 0.3)))
    assert row.growth.comparison.value("mean_abs") == 0.3


def test_passes_and_steps_are_not_mixed() -> None:
    labels = [row.label for row in depths((at("h.0"), at("h.0", phase="backward"), at("h.0", step=1)))]
    assert labels == ["h.0", "h.0 [backward]", "h.0 @step 1"]


def test_agreeing_layers_are_one_row_that_counts_them() -> None:
    rows = table(growth_blocks((at("h.0", 0), at("h.1", 0), at("h.2", 0), at("h.3")), verbose=False)).rows
    assert [row[:2] for row in rows] == [("h.0 … h.2", "3"), ("h.3", "1")]


def test_a_long_table_is_summarised_and_says_so() -> None:
    growth = tuple(at(f"h.{n}") for n in range(200))
    blocks = growth_blocks(growth, verbose=False)
    rows = table(blocks).rows
    assert len(rows) == LONGEST and (rows[0][0], rows[-1][0]) == ("h.0", "h.199")
    assert f"{LONGEST} of 200 rows shown" in texts(blocks)
    assert len(table(growth_blocks(growth, verbose=True)).rows) == 200


def test_the_same_origin_in_every_layer_is_one_row_with_the_largest_values() -> None:
    assert [len(group.members) for group in groups(TWO_CAUSES.origins)] == [1, 5]
    row = table(origin_blocks(TWO_CAUSES.origins, verbose=False)).rows[1]
    assert row[0] == "model.layers.N.mlp.up_proj:mm#0.output (N = 0–3, 7)"
    assert row[1] == "5" and row[4] == "8.0e-06"
    assert len(table(origin_blocks(TWO_CAUSES.origins, verbose=True)).rows) == 6


def test_origins_of_another_kind_or_verdict_are_not_grouped() -> None:
    one = TWO_CAUSES.origins[1]
    two = replace(TWO_CAUSES.origins[2], verdict=Verdict.SEMANTIC)
    assert len(groups((one, two))) == 2 and len(groups((one, TWO_CAUSES.origins[2]))) == 1


def test_only_the_indices_of_scopes_are_folded() -> None:
    def origin(n: int, slot: str) -> Origin:
        site = Site(f"h.{n}.norm", "native_layer_norm", slot=slot)
        return replace(TWO_CAUSES.origins[1], site=site, candidate_site=site)

    found = groups((origin(0, "output.0"), origin(1, "output.0"), origin(1, "output.1")))
    assert [group.label for group in found] == [
        "h.N.norm:native_layer_norm#0.output.0 (N = 0, 1)",
        "h.1.norm:native_layer_norm#0.output.1",
    ]


def test_a_nan_is_never_hidden_behind_a_larger_number() -> None:
    rows = table(origin_blocks(TWO_CAUSES.origins, verbose=False)).rows
    assert rows[0][4:6] == ("inf", "nan")


def test_in_a_row_of_several_origins_a_nan_or_an_infinity_is_the_worst() -> None:
    one, two = TWO_CAUSES.origins[1:3]
    for worst, shown in ((float("nan"), "nan"), (float("-inf"), "-inf")):
        strange = replace(two, comparison=differs(1e-6, worst, 1, 4, 1e-6))
        for origins in ((one, strange), (strange, one)):
            assert table(origin_blocks(origins, verbose=False)).rows[0][4] == shown


def test_outputs_that_are_not_shown_are_counted_and_those_that_differ() -> None:
    apart = differs(1e-6, 1e-6, 1, 4, 1e-6)
    outputs = tuple((f"[{n}]", apart if n % 2 else Comparison("agrees")) for n in range(9))
    impact = next(s for s in build(replace(PRECISION, outputs=outputs)).sections if s.title.startswith("Impact"))
    assert "2 of 5 further outputs differ" in texts(impact.blocks)


def test_many_different_origins_are_cut_with_a_count() -> None:
    def origin(n: int) -> Origin:
        site = Site("m", f"op{n}x", slot="output")
        return replace(TWO_CAUSES.origins[1], site=site, candidate_site=site)

    origins = tuple(map(origin, range(MOST + 5)))
    blocks = origin_blocks(origins, verbose=False)
    assert len(table(blocks).rows) == MOST and "5 more places in 5 rows" in texts(blocks)
    assert len(table(origin_blocks(origins, verbose=True)).rows) == MOST + 5


def test_an_empty_part_says_that_it_is_empty() -> None:
    sections = {s.title: texts(s.blocks) for s in build(GOLDEN["identical"]).sections}
    assert sections["Where a difference starts (0)"] == "None." and sections["Causes (0)"] == "None."
    assert sections["Not compared"] == "Nothing was left out."
    assert sections["Environment changes"].startswith("None:")


def test_unpaired_calls_are_numbered() -> None:
    sections = {s.title: texts(s.blocks) for s in build(INCOMPARABLE).sections}
    assert "without a counterpart, in the candidate: 4 calls (number 0–2, 9)" in sections["Which calls correspond"]


def test_refuted_and_inert_causes_are_marked() -> None:
    sections = {s.title: texts(s.blocks) for s in build(PRECISION).sections}
    assert "✗ ST004" in sections["Causes (3)"] and "no effect here" in sections["Causes (3)"]
    assert "experiment (refuted)" in sections["Causes (3)"]


def test_a_remedy_says_whether_it_was_carried_out() -> None:
    (cause, *_) = PRECISION.causes
    for same_change, said in ((True, "tried: "), (False, "untried)")):
        told = replace(
            cause, remedy=Remedy("Keep it wide.", undoes="either" if same_change else "", carried_out=same_change)
        )
        section = next(s for s in build(replace(PRECISION, causes=(told,))).sections if s.title.startswith("Causes"))
        assert f"remedy ({said}" in texts(section.blocks)


def test_a_long_list_of_gaps_is_cut_with_a_count() -> None:
    gaps = tuple(Count(f"calls op{n}", "no counterpart", 2) for n in range(MOST + 3))
    long = replace(PRECISION, not_compared=gaps)
    short, whole = (build(long, verbose=v).sections[-1].blocks for v in (False, True))
    assert len(table(short).rows) == MOST and "3 more rows (6 in all)" in texts(short)
    assert len(table(whole).rows) == MOST + 3

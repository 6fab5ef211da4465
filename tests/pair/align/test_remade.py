"""A model that one run makes anew half-way, and what only looks like one."""

from __future__ import annotations

import pytest
from build import Op, check, trace

from whydiff.pair.align import align, remade
from whydiff.pair.align.side import Side


def model(prefix: str, step: int, *, root: str = "", width: int = 4) -> list[Op]:
    """A model of three layers, and a loss that the program computes itself."""
    dot = prefix + "." if prefix else ""
    return [
        Op(f"{dot}embed", "embedding", step=step),
        Op(f"{dot}layer", "mm", (2, width), step=step),
        Op(prefix, "relu", (2, width), step=step),
        Op(f"{dot}head", "mm", (2, 3), step=step),
        Op(root, "mse_loss", (), step=step),
        Op(f"{dot}head", "mm", (4, 3), phase="backward", step=step),
        Op(f"{dot}layer", "mm", (4, width), phase="backward", step=step),
    ]


def run(*prefixes: str) -> list[Op]:
    return [op for step, prefix in enumerate(prefixes) for op in model(prefix, step)]


@pytest.mark.parametrize("first", ["", "net"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_model_that_is_made_anew_pairs_with_the_one_that_goes_on(first: str, turned: bool) -> None:
    sides = [trace(run(first, first, first, first)), trace(run(first, first, "New", "New"))]
    found = align(*(sides[::-1] if turned else sides))
    check(found, *(sides[::-1] if turned else sides))
    assert len(found.pairs) == 28
    assert not found.unpaired_reference and not found.unpaired_candidate
    renamed = {pair.reference for pair in found.pairs if pair.how == "renamed scope"}
    assert renamed and all(sides[turned].calls[index].site.step >= 2 for index in renamed)


def test_a_second_model_that_runs_beside_the_first_stands_for_nothing() -> None:
    both = [op for step in range(3) for op in (*model("", step), *(model("Average", step) if step else []))]
    assert remade.find(Side(trace(run("", "", ""))), Side(trace(both))) == {}


def test_another_model_takes_nobodys_place() -> None:
    other = [*run("", ""), Op("Judge.conv", "convolution", step=2), Op("Judge.score", "softmax", step=2)]
    assert remade.find(Side(trace(run("", "", ""))), Side(trace(other))) == {}
    wider = [*run("", ""), *model("New", 2, width=8)]
    assert remade.find(Side(trace(run("", "", ""))), Side(trace(wider))).get("New.layer") in (None, "layer")


def test_a_model_under_other_names_from_the_beginning_is_left_to_renaming() -> None:
    assert remade.find(Side(trace(run("net", "net"))), Side(trace(run("New", "New")))) == {}


def test_a_name_that_would_be_taken_twice_is_not_given() -> None:
    twice = [*run("", ""), *model("One", 2), *model("Two", 2)]
    assert remade.find(Side(trace(run("", "", ""))), Side(trace(twice))) == {}

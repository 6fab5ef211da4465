"""What holds for every two traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from build import Op, check, counted_steps, longest, model, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.pair.align import align, evidence, explain, rescoped, sequence
from whydiff.records import Alignment, RecordedTrace


@st.composite
def programs(draw: st.DrawFn, scopes: tuple[str, ...] = ("", "a", "a.q", "b"), size: int = 12) -> list[Op]:
    ops = st.builds(
        Op,
        scope=st.sampled_from(scopes),
        op=st.sampled_from(("mm", "add")),
        shape=st.sampled_from(((2,), (3,))),
        kind=st.sampled_from(("compute", "compute", "view")),
        phase=st.sampled_from(("forward", "forward", "backward")),
        step=st.integers(0, 1),
        overload=st.sampled_from(("Tensor", "Scalar")),
        value=st.none() | st.integers(0, 3),
        state=st.none() | st.integers(0, 2),
    )
    found = draw(st.lists(ops, max_size=size))
    return sorted(found, key=lambda op: op.step) if draw(st.booleans()) else found


def keys(side: RecordedTrace, steps: Sequence[int]) -> list[tuple[Any, ...]]:
    """What calls of the two sides have in common if they pair by it; ``steps``: as the alignment counts them."""
    sites = ((call, call.site, step) for call, step in zip(side.calls, steps, strict=True))
    return [(s.scope, s.op, s.phase, step, call.kind) for call, s, step in sites if call.kind != "view"]


def aligned(first: list[Op], second: list[Op]) -> tuple[Alignment, RecordedTrace, RecordedTrace]:
    left, right = trace(first), trace(second)
    found = align(left, right)
    check(found, left, right)
    return found, left, right


@given(programs(), programs())
def test_invariants_hold_and_as_few_as_possible_are_unpaired(first: list[Op], second: list[Op]) -> None:
    found, left, right = aligned(first, second)
    most = longest(*map(keys, (left, right), counted_steps(left, right)))
    beyond = any(pair.how in ("renamed scope", rescoped.HOW) for pair in found)
    assert len(found.pairs) >= most if beyond else len(found.pairs) == most
    counts = explain(found, left, right)
    assert sum(c.count for c in counts) == len(found.unpaired_reference) + len(found.unpaired_candidate)


@given(programs())
def test_equal_programs_pair_completely(program: list[Op]) -> None:
    found, *_ = aligned(program, program)
    assert not found.unpaired_reference and not found.unpaired_candidate and not found.renamed
    assert all(pair.reference == pair.candidate and pair.how == "same path" for pair in found)


@given(programs(("", "a", "b")), programs(("", "a", "b")))
def test_sides_can_be_swapped(first: list[Op], second: list[Op]) -> None:
    left, right = trace(first), trace(second)
    assert align(left, right) == align(right, left).turned()


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_sides_can_be_swapped_where_nothing_but_order_decides(first: list[str], second: list[str]) -> None:
    left, right = (trace(Op("", op) for op in ops) for ops in (first, second))
    assert align(left, right) == align(right, left).turned()


@given(st.data(), programs(size=25))
def test_deleting_calls_leaves_all_others_paired(data: st.DataObject, program: list[Op]) -> None:
    whole = [replace(op, value=n, tag=n) for n, op in enumerate(program)]
    kept = [op for op in whole if not data.draw(st.booleans())]
    for first, second in ((whole, kept), (kept, whole)):
        found, *_ = aligned(first, second)
        assert {first[p.reference].tag for p in found} == {op.tag for op in kept if op.kind != "view"}
        assert all(first[p.reference].tag == second[p.candidate].tag for p in found)


edit = st.tuples(st.integers(0, 10_000), st.sampled_from(("delete", "insert", "replace")))


@given(st.lists(edit, max_size=12))
@settings(max_examples=50)
def test_an_edit_unpairs_only_itself(edits: list[tuple[int, str]]) -> None:
    first = [replace(op, value=n, tag=n) for n, op in enumerate(model(3))]
    second = list(first)
    for where, what in edits:
        n = where % len(second)
        if what == "delete":
            del second[n]
        elif what == "insert":
            second.insert(n, Op(second[n].scope, "new", tag="new"))
        else:
            second[n] = replace(second[n], op="other", kind="compute", tag="new")
    found, *_ = aligned(first, second)
    kept = {op.tag for op in second if op.kind != "view"} - {"new"}
    assert {first[p.reference].tag for p in found} == kept
    assert all(first[p.reference].tag == second[p.candidate].tag for p in found)


@given(st.data(), st.integers(1, 4))
@settings(max_examples=50)
def test_any_one_to_one_renaming_of_all_scopes_is_found(data: st.DataObject, layers: int) -> None:
    first = model(layers)
    scopes = sorted({op.scope for op in first} - {""})
    part = st.sampled_from(["x", "y", "z", "norm", "attn", "0", "1"])
    new = st.lists(part, min_size=1, max_size=3).map(lambda parts: "new." + ".".join(parts))
    names = data.draw(st.lists(new, min_size=len(scopes), max_size=len(scopes), unique=True))
    table = dict(zip(scopes, names, strict=True))
    found, *_ = aligned(first, [replace(op, scope=table.get(op.scope, "")) for op in first])
    assert not found.unpaired_reference and not found.unpaired_candidate


def limit_sequence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sequence, "CELLS", 3)


def limit_evidence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evidence, "CELLS", 0)


@pytest.mark.parametrize("limit", [limit_sequence, limit_evidence])
@given(programs(), programs())
@settings(max_examples=60)
def test_bounded_passes_keep_the_invariants(
    limit: Callable[[pytest.MonkeyPatch], None], first: list[Op], second: list[Op]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        limit(patch)
        aligned(first, second)


def test_a_block_over_the_limit_is_cut_at_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [replace(op, value=n) for n, op in enumerate(model(3))]
    second = [op for n, op in enumerate(first) if n != 13]
    monkeypatch.setattr(sequence, "CELLS", 100)
    found, *_ = aligned(first, second)
    assert {pair.how for pair in found} == {"anchor"}
    assert found.unpaired_reference == (13,) and not found.unpaired_candidate
    found, *_ = aligned([replace(op, value=None) for op in first], [replace(op, value=None) for op in second])
    assert {pair.how for pair in found} == {"anchor"}
    assert len(found.unpaired_reference) == 1 and not found.unpaired_candidate

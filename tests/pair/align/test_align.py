"""What users meet: a cast more, a fused op, loops, missing layers, other names."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from build import Op, check, layer, model, rescope, trace

from whydiff.errors import UsageError
from whydiff.pair.align import align, explain
from whydiff.records import Alignment


def run(first: list[Op], second: list[Op], **options: Any) -> Alignment:
    left, right = trace(first), trace(second)
    found = align(left, right, **options)
    check(found, left, right)
    return found


def left_over(ops: list[Op], unpaired: tuple[int, ...]) -> list[str]:
    return [f"{ops[n].scope}:{ops[n].op}" for n in unpaired]


def complete(found: Alignment) -> bool:
    return bool(found.pairs) and not found.unpaired_reference and not found.unpaired_candidate


# ----------------------------------------------------------------------- edits inside a scope


def test_a_cast_more_in_one_scope_is_the_only_unpaired_call() -> None:
    first = model(2)
    at = next(n for n, op in enumerate(first) if op.scope == "layers.1.norm")
    first.insert(at, Op("layers.1.norm", "_to_copy", dtype="float32"))
    second = list(first)
    second.insert(at + 7, Op("layers.1.norm", "_to_copy", dtype="bfloat16"))
    found = run(first, second)
    assert found.unpaired_reference == ()
    assert found.unpaired_candidate == (at + 7,)


def test_of_equal_calls_the_one_with_other_outputs_is_unpaired() -> None:
    cast = Op("norm", "_to_copy", dtype="float32")
    first = [cast, Op("norm", "pow"), Op("norm", "mul")]
    second = [replace(cast, dtype="bfloat16"), cast, Op("norm", "pow"), Op("norm", "mul")]
    found = run(first, second)
    assert found.unpaired_candidate == (0,)
    assert [pair.how for pair in found] == ["best evidence", "same scope", "same scope"]


@pytest.mark.parametrize(
    ("strong", "weak"),
    [
        ({"value": 5}, {"state": 3, "arguments": [2], "overload": "Scalar"}),
        ({"state": 3}, {"shape": (9, 9), "arguments": [2], "overload": "Scalar"}),
        ({"shape": (9, 9)}, {"arguments": [2], "overload": "Scalar"}),
        ({"arguments": [2]}, {"overload": "Scalar"}),
    ],
)
def test_stronger_evidence_outweighs_all_weaker(strong: dict[str, Any], weak: dict[str, Any]) -> None:
    plain = Op("", "mul")
    wanted = replace(plain, **strong, **weak)
    found = run([wanted], [replace(plain, **weak), replace(plain, **strong), plain])
    assert [pair.candidate for pair in found] == [1]


@pytest.mark.parametrize("made_by", [0, 1, 2])
@pytest.mark.parametrize("state", [2, None])
def test_what_takes_a_value_up_tells_which_of_equal_calls_it_is(made_by: int, state: int | None) -> None:
    def taken(calls: int, made_by: int) -> list[Op]:
        return [Op("", "mul", state=state)] * calls + [Op("", "exp", state=1, made_by=made_by)]

    found = run(taken(3, made_by), taken(1, 0))
    alike = state is None  # what is made of no tensor is its arguments, whoever takes it up
    assert [pair.reference for pair in found.pairs] == [0 if alike else made_by, 3]


def test_without_evidence_the_earliest_calls_pair() -> None:
    found = run([Op("", "mul")], [Op("", "mul"), Op("", "mul")])
    assert found.unpaired_candidate == (1,)


def test_sdpa_replaced_by_a_region_leaves_only_the_region() -> None:
    first = model(3)
    at = next(n for n, op in enumerate(first) if op.scope == "layers.1.attn")
    region = [Op("layers.1.attn", op) for op in ("matmul", "div", "softmax", "matmul")]
    found = run(first, first[:at] + region + first[at + 1 :])
    assert found.unpaired_reference == (at,)
    assert found.unpaired_candidate == tuple(range(at, at + 4))
    found = run(first[:at] + region + first[at + 1 :], first)
    assert found.unpaired_reference == tuple(range(at, at + 4))


def test_overloads_pair_and_other_ops_kinds_phases_and_ranks_do_not() -> None:
    assert complete(run([Op("", "add", overload="Tensor")], [Op("", "add", overload="Scalar")]))
    for other in ({"op": "sub"}, {"kind": "module"}, {"phase": "backward"}, {"step": 1}):
        assert not run([Op("", "add")], [replace(Op("", "add"), **other)]).pairs


def test_other_shapes_pair_because_a_slice_may_be_the_counterpart() -> None:
    assert complete(run(model(2), [replace(op, shape=(8, *op.shape[1:])) for op in model(2)]))


def test_views_are_counted_and_never_paired() -> None:
    first = model(1)
    found = run(first, [op for op in first if op.kind != "view"])
    assert complete(found)
    assert (found.views_reference, found.views_candidate) == (6, 0)


def test_module_level_traces() -> None:
    scopes = ["embed", "layers.0", "layers.1", "layers.2", ""]
    first = [Op(scope, "Linear", kind="module") for scope in scopes]
    found = run(first, first[:2] + first[3:])
    assert found.unpaired_reference == (2,) and not found.unpaired_candidate


def test_empty_traces() -> None:
    assert run([], []) == Alignment(())
    assert run([], model(1)).pairs == ()


# ----------------------------------------------------------------------- loops and steps


def test_more_steps_on_one_side_pair_the_common_ones() -> None:
    long = [op for step in range(4) for op in model(2, step=step)]
    short = [op for op in long if op.step < 2]
    for first, second in ((long, short), (short, long)):
        found = run(first, second)
        unpaired = found.unpaired_reference + found.unpaired_candidate  # one of the two is empty
        assert {long[n].step for n in unpaired} == {2, 3}
        assert len(found.pairs) == sum(op.kind != "view" for op in short)


def test_a_call_missing_in_one_step_does_not_move_the_others() -> None:
    first = [op for step in range(3) for op in model(2, step=step)]
    gone = next(n for n, op in enumerate(first) if op.step == 1 and op.op == "_scaled_dot_product_attention")
    assert run(first, first[:gone] + first[gone + 1 :]).unpaired_reference == (gone,)


def test_steps_that_do_not_follow_each_other() -> None:
    first = [replace(op, step=n % 2) for n, op in enumerate(model(1))]
    assert run(first, first[:-1]).unpaired_reference == (len(first) - 1,)


def test_a_loop_run_less_often_is_told_by_its_values() -> None:
    first = [replace(op, value=100 * n + k) for n in range(6) for k, op in enumerate(layer("shared"))]
    size = len(layer("shared"))
    found = run(first, first[: 2 * size] + first[3 * size :])
    assert {n // size for n in found.unpaired_reference} == {2} and not found.unpaired_candidate


# ----------------------------------------------------------------------- missing layers and other names


def test_a_missing_layer_that_keeps_the_other_names() -> None:
    first = model(6)
    found = run(first, [op for op in first if not op.scope.startswith("layers.3")])
    assert {first[n].scope.split(".")[1] for n in found.unpaired_reference} == {"3"}
    assert not found.unpaired_candidate and not found.renamed


def test_a_missing_layer_after_which_all_move_up_is_known_by_its_weights() -> None:
    weights = list(range(6))
    long, short = model(6, weights=weights), model(5, weights=weights[:3] + weights[4:])
    found = run(long, short)
    assert {long[n].scope.split(".")[1] for n in found.unpaired_reference} == {"3"}
    assert not found.unpaired_candidate
    assert found.renamed == (("layers.3", "layers.4"), ("layers.4", "layers.5"))
    found = run(short, long)
    assert {long[n].scope.split(".")[1] for n in found.unpaired_candidate} == {"3"}
    assert found.renamed == (("layers.4", "layers.3"), ("layers.5", "layers.4"))


def test_without_weights_numbers_are_kept() -> None:
    long = model(6)
    found = run(long, model(5))
    assert {long[n].scope.split(".")[1] for n in found.unpaired_reference} == {"5"} and not found.renamed


@pytest.mark.parametrize("weights", [[0, 2, 1, 3], [1, 2, 3, 0]])
def test_exchanged_weights_are_a_defect_and_no_renaming(weights: list[int]) -> None:
    found = run(model(4, weights=range(4)), model(4, weights=weights))
    assert complete(found) and not found.renamed
    extra = [Op("layers.0", "extra"), *model(4, weights=weights)]
    found = run(model(4, weights=range(4)), extra)
    assert found.unpaired_candidate == (0,) and not found.renamed


def test_exchanged_weights_of_which_one_changed_too() -> None:
    first, second = model(3, weights=[0, 1, 2]), model(3, weights=[5, 0, 2])
    found = run(first, [Op("layers.0", "extra"), *second])
    assert found.unpaired_candidate == (0,) and not found.unpaired_reference and not found.renamed


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        (model(3), model(3, prefix="encoder.blocks"), ("encoder.blocks", "layers")),
        (model(3, root="model"), model(3), ("", "model")),
        (model(3), model(3, root="model"), ("model", "")),
        (model(3), rescope(model(3), ".", "/"), None),
    ],
)
def test_renamed_scopes(first: list[Op], second: list[Op], rule: tuple[str, str] | None) -> None:
    found = run(first, second)
    assert complete(found)
    assert rule is None or found.renamed == (rule,)
    assert "renamed scope" in {pair.how for pair in found}


def test_renamed_scopes_with_edits() -> None:
    first = model(4)
    second = rescope(rescope(model(4, prefix="h"), "attn.q", "mha.query"), "norm", "ln")
    at = next(n for n, op in enumerate(second) if op.scope == "h.2.ln")
    second.insert(at, Op("h.2.ln", "_to_copy"))
    found = run(first, second)
    assert not found.unpaired_reference and found.unpaired_candidate == (at,)


def test_which_of_several_equal_layers_is_missing_is_not_guessed() -> None:
    first, second = model(4), model(3, prefix="h")
    found = run(first, second)
    assert {op.split(":")[0].split(".")[0] for op in left_over(first, found.unpaired_reference)} == {"layers"}
    assert {op.split(":")[0].split(".")[0] for op in left_over(second, found.unpaired_candidate)} == {"h"}
    weights = [0, 1, 2, 3]
    known = run(model(4, weights=weights), model(3, prefix="h", weights=[0, 1, 3]))
    assert not known.unpaired_candidate
    assert {first[n].scope.split(".")[1] for n in known.unpaired_reference} == {"2"}


def test_unrelated_models_are_not_forced_together() -> None:
    first = [Op("a", "mm"), Op("a", "relu"), Op("b", "mm")]
    second = [Op("x", "conv"), Op("x", "mm"), Op("x", "conv"), Op("y", "softmax")]
    assert run(first, second).pairs == ()


# ----------------------------------------------------------------------- the caller's rules


@pytest.mark.parametrize("rule", [("h", "layers"), ("h.", "layers."), (r"^h\.(\d+)", r"layers.\1")])
def test_rules_rename_the_candidates_scopes(rule: tuple[str, str]) -> None:
    found = run(model(3), model(2, prefix="h"), rename=[rule])
    assert not found.unpaired_candidate
    assert found.renamed == (rule,)
    assert Counter(pair.how for pair in found)["rename rule"] == 2 * 16


def test_rules_apply_in_order_and_only_those_that_changed_something_are_named() -> None:
    rules = [("h", "x"), ("nothing.here", "y"), ("x", "layers")]
    found = run(model(2), model(2, prefix="h"), rename=rules)
    assert complete(found) and found.renamed == (rules[0], rules[2])


def test_a_prefix_is_whole_components() -> None:
    assert not run([Op("b.x", "mm"), Op("b.x", "relu")], [Op("ab.x", "mm")], rename=[("a", "")]).renamed
    assert run([Op("m.x", "mm")], [Op("x", "mm")], rename=[("", "m")]).pairs[0].how == "rename rule"
    assert run([Op("x", "mm")], [Op("m.x", "mm")], rename=[("m", "")]).pairs[0].how == "rename rule"


@pytest.mark.parametrize("rule", [("(", "a"), ("a+", r"\9"), ("a",), "ab", ("a", None)])
def test_malformed_rules(rule: Any) -> None:
    with pytest.raises(UsageError, match="rename rule") as error:
        run([], [], rename=[rule])
    assert error.value.where == "rename" and error.value.actual and error.value.next_step


def test_a_single_rule_instead_of_a_list() -> None:
    with pytest.raises(UsageError, match="not a pair"):
        run([], [], rename=("a", "b"))


# ----------------------------------------------------------------------- explain


def test_explain_counts_by_side_scope_and_op() -> None:
    first = [op for step in range(2) for op in model(1, step=step)]
    second = [op for op in first if op.step == 0 and not op.scope.startswith("norm")]
    second.insert(3, Op("layers.0.norm", "_to_copy"))
    second.insert(4, Op("layers.0.norm", "_to_copy"))
    left, right = trace(first), trace(second)
    counts = {(c.what, c.reason): c for c in explain(align(left, right), left, right)}
    cast = counts["candidate calls layers.0.norm:_to_copy", _reason("its scope has", "reference", counts)]
    assert (cast.count, cast.examples) == (2, ("layers.0.norm:_to_copy#0", "layers.0.norm:_to_copy#1"))
    assert counts["reference calls norm:pow", _reason("nothing of its scope", "candidate", counts)].count == 1
    assert counts["reference calls head:mm", _reason("nothing of its step", "candidate", counts)].count == 1


def _reason(start: str, other: str, counts: dict[tuple[str, str], Any]) -> str:
    (found,) = {reason for _, reason in counts if reason.startswith(start) and other in reason}
    return found


def test_explain_keeps_few_examples() -> None:
    left, right = trace([Op("a", "mm")] * 9), trace([])
    (count,) = explain(align(left, right), left, right)
    assert count.count == 9 and count.examples == ("a:mm#0", "a:mm#1", "a:mm#2")


def test_an_op_in_place_is_the_same_function_with_another_destination() -> None:
    first = [Op("m", "mm"), Op("m", "add"), Op("m", "relu")]
    found = run(first, [Op("m", "mm"), Op("m", "add_"), Op("m", "relu_")])
    assert complete(found)


def test_another_function_in_place_is_no_counterpart() -> None:
    first, second = [Op("m", "mm"), Op("m", "add")], [Op("m", "mm"), Op("m", "mul_")]
    found = run(first, second)
    assert left_over(first, found.unpaired_reference) == ["m:add"]
    assert left_over(second, found.unpaired_candidate) == ["m:mul_"]

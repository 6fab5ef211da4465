"""Two replays in step: what is paired, what agrees, what is given over, and what is left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from whydiff.capturing.adapters import for_framework
from whydiff.pair.align import align
from whydiff.pair.lockstep import Lockstep, matched, paired, paired_or_left
from whydiff.records import Call, Event, Site, Slot, TensorSpec

X = torch.arange(12.0).reshape(3, 4)
SPEC = TensorSpec((2,), "float32")


def event(name: str, *, skipped: str = "", storage: int = 1) -> Event:
    return Event(Site("m", "f", slot=name), SPEC, storage, skipped=skipped)


def call(*reads: Event, kind: Any = "compute") -> Call:
    return Call(0, Site("m", "f"), "f", kind, reads)


def step_of(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> Lockstep:
    adapter = for_framework("torch")
    traces = [adapter.run(side, inputs or (X,), {}).capture() for side in (reference, candidate)]
    return Lockstep(*(adapter.executor(trace) for trace in traces), align(*traces))


def test_reads_correspond_by_position_and_returns_by_name() -> None:
    a, b, c = event("a"), event("b"), event("c")
    assert paired(call(a, b), call(c, b), "reads") == [(a, c), (b, b)]
    assert paired(call(a, b, kind="return"), call(c, b, kind="return"), "reads") == [(b, b)]


def test_what_is_only_written_over_or_looked_at_again_does_not_count() -> None:
    a, b = event("a"), event("b")
    for why in ("overwritten", "view"):
        assert paired(call(event("x", skipped=why), a), call(b), "reads") == [(a, b)]
    assert paired(call(event("x", skipped="no memory"), a), call(b), "reads") != [(a, b)]


def test_left_over_counts_both_sides() -> None:
    a, b, c = event("a"), event("b"), event("c")
    assert paired_or_left(call(a, b), call(c), "reads")[1] == 1
    assert paired_or_left(call(a, kind="return"), call(b, kind="return"), "reads")[1] == 2
    assert paired_or_left(call(a), call(b), "reads")[1] == 0


def test_only_values_that_both_replays_have_are_matched() -> None:
    a, gone = event("a"), event("b", storage=-1)
    assert matched(call(a, gone, a), call(a, a, gone), "reads") == [(a, a)]


def test_the_candidate_goes_on_with_what_it_was_given() -> None:
    """After the one place where they part is resynchronised, everything behind it agrees."""
    step = step_of(lambda x: x.sin().mul(2.0).exp(), lambda x: x.sin().mul(2.5).exp())
    agreed: dict[str, bool | None] = {}
    for call_r, call_c in step.walk():
        if call_r.kind == "return":
            agreed["return"] = all(look.agrees for look in step.looks(call_r, call_c, "reads"))
            continue
        step.execute(call_r, call_c)
        (look,) = step.looks(call_r, call_c, "writes")
        agreed[call_r.site.op] = look.agrees
        if look.agrees is False:
            assert step.resynchronise(look)
    assert agreed == {"sin": True, "mul": False, "exp": True, "return": True}
    assert step.executed == {"reference": 3, "candidate": 3}


def test_without_resynchronising_a_difference_goes_on() -> None:
    step = step_of(lambda x: x.sin().mul(2.0).exp(), lambda x: x.sin().mul(2.5).exp())
    agreed = {}
    for call_r, call_c in step.walk():
        if call_r.kind != "return":
            step.execute(call_r, call_c)
            agreed[call_r.site.op] = step.looks(call_r, call_c, "writes")[0].agrees
    assert agreed == {"sin": True, "mul": False, "exp": False}


def test_what_was_noted_equal_is_not_looked_at_again() -> None:
    step = step_of(lambda x: x.sin().exp(), lambda x: x.sin().exp())
    for call_r, call_c in step.walk():
        looks = step.looks(call_r, call_c, "reads")
        if call_r.site.op == "exp":
            assert [(look.agrees, look.reference_value) for look in looks] == [(True, None)]
            break
        step.execute(call_r, call_c)
        for look in step.looks(call_r, call_c, "writes"):
            step.note_equal(look)


def test_of_what_is_written_in_place_only_that_part_is_known_to_be_equal() -> None:
    def writing(at: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            held = torch.zeros(4, *x.shape)
            held[at] = x.sin()
            held[3] = x.cos()
            return held.exp()

        return run

    step = step_of(writing(0), writing(1))
    for call_r, call_c in step.walk():
        looks = step.looks(call_r, call_c, "reads")
        if call_r.site.op == "exp":
            assert [look.agrees for look in looks] == [False]
            break
        step.execute(call_r, call_c)
        for look in step.looks(call_r, call_c, "writes"):
            step.note_equal(look)


def test_calls_that_only_one_side_has_are_executed_and_counted() -> None:
    step = step_of(lambda x: x.sin().exp(), lambda x: x.sin().abs().exp())
    for call_r, call_c in step.walk():
        if call_r.kind != "return":
            step.execute(call_r, call_c)
    assert step.executed == {"reference": 2, "candidate": 3}
    assert not step.failed


def test_leaves_differ_by_dtype_shape_or_bits() -> None:
    def reading(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        model = torch.nn.Module()
        model.register_buffer("weight", weight)
        model.forward = lambda x: x.to(weight.dtype) + model.weight.sum()  # type: ignore[method-assign]
        return model

    base = torch.ones(4)
    for other, differs in ((base.clone(), False), (base * 2, True), (base.double(), True), (torch.ones(5), True)):
        step = step_of(reading(base), reading(other))
        sides = [
            next(leaf for leaf in side.trace.leaves if leaf.role == "buffer")
            for side in (step.reference, step.candidate)
        ]
        assert step.leaf_differs(*sides) is differs, other


def test_a_return_has_the_references_number() -> None:
    step = step_of(lambda x: x.sin(), lambda x: x.sin())
    (last,) = [c for c in step.reference.trace.calls if c.kind == "return"]
    assert step.slot(last, last.reads[0]) == Slot(0, "output")

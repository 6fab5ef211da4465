"""Reads that are numbers in the other call: which they are, and that another number is no counterpart either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.locate.origins import find_origins
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.pair.align import align
from whydiff.pair.lockstep import paired, paired_or_left
from whydiff.pair.operands import spelled_out
from whydiff.records import Call, Event, Site, TensorSpec

X = torch.linspace(-1, 1, 24).reshape(4, 6)


def held(values: Any, dtype: str = "float32") -> Event:
    array = np.asarray(values, dtype)
    return Event(Site("", "f"), TensorSpec(array.shape, dtype), 1, fingerprint=fingerprint_bytes(array.copy()))


def call(arguments: list[Any], *reads: Event) -> Call:
    return Call(0, Site("", "mul"), "mul", "compute", reads, arguments=[arguments, {}])


SOME, OTHERS, HALF, THIRD = held([1.0, 2.0]), held([3.0, 4.0]), held(0.5), held(0.3)
READ = [{"$read": 0}, {"$read": 1}]


@pytest.mark.parametrize("reads", [(HALF, SOME), (SOME, HALF), (held([0.5, 0.5]), SOME)])
@pytest.mark.parametrize("given", [[{"$read": 0}, 0.5], [0.5, {"$read": 0}]])
def test_what_holds_the_other_calls_number_is_no_tensors_counterpart(reads: tuple[Event, Event], given: Any) -> None:
    """At whichever place it stands, of no axes or of the other's shape."""
    ours, theirs = call(READ, *reads), call(given, SOME)
    assert paired(ours, theirs, "reads") == [(SOME, SOME)] == paired(theirs, ours, "reads")
    assert paired_or_left(ours, theirs, "reads")[1] == 0 == paired_or_left(theirs, ours, "reads")[1]


def test_another_number_is_left_over_and_counted() -> None:
    ours, theirs = call(READ, THIRD, SOME), call([0.5, {"$read": 0}], SOME)
    assert paired(ours, theirs, "reads") == [(SOME, SOME)]
    assert paired_or_left(ours, theirs, "reads")[1] == 1
    assert spelled_out(ours, theirs) == ours.arguments


def test_where_every_value_differs_the_read_of_no_axes_is_the_number() -> None:
    ours, theirs = call(READ, THIRD, SOME), call([{"$read": 0}, 0.5], OTHERS)
    assert paired(ours, theirs, "reads") == [(SOME, OTHERS)]


def test_of_two_reads_of_no_axes_the_place_tells() -> None:
    ours, theirs = call(READ, held(0.25), held(0.75)), call([0.5, {"$read": 0}], held(2.0))
    assert [(a.fingerprint, b.fingerprint) for a, b in paired(ours, theirs, "reads")] == [
        (held(0.75).fingerprint, held(2.0).fingerprint)
    ]


def test_a_tensor_more_without_a_number_for_it_is_left_over_at_the_end() -> None:
    """A number that both calls have (an axis) stands for no tensor."""
    ours, theirs = call([*READ, 1], HALF, SOME), call([{"$read": 0}, 1], SOME)
    assert paired(ours, theirs, "reads") == [(HALF, SOME)]
    assert paired_or_left(ours, theirs, "reads")[1] == 1


def test_one_number_does_not_stand_for_two_tensors() -> None:
    ours, theirs = call([*READ, {"$read": 2}], HALF, THIRD, SOME), call([{"$read": 0}, 0.5], SOME)
    assert paired(ours, theirs, "reads") == [(HALF, SOME)]
    assert paired_or_left(ours, theirs, "reads")[1] == 2


def test_a_number_is_rounded_to_the_tensors_dtype() -> None:
    bits = held(np.array(0x3E9A, np.uint16), "uint16")  # 0.3 in bfloat16
    brain = Event(bits.site, TensorSpec((), "bfloat16"), 1, fingerprint=bits.fingerprint)
    for third in (THIRD, held(0.3, "float64"), held(0.3, "float16"), brain):
        assert paired_or_left(call(READ, third, SOME), call([0.3, {"$read": 0}], SOME), "reads")[1] == 0
    assert paired_or_left(call(READ, held(1, "int32"), SOME), call([1.5, {"$read": 0}], SOME), "reads")[1] == 1


def test_a_truth_value_stands_for_no_number() -> None:
    """It may be an option of the op that only one side has."""
    true = held(True, "bool")
    assert paired_or_left(call(READ, true, SOME), call([True, {"$read": 0}], SOME), "reads")[1] == 0
    for tensor, number in ((held(1.0), True), (true, 1.0)):
        ours, theirs = call(READ, SOME, tensor), call([{"$read": 0}, number], SOME)
        assert paired(ours, theirs, "reads") == [(SOME, SOME)]
        assert spelled_out(ours, theirs) == ours.arguments


def test_arguments_are_spelled_out_with_the_number() -> None:
    ours, theirs = call(READ, HALF, SOME), call([0.5, {"$read": 0}], SOME)
    assert spelled_out(ours, theirs) == [[0.5, {"$read": 0}], {}] == spelled_out(theirs, ours)
    encoded = call([{"$number": ["float32", 0.5]}, {"$read": 0}], SOME)
    assert spelled_out(ours, encoded) == theirs.arguments


def kinds(reference: Callable[..., Any], candidate: Callable[..., Any]) -> list[tuple[str, str]]:
    adapter = for_framework("torch")
    traces = [adapter.run(side, (X,), {}).capture() for side in (reference, candidate)]
    found = find_origins(*(adapter.executor(trace) for trace in traces), align(*traces))
    return [(origin.site.op, origin.kind) for origin in found.origins]


CONSTANTS: list[tuple[Callable[..., Any], Callable[..., Any], str]] = [
    (lambda x, c: torch.tensor(c) * x, lambda x, c: c * x, "mul"),
    (lambda x, c: torch.full((4, 6), c) * x, lambda x, c: c * x, "mul"),
    (lambda x, c: x * x + torch.tensor(c), lambda x, c: x * x + c, "add"),
    (lambda x, c: (x / torch.full((), 3.0)).exp() - torch.tensor(c), lambda x, c: (x / 3.0).exp() - c, "sub"),
]


@pytest.mark.parametrize(("made", "written", "op"), CONSTANTS)
def test_a_constant_made_by_ops_is_no_origin_unless_it_is_another(made: Any, written: Any, op: str) -> None:
    assert kinds(lambda x: made(x, 0.3), lambda x: written(x, 0.3)) == []
    assert kinds(lambda x: written(x, 0.3), lambda x: made(x, 0.3)) == []
    assert kinds(lambda x: made(x, 0.3), lambda x: written(x, 0.31)) == [(op, "arguments")]
    assert kinds(lambda x: written(x, 0.3), lambda x: made(x, 0.31)) == [(op, "arguments")]


def test_a_table_of_numbers_kept_or_made_anew_is_the_same_unless_it_begins_elsewhere() -> None:
    kept = torch.arange(6.0)
    assert kinds(lambda x: x * kept, lambda x: x * torch.arange(6.0)) == []
    assert kinds(lambda x: x * kept, lambda x: x * torch.arange(1.0, 7.0)) != []

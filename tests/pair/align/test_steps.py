"""A resumed run's steps correspond to where the other run had come to, and only where the data says so."""

from __future__ import annotations

import pytest
from build import Op, trace

from whydiff.pair.align import align
from whydiff.pair.lockstep import paired


def run(first: int, last: int, *, batch: int = 100, prelude: int = 1) -> list[Op]:
    """Steps that each read a batch of their own and one weight, after some calls outside of the model."""
    ops = [Op("", "randn") for _ in range(prelude)]
    for step in range(first, last):
        ops += [
            Op("m", "mm", step=step - first, state=batch + step),
            Op("m", "add", step=step - first, state=7),
            Op("SGD", "sub", step=step - first, phase="update"),
        ]
    return ops


def steps(reference: list[Op], candidate: list[Op]) -> tuple[int, set[int]]:
    """How far the reference is ahead, and by how many steps the sites of a pair in the model are apart."""
    ours, theirs = trace(reference), trace(candidate)
    found = align(ours, theirs)
    both = [(ours.calls[pair.reference].site, theirs.calls[pair.candidate].site) for pair in found.pairs]
    return found.ahead, {one.step - other.step for one, other in both if one.scope}


def test_a_resumed_run_begins_where_the_other_had_come_to() -> None:
    assert steps(run(0, 6), run(4, 6)) == (4, {4})
    assert steps(run(4, 6), run(0, 6)) == (-4, {-4})
    assert steps(run(0, 6), run(5, 6)) == (5, {5})


def test_what_comes_before_the_model_is_paired_with_what_comes_before_it() -> None:
    ours, theirs = trace(run(0, 6, prelude=3)), trace(run(4, 6, prelude=2))
    found = align(ours, theirs)
    assert {(pair.reference, pair.candidate) for pair in found.pairs if pair.candidate < 2} <= {(0, 0), (1, 1), (2, 1)}
    assert found.turned().ahead == -4
    assert found.turned().turned() == found


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (run(0, 6), run(4, 10)),  # equally many
        (run(0, 6), run(4, 6, batch=200)),  # other batches
        (run(0, 6), run(0, 3)),  # the beginning of it
        ([Op("m", "mm", step=n, state=1) for n in range(6)], [Op("m", "mm", step=n, state=1) for n in range(3)]),
        (run(0, 6), run(4, 5) + run(0, 3)[1:]),  # one step of many
    ],
    ids=["equally many", "other batches", "the beginning", "one weight", "one of four"],
)
def test_nothing_is_shifted_without_evidence(reference: list[Op], candidate: list[Op]) -> None:
    assert steps(reference, candidate)[0] == 0


def trained(first: int, last: int, *, batch: int, weight: int = 300) -> list[Op]:
    """Steps on batches counted from ``batch`` on that read a weight which the step before has written."""
    ops: list[Op] = []
    for step in range(last - first):
        wrote = len(ops) - 1
        ops += [
            Op("m", "mm", step=step, state=batch + step),
            Op("m", "mm", step=step, state=weight + first + step, made_by=wrote),
            Op("SGD", "sub", step=step, phase="update"),
        ]
    return ops


def test_weights_that_an_update_left_tell_the_step_whatever_the_batches_are() -> None:
    """A loader that begins again gives a resumed run the batches of the other run's first steps."""
    whole, again = trained(0, 8, batch=100), trained(4, 8, batch=100)
    parted = [*again[:3], *trained(4, 8, batch=100, weight=400)[3:]]  # other batches, so other weights from then on
    for resumed in (again, parted):
        assert steps(whole, resumed) == (4, {4})
        assert steps(resumed, whole) == (-4, {-4})
    assert steps(whole, trained(0, 4, batch=100))[0] == 0
    assert steps(whole, trained(4, 8, batch=100, weight=500))[0] == 0


def test_what_is_collected_over_steps_is_paired_from_its_end() -> None:
    ours = trace([Op("", "stack", step=5, state=1)]).calls[0]
    theirs = trace([Op("", "stack", step=1, state=1)]).calls[0]
    many = type(ours)(0, ours.site, ours.target, ours.kind, ours.reads * 3, ours.writes)
    few = type(theirs)(0, theirs.site, theirs.target, theirs.kind, theirs.reads, theirs.writes)
    assert paired(many, few, "reads") == [(many.reads[-1], few.reads[0])]
    alike = type(theirs)(0, ours.site, theirs.target, theirs.kind, theirs.reads, theirs.writes)
    assert paired(many, alike, "reads") == [(many.reads[0], alike.reads[0])]


def rounds(*batches: int) -> list[Op]:
    """Steps on these batches, each with weights that the step before has written."""
    ops: list[Op] = []
    for step, batch in enumerate(batches):
        wrote = len(ops) - 1
        ops += [
            Op("m", "mm", step=step, state=batch),
            Op("m", "mm", step=step, state=300 + step, made_by=wrote) if step else Op("m", "mm", step=step, state=300),
            Op("SGD", "sub", step=step, phase="update"),
        ]
    return ops


@pytest.mark.parametrize(
    ("batches", "apart"),
    [
        ((10, 11, 13, 14), {0, 1}),
        ((10, 13, 14), {0, 2}),
        ((10, 14, 11, 12), {0}),  # another order
        ((10, 21, 23, 24), {0}),  # other data
    ],
)
def test_a_step_that_one_run_leaves_out_is_known_by_the_data(batches: tuple[int, ...], apart: set[int]) -> None:
    whole = rounds(10, 11, 12, 13, 14)
    assert steps(whole, rounds(*batches)) == (0, apart)
    assert steps(rounds(*batches), whole) == (0, {-step for step in apart})

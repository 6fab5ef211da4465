"""What a replay would take is told from the records, before anything is executed."""

from __future__ import annotations

from typing import Any

import pytest

from whydiff.capturing.limits import Bounds, Limits, operations
from whydiff.errors import ReplayError
from whydiff.records import Call, Event, Site, TensorSpec

SITE = Site("layer", "mm")


def event(shape: tuple[int, ...], strides: tuple[int, ...] = (), offset: int = 0) -> Event:
    return Event(SITE.at("read.0"), TensorSpec(shape, "float32", strides=strides, offset=offset), storage=0)


def call(*reads: Event, writes: tuple[Event, ...] = (), arguments: Any = None) -> Call:
    arguments = [[{"$read": i} for i in range(len(reads))], {}] if arguments is None else arguments
    return Call(0, SITE, "aten.mm.default", "compute", reads, writes, arguments)


def test_a_product_takes_mnk() -> None:
    product = call(event((30, 500)), event((500, 7)), writes=(event((30, 7)),))
    assert operations(product, True) == pytest.approx(30 * 500 * 7)
    told_too_small = call(event((30, 500)), event((500, 7)), writes=(event((1,)),))
    assert operations(told_too_small, True) == pytest.approx(30 * 500 * 7)
    squared = call(event((70, 70)), event((1,)), writes=(event((1,)),), arguments=[[{"$read": 0}, {"$read": 0}], {}])
    assert operations(squared, True) == pytest.approx(70**3)
    batched = call(event((64, 30, 500)), event((64, 500, 7)), writes=(event((64, 30, 7)),))
    assert 64 * 30 * 500 * 7 <= operations(batched, True) <= 8 * 64 * 30 * 500 * 7
    assert operations(product, False) == 30 * 500 + 500 * 7 + 30 * 7


@pytest.mark.parametrize(
    "spec",
    [
        ((2**20, 2**20), (0, 0), 0),
        ((2**62, 2**62), (0, 0), 0),
        ((2,), (2**40,), 0),
        ((2,), (-(2**40),), 0),
        ((1,), (1,), 2**50),
        ((2**28,), (), 0),
    ],
)
def test_a_look_that_is_too_large(spec: tuple[tuple[int, ...], tuple[int, ...], int]) -> None:
    bounds = Bounds(Limits())
    with pytest.raises(ReplayError, match="larger than a replay may look at") as caught:
        bounds.call(call(event(*spec)), False)
    assert "--limit elements=N" in str(caught.value)


@pytest.mark.parametrize("sizes", [[2**20, 2**20], [2**62], [1, 2**29], [[2**15, 2**15]], {"$tuple": [2**40, 3]}])
def test_sizes_among_the_arguments(sizes: Any) -> None:
    with pytest.raises(ReplayError, match="arguments ask for more elements"):
        Bounds(Limits()).call(call(arguments=[[{"$read": 0}, sizes], {}]), False)


def test_a_product_that_is_too_large() -> None:
    side = event((8192, 8192), (0, 0))
    product = call(side, side, writes=(side,))
    with pytest.raises(ReplayError, match="more operations than a replay may spend"):
        Bounds(Limits()).call(product, True)
    Bounds(Limits()).call(product, False)  # element by element it is not much
    Bounds(Limits(operations=1e12)).call(product, True)
    Bounds(Limits().with_payloads(500 * 2**20, 10)).call(product, True)  # as a model of that size would do


def test_a_denied_call_says_why() -> None:
    with pytest.raises(ReplayError, match="it ended the process"):
        Bounds(Limits(), {0: "it ended the process"}).call(call(), False)


def test_ordinary_calls_pass() -> None:
    bounds = Bounds(Limits())
    bounds.call(
        call(event((4, 5), (5, 1)), event((1, 1000, 64), (0, 64, 1)), arguments=[[{"$read": 0}, [4, 5]], {}]), True
    )

"""Some results of a region: the same numbers as from the whole region, of which little is made; or a reason why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.errors import ReplayError
from whydiff.explain.local_test import cut as module
from whydiff.explain.local_test.boxes import along, covered, gathered, holding, place_in, taken, whole, within
from whydiff.explain.local_test.cut import Cut
from whydiff.explain.local_test.exact import exact_values
from whydiff.explain.local_test.replays import Region
from whydiff.records import Lift, Payload

Program = Callable[..., torch.Tensor]
torch.manual_seed(0)
Q, K, V = torch.randn(2, 4, 12, 6), torch.randn(2, 4, 14, 6), torch.randn(2, 4, 14, 10)
BIAS = torch.randn(4, 12, 14)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The result's rows hold all heads, as a model's do."""
    return (((q @ k.mT) * 0.3 + BIAS).softmax(-1) @ v).transpose(1, 2).reshape(2, 12, 40)


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    seen = torch.arange(14)[None] <= torch.arange(12)[:, None] + 2
    scores = (q @ k.mT).masked_fill(~seen, -1e9).float()
    return torch.nn.functional.softmax(scores, -1, torch.float64).float() @ v


def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    k, v = (x[:, :2, None].expand(2, 2, 2, *x.shape[2:]).reshape(2, 4, *x.shape[2:]) for x in (k, v))
    weights = torch.where(BIAS > 0, q @ k.mT, torch.tensor(-1e9)).bfloat16().softmax(-1)
    return (weights @ v.bfloat16()).transpose(1, 2).contiguous().reshape(24, 40)


def added(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.baddbmm(BIAS.expand(2, 4, 12, 14).reshape(8, 12, 14), q, k.mT, beta=0.5, alpha=2.0)
    return torch.bmm(scores.exp() / 3, v).square().log1p().neg()


def matrices(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.addmm(v[0, 0, 0], (q[0, 0] @ k[0, 0].T).tanh().to(torch.float64).float(), v[0, 0]).sigmoid()


def down_the_columns(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).softmax(-2) @ v


def region_of(program: Program) -> tuple[Region, list[Payload]]:
    """All of a program as one region, and what it reads."""
    adapter = for_framework("torch")
    trace = adapter.run(program, (Q, K, V), {}).capture()
    calls = [call for call in trace.calls if call.kind == "compute"]
    result = next(call for call in trace.calls if call.kind == "return").reads[0]
    region = Region(calls, result, adapter.executor(trace, lift=Lift("float64")))
    plain = adapter.executor(trace)
    with plain.running():
        return region, [plain.payload(plain.read(event)) for event in region.inputs]


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each call made."""
    made: list[int] = []
    known = module.step_of

    def step_of(*given: Any) -> Any:
        step = known(*given)
        if step is not None:
            compute = step.compute
            step.compute = lambda arrays: made.append(compute(arrays).size) or compute(arrays)
        return step

    monkeypatch.setattr(module, "step_of", step_of)
    return made


PROGRAMS = [plain, masked, grouped, added, matrices, down_the_columns]


@pytest.mark.parametrize("most", [1 << 20, 200])
@pytest.mark.parametrize("program", PROGRAMS)
def test_some_results_are_those_of_the_whole(program: Program, most: int, largest: list[int]) -> None:
    region, payloads = region_of(program)
    expected = region.run([exact_values(payload) for payload in payloads]).reshape(-1)
    size = expected.size
    generator = np.random.default_rng(0)
    for index in (np.arange(min(7, size)), generator.permutation(size)[:9], np.array([size - 1])):
        if program is down_the_columns and most < 14 * 12:
            continue
        few = Cut(region, index, most)
        given = [exact_values(payload) for payload in few.reads(payloads)]
        largest.clear()
        found = few.run(given)
        assert np.allclose(found, expected[index], rtol=1e-13, atol=1e-13)
        assert largest and max(largest) <= most
        moved = [array * 1.5 if array.dtype == np.float64 else array for array in given]
        other = [x * 1.5 if x.dtype == np.float64 else x for x in map(exact_values, payloads)]
        assert np.allclose(few.run(moved), region.run(other).reshape(-1)[index], rtol=1e-12, atol=1e-12)


def test_little_is_read_and_made_for_one_row(largest: list[int]) -> None:
    region, payloads = region_of(plain)
    few = Cut(region, np.arange(5 * 40, 5 * 40 + 10), 1 << 20)  # batch 0, position 5, head 0
    arrays = [exact_values(payload) for payload in few.reads(payloads)]
    assert sorted(array.size for array in arrays) == [6, 14, 6 * 14, 14 * 10]
    few.run(arrays)
    assert max(largest) <= 14 * 10


def test_numbers_that_stand_for_many_are_read_once() -> None:
    region, payloads = region_of(grouped)
    found = Cut(region, np.arange(24 * 40), 1 << 20).reads(payloads)
    expanded = [(payload.bits.size, few.bits.size) for payload, few in zip(payloads, found, strict=True)]
    assert (2 * 4 * 14 * 6, 2 * 2 * 14 * 6) in expanded and (2 * 4 * 14 * 10, 2 * 2 * 14 * 10) in expanded


def flipped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).flip(-2) @ v


def triangle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).tril() @ v


def scanned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).cumsum(-1) @ v


def in_place(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).mul_(2.0) @ v


def random(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.dropout(q @ k.mT, 0.5) @ v


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v[..., :6]) * 2


@pytest.mark.parametrize("program", [flipped, triangle, scanned, in_place, random, fused])
def test_a_region_with_an_op_of_which_nothing_is_told_is_not_cut(program: Program) -> None:
    with pytest.raises(ReplayError, match="not known what a part"):
        Cut(region_of(program)[0], np.arange(3), 1 << 20)


def test_a_row_that_is_too_much_by_itself_is_refused() -> None:
    region, _ = region_of(plain)
    assert Cut(region, np.arange(10), 14 * 10)
    with pytest.raises(ReplayError, match="One result alone"):
        Cut(region, np.arange(10), 13)


# ----------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    ("look", "written"),
    [
        (((6, 4, 5), (20, 1, 4), 0), ((2, 3, 5, 4), (60, 20, 4, 1), 0)),
        (((5, 24), (24, 1), 0), ((5, 2, 3, 4), (24, 12, 4, 1), 0)),
        (((3, 7, 4), (4, 0, 1), 8), ((5, 4), (4, 1), 0)),
        (((4, 5), (1, 4), 0), ((5, 4), (4, 1), 0)),
        (((), (), 7), ((5, 4), (4, 1), 0)),
        (((5, 4), (4, 1), 0), ((4, 5), (1, 4), 0)),
        (((3, 4), (8, 1), 4), ((3, 8), (8, 1), 0)),
        (((2, 3, 4), (12, 4, 1), 0), ((6, 4), (4, 1), 0)),
        (((4, 3), (1, 1), 0), ((6,), (1,), 0)),
    ],
)
def test_a_box_of_a_look_is_found_in_what_was_written(look: Any, written: Any) -> None:
    memory = np.arange(math.prod(written[0]) + 8.0)
    shown = np.lib.stride_tricks.as_strided(memory[look[2] :], look[0], [8 * n for n in look[1]])
    made = np.lib.stride_tricks.as_strided(memory, written[0], [8 * n for n in written[1]])
    generator = np.random.default_rng(0)
    for box in (whole(look[0]), tuple(np.sort(generator.permutation(n)[: n // 2 + 1]) for n in look[0])):
        ways = along(look, box, written)
        assert ways is not None
        held = covered(ways)
        found = gathered(made[np.ix_(*held)], held, ways, box)
        assert np.array_equal(found, shown[np.ix_(*box)] if box else shown)
    for position in range(shown.size):
        assert made.reshape(-1)[place_in(position, look, written)] == shown.reshape(-1)[position]


def test_where_something_is_carried_is_not_told() -> None:
    windows = (4, 3), (1, 1), 0  # overlapping looks at one line
    assert along(windows, whole((4, 3)), ((3, 2), (2, 1), 0)) is None
    assert along(((9,), (1,), 0), whole((9,)), ((6,), (1,), 0)) is None  # it ends behind what was written
    assert place_in(8, ((9,), (1,), 0), ((6,), (1,), 0)) is None


def test_positions_are_found_again_within_the_box_that_holds_them() -> None:
    index = np.array([3, 17, 58, 3, 40])
    box = holding(index, (3, 4, 5))
    part = np.arange(60.0).reshape(3, 4, 5)[np.ix_(*box)]
    assert np.array_equal(part[within(index, (3, 4, 5), box)], index)


def test_a_run_of_indices_is_looked_at_without_a_copy() -> None:
    array = np.arange(60.0).reshape(3, 4, 5)
    view = taken(array, (np.arange(3), np.arange(1, 3), np.arange(5)))
    assert np.shares_memory(view, array) and np.array_equal(view, array[:, 1:3])
    assert np.array_equal(
        taken(array, (np.array([0, 2]), np.array([1]), np.arange(5))), array[np.ix_([0, 2], [1], range(5))]
    )

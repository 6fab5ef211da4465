"""A region that is carried out again: what reads the same as at first is not, and the result is that of a new one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.explain.local_test import replays
from whydiff.explain.local_test.exact import exact_values
from whydiff.explain.local_test.operation import Array
from whydiff.explain.local_test.replays import Changed, Region
from whydiff.records import Call, Lift

Program = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
X, Y = (torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in (0, 1))


def written_out(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.exp().sum(0) + (y * 3.0).tanh().mT[:, 0]


def in_place(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    held = x.exp()
    held[:2].mul_(y[:2])
    held[1:].add_(2.0)
    return held.sin() * y.cos()


def region_of(program: Program) -> tuple[Region, list[Array]]:
    adapter = for_framework("torch")
    trace = adapter.run(program, (X, Y), {}).capture()
    calls = [call for call in trace.calls if call.kind == "compute"]
    result = next(call for call in trace.calls if call.kind == "return").reads[0]
    plain = adapter.executor(trace)
    with plain.running():
        region = Region(calls, result, adapter.executor(trace, lift=Lift("float64")))
        return region, [exact_values(plain.payload(plain.read(event))) for event in region.inputs]


def like(region: Region) -> Region:
    return Region(region.calls, region.result, region.lifted)


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the ops that were."""
    names: list[str] = []
    apply = replays._apply

    def told(call: Call, *given: Any) -> list[Array]:
        names.append(call.site.op)
        return apply(call, *given)

    monkeypatch.setattr(replays, "_apply", told)
    return names


@pytest.mark.parametrize("program", [written_out, in_place])
@pytest.mark.parametrize("moved", [(), (0,), (1,), (0, 1)])
def test_other_inputs_give_what_a_new_region_gives(program: Program, moved: Sequence[int]) -> None:
    region, arrays = region_of(program)
    first = region.run(arrays)
    storages = list(dict.fromkeys(event.storage for event in region.inputs))
    places = [storages.index(event.storage) for event in region.inputs]
    others = [array + 0.5 * (place in moved) for place, array in zip(places, arrays, strict=True)]
    assert np.array_equal(region.run(others), like(region).run(others))
    assert np.array_equal(region.run(others), first) == (not moved)
    assert np.array_equal(region.run(arrays), first)


def test_only_what_depends_on_another_input_is_carried_out_again(carried_out: list[str]) -> None:
    region, arrays = region_of(written_out)
    region.run(arrays)
    assert carried_out == ["exp", "sum", "mul", "tanh", "add"]
    for place, again in ((0, ["exp", "sum", "add"]), (1, ["mul", "tanh", "add"])):
        carried_out.clear()
        region.run([array + 1.0 if i == place else array.copy() for i, array in enumerate(arrays)])
        assert carried_out == again


def test_an_array_that_was_written_to_since_is_another_one() -> None:
    region, arrays = region_of(written_out)
    region.run(arrays)
    arrays[0][2, 3] = np.nan
    assert np.array_equal(region.run(arrays), like(region).run(arrays), equal_nan=True)
    assert np.isnan(region.run(arrays)).sum() == 1


def test_behind_what_is_given_everything_is_carried_out_again(carried_out: list[str]) -> None:
    region, arrays = region_of(written_out)
    own = region.run(arrays)
    carried_out.clear()
    index = next(call.index for call in region.calls if call.site.op == "mul")
    told: list[str] = []
    found = region.run(arrays, given={index: [arrays[1]]}, seen=lambda call, *_: told.append(call.site.op))
    assert carried_out == ["tanh", "add"] and told == ["exp", "sum", "mul", "tanh", "add"]
    assert np.allclose(found - own, np.tanh(arrays[1][0]) - np.tanh(3 * arrays[1][0]))


def test_another_argument_changes_what_follows_from_it_alone(carried_out: list[str]) -> None:
    region, arrays = region_of(written_out)
    own = region.run(arrays)
    carried_out.clear()
    call = next(call for call in region.calls if call.site.op == "mul")
    other = replace(call, arguments=[[call.arguments[0][0], 2.0], call.arguments[1]])
    found = region.run(arrays, changed=Changed({call.index: other}, region.lifted))
    assert carried_out == ["mul", "tanh", "add"]
    assert np.allclose(found - own, np.tanh(2 * arrays[1][0]) - np.tanh(3 * arrays[1][0]))
    assert np.array_equal(region.run(arrays), own)


def test_what_was_given_at_first_is_not_kept(carried_out: list[str]) -> None:
    region, arrays = region_of(written_out)
    index = next(call.index for call in region.calls if call.site.op == "mul")
    given = region.run(arrays, given={index: [arrays[1]]})
    assert not np.array_equal(region.run(arrays), given)
    assert carried_out.count("exp") == 2


def test_a_large_region_keeps_nothing(carried_out: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "_KEPT", 2 * X.numel())
    region, arrays = region_of(written_out)
    assert np.array_equal(region.run(arrays), region.run(arrays))
    assert carried_out == ["exp", "sum", "mul", "tanh", "add"] * 2

"""Every recorded op is executed again and gives the bits it gave."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import PROGRAMS

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.store import open_trace
from whydiff.errors import ReplayError
from whydiff.records import Trace

MODES: dict[str, Callable[[], Any]] = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
UNTOLD = {"uninitialised memory"}


def x() -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_replay_bit_for_bit(name: str, mode: str, replayed: Callable[..., Any]) -> None:
    with MODES[mode]():
        found = replayed(PROGRAMS[name], x())
    assert found.faithful, (found.failed, found.unfaithful)
    assert found.skipped <= UNTOLD
    assert (found.observer.deterministic, found.observer.unchanged) == (True, True), found.observer.note


@pytest.mark.parametrize("name", PROGRAMS)
def test_replayed_results_are_what_the_program_gives(name: str, replayed: Callable[..., Any]) -> None:
    torch.manual_seed(7)
    found = replayed(PROGRAMS[name], x())
    torch.manual_seed(7)
    given = dict(whydiff.capturing.adapters.torch.outputs.tensors_in(PROGRAMS[name](x())))
    assert found.returned.keys() == given.keys()
    for slot, tensor in given.items():
        assert torch.equal(bits(found.returned[slot]), bits(tensor)), slot


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_trace_on_disk_replays_like_the_live_one(name: str, tmp_path: Any, replay: Callable[[Trace], Any]) -> None:
    with whydiff.capture(tmp_path / "t"):
        PROGRAMS[name](x())
    found = replay(open_trace(tmp_path / "t"))
    assert found.faithful, (found.failed, found.unfaithful)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return whydiff.capturing.adapters.torch.dtypes.integer_view(tensor.resolve_conj().resolve_neg().contiguous())


def test_other_bits_are_told(captured: Callable[..., Trace], replay: Callable[[Trace], Any]) -> None:
    """Memory that is changed by who asked for its address in a way that nobody sees: the replay says so."""

    def behind(t: torch.Tensor) -> torch.Tensor:
        z = t.clone()
        ctypes.memset(z.untyped_storage().data_ptr(), 0, 4)
        return z * 1

    found = replay(captured(behind, x()))
    assert [call.site.op for call in found.unfaithful] == ["mul"]


def test_changes_that_nobody_saw_are_counted_in_the_diagnosis() -> None:
    def behind(t: torch.Tensor) -> torch.Tensor:
        z = t.clone()
        ctypes.memset(z.untyped_storage().data_ptr(), 0, 4)
        return z * 1

    diagnosis = whydiff.compare(behind, lambda t: t.clone() * 1.0000001, x())
    assert any(count.what == "calls replayed with other bits" for count in diagnosis.not_compared)


def test_the_users_own_tensors_are_never_written_to(captured: Callable[..., Trace]) -> None:
    weight = torch.nn.Parameter(x())

    def program(t: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weight.add_(1)
        return weight * t

    trace = captured(program, x())
    before = weight.detach().clone()
    executor = whydiff.capturing.adapters.for_framework("torch").executor(trace)
    with executor.running():
        for call in trace.calls:
            assert executor.execute(call) == ""
    assert torch.equal(weight, before)


def test_looks_outside_a_storage_are_refused(captured: Callable[..., Trace]) -> None:
    """A look must not make torch grow the storage and show whatever lies there."""
    from dataclasses import replace

    trace = captured(lambda t: t * 2, x())
    call = next(c for c in trace.calls if c.kind == "compute")
    read = replace(call.reads[0], spec=replace(call.reads[0].spec, shape=(1 << 20,), strides=(1,)))
    executor = whydiff.capturing.adapters.for_framework("torch").executor(trace)
    with executor.running(), pytest.raises(ReplayError, match="outside"):
        executor.read(read)


def test_a_read_of_what_is_expanded_can_be_given_other_numbers_in_each_row() -> None:
    x = torch.arange(3.0)
    trace = for_framework("torch").run(lambda: (x + 1)[None].expand(2, 3).exp(), (), {}).capture()
    executor = for_framework("torch").executor(trace)
    (call,) = (call for call in trace.calls if call.site.op == "exp")
    given = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    with executor.running():
        for one in trace.calls[: call.index]:
            executor.execute(one)
        assert executor.overwrite(call.reads[0], given)
        executor.execute(call)
        assert torch.equal(executor.read(call.writes[0]), given.exp())

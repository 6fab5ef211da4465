"""Memory that is written by no op: by numpy, through an address, by another library. And what must not be taken for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.torch import lending, outside
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.store import open_trace
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.records import Call, Trace
from whydiff.records.hole import OUTSIDE

Program = Callable[[], Any]


def recorded(folder: Path, program: Program, **options: Any) -> Trace:
    with whydiff.capture(folder / "t", **options):
        left = program()
    trace = open_trace(folder / "t")
    assert trace.complete and left is not trace
    return trace


def writes(trace: Trace) -> list[Call]:
    return [call for call in trace.calls if call.site.op == OUTSIDE]


def given() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, 5), torch.randn(3, 6)


def by_view(w: torch.Tensor) -> Any:
    w.numpy()[0] *= 1.05


def by_held_view(w: torch.Tensor) -> Any:
    view = w.numpy()
    view[0] *= 1.05
    return view


def by_asarray(w: torch.Tensor) -> Any:
    np.asarray(w)[1] = 2


def by_memoryview(w: torch.Tensor) -> Any:
    memoryview(w.numpy())[0, 0] = 4.0


def by_address(w: torch.Tensor) -> Any:
    (ctypes.c_float * 3).from_address(w.data_ptr())[1] = 9.0


def by_library(w: torch.Tensor) -> Any:
    ctypes.memset(w.data_ptr(), 0, 8)


def by_dlpack(w: torch.Tensor) -> Any:
    address = np.from_dlpack(w).__array_interface__["data"][0]
    (ctypes.c_float * 1).from_address(address)[0] = 5.0


def by_storage(w: torch.Tensor) -> Any:
    ctypes.memset(w.untyped_storage().data_ptr(), 0, 8)


SEEN = (by_view, by_held_view, by_asarray, by_memoryview, by_address, by_library, by_dlpack)


@pytest.mark.parametrize("write", SEEN)
def test_a_write_in_the_middle_comes_before_the_op_that_reads_it(write: Callable[..., Any], tmp_path: Path) -> None:
    seen: list[bytes] = []

    def program() -> Any:
        w, x = given()
        before = x @ w
        held = write(w)
        seen.append(w.numpy().tobytes())
        return w, before, x @ w, held

    trace = recorded(tmp_path, program)
    (call,) = writes(trace)
    assert call.target == "aten.copy_.default" and call.writes[0].spec.shape == (6, 5)
    after = next(one for one in trace.calls[call.index :] if one.site.op == "mm")
    assert after.reads[1].producer == call.index
    assert after.reads[1].fingerprint == call.writes[0].fingerprint == fingerprint_bytes(seen[0])
    (leaf,) = [leaf for leaf in trace.leaves if leaf.storage == call.reads[1].storage]
    payload = trace.payload(leaf.payload)
    assert leaf.role == "constant" and payload is not None and payload.bits.tobytes() == seen[0]


@pytest.mark.parametrize("write", [*SEEN, by_storage])
def test_a_write_after_the_last_op_is_seen_at_the_end(write: Callable[..., Any], tmp_path: Path) -> None:
    def program() -> Any:
        w, x = given()
        return w, x @ w, write(w)

    trace = recorded(tmp_path, program)
    assert len(writes(trace)) == 1 and writes(trace)[0].index == len(trace.calls) - 1


def test_a_write_of_numpy_is_seen_although_its_tensor_is_gone_at_the_end(tmp_path: Path) -> None:
    def program() -> None:
        w, x = given()
        _ = x @ w
        view = w.numpy()
        view[0] *= 2

    assert len(writes(recorded(tmp_path, program))) == 1


@pytest.mark.parametrize("rows", [4, 4000])
def test_a_buffer_of_numpy_that_is_filled_again_every_step(rows: int, tmp_path: Path) -> None:
    def program() -> None:
        buffer = np.ones((rows, 6), np.float32)
        batch, (w, _) = torch.from_numpy(buffer), given()
        _ = batch @ w
        for step in range(5):
            buffer[:] = step + 2
            _ = batch @ w

    trace = recorded(tmp_path, program)
    assert len(writes(trace)) == 5 and not trace.holes


def test_large_memory_is_looked_at_more_rarely_as_it_stays_and_reads_in_between_are_counted(tmp_path: Path) -> None:
    def program() -> None:
        buffer = np.ones((4000, 6), np.float32)
        batch, (w, _) = torch.from_numpy(buffer), given()
        for step in range(40):
            if step == 21:
                buffer[7] = 3
            _ = batch @ w

    trace = recorded(tmp_path, program)
    (hole,) = trace.holes
    assert len(writes(trace)) == 1 and hole.kind == "outside" and 0 < hole.count < 19


def test_memory_that_nobody_initialised_and_a_library_filled(tmp_path: Path) -> None:
    def program() -> Any:
        w, x = given()
        numpys, addresss = torch.empty(3, 6), torch.empty(3, 6)
        numpys.numpy()[:] = 2
        ctypes.memmove(addresss.data_ptr(), x.data_ptr(), x.nbytes)
        return numpys @ w, addresss @ w

    trace = recorded(tmp_path, program)
    assert [call.writes[0].spec.shape for call in writes(trace)] == [(3, 6), (3, 6)]
    assert not any(event.missing for call in trace.calls for event in call.reads if call.kind != "view")


def test_a_part_that_was_written(tmp_path: Path) -> None:
    def program() -> Any:
        w, x = given()
        before, part = x @ w, w[2:4]
        view = part.numpy()
        view[0] = 3
        return w, before, x[:, 2:4] @ part, x @ w

    trace = recorded(tmp_path, program)
    (call,) = writes(trace)
    assert trace.calls[-1].reads[1].producer == call.index


def test_an_optimizer_in_numpy(tmp_path: Path, replay: Callable[[Trace], Any]) -> None:
    def program() -> Any:
        w, x = given()
        for _ in range(4):
            gradient = x.T @ (x @ w)
            w.numpy()[:] -= 0.01 * gradient.numpy()
        return w

    trace = recorded(tmp_path, program)
    assert len(writes(trace)) == 4
    found = replay(trace)
    assert found.faithful, (found.failed, found.unfaithful)


def reads_alone() -> Any:
    w, x = given()
    total = float(w.numpy().sum()) + float(np.from_dlpack(w)[0, 0]) + w.data_ptr()
    return w, x @ w, total


def in_place() -> Any:
    w, x = given()
    _ = x @ w
    view = w.numpy()
    w.mul_(2)
    w[0].copy_(x[0, :5])
    w.t()[1] = 3
    return w, x @ w, view


def new_tensors() -> Any:
    w, _ = given()
    return [torch.from_numpy(np.full((4, 6), step, np.float32)) @ w for step in range(5)]


def one_buffer() -> Any:
    w, _ = given()
    batch = torch.from_numpy(np.ones((4, 6), np.float32))
    return [batch @ w for _ in range(5)]


def training() -> Any:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6)).square().mean()
        loss.backward()
        _ = loss.detach().numpy()
        optimizer.step()
    return model.eval()(torch.randn(8, 6)), model, optimizer


def other_memory() -> Any:
    w, x = given()
    _ = x @ w
    w.data = torch.ones(6, 5)
    w.set_(torch.zeros(6, 5))
    w.resize_(6, 7)
    return w


@pytest.mark.parametrize("program", [reads_alone, in_place, new_tensors, one_buffer, training, other_memory])
def test_what_is_no_write_outside_torch(program: Program, tmp_path: Path) -> None:
    assert not writes(recorded(tmp_path, program))


def test_a_live_run_sees_them_too_and_begins_again_from_the_same(replay: Callable[[Trace], Any]) -> None:
    weight, x = given()
    before = weight.clone()

    def program(t: torch.Tensor) -> torch.Tensor:
        weight.numpy()[0] *= 2
        return t @ weight

    trace = for_framework("torch").run(program, (x,), {}).capture()
    assert len(writes(trace)) == 1 and torch.equal(weight, before)
    assert replay(trace).faithful


def test_torch_is_as_it_was_afterwards(tmp_path: Path) -> None:
    def now() -> tuple[Any, ...]:
        kind: Any = torch.Tensor
        return kind.numpy, kind.data_ptr, kind.__dlpack__, torch.utils.dlpack.to_dlpack, "numpy" in vars(torch.Tensor)

    before = now()
    with whydiff.capture(tmp_path / "t"):
        assert now() != before
        with whydiff.capture(tmp_path / "inner"):
            view = torch.ones(3).numpy()
        assert now() != before
    assert now() == before and not lending._listeners
    del view


def test_nothing_is_looked_at_where_only_structure_or_modules_are_recorded(tmp_path: Path) -> None:
    def program() -> Any:
        model = torch.nn.Linear(6, 5)
        _ = model(given()[1])
        with torch.no_grad():
            model.weight.numpy()[0] = 1
        return model(given()[1])

    assert not writes(recorded(tmp_path, program, level="module"))


def test_reads_that_were_let_go_are_counted_where_the_end_finds_the_change(tmp_path: Path) -> None:
    def program() -> Any:
        buffer = np.ones((4000, 6), np.float32)
        batch, (w, _) = torch.from_numpy(buffer), given()
        for _ in range(40):
            _ = batch @ w
        buffer[7] = 3
        return batch @ w

    trace = recorded(tmp_path, program)
    assert len(writes(trace)) == 1 and [hole.kind for hole in trace.holes] == ["outside"]


def test_a_functions_of_the_users_in_the_place_of_torchs_works_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.Tensor.numpy
    mine = lambda self: before(self.detach())  # noqa: E731 - as it is written in notebooks
    monkeypatch.setattr(torch.Tensor, "numpy", mine, raising=False)
    recorded(tmp_path, lambda: torch.ones(3, requires_grad=True).numpy())
    assert torch.Tensor.numpy is mine


def test_one_that_is_put_there_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "numpy", torch.Tensor.numpy, raising=False)
    address = torch.Tensor.data_ptr
    put: list[Any] = []

    def program() -> None:
        before = torch.Tensor.numpy
        put.append(lambda self: before(self.detach()))
        torch.Tensor.numpy = put[0]

    recorded(tmp_path, program)
    assert torch.Tensor.numpy is put[0] and torch.Tensor.data_ptr is address
    assert torch.ones(2, requires_grad=True).numpy().tolist() == [1, 1]


def test_a_subclass_is_asked_for_the_function_that_it_knows(tmp_path: Path) -> None:
    asked: list[Any] = []

    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    known = torch.Tensor.numpy, torch.Tensor.data_ptr
    own = torch.ones(3).as_subclass(Own)
    recorded(tmp_path, lambda: (own.numpy(), own.data_ptr()))
    assert [func for func in asked if func in known] == list(known)


def test_addresses_of_a_large_model_are_no_reason_to_copy_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "KEPT", 4 * 36)
    model = torch.nn.Sequential(*[torch.nn.Linear(6, 6, bias=False) for _ in range(5)])

    def program() -> Any:
        [parameter.data_ptr() for parameter in model.parameters()]
        return model(torch.ones(6))

    with whydiff.capture(tmp_path / "t", roots=[("", model)]) as session:
        program()
    assert sum(storage.written for storage in session.recorder.storages.known.values() if storage.leaves) <= 1


def test_what_a_precision_cannot_explain_is_no_matter_of_precision() -> None:
    class Reused(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.array = np.linspace(1, 2, 64, dtype=np.float32)
            self.weight = torch.nn.Parameter(torch.from_numpy(self.array), requires_grad=False)
            self.write = lambda: self.array.__imul__(factor)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x * self.weight
            self.write()
            return first + x * self.weight

    found = whydiff.compare(Reused(1.0), Reused(2.0), torch.linspace(-1, 1, 64))
    assert found.verdict is whydiff.Verdict.INCONCLUSIVE
    assert "outside torch" in found.reason


def test_a_weight_that_is_written_and_put_back_within_a_function_is_no_matter_of_precision() -> None:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 30).view(6, 5), requires_grad=False)
    view = weight.numpy()

    def program(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            first, kept = x @ weight, view[3].copy()
            view[3] *= factor
            found = torch.relu(first) @ weight.T
            view[3] = kept
            return found

        return run

    found = whydiff.compare(program(1.0), program(1.5), torch.linspace(-1, 1, 24).view(4, 6))
    assert found.verdict in (whydiff.Verdict.SEMANTIC, whydiff.Verdict.INCONCLUSIVE)


def test_one_element_of_many_that_is_written_is_not_called_rounding() -> None:
    def program(value: float) -> Callable[[torch.Tensor], Any]:
        def run(x: torch.Tensor) -> Any:
            buffer = torch.ones(20_000)
            first = x + buffer
            buffer.numpy()[7] = value
            return first, x * buffer

        return run

    found = whydiff.compare(program(2.0), program(3.0), torch.linspace(-1, 1, 20_000))
    assert found.verdict is whydiff.Verdict.SEMANTIC


def test_a_live_run_reads_nothing_again_at_its_end_that_was_not_on_loan(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    before = outside._lanes
    monkeypatch.setattr(outside, "_lanes", lambda asked: read.append(len(asked)) or before(asked))
    model = torch.nn.Linear(6, 6)
    with Session(roots=[("", model)]):
        model(torch.ones(6))
    assert sum(read) == 0
    with Session(roots=[("", model)]):
        model(torch.ones(6))
        view = model.weight.detach().numpy()
        view[0] = 3
    assert sum(read) > 0

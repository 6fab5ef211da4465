"""What was read is recorded as it was when it was read; what cannot be compared is said."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.numbers.fingerprint import fingerprint_reference
from whydiff.records import Call, Fingerprint, Trace

Captured = Callable[..., Trace]


def content(tensor: torch.Tensor) -> Fingerprint:
    data = tensor.detach().contiguous().numpy().tobytes()
    return Fingerprint(fingerprint_reference(data), len(data))


def call(trace: Trace, op: str, occurrence: int = 0) -> Call:
    return [c for c in trace.calls if c.site.op == op][occurrence]


def test_a_read_is_fingerprinted_as_it_was_when_read(captured: Captured) -> None:
    x = torch.randn(4, 6)

    def program(t: torch.Tensor) -> torch.Tensor:
        z = t + 1
        first = z.relu()
        z.add_(5)  # planted after the read
        return first + z.relu()

    trace = captured(program, x)
    assert call(trace, "relu", 0).reads[0].fingerprint == content(x + 1)
    assert call(trace, "relu", 1).reads[0].fingerprint == content(x + 1 + 5)
    assert call(trace, "add_").reads[0].fingerprint == content(x + 1)
    assert call(trace, "add_").writes[0].fingerprint == content(x + 1 + 5)


def test_a_write_through_a_view_changes_what_its_base_is_read_as(captured: Captured) -> None:
    def program(t: torch.Tensor) -> torch.Tensor:
        z = t.clone()
        before = z * 1
        z[1:3, ::2].mul_(2)
        return before + z * 1

    x = torch.randn(4, 6)
    expected = x.clone()
    expected[1:3, ::2].mul_(2)
    trace = captured(program, x)
    assert call(trace, "mul", 0).reads[0].fingerprint == content(x)
    assert call(trace, "mul", 1).reads[0].fingerprint == content(expected)
    assert call(trace, "mul", 1).reads[0].producer == call(trace, "mul_").index


def test_freed_memory_gives_no_stale_fingerprints(captured: Captured) -> None:
    """Storages die and their addresses are used again, hundreds of times."""
    values: list[torch.Tensor] = []

    def program(t: torch.Tensor) -> torch.Tensor:
        for index in range(500):
            fresh = t + index
            values.append((fresh * 2).sum())
            del fresh
            if index % 100 == 0:
                gc.collect(1)
        return values[-1]

    x = torch.randn(3, 5)
    trace = captured(program, x)
    reads = [c.reads[0].fingerprint for c in trace.calls if c.site.op == "mul"]
    assert reads == [content(x + index) for index in range(500)]
    storages = [c.writes[0].storage for c in trace.calls if c.kind == "compute"]
    assert len(set(storages)) == len(storages)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_results_are_fingerprinted_by_the_reference_definition(
    shape: tuple[int, ...], dtype: torch.dtype, captured: Captured
) -> None:
    x = (torch.arange(torch.Size(shape).numel()).reshape(shape) % 5).to(dtype)
    trace = captured(lambda t: t.clone(), x)
    assert call(trace, "clone").writes[0].fingerprint == content(x)
    assert call(trace, "clone").writes[0].spec.dtype == str(dtype).removeprefix("torch.")


def test_a_transposed_result_is_fingerprinted_in_row_major_order(captured: Captured) -> None:
    x = torch.randn(4, 6)
    trace = captured(lambda t: t.t() * 2, x)
    write = call(trace, "mul").writes[0]
    assert write.fingerprint == content((x.t() * 2).contiguous())
    assert write.spec.strides == (1, 6)


def test_parts_of_a_storage_that_nobody_named_become_leaves(captured: Captured) -> None:
    table = torch.arange(12.0)

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = table[2:4]

        def forward(self, t: torch.Tensor) -> torch.Tensor:
            return t * self.part.sum() + table.data[6:8].sum()

    trace = captured(Part(), torch.ones(2))
    assert [leaf.role for leaf in trace.leaves].count("constant") == 1


def test_results_that_are_lazily_conjugated_are_resolved(captured: Captured) -> None:
    x = torch.randn(3, dtype=torch.complex64)
    trace = captured(lambda t: t.conj(), x)
    back = next(c for c in trace.calls if c.kind == "return")
    assert back.reads[0].fingerprint == content(torch.from_numpy(np.conj(x.numpy())))


def test_an_op_that_raises_leaves_no_gap(captured: Captured) -> None:
    def program(t: torch.Tensor) -> torch.Tensor:
        with contextlib.suppress(RuntimeError):
            t @ t
        return t + 1

    trace = captured(program, torch.ones(2, 3))
    assert [c.index for c in trace.calls] == list(range(len(trace.calls)))


class Wrapper(torch.Tensor):
    """A tensor subclass that handles every op itself."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bare = torch.utils._pytree.tree_map_only(Wrapper, lambda t: t.inner, (args, kwargs or {}))
        result = func(*bare[0], **bare[1])
        return Wrapper(result) if isinstance(result, torch.Tensor) else result


def fake(x: torch.Tensor) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    copy = mode.from_tensor(x)
    with mode:
        doubled = copy * 2
    return doubled, x * 2


UNCOMPARABLE: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "sparse": (lambda x: (x.to_sparse() * 2, x * 2), "sparse_coo layout"),
    "compressed": (lambda x: (x.to_sparse_csr() @ x.t(), x * 2), "sparse_csr layout"),
    "quantised": (lambda x: (torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), x * 2), "quantised tensor"),
    "meta": (lambda x: (torch.empty(3, 3, device="meta") @ torch.empty(3, 3, device="meta"), x * 2), "meta tensor"),
    "fake": (fake, "tensor subclass FakeTensor"),
    "subclass": (lambda x: (Wrapper(x) * 2, x * 2), "tensor subclass Wrapper"),
    "nested": (lambda x: (torch.nested.nested_tensor([x[0], x[1, :3]]) * 2, x * 2), "nested tensor"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", UNCOMPARABLE)
def test_what_cannot_be_compared_is_skipped_with_its_reason(name: str, captured: Captured) -> None:
    program, reason = UNCOMPARABLE[name]
    x = torch.randn(4, 6)
    trace = captured(program, x)
    events = [event for c in trace.calls for event in (*c.reads, *c.writes)]
    assert any(event.skipped.startswith(reason) and event.fingerprint is None for event in events)
    assert call(trace, "mul", -1).writes[0].fingerprint == content(x * 2)  # the rest is recorded


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", UNCOMPARABLE)
def test_a_diagnosis_counts_what_cannot_be_compared(name: str) -> None:
    import whydiff

    program, reason = UNCOMPARABLE[name]
    diagnosis = whydiff.compare(program, program, torch.randn(4, 6))
    assert any(reason in count.reason for count in diagnosis.not_compared), diagnosis.not_compared


@pytest.mark.parametrize(
    ("inner", "region"),
    [
        (None, "cpu bfloat16"),
        ({"device_type": "cpu", "enabled": False}, ""),
        ({"device_type": "cpu", "dtype": torch.float16}, "cpu float16"),
    ],
    ids=["on", "off within", "another dtype within"],
)
def test_a_region_of_autocast_is_what_is_on_and_not_what_is_open(
    captured: Captured, inner: dict[str, Any] | None, region: str
) -> None:
    linear, x = torch.nn.Linear(4, 4), torch.randn(2, 4)

    def run() -> torch.Tensor:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            torch.autocast(**inner) if inner else contextlib.nullcontext(),
        ):
            return torch.tanh(linear(x))

    trace = captured(run)
    assert {trace.contexts[call.context]["autocast"] for call in trace.calls if call.kind == "compute"} == {region}


def test_autocast_and_its_casts_are_ops(captured: Captured) -> None:
    linear = torch.nn.Linear(6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = captured(linear, torch.randn(4, 6))
    assert call(trace, "addmm").writes[0].spec.dtype == "bfloat16"
    assert [c.site.op for c in trace.calls].count("_to_copy") == 3


def test_contexts_hold_the_flags_in_force(captured: Captured) -> None:
    def program(t: torch.Tensor) -> torch.Tensor:
        y = t + 1
        with torch.no_grad():
            return y * 2

    trace = captured(program, torch.ones(2))
    assert trace.contexts[call(trace, "add").context]["grad_enabled"] is True
    assert trace.contexts[call(trace, "mul").context]["grad_enabled"] is False

"""Fingerprints on a GPU equal the definition: every dtype, odd sizes, offsets and strides, in line and at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.capturing.adapters.torch.device import queue
from whydiff.capturing.adapters.torch.device.batch import Batch
from whydiff.capturing.adapters.torch.device.queue import Queue, known
from whydiff.capturing.adapters.torch.dtypes import integer_view, raw, to_payload
from whydiff.capturing.adapters.torch.fingerprints import content_lanes, device_lanes
from whydiff.numbers.fingerprint import fingerprint_reference

WORDS = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool complex64 complex128"
)
DTYPES = [getattr(torch, name) for name in WORDS.split(" ")]
CHUNK = 32768


def octets(seed, count):
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    offset=st.integers(0, 20),
    size=st.one_of(
        st.integers(0, 70),
        st.integers(0, 400_000),
        st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 8 * CHUNK - 2, 8 * CHUNK, 8 * CHUNK + 3, 9 * CHUNK + 4]),
    ),
)
def test_bytes_of_any_length_at_any_offset(offset, size):
    memory = octets(size + 7 * offset, offset + size + 5)
    tensor = torch.from_numpy(memory).cuda()
    line = Queue()
    ticket = line.add(tensor, offset, offset + size)
    line.settle()
    assert known(ticket) == fingerprint_reference(memory[offset : offset + size])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=4),
    how=st.sampled_from(["whole", "transposed", "every second", "expanded", "shifted", "flipped"]),
    seed=st.integers(0, 99),
)
def test_tensors_of_every_type_and_layout(dtype, shape, how, seed):
    count = int(np.prod(shape)) if shape else 1
    size = torch.empty(0, dtype=dtype).element_size()
    memory = octets(seed, (count + 3) * size)
    if dtype is torch.bool:
        memory &= 1
    flat = torch.from_numpy(memory).view(dtype)
    host = flat[3:].reshape(shape) if how == "shifted" else flat[:count].reshape(shape)
    device = flat.cuda()
    there = device[3:].reshape(shape) if how == "shifted" else device[:count].reshape(shape)

    def look(tensor):
        if how == "transposed":
            return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor
        if how == "every second":
            return tensor[::2] if tensor.dim() else tensor
        if how == "expanded":
            return tensor.unsqueeze(0).expand(3, *tensor.shape)
        return tensor.conj() if how == "flipped" and dtype.is_complex else tensor

    want = fingerprint_reference(np.ascontiguousarray(integer_view(raw(look(host)).contiguous()).numpy()))
    assert content_lanes(look(there)) == want == content_lanes(look(host))
    assert to_payload(look(there)).bits.tobytes() == to_payload(look(host)).bits.tobytes()


def test_many_in_line_are_read_by_few_launches_and_each_keeps_its_own_lanes():
    sizes = [1, 3, 4, 100, CHUNK, CHUNK + 1, 300_001, 0, 8 * CHUNK + 1] * 60
    memories = [octets(number, size) for number, size in enumerate(sizes)]
    line, tickets = Queue(), []
    for memory in memories:
        tensor = torch.from_numpy(memory).cuda()
        tickets.append(line.add(tensor, 0, memory.size))
        del tensor  # freed by the program: the line holds it
    torch.full((1 << 22,), 7, dtype=torch.uint8, device="cuda")
    line.settle()
    assert [known(ticket) for ticket in tickets] == [fingerprint_reference(memory) for memory in memories]


def test_a_tensor_of_more_than_two_to_the_31_bytes():
    size = (1 << 31) + 12_345
    tensor = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda")
    assert queue.lanes_now([(tensor, 0, size)])[0] == fingerprint_reference(tensor.cpu().numpy())


def test_how_much_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(queue, "PENDING_BYTES", 1 << 20)
    line = Queue()
    before = torch.cuda.memory_allocated()
    for _ in range(64):
        line.add(torch.zeros(1 << 18, dtype=torch.uint8, device="cuda"), 0, 1 << 18)
    assert torch.cuda.memory_allocated() - before < 8 << 20
    line.settle()


LONG = 1 << 29
"""Cycles, a quarter of a second: what does not wait for the default stream is done long before."""


def test_a_batch_is_read_by_one_launch_and_sent_behind_it():
    sizes = [100_003, 0, 1, 3, 4, CHUNK, CHUNK + 1, 8 * CHUNK + 1] * 40 + [0]
    memories = [octets(number, size) for number, size in enumerate(sizes)]
    tensors = [torch.from_numpy(memory).cuda() for memory in memories]
    want = [fingerprint_reference(memory) for memory in memories]
    for cycles in (1, LONG, LONG):  # at first memory is pinned and code is loaded, which waits for all streams
        torch.cuda._sleep(cycles)
        found = Batch(tensors[0].device, [tensor.data_ptr() for tensor in tensors], sizes)
        tensors[0].add_(1)  # read before
        assert [tuple(map(int, lanes)) for lanes in found.lanes()] == want
        tensors[0].sub_(1)
    assert Batch(tensors[0].device, [0, 0], [0, 0]).lanes().tolist() == [[0, 0], [0, 0]]


def test_a_batch_on_a_side_stream_is_read_there():
    memory = octets(3, 100_003)
    host, tensor = torch.from_numpy(memory).cuda(), torch.zeros(memory.size, dtype=torch.uint8, device="cuda")
    Batch(tensor.device, [tensor.data_ptr()], [memory.size]).lanes()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        tensor.copy_(host)
        found = Batch(tensor.device, [tensor.data_ptr()], [memory.size])
    assert tuple(map(int, found.lanes()[0])) == fingerprint_reference(memory)


def test_what_was_noted_on_the_default_stream_is_read_there_from_a_side_stream():
    memory = octets(4, 100_003)
    host, tensor, line = torch.from_numpy(memory).cuda(), torch.zeros(memory.size, dtype=torch.uint8).cuda(), Queue()
    queue.lanes_now([(host, 0, memory.size)])
    torch.cuda._sleep(LONG)
    tensor.copy_(host)
    ticket = line.add(tensor, 0, memory.size)
    with torch.cuda.stream(torch.cuda.Stream()):
        line.flush()
        tensor.zero_()  # goes on after it was read
    line.settle()
    assert known(ticket) == fingerprint_reference(memory)


def test_without_triton_the_values_are_the_same(monkeypatch):
    memory = octets(0, 100_003)
    tensor = torch.from_numpy(memory).cuda()
    assert device_lanes(tensor) == fingerprint_reference(memory)
    monkeypatch.setattr(queue, "usable", lambda device: False)
    assert content_lanes(tensor) == fingerprint_reference(memory)


@pytest.mark.parametrize("device", ["cuda"])
def test_the_kernel_is_used_here(device):
    assert queue.usable(torch.device(device, 0))

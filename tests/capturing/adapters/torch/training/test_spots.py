"""Where tensors lie: what is known from the steps before holds only of tensors that lie as they did."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.ranked import alone

from whydiff.capturing.adapters.torch.dtypes import raw
from whydiff.capturing.adapters.torch.training.spots import Spots
from whydiff.capturing.adapters.torch.training.watching import Digests

Change = Callable[[torch.Tensor], torch.Tensor]


def digests(tensors: list[torch.Tensor], spots: Spots) -> list[str]:
    return Digests([spots.of(tensors)]).read()


def test_how_tensors_lie_is_found_once_and_where_in_every_step() -> None:
    spots, parameters = (
        Spots(),
        [torch.nn.Parameter(torch.arange(12.0).reshape(3, 4)), torch.nn.Parameter(torch.ones(2))],
    )
    layout = spots.of(parameters).layout
    with torch.no_grad():
        parameters[0].mul_(2)  # other numbers, at the same place
    assert spots.of(parameters).layout is layout
    parameters[0].data = parameters[0].data.clone()  # moved
    parameters[1] = torch.nn.Parameter(torch.zeros(2))  # replaced by its like
    look = spots.of(parameters)
    assert look.layout is layout
    assert look.addresses == [parameter.data_ptr() for parameter in parameters]
    assert Digests([look]).read() == digests(parameters, Spots())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clone(),
        lambda data: data.t(),
        lambda data: data[:2],
        lambda data: data[:, 1:],
        lambda data: data.double(),
        lambda data: data.view(torch.int32),
        lambda data: data.to(torch.complex64).conj(),
        lambda data: data.new_zeros(4, 4, dtype=torch.complex64).conj().imag,  # negated lazily, and strided
        lambda data: data.new_zeros(0),
    ],
)
def test_a_tensor_that_was_given_other_memory_or_another_look_at_it_is_looked_at_again(change: Change) -> None:
    spots, tensors = Spots(), [torch.ones(3), torch.arange(16.0).reshape(4, 4), torch.ones(2)]
    for _ in range(2):
        tensors[1].data = change(tensors[1].data) if tensors[1].is_floating_point() else tensors[1].data
        look = spots.of(tensors)
        assert look.layout.forms[1] == f"{str(tensors[1].dtype).removeprefix('torch.')}{list(tensors[1].shape)}"
        assert look.layout.spots[1].straight == tensors[1].is_contiguous()
        whole = raw(tensors[1]).clone(memory_format=torch.contiguous_format)
        assert Digests([look]).read() == digests([tensors[0], whole, tensors[2]], Spots())


def test_a_square_matrix_that_is_turned_where_it_lies_has_another_digest() -> None:
    spots, tensor = Spots(), torch.arange(9.0).reshape(3, 3)
    (before,) = digests([tensor], spots)
    tensor.data = tensor.data.t()
    (turned,) = digests([tensor], spots)
    assert turned != before
    assert [turned] == digests([tensor.contiguous()], Spots())


@pytest.mark.parametrize(
    "other",
    [
        lambda: torch.ones(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch._efficientzerotensor(3),
        lambda: torch.nested.nested_tensor([torch.ones(2)]),
    ],
)
def test_what_cannot_be_looked_at_takes_the_place_of_what_could_and_back(other: Callable[[], torch.Tensor]) -> None:
    spots, plain = Spots(), torch.ones(3)
    before = digests([plain, plain], spots)
    for _ in range(2):
        assert digests([other(), plain], spots) == ["", before[1]]
        assert digests([plain, plain], spots) == before


def test_memory_that_was_given_back_is_not_read() -> None:
    spots, kept, given = Spots(), torch.ones(3), torch.ones(5)
    before = digests([kept, given], spots)
    for _ in range(2):
        storage = given.untyped_storage()
        storage.resize_(0)
        assert digests([kept, given], spots) == [before[0], ""]
        assert digests([kept, given], Spots()) == [before[0], ""]
        storage.resize_(20)
        given.fill_(1)
        assert digests([kept, given], spots) == before


def test_what_is_known_holds_no_tensor() -> None:
    spots, tensor = Spots(), torch.ones(3)
    there = weakref.ref(tensor)
    spots.of([tensor])
    del tensor
    gc.collect()
    assert there() is None


def test_lists_that_come_in_turn_are_each_known() -> None:
    spots, one, other = Spots(), torch.ones(3), torch.ones(4, dtype=torch.float64)
    lists: list[list[torch.Tensor]] = [[one], [one, other], [other]]
    layouts = [spots.of(tensors).layout for tensors in lists]
    assert [spots.of(tensors).layout for tensors in lists] == layouts
    for count in range(2, 12):  # and not all for ever
        spots.of([one] * count)
    assert spots.of([other]).layout is not layouts[2]


class Twice(torch.Tensor):
    """A tensor that is made of two."""

    parts: tuple[torch.Tensor, torch.Tensor]

    @staticmethod
    def __new__(cls, first: torch.Tensor, second: torch.Tensor) -> Any:
        made: Any = torch.Tensor._make_wrapper_subclass(cls, first.shape, dtype=first.dtype)
        made.parts = (first, second)
        made.first, made.second = first, second
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["first", "second"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, context: Any, size: Any, stride: Any) -> Any:
        return Twice(inner["first"], inner["second"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def test_a_tensor_that_is_made_of_others_is_asked_for_them_in_every_step() -> None:
    spots, first, second = Spots(), torch.ones(2), torch.zeros(2)
    made = Twice(first, second)
    look = spots.of([first, made])
    assert look.layout.forms == ("float32[2]", "float32[2] float32[2]")
    before = Digests([look]).read()
    made.second = torch.ones(3)
    after = digests([first, made], spots)
    assert after[0] == before[0] and after[1] != before[1]
    assert after == digests([first, made], Spots())
    made.second = second
    assert digests([first, made], spots) == before


def test_the_local_part_of_a_distributed_tensor_is_looked_at() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate

    with alone():
        mesh, spots, local = init_device_mesh("cpu", (1,)), Spots(), torch.arange(4.0)
        tensor = DTensor.from_local(local, mesh, [Replicate()])
        plain = digests([local], Spots())
        layout = spots.of([tensor, local]).layout
        assert digests([tensor, local], spots) == plain * 2
        again = spots.of([DTensor.from_local(local.clone(), mesh, [Replicate()]), local])
        assert again.layout is layout and Digests([again]).read() == plain * 2
        assert digests([DTensor.from_local(local.double(), mesh, [Replicate()]), local], spots)[0] != plain[0]

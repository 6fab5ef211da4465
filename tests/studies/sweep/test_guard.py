from __future__ import annotations

import pytest
import torch
from models import Mixed, rows

import whydiff
from whydiff.capturing.adapters.torch.invariant import FORMS, BatchInvariant
from whydiff.errors import UsageError


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def test_a_model_that_depends_on_the_batch_fails_with_ops_sizes_and_next_step() -> None:
    with pytest.raises(whydiff.Differs) as raised:
        whydiff.assert_batch_invariant(Mixed(), rows(4)[0], sizes="2,3,4,8")
    text = " ".join(str(raised.value).split())
    assert "8 of 13 (size, row) pairs differ, at most by " in text and text.count("at most by") == 1
    assert "sizes that differ: 4, 8; that agree: 2, 3" in text
    assert text.startswith("ROUNDING, proven: ") and "(SH001)" in text
    assert "where ordered" in text and " fix " in text
    assert raised.value.diagnosis.causes[0].code == "SH001"


def test_a_model_that_does_not_passes() -> None:
    whydiff.assert_batch_invariant(torch.relu, torch.randn(4, 8))
    whydiff.assert_batch_invariant(lambda x: {"y": x["a"] * 2}, ({"a": torch.randn(4, 8)},), sizes=(2, 9))


def test_without_a_batch_there_is_nothing_to_check() -> None:
    with pytest.raises(UsageError):
        whydiff.assert_batch_invariant(torch.relu, 3)


@pytest.mark.parametrize("size", [3, 16])
def test_products_in_pieces_do_not_depend_on_the_number_of_rows(size: int) -> None:
    linear = torch.nn.Linear(192, 64)
    x = torch.randn(33, 192)
    with whydiff.batch_invariant(linear, ops=("addmm", "mm"), rows=size) as mode:
        whole = linear(x)
        assert all(torch.equal(linear(x[:n]), whole[:n]) for n in (1, 2, 7, 16, 33))
    assert mode.changed == {"addmm": 6}
    torch.testing.assert_close(whole, linear(x))


_TENSORS = {
    "mm": lambda f: f(torch.randn(5, 8), torch.randn(8, 4)),
    "addmm": lambda f: f(torch.randn(5, 4), torch.randn(5, 8), torch.randn(8, 4)),
    "bmm": lambda f: f(torch.randn(3, 5, 8), torch.randn(3, 8, 4)),
    "baddbmm": lambda f: f(torch.randn(3, 5, 4), torch.randn(3, 5, 8), torch.randn(3, 8, 4)),
    "gelu": lambda f: f(torch.randn(3, 5001)),
    "rsqrt": lambda f: f(torch.rand(3, 5001) + 1),
}


@pytest.mark.parametrize("op", _TENSORS)
def test_every_form_computes_the_same_function(op: str) -> None:
    assert op in FORMS
    packet = getattr(torch.ops.aten, op)

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        return _TENSORS[op](packet)  # type: ignore[no-any-return]

    plain = run()
    with BatchInvariant((op,), 4) as mode:
        pieces = run()
    assert mode.changed == {op: 1}
    torch.testing.assert_close(pieces, plain)


def test_convolution_and_attention_one_item_at_a_time() -> None:
    conv, x = torch.nn.Conv1d(4, 6, 3), torch.randn(5, 4, 20)
    q = torch.randn(5, 2, 7, 8)
    names = ("convolution", "_scaled_dot_product_flash_attention_for_cpu")
    plain = conv(x), torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with whydiff.batch_invariant(conv, ops=names) as mode:
        pieces = conv(x), torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert mode.changed["convolution"] == 1
    for one, other in zip(plain, pieces, strict=True):
        torch.testing.assert_close(one, other)


def test_an_op_without_such_a_form_is_refused() -> None:
    with pytest.raises(UsageError, match="native_batch_norm"):
        whydiff.batch_invariant(torch.relu, ops=("native_batch_norm",))

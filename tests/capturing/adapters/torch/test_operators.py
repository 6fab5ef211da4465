"""What an operator does is known from its schema, and from a list where the schema is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from whydiff.capturing.adapters.torch.operators import describe, find
from whydiff.records import Trace

aten = torch.ops.aten

COMPOSITES: dict[str, Callable[[torch.Tensor], Any]] = {
    "linear": lambda x: F.linear(x, torch.ones(3, 6), torch.ones(3)),
    "matmul": lambda x: x[None] @ x.t(),
    "attention": lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]),
    "bilinear": lambda x: F.interpolate(x[None, None], scale_factor=2.0, mode="bilinear"),
    "layer norm": lambda x: F.layer_norm(x, (6,)),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(6), torch.ones(6), training=True),
    "group norm": lambda x: F.group_norm(x[None], 2),
    "convolution": lambda x: F.conv1d(x[None], torch.ones(2, 4, 2)),
    "dropout": lambda x: F.dropout(x, 0.5),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "cross entropy": lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2, 3])),
    "made from a list": lambda x: x + torch.tensor([1.0, 2, 3, 4, 5, 6]),
    "recurrent": lambda x: nn.GRU(6, 5, batch_first=True)(x[None])[0],
    "silu": lambda x: F.silu(x),
    "pooling": lambda x: F.max_pool2d(x[None, None], 2),
    "pieces": lambda x: [part * 2 for part in x.chunk(2)],
    "norm of a matrix": lambda x: torch.linalg.norm(x),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_inference_mode_gives_the_ops_of_no_grad(name: str, captured: Callable[..., Trace]) -> None:
    """Composite ops reach the dispatch mode whole under inference mode only; they are taken apart alike."""
    x = torch.randn(4, 6)
    with torch.no_grad():
        plain = captured(COMPOSITES[name], x)
    with torch.inference_mode():
        inference = captured(COMPOSITES[name], x)
    assert computed(inference) == computed(plain)
    assert len(computed(plain)) > 0


def computed(trace: Trace) -> list[tuple[str, list[Any]]]:
    return [
        (call.target, [event.fingerprint for event in call.writes])
        for call in trace.calls
        if call.kind == "compute" and call.target != "aten.mkldnn_rnn_layer.default"  # has scratch memory
    ]


def test_facts_come_from_the_schema() -> None:
    add_ = describe(aten.add_.Tensor)
    assert add_.written_args == {0} and add_.written_names == {"self"} and not add_.overwrites
    assert describe(aten.add.out).written_names == {"out"} and describe(aten.add.out).overwrites
    assert describe(aten._foreach_add_.Scalar).written_names == {"self"}
    assert describe(aten.copy_.default).overwrites
    assert describe(aten.rand.default).random and not describe(aten.add.Tensor).random
    assert describe(aten.bernoulli_.float).random
    assert describe(aten.empty.memory_format).uninitialised
    assert describe(aten.linear.default).composite and not describe(aten.addmm.default).composite
    assert not describe(aten.silu_backward.default).composite  # it has a kernel of its own
    assert describe(aten.set_.source_Tensor).rebinds


def test_batch_norm_changes_its_statistics_only_in_training() -> None:
    operator = describe(aten.native_batch_norm.default)
    x, one = torch.ones(2, 3), torch.ones(3)
    assert operator.writes_to((x, one, one, one, one, True, 0.1, 1e-5)) == {3, 4}
    assert operator.writes_to((x, one, one, one, one, False, 0.1, 1e-5)) == frozenset()


@pytest.mark.parametrize("target", ["aten.from_file.default", "profiler._record_function_enter_new.default"])
def test_an_untrusted_trace_names_no_other_ops(target: str) -> None:
    with pytest.raises(LookupError):
        find(target, trusted=False)


def test_an_op_that_is_not_there_is_said() -> None:
    with pytest.raises(LookupError, match="not registered"):
        find("aten.no_such_op.default")

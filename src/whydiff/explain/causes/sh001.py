"""SH001 batch-dependent-kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._shape import of_size
from whydiff.records import Cause


class BatchDependentKernel(CauseRule):
    """The same rows give other bits in a batch than alone, because a kernel chooses its order by the number of rows.

    What it detects:
        Ops that, on inputs which agree bit for bit on the counterpart rows, give other bits when the batch has
        another size; after resynchronising, no other op differs.

    Why it happens:
        Libraries choose kernels, tile sizes and how a sum is split over threads from the shapes: a product of
        one row is a matrix–vector product, eight rows are blocked otherwise than sixteen. Floating-point
        addition is not associative, so another order is another rounding.

    Evidence required:
        Slice maps that settle which part of the larger tensors is the counterpart; origins whose inputs agree;
        and the scaling test of the op alone: carried out in float64 the difference shrinks with the precision.
        An op whose difference stays mixes rows (batch statistics, expert capacity): that is no rounding and not
        this cause.

    Look-alikes:
        SH002 if the runs differ in length, SH003 if only strides or alignment differ; IN001 if the counterpart
        rows were given other inputs; a model whose batch items interact.

    Example:
        A linear layer applied to one row, and to 64 rows of which the first is the same.

    Remedy:
        Accept it, or carry out the named ops in pieces of a fixed number of rows, so that every batch uses one
        kernel: in PyTorch ``with whydiff.batch_invariant(model, ops=…)``; in JAX ``jax.lax.map(f, rows,
        batch_size=16)`` of the function f of one row that holds them, with the rows padded to a multiple of 16
        (a remainder would be a kernel of another size). Padding without the pieces is not enough.

    How it is verified:
        Both programs run again with the named ops in pieces of a fixed number of rows; the counterparts of the
        outputs must become equal bit for bit.

    References:
        He and Thinking Machines Lab, "Defeating Nondeterminism in LLM Inference", 2025; PyTorch, "Numerical
        accuracy: batched computations or slice computations"; Higham, "Accuracy and Stability of Numerical
        Algorithms", chapter 4.
    """

    code = "SH001"
    name = "batch-dependent-kernel"
    says = "the same rows give other bits in a batch than alone"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause for all ops whose bits depend on the batch."""
        return of_size(case, self, "batch")

    def example(self) -> tuple[Any, Any]:
        """One row against the same one among 64."""
        import torch

        torch.manual_seed(0)
        linear = torch.nn.Linear(1024, 256)
        x = torch.randn(64, 1024)
        return lambda: linear(x[:1]), lambda: linear(x)[:1]

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Rows that differ with the batch: it is normalised by its own statistics, scaled by its maximum, or padded."""
        import torch

        torch.manual_seed(0)
        linear, norm = torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(64)
        x = torch.randn(8, 64)

        def scaled(x: Any) -> Any:
            scale = x.abs().max() / 127
            return linear((x / scale).round() * scale)

        yield (lambda: linear(norm(x[:2]))), (lambda: linear(norm(x))[:2])
        yield (lambda: scaled(x[:2])), (lambda: scaled(x)[:2])
        yield (lambda: linear(x[:2])), (lambda: linear(torch.cat([x[:2] + 1e-3, x[2:]]))[:2])


REGISTER = BatchDependentKernel()

"""SH003 layout-dependent-kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._shape import cause, relaid
from whydiff.records import Cause, Remedy


class LayoutDependentKernel(CauseRule):
    """Equal values in another memory layout give other bits, because a kernel chooses its order by the strides.

    What it detects:
        Ops that read tensors with equal bits and shapes but other strides or another alignment, and give other
        bits.

    Why it happens:
        A reduction over a contiguous dimension uses vector lanes, over a strided one it does not; a matrix
        product takes another path for a transposed operand; an unaligned beginning shifts which elements a
        vector loop and which its scalar tail computes.

    Evidence required:
        Origins whose inputs agree bit for bit and whose recorded strides or offsets differ between the runs;
        and the scaling test of the op alone: in float64 the difference shrinks with the precision.

    Look-alikes:
        SH001 and SH002 if shapes differ; another environment (threads, instruction set) with equal layouts; an
        origin of kind layout, where the same memory is read as other values.

    Example:
        A sum over the rows of a matrix, and of its copy that lies transposed in memory.

    Remedy:
        Make the inputs of the named ops contiguous on both sides (``x.contiguous()``).

    How it is verified:
        Both programs run again with the named ops reading contiguous, aligned copies; the outputs must become
        equal bit for bit.

    References:
        PyTorch, "Numerical accuracy" and "Tensor views"; Intel oneMKL, "Obtaining numerically reproducible
        results" (alignment).
    """

    code = "SH003"
    name = "layout-dependent-kernel"
    says = "equal values in another memory layout are added up in another order"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause for all ops whose bits depend on the layout."""
        origins = relaid(case)
        if origins:
            word = "in another memory layout"
            yield from cause(case, origins, self, word, [("contiguous", None)], _remedy)

    def example(self) -> tuple[Any, Any]:
        """Row sums of a matrix that lies in memory by rows, and by columns."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(64, 4096)
        y = x.t().contiguous().t()
        return (lambda x=x: x.sum(1)), (lambda x=y: x.sum(1))

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Another layout, and another value; the same memory read in another order; a sum over the other axis."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(64, 64)
        y = x.t().contiguous().t()
        z = y.clone(memory_format=torch.preserve_format)
        z[3, 5] += 1e-3
        yield (lambda x=x: x.sum(1)), (lambda x=z: x.sum(1))
        yield (lambda x=x: x.sum(1)), (lambda x=x: x.t().sum(1))
        yield (lambda x=x: x.cumsum(1)[:, -1]), (lambda x=y: x.flip(1).cumsum(1)[:, -1] * 1.0001)


def _remedy(framework: str, name: str, ops: tuple[str, ...], value: Any) -> Remedy:
    return Remedy(
        f"Make what {', '.join(ops)} reads contiguous on both sides.",
        "x = x.contiguous()" if framework == "torch" else "",
    )


REGISTER = LayoutDependentKernel()

"""SH002 length-dependent-kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._shape import of_size
from whydiff.records import Cause


class LengthDependentKernel(CauseRule):
    """The same positions give other bits in a longer input, because a kernel chooses its order by the length.

    What it detects:
        Ops that, on inputs which agree bit for bit on the common positions, give other bits when the run is
        longer (a longer prompt, more padding, one pass instead of chunks).

    Why it happens:
        As SH001: positions are rows of a matrix product, and attention and reductions are blocked and split by
        the length.

    Evidence required:
        As SH001, with the common positions as the counterpart. An op whose difference stays in float64 reads
        positions beyond the counterpart (attention without a causal mask or padding mask): not this cause.

    Look-alikes:
        SH001 for another number of rows; masks or position ids that make the longer run another function.

    Example:
        A linear layer applied to one position, and to 64 positions of which the first is the same.

    Remedy:
        Accept it, run all lengths padded to one length, or carry out the named ops in pieces of a fixed number
        of rows: in PyTorch ``with whydiff.batch_invariant(model, ops=…)``, in JAX ``jax.lax.map(f, rows,
        batch_size=16)`` over rows that are padded to a multiple of 16.

    How it is verified:
        Both programs run again with the named ops in pieces of a fixed number of rows; the common positions of
        the outputs must become equal bit for bit.

    References:
        He and Thinking Machines Lab, "Defeating Nondeterminism in LLM Inference", 2025 (prefill and decode);
        PyTorch, "Numerical accuracy: batched computations or slice computations".
    """

    code = "SH002"
    name = "length-dependent-kernel"
    says = "the same positions give other bits in a longer input"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause for all ops whose bits depend on the length."""
        return of_size(case, self, "length")

    def example(self) -> tuple[Any, Any]:
        """One position against the same one among 64."""
        import torch

        torch.manual_seed(0)
        linear = torch.nn.Linear(1024, 256)
        x = torch.randn(1, 64, 1024)
        return lambda: linear(x[:, :1]), lambda: linear(x)[:, :1]

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A longer input that is read: without a causal mask, or by a maximum over all positions."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(1, 24, 16)
        linear = torch.nn.Linear(16, 16)

        def attend(x: Any) -> Any:
            return torch.nn.functional.scaled_dot_product_attention(x, x, linear(x))

        def scaled(x: Any) -> Any:
            return linear(x / x.abs().amax((1, 2), keepdim=True))

        yield (lambda: attend(x[:, :8])), (lambda: attend(x)[:, :8])
        yield (lambda: scaled(x[:, :8])), (lambda: scaled(x)[:, :8])


REGISTER = LengthDependentKernel()

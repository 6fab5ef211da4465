"""CP005 compiled-draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._compiled import ladders, mirrored_pair, on_the_ladder
from whydiff.records import Cause, Intervention, Remedy, Verdict

RANDOM = "random"
"""The part of a compiler that draws random numbers of its own."""


class CompiledDraws(CauseRule):
    """Compiled code draws its random numbers from a generator of its own, so that one seed gives other numbers.

    What it detects:
        A compiled program that draws (dropout, ``randn``) and gives other numbers than its own ops from one seed, and the
        same ones when the compiler is told to draw as they do.

    Why it happens:
        Inductor generates a seed per draw and computes the numbers inside its kernels (Philox), whatever generator the
        ops use. One seed still gives the same numbers at every run of the compiled program.

    Evidence required:
        The ladder of fresh compiles: without random numbers of the compiler's own the difference is gone.

    Look-alikes:
        MD002 if both sides draw by the same generator at another size or in another dtype. ND001 for a run that
        differs from itself. CP002 if the compiler's random numbers change nothing.

    Example:
        A sum with normal numbers, compiled and not.

    Remedy:
        None is needed for training; where both must agree, ``torch._inductor.config.fallback_random = True``.

    How it is verified:
        The compiled side is compiled anew and draws as the ops do (``draw-uncompiled``), which must give the other
        side's outputs; in the other side every op that draws is compiled alone (``draw-compiled``), which must give the
        compiled side's.

    References:
        PyTorch, torch._inductor.config ``fallback_random``; Salmon et al., "Parallel random numbers: as easy as 1, 2,
        3", SC 2011 (Philox).
    """

    code = "CP005"
    name = "compiled-draws"
    says = "compiled code draws its random numbers from a generator of its own"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per compiled side whose draws make the difference."""
        for side, ladder in ladders(case):
            if ladder.part_name != RANDOM:
                continue
            away, put = mirrored_pair(
                side, Intervention("draw-uncompiled", side), Intervention("draw-compiled", "the program")
            )
            yield self.cause(
                site=f"the {side}",
                verdict=Verdict.SEMANTIC,
                evidence=(on_the_ladder(ladder),),
                remedy=Remedy(
                    "None is needed if only the distribution counts; else let compiled code draw as the ops do.",
                    "import torch._inductor.config\ntorch._inductor.config.fallback_random = True\n",
                    undoes=side,
                ),
                interventions=away,
                put_in=put,
            )

    def example(self) -> tuple[Any, Any]:
        """Normal numbers are added, op by op and compiled."""
        import torch

        x = torch.zeros(16)

        def noisy(x: Any) -> Any:
            return x + torch.randn(16)

        compiled = torch.compile(noisy)
        return lambda: noisy(x), lambda: compiled(x)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A compiled program that draws and is scaled besides; one whose backend changes what was drawn."""
        import torch

        x = torch.zeros(16)

        def noisy(x: Any) -> Any:
            return x + torch.randn(16)

        def louder(x: Any) -> Any:
            return x + torch.randn(16) * 1.5

        def doubled(graph: Any, _: Any) -> Any:
            return lambda *args: [out * 2 for out in graph(*args)]

        late, twice = torch.compile(louder), torch.compile(noisy, backend=doubled)
        yield (lambda: noisy(x)), (lambda: late(x))
        yield (lambda: noisy(x)), (lambda: twice(x))


REGISTER = CompiledDraws()

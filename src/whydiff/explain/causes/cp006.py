"""CP006 other-decomposition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._compiled import ladders, mirrored_pair, nature, on_the_ladder
from whydiff.explain.ladder import Climb
from whydiff.explain.sides import Side, opposite
from whydiff.records import Cause, Intervention, Remedy, Verdict

DECOMPOSITION = "decomposition"


class OtherDecomposition(CauseRule):
    """A compiler takes an op apart into others that give other numbers than the op itself.

    What it detects:
        A compiled program whose numbers change where ops are decomposed, because of the decomposition of one op.

    Why it happens:
        Decompositions are written by hand. They round at other places, in another order or at another precision than
        the op's own kernel, or forget a special case of it (a factor of zero, an empty row, NaN).

    Evidence required:
        The ladder of fresh compiles: the difference comes in with the decompositions, and with that of this op.

    Look-alikes:
        CP001 for roundings left out by fusion, CP002 for generated code and passes, CP005 for random numbers: an op that
        draws is decomposed too.

    Example:
        A clamp to a range whose decomposition, planted, halves what it gives.

    Remedy:
        Rounding: accept it. Another function: compile without decompositions (``aot_eager``), and report it.

    How it is verified:
        The compiled side is compiled anew without this one decomposition (``without-decomposition``), which must give
        the other side's outputs, to rounding in float64 if it is another function; in the other side the op is carried
        out by its decomposition (``decompose``), which must give the compiled side's, likewise.

    References:
        PyTorch, torch/_inductor/decomposition.py and torch/_decomp/decompositions.py; torch/_inductor/compiler_bisector.py.
    """

    code = "CP006"
    name = "other-decomposition"
    says = "the compiler takes an op apart into others that give other numbers"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per compiled side whose difference comes in with a decomposition."""
        for side, ladder in ladders(case):
            if ladder.part_name == DECOMPOSITION and ladder.item:
                yield self._cause(case, side, ladder)

    def _cause(self, case: Case, side: Side, ladder: Climb) -> Cause:
        away, put = mirrored_pair(
            side,
            Intervention("without-decomposition", side, ladder.item),
            Intervention("decompose", "the program", ladder.item),
        )
        verdict = nature(case)
        remedy = Remedy("Accept it: the same function, rounded at other places.", accepts=True)
        if verdict is Verdict.SEMANTIC:
            text = (
                f"Compile this part without decompositions until that of {ladder.item} is mended, and report it there."
            )
            remedy = Remedy(
                text, 'model = torch.compile(model, backend="aot_eager")\n', carried_out=ladder.mended_below
            )
        other = opposite(side)
        return self.cause(
            site=f"the {side}",
            verdict=verdict,
            evidence=(on_the_ladder(ladder),),
            remedy=remedy,
            interventions=away,
            put_in=put,
            says=f"the {side}'s compiler takes {ladder.item} apart into ops that give other numbers than the {other}'s",
        )

    def example(self) -> tuple[Any, Any]:
        """A clamp whose decomposition is wrong: it was put into the compiler's table."""
        import torch
        from torch._inductor import decomposition

        def halved(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
            return torch.clamp(x, low, high) * 0.5

        def clamped(x: Any) -> Any:
            return torch.nn.functional.hardtanh(x)

        x, op = torch.linspace(-2, 2, 9), torch.ops.aten.hardtanh.default
        compiled = torch.compile(clamped, backend="aot_eager_decomp_partition")

        def run(program: Any) -> Any:
            tables = decomposition.decompositions, decomposition.fast_random_decomps()
            before = [table[op] for table in tables]
            try:
                for table in tables:
                    table[op] = halved
                return program(x)
            finally:
                for table, kept in zip(tables, before, strict=True):
                    table[op] = kept

        return lambda: run(clamped), lambda: run(compiled)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A factor of one's own behind an op that is decomposed; a backend that halves; another limit."""
        import torch

        x = torch.linspace(-2, 2, 9)

        def clamped(x: Any) -> Any:
            return torch.nn.functional.hardtanh(x)

        def own(x: Any) -> Any:
            return torch.nn.functional.hardtanh(x) * 0.5

        def narrower(x: Any) -> Any:
            return torch.nn.functional.hardtanh(x, -0.5, 0.5)

        def halved(graph: Any, _: Any) -> Any:
            return lambda *args: [out * 0.5 for out in graph(*args)]

        wrong = torch.compile(clamped, backend=halved)
        late, other = (torch.compile(f, backend="aot_eager_decomp_partition") for f in (own, narrower))
        yield (lambda: clamped(x)), (lambda: wrong(x))
        yield (lambda: clamped(x)), (lambda: late(x))
        yield (lambda: clamped(x)), (lambda: other(x))


REGISTER = OtherDecomposition()

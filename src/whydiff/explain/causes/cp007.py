"""CP007 compiled-under-autocast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._compiled import autocasts, autocasts_to, ladders, mirrored_pair, on_the_ladder
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict


class CompiledUnderAutocast(CauseRule):
    """Compiled code runs under autocast where the program's own ops do not.

    What it detects:
        A compiled program of which a part (often the backward, or all that a backend computes) is cast to 16 bits by
        autocast, where the same ops one by one are not.

    Why it happens:
        A backend enters autocast unasked, or a graph is traced under an autocast region that has ended when its code
        runs: AOTAutograd traces the backward under the state of the forward.

    Evidence required:
        With autocast turned off, the compiled program gives the other side's outputs; which part of the compiler.

    Look-alikes:
        CP001 for roundings that are left out, not made. PR003 and PR004 for casts that the program itself makes. A
        program whose regions are the same on both sides: turning autocast off then changes both.

    Example:
        A network, and the same one compiled by a backend that runs its graph under autocast to bfloat16.

    Remedy:
        Compile what autocast surrounds together with it, or run the backward inside the same region; leave a backend
        that casts unasked.

    How it is verified:
        The compiled side runs again with every region of autocast turned off (``autocast-off``) and must give the other
        side's outputs; the other side runs under autocast (``autocast-on``) and must give the compiled side's.

    References:
        PyTorch, Automatic Mixed Precision package; pytorch/pytorch issue 179804.
    """

    code = "CP007"
    name = "compiled-under-autocast"
    says = "compiled code runs under autocast where the program's own ops do not"
    precedes = ("CP002",)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per compiled side that gives the other's outputs without autocast."""
        for side, ladder in ladders(case):
            if not autocasts(case, side):
                continue
            dtype = autocasts_to(case, side)
            away, put = mirrored_pair(
                side, Intervention("autocast-off", side), Intervention("autocast-on", "the program", dtype)
            )
            text = f"with autocast turned off the {side} gives the other side's outputs, bit for bit"
            yield self.cause(
                site=f"the {side}",
                verdict=Verdict.PRECISION,
                evidence=(Evidence(text, {"side": side, "dtype": dtype}), on_the_ladder(ladder)),
                remedy=Remedy(
                    "Compile what autocast surrounds together with it, or use a backend that does not cast unasked.",
                    "with torch.autocast(device, enabled=False):\n    ...  # what must stay in float32, backward included\n",
                ),
                interventions=away,
                put_in=put,
            )

    def example(self) -> tuple[Any, Any]:
        """A backend that runs the graph under autocast."""
        import torch

        torch.manual_seed(0)
        model, x = torch.nn.Linear(16, 4), torch.randn(3, 16)

        def casting(graph: Any, _: Any) -> Any:
            def run(*args: Any) -> Any:
                with torch.autocast("cpu", torch.bfloat16):
                    return graph(*args)

            return run

        compiled = torch.compile(model, backend=casting)

        def called(program: Any) -> Any:
            with torch.no_grad():
                return program(x).float()

        return lambda: called(model), lambda: called(compiled)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A backend that casts by itself; one that scales under autocast; regions of autocast on both sides."""
        import torch

        torch.manual_seed(0)
        model, x = torch.nn.Linear(16, 4), torch.randn(3, 16)

        def narrow(graph: Any, _: Any) -> Any:
            return lambda *args: [out.bfloat16().float() for out in graph(*args)]

        def scaling(graph: Any, _: Any) -> Any:
            def run(*args: Any) -> Any:
                with torch.autocast("cpu", torch.bfloat16):
                    return [out.float() * 1.25 for out in graph(*args)]

            return run

        def called(program: Any) -> Any:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                return program(x).float()

        def plainly(program: Any) -> Any:
            with torch.no_grad():
                return program(x).float()

        casts, scales = torch.compile(model, backend=narrow), torch.compile(model, backend=scaling)
        yield (lambda: plainly(model)), (lambda: plainly(casts))
        yield (lambda: plainly(model)), (lambda: plainly(scales))
        yield (lambda: called(model)), (lambda: called(scales))


REGISTER = CompiledUnderAutocast()

"""CP004 stale-constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._compiled import DIRECTIONS, ladders, on_the_ladder
from whydiff.explain.causes._other_leaf import OtherLeaf, stale
from whydiff.explain.causes._stale import StaleNumber, as_traced_anew, stale_numbers
from whydiff.explain.ladder import Climb
from whydiff.explain.sides import SIDES, Side
from whydiff.records import Cause, Evidence, Experiment, Intervention, Remedy, Verdict
from whydiff.report.words import listed

_AGAIN = "Trace the function again after what it reads has changed, or give it that as an argument."
_AS_AN_ARGUMENT = "Give {} to the traced function as an argument, or trace it again after a change."
_ANEW = "jax.clear_caches()  # or: a new jax.jit(function)\n"


class StaleConstant(CauseRule):
    """A compiled program goes on with a value that was read when it was traced and has changed since.

    What it detects:
        A traced program that computes with a constant where the other side reads a tensor, which the traced side
        holds as well, with the other side's values: it was read once, when the program was traced. The same of a Python
        number, which stands in the program as an op's argument, and of a switch that chose other ops.

    Why it happens:
        ``jax.jit`` keeps what a function reads from globals, attributes and closures as constants of the compiled
        program; weights that are loaded, trained or replaced afterwards are not seen by it. Only arguments are.

    Evidence required:
        The same program traced anew gives other outputs. The traced program reads a constant at an origin whose
        counterpart reads a tensor of the run; both sides hold this tensor with equal bits. Or an op of the program is
        given another number than where the program is traced anew, and that is the other side's. Or, of other ops: traced
        anew it gives the other side's outputs bit for bit.

    Look-alikes:
        FO003, FO002, FO008 if the code has another number whenever it is traced; FO006 if it is another tensor. CP002 for
        a compiler that computes something else. IN001 if the constants of both sides differ.

    Example:
        A jitted function that adds a bias from a dictionary; the bias is replaced after the first call.

    Remedy:
        Give the values as arguments, or trace the program again after they have changed.

    How it is verified:
        By replay: the traced program's constant gets the tensor that is held under its name (``restore-state``), and
        must give the other side's outputs; with the old values in the tensor's place the other side must give its. So with
        the numbers of an op's arguments (``set-argument``). Of other ops the program traced anew is all that is tried: the
        cause is located only. What `torch.compile` kept is not seen: there it is compiled anew (``trace-anew``), and the
        cause is located only.

    References:
        JAX, "The sharp bits", pure functions; Common gotchas, "jit and global state".
    """

    code = "CP004"
    name = "stale-constant"
    says = "the compiled program goes on with values that have changed since it was traced"
    precedes = ("FO", "IN", "ST")

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that is stale."""
        every: tuple[OtherLeaf | StaleNumber, ...] = (*stale(case), *stale_numbers(case))
        for side in SIDES:
            found = [one for one in every if one.frozen == side]
            if found:
                yield self._cause(case, side, found)
            elif as_traced_anew(case) == side:
                yield self._traced(case, side)
        for side, ladder in ladders(case):
            if ladder.stale:
                yield self._located(case, side, ladder)

    def _traced(self, case: Case, side: Side) -> Cause:
        """Other ops, or arguments of other ops: what the traced program was made of is not known."""
        first = case.localization.origins[0] if case.localization.origins else None
        anew = (Intervention("trace-anew", "the program"),)
        return self.cause(
            site=str(first.site.at("")) if first is not None else f"the {side}",
            verdict=Verdict.SEMANTIC,
            evidence=(Evidence(f"traced anew, the {side} gives the other side's outputs", {"side": side}),),
            remedy=Remedy(_AGAIN, _ANEW, carried_out=side == "candidate"),
            status="located",
            reason="traced anew it gives the other side's outputs; what the program read when it was traced is not known",
            experiments=(_gave_them(anew, side, equal=True),),
            says=f"the {side} was traced before something changed that it reads, and goes on as before",
        )

    def _located(self, case: Case, side: Side, ladder: Climb) -> Cause:
        """Compiled code that nobody saw inside: what it kept is not known, so that it cannot be put into the other side."""
        anew = (Intervention("trace-anew", side),)
        equal = case.experiments.equal_if_told(anew, on=side)
        return self.cause(
            site=f"the {side}",
            verdict=Verdict.SEMANTIC,
            evidence=(on_the_ladder(ladder),),
            remedy=Remedy(
                "Compile the program again after what it reads has changed, or let the compiler guard it.",
                "torch.compiler.reset()\n",
                carried_out=equal and side == "candidate",
            ),
            status="located" if equal else "inconclusive",
            reason="compiled anew it gives the other side's outputs; which value the compiled code kept is not known",
            experiments=(_gave_them(anew, side, equal=equal),),
            says=f"the {side}'s compiled code is of another state of the program",
        )

    def _cause(self, case: Case, side: Side, found: Sequence[OtherLeaf | StaleNumber]) -> Cause:
        held = [one.held.name for one in found if isinstance(one, OtherLeaf)]
        names = listed([*held, *(str(one) for one in found if isinstance(one, StaleNumber))])
        retraced = Evidence(f"traced anew, the {side} gives other outputs", {"side": side, "names": names})
        numbers = len(held) < len(found)
        gives = tuple(one.give for one in found)
        mirrored = (
            case.experiments.mirrored([one.give for one in found if isinstance(one, OtherLeaf)]) if numbers else ()
        )
        put_in = (*(mirrored or ()), *(one.put_in for one in found if isinstance(one, StaleNumber)))
        old = "the old value" if len(found) == 1 and numbers else "the old values"
        return self.cause(
            site=str(found[0].origin.site.at("")),
            verdict=Verdict.SEMANTIC,
            evidence=(retraced, *(one.evidence for one in found)),
            remedy=Remedy(_AGAIN if numbers else _AS_AN_ARGUMENT.format(names), _ANEW),
            interventions=gives,
            put_in=put_in if numbers else (),
            says=f"the {side} was traced before {names} changed, and goes on with {old}",
        )

    def example(self) -> tuple[Any, Any]:
        """A bias that is replaced after the first call."""
        import jax
        import jax.numpy as jnp

        x, held = jnp.sin(jnp.arange(12.0)).reshape(4, 3), {"bias": jnp.ones(3)}

        def shifted(x: Any) -> Any:
            return jnp.tanh(x) + held["bias"]

        compiled = jax.jit(shifted)
        compiled(x)
        held["bias"] = jnp.arange(3.0)
        return lambda: shifted(x), lambda: compiled(x)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A program that means its constant or its number; one that is traced anew; another function that is compiled."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        x, held = jnp.sin(jnp.arange(12.0)).reshape(4, 3), {"bias": jnp.ones(3)}

        def held_bias(x: Any) -> Any:
            return jnp.tanh(x) + held["bias"]

        def own_bias(x: Any) -> Any:
            return jnp.tanh(x) + (np.arange(3, dtype=np.float32) if held else 0.0)

        def other(x: Any) -> Any:
            return jnp.sin(x) + held["bias"]

        own, late = jax.jit(own_bias), jax.jit(other)
        once, twice = jax.jit(lambda x: jnp.tanh(x)), jax.jit(lambda x: jnp.tanh(x) * 2.0)
        yield (lambda: once(x) * 3.0), (lambda: twice(x) * 3.0)
        yield (lambda: held_bias(x)), (lambda: own(x))
        yield (lambda: held_bias(x)), (lambda: late(x))


def _gave_them(anew: tuple[Intervention, ...], side: Side, *, equal: bool) -> Experiment:
    """A rerun in which what was traced before did not count."""
    return Experiment(
        interventions=anew,
        prediction="gives the other side's outputs bit for bit",
        outcome="gives them bit for bit" if equal else "gives other outputs than before",
        status="confirmed" if equal else "inconclusive",
        method="rerun",
        direction=DIRECTIONS[side],
    )


REGISTER = StaleConstant()

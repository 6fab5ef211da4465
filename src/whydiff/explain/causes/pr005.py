"""PR005 default-matmul-precision."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict


class DefaultMatmulPrecision(CauseRule):
    """Products of matrices are asked for at another precision on one side than on the other.

    What it detects:
        Paired products and convolutions whose recorded ``precision`` parameter differs, however it came to
        differ: ``jax_default_matmul_precision``, the context manager ``jax.default_matmul_precision``, or an
        argument.

    Why it happens:
        XLA may carry out a float32 product in TF32 (GPU) or in one or several bfloat16 passes (TPU) unless it is
        asked for more. The default is a process-wide setting which every library and notebook may change, and
        which ``jax.jit`` bakes into a function when it is traced.

    Evidence required:
        The parameter of both recorded equations, and the setting of both environments.

    Look-alikes:
        A product of bfloat16 arrays differs whatever the setting. SH001: a kernel chosen by the number of rows.
        On a CPU the setting changes nothing: the cause is then reported as inert.

    Example:
        The same product with the default left alone, and under ``jax.default_matmul_precision("bfloat16")``.

    Remedy:
        Say what you want in one place: ``jax.config.update("jax_default_matmul_precision", "highest")``, or
        ``precision=`` at the product that needs it.

    How it is verified:
        The candidate runs again with the reference's precision at every product (``set-matmul-precision``);
        the outputs must become equal bit for bit. Needs a live candidate.

    References:
        JAX, "jax.default_matmul_precision" and jax.lax.Precision; OpenXLA, StableHLO specification,
        dot_general, precision_config.
    """

    code = "PR005"
    name = "default-matmul-precision"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause for all products whose precision differs in the same way."""
        found: Counter[tuple[str, str]] = Counter()
        sites: dict[tuple[str, str], str] = {}
        for ours, theirs in case.paired():
            asked = _precision(ours.arguments), _precision(theirs.arguments)
            if None not in asked and asked[0] != asked[1]:
                key = str(asked[0]), str(asked[1])
                found[key] += 1
                sites.setdefault(key, str(ours.site))
        for key, count in found.most_common():
            shown = tuple(_named(text) for text in key)
            evidence = Evidence(
                f"{count} products are asked for at {shown[0]} in the reference and at {shown[1]} in the candidate",
                {
                    "products": count,
                    "reference": shown[0],
                    "candidate": shown[1],
                    "settings": [
                        str(trace.environment.flags.get("jax_default_matmul_precision")) for trace in case.traces
                    ],
                },
            )
            yield self.cause(
                site=sites[key],
                verdict=Verdict.PRECISION,
                evidence=(evidence,),
                remedy=Remedy(
                    "Ask for the same precision on both sides, in one place.",
                    'jax.config.update("jax_default_matmul_precision", "highest")',
                ),
                interventions=(Intervention("set-matmul-precision", key[1], key[0]),),
            )

    def example(self) -> tuple[Any, Any]:
        """One product, with and without the setting."""
        import jax

        a, b = (jax.random.normal(jax.random.key(seed), (64, 64)) for seed in range(2))
        product = jax.jit(lambda a, b: a @ b)

        def candidate() -> Any:
            with jax.default_matmul_precision("bfloat16"):
                return product(a, b)

        return lambda: product(a, b), candidate

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The precision differs, and so does an operand, or what is made of the product."""
        import jax

        a, b = (jax.random.normal(jax.random.key(seed), (64, 64)) for seed in range(2))
        product = jax.jit(lambda a, b, c: a @ b * c)

        def asked(c: float, shift: float = 0.0) -> Any:
            with jax.default_matmul_precision("highest"):
                return product(a, b + shift, c)

        yield (lambda: product(a, b, 1.0)), (lambda: asked(1.5))
        yield (lambda: product(a, b, 1.0)), (lambda: asked(1.0, 0.25))


def _precision(arguments: Any) -> str | None:
    """The recorded parameter as text; None if the call has none."""
    if not isinstance(arguments, (list, tuple)) or len(arguments) != 2 or not isinstance(arguments[1], dict):
        return None
    return json.dumps(arguments[1]["precision"]) if "precision" in arguments[1] else None


def _named(text: str) -> str:
    value = json.loads(text)
    if value is None:
        return "the backend's default"
    one = value[0] if isinstance(value, list) else value
    return str(one["$enum"][1]) if isinstance(one, dict) and "$enum" in one else str(one)


REGISTER = DefaultMatmulPrecision()

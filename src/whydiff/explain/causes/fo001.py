"""FO001 activation-variant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.causes._activations import activation
from whydiff.explain.causes._explained import Finding, PlaceRule, View
from whydiff.records import Evidence, Remedy, Verdict


class ActivationVariant(PlaceRule):
    """The two sides apply different activation functions to the same values.

    What it detects:
        An origin whose result is one known activation of its input on the reference's side and another
        one on the candidate's: GELU by erf, by tanh or quick GELU, SiLU, ReLU, squared ReLU, leaky ReLU
        (0.01), ELU, softplus, Mish, hard swish, sigmoid, tanh. Either side may be spelt out in several ops; ops
        that both sides share are taken together with those that differ.

    Why it happens:
        "GELU" names three functions that differ by up to 2e-2: libraries and papers differ in which one
        they mean, checkpoints were trained with one of them, and conversion scripts map ``gelu``,
        ``gelu_new``, ``gelu_pytorch_tanh`` and ``quick_gelu`` onto whatever is at hand.

    Evidence required:
        Both sides' ops are carried out in float64 on the recorded inputs, where rounding plays no part.
        Each side's result must be one activation of the table to within float32 constants, and at least
        ten times nearer to it than to the next; the two must differ.

    Look-alikes:
        ST006 if a module's attribute or a configuration key carries the variant (``approximate``). An
        activation that is evaluated in a narrower dtype is PR002: in float64 both sides agree.

    Example:
        ``gelu(x)`` against ``gelu(x, approximate="tanh")``, chosen in the code.

    Remedy:
        Use the activation that the weights were trained with on both sides.

    How it is verified:
        By replay: the candidate's op gets the reference's argument (``set-argument``), and the outputs must become equal
        bit for bit; or its result is computed by the reference's activation from the candidate's own input (``compute``,
        in float64), and nothing but rounding may be left; both ways. Where only one side has the ops they are inserted
        or removed.

    References:
        Hendrycks and Gimpel, arXiv:1606.08415; Ramachandran et al., arXiv:1710.05941; PyTorch,
        torch.nn.GELU (approximate).
    """

    code = "FO001"
    name = "activation-variant"
    says = "the candidate applies {candidate}, the reference {reference}"
    yields_to = ("IN", "FO002")

    def explain(self, view: View) -> Finding | None:
        """Which activation each side applies, if both are known."""
        if view.one_function:
            return None
        return self._of(view)

    def explain_joint(self, view: View) -> Finding | None:
        """The same of ops that both sides share in part."""
        return None if view.one_function else self._of(view)

    def _of(self, view: View) -> Finding | None:
        for x in view.inputs_like_output():
            ours, theirs = (activation(x, side.reshape(-1)) for side in view.exact)
            if ours is None or theirs is None or ours[0] == theirs[0]:
                continue
            evidence = Evidence(
                f"the reference applies {ours[0]} (in float64 {ours[1]:.1e} of its size away, {ours[2]} "
                f"{ours[3]:.1e}) and the candidate {theirs[0]} ({theirs[1]:.1e}, {theirs[2]} {theirs[3]:.1e})",
                {
                    "reference": ours[0],
                    "candidate": theirs[0],
                    "reference_distance": ours[1],
                    "candidate_distance": theirs[1],
                    "runners_up": [ours[2], theirs[2]],
                    "runner_up_distances": [ours[3], theirs[3]],
                },
            )
            computed, put = ((), ()) if view.give_argument() else view.compute(x, (theirs[0], ours[0]))
            return Finding(
                self.code,
                (ours[0], theirs[0]),
                Verdict.SEMANTIC,
                (evidence,),
                view.give_argument() or computed or view.exchange_step(),
                {"reference": ours[0], "candidate": theirs[0]},
                put_in=put,
            )
        return None

    def remedy(self, finding: Finding) -> Remedy:
        """Apply what the weights were trained with."""
        ours, theirs = finding.facts["reference"], finding.facts["candidate"]
        return Remedy(
            f"Apply the same activation on both sides: the reference applies {ours}, the candidate applies {theirs}. The "
            "right one is that with which the weights were trained.",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """GELU by erf against GELU by tanh."""
        import torch

        torch.manual_seed(0)
        first, second = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
        x = torch.randn(4, 8)

        def run(approximate: str) -> Any:
            return second(torch.nn.functional.gelu(first(x), approximate=approximate))

        return lambda: run("none"), lambda: run("tanh")

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Powers of positive numbers, which are also their activations; numbers so small that every gate is one half."""
        import torch

        torch.manual_seed(0)
        head, positive, tiny = torch.randn(8, 4), torch.rand(4, 8) + 0.5, 1e-9 * torch.randn(4, 8)
        yield (lambda: positive.pow(2.0) @ head), (lambda: positive.pow(1.0) @ head)
        yield (lambda: (tiny * 1.0) @ head), (lambda: (tiny * 0.5) @ head)


REGISTER = ActivationVariant()

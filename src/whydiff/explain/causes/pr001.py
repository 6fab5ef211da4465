"""PR001 reduced-precision-matmul."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.causes._explained import Finding, PlaceRule, View
from whydiff.explain.causes._order import flags
from whydiff.explain.local_test.families import kind_of
from whydiff.records import Evidence, Remedy, Verdict

_PRODUCTS = ("product", "convolution", "attention")
_INPUTS = ("tf32", "bfloat16", "float16")


class ReducedPrecisionMatmul(PlaceRule):
    """A matrix product rounds its operands to fewer bits than their dtype has.

    What it detects:
        A matrix product, convolution or attention op whose inputs agree and whose result on one side is that
        of operands rounded to TF32, bfloat16 or float16 (or split into three bfloat16 products), although the
        operands are stored with more bits.

    Why it happens:
        ``torch.set_float32_matmul_precision``, ``allow_tf32``, JAX's default matmul precision,
        ``NVIDIA_TF32_OVERRIDE`` or an accelerator library trade bits for speed, per process and often far from
        the model; one side was run with the other setting.

    Evidence required:
        The op in float64 on operands rounded as each hypothesis says. The side's result must be at rounding
        level to one of them and at least ten times farther from every other, the plain product included.

    Look-alikes:
        PR002 if the program itself casts the operands; OR001 if both sides keep all bits and only the order
        of the sum differs; EN002 for a flag that no measured rounding explains.

    Example:
        A product whose operands are rounded to TF32 inside the op.

    Remedy:
        Choose the precision of products deliberately, and the same on both sides.

    How it is verified:
        By replay: the reference's op works on the candidate's inputs under the reference's flags
        (``replace-op``); the outputs must become equal bit for bit.

    References:
        PyTorch, torch.set_float32_matmul_precision; NVIDIA, TensorFloat-32 in the A100 GPU; Henry et al.,
        Leveraging the bfloat16 Artificial Intelligence Datatype, arXiv:1904.06376 (bf16x3).
    """

    code = "PR001"
    name = "reduced-precision-matmul"
    says = "the {side} computes products with {what}"
    yields_to = ("IN", "FO003", "EN003")

    def explain(self, view: View) -> Finding | None:
        """Which side rounds the operands, and to what."""
        if view.single is None or view.origin.kind not in ("implementation", "arguments"):
            return None
        if kind_of(view.seen.operations[0]) not in _PRODUCTS:
            return None
        for accepted in view.seen.result.hypotheses:
            if accepted.verdict is not Verdict.PRECISION or not all(_of_operands(code) for code in accepted.codes):
                continue
            changed = flags(view.case, *view.single)
            side = accepted.side
            evidence = [
                Evidence(
                    f"the {side}'s {view.single[0].site.op} is that of {accepted.text}: {accepted.distance:.2g} away, "
                    f"{accepted.runner_up_text} {accepted.runner_up:.2g}",
                    {
                        "side": side,
                        "hypotheses": list(accepted.codes),
                        "distance": accepted.distance,
                        "runner_up": accepted.runner_up,
                        "runner_up_is": accepted.runner_up_text,
                    },
                ),
                *view.seen.result.evidence[:2],
            ]
            if changed:
                listed = ", ".join(
                    f"{name} is {a} in the reference, {b} in the candidate" for name, (a, b) in changed.items()
                )
                evidence.append(
                    Evidence(
                        f"flags in force there: {listed}", {name: [str(a), str(b)] for name, (a, b) in changed.items()}
                    )
                )
            return Finding(
                self.code,
                (side, accepted.codes),
                Verdict.PRECISION,
                tuple(evidence),
                view.replace_op(),
                {
                    "side": side,
                    "what": accepted.text,
                    "flags": sorted(changed),
                    "framework": view.case.candidate.framework,
                },
            )
        return None

    def remedy(self, finding: Finding) -> Remedy:
        """Choose the precision of products for both sides."""
        code = 'torch.set_float32_matmul_precision("highest")\ntorch.backends.cudnn.allow_tf32 = False\n'
        if finding.facts["framework"] == "jax":
            code = 'jax.config.update("jax_default_matmul_precision", "highest")\n'
        return Remedy(
            f"The {finding.facts['side']} computes products with {finding.facts['what']}. Choose the precision "
            "deliberately and set it on both sides; the code asks for all bits.",
            code,
        )

    def example(self) -> tuple[Any, Any]:
        """A product against one that rounds its operands to TF32 (emulated, so that it runs on any machine)."""
        import torch

        library = torch.library.Library(f"whydiff_example_{id(object())}", "DEF")
        library.define("mm(Tensor self, Tensor mat2) -> Tensor")

        def rounded(x: Any) -> Any:
            if x.dtype is not torch.float32:
                return x
            return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

        library.impl("mm", lambda a, b: rounded(a) @ rounded(b), "CPU")
        product = getattr(torch.ops, library.ns).mm
        torch.manual_seed(0)
        a, b = torch.randn(16, 64), torch.randn(64, 16)
        return lambda: torch.tanh(a @ b), lambda keep=library: torch.tanh(product(a, b))

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Another scale, one operand that is another number, and a subtraction that rounds what it reads."""
        import torch

        torch.manual_seed(0)
        a, b = torch.randn(16, 64), torch.randn(64, 16)
        library = torch.library.Library(f"whydiff_impostor_{id(object())}", "DEF")
        library.define("mm(Tensor self, Tensor mat2) -> Tensor")
        library.impl("mm", lambda a, b: (a @ b) * 1.0005, "CPU")
        scaled = getattr(torch.ops, library.ns).mm
        yield (lambda: torch.tanh(a @ b)), (lambda keep=library: torch.tanh(scaled(a, b)))
        yield (lambda: torch.tanh(a @ b)), (lambda: torch.tanh(a @ (b * 1.001)))
        library.define("sub(Tensor self, Tensor other) -> Tensor")
        library.impl("sub", lambda a, b: a.bfloat16().float() - b.bfloat16().float(), "CPU")
        difference, c = getattr(torch.ops, library.ns).sub, b.mT.clone()
        yield (lambda: torch.tanh(a - c)), (lambda keep=library: torch.tanh(difference(a, c)))


def _of_operands(code: str) -> bool:
    return code == "bfloat16x3" or any(code.startswith(f"{name}-") for name in _INPUTS)


REGISTER = ReducedPrecisionMatmul()

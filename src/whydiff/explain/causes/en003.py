"""EN003 attention-backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.causes._explained import Finding, PlaceRule, View
from whydiff.explain.local_test.families import kind_of
from whydiff.records import Call, Evidence, Remedy, Verdict


class AttentionBackend(PlaceRule):
    """Both sides compute the same attention with another implementation of it.

    What it detects:
        A region that computes softmax(scale · Q Kᵀ + mask) V of the same inputs by other ops on the two sides:
        a fused kernel (flash, memory-efficient, cuDNN, the CPU's flash kernel) against another one or against
        matrix products and a softmax.

    Why it happens:
        ``attn_implementation="eager"`` against ``"sdpa"`` or ``"flash_attention_2"``;
        ``scaled_dot_product_attention`` chooses its kernel by device, dtype, shapes, mask and version, and
        falls back without a word.

    Evidence required:
        In float64, on the recorded Q, K, V and mask, both sides give the same result, and at least one side
        is a fused attention op. Where the scores are too many to be held, at a sample of whole rows.

    Look-alikes:
        Another mask, scale or dropout gives other results in float64 (FO003 for the scale). OR001 if the op
        is the same.

    Example:
        Products and a softmax against ``scaled_dot_product_attention``.

    Remedy:
        Accept it: it is rounding. For equal bits, choose the same implementation on both sides.

    How it is verified:
        By replay: the reference's ops take the candidate's place, on the candidate's inputs (``replace-op``);
        the outputs must become equal bit for bit.

    References:
        PyTorch, torch.nn.functional.scaled_dot_product_attention and torch.nn.attention.sdpa_kernel; Dao et
        al., FlashAttention, arXiv:2205.14135; huggingface/transformers, attention interface.
    """

    code = "EN003"
    name = "attention-backend"
    says = "the two sides compute attention with other kernels"
    samples = True
    yields_to = ("IN", "FO003")

    def explain(self, view: View) -> Finding | None:
        """Which implementation each side has, if both are attention."""
        if view.origin.kind == "layout" or not view.one_function:
            return None
        names = [_ops(calls) for calls in view.seen.calls]
        if names[0] == names[1] or not any(
            single and kind_of(single[0]) == "attention" for single in view.seen.singles
        ):
            return None
        keys = [key for key in view.case.config_changes if "attn_implementation" in key]
        evidence = [
            Evidence(
                f"the same attention, {view.apart:.1e} of its size apart in float64{_at(view)}: {names[0]} in the "
                f"reference, {names[1]} in the candidate",
                {"reference": names[0], "candidate": names[1], "apart_in_float64": view.apart},
            )
        ]
        if keys:
            ours, theirs = view.case.config_changes[keys[0]]
            evidence.append(
                Evidence(
                    f"the configuration says so: {keys[0]} is {ours!r} in the reference, {theirs!r} in the candidate",
                    {"config": keys, "reference": ours, "candidate": theirs},
                )
            )
        return Finding(
            self.code,
            tuple(names),
            Verdict.ROUNDING,
            tuple(evidence),
            view.replace_op(),
            {"reference": names[0], "candidate": names[1], "framework": view.case.candidate.framework},
        )

    def remedy(self, finding: Finding) -> Remedy:
        """Choose one implementation, or accept it."""
        code = "from torch.nn.attention import SDPBackend, sdpa_kernel\n\nwith sdpa_kernel(SDPBackend.MATH):\n    ...\n"
        if finding.facts["framework"] == "jax":
            code = 'jax.nn.dot_product_attention(q, k, v, implementation="xla")\n'
        return Remedy(
            "Accept it, both are attention; or choose one implementation on both sides: the reference runs "
            f"{finding.facts['reference']}, the candidate {finding.facts['candidate']}.",
            code,
        )

    def example(self) -> tuple[Any, Any]:
        """Attention spelt out against the fused op."""
        import torch

        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
        return (
            lambda: torch.tanh(torch.softmax(q @ k.mT / 8**0.5, -1) @ v),
            lambda: torch.tanh(torch.nn.functional.scaled_dot_product_attention(q, k, v)),
        )

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Another implementation, and another scale, a mask, or other values."""
        import torch

        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
        fused = torch.nn.functional.scaled_dot_product_attention

        def spelt_out(scale: float) -> Any:
            return torch.tanh(torch.softmax(q @ k.mT * scale, -1) @ v)

        yield (lambda: spelt_out(1 / 9**0.5)), (lambda: torch.tanh(fused(q, k, v)))
        yield (lambda: spelt_out(1 / 8**0.5)), (lambda: torch.tanh(fused(q, k, v, is_causal=True)))
        yield (lambda: spelt_out(1 / 8**0.5)), (lambda: torch.tanh(fused(q, k, v * 1.001)))


def _at(view: View) -> str:
    judged, whole = view.seen.result.sampled
    return f" at {judged} of {whole} results" if view.seen.sampled else ""


def _ops(calls: Any) -> str:
    ops = [call.site.op for call in calls if isinstance(call, Call)]
    return ops[0] if len(ops) == 1 else f"{len(ops)} ops ({', '.join(ops[:6])}{' …' if len(ops) > 6 else ''})"


REGISTER = AttentionBackend()

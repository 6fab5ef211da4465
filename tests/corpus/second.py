"""Second half: written after the detectors were frozen; nothing was tuned on it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from tests.corpus.cases import Pair, benign, defect
from tests.corpus.models import bert, changed, gemma2, gpt2, ids, llama, logits, mixtral, randn, t5, vit
from torch import nn

# --------------------------------------------------------------------------- defects: state


@defect("semantic", "ST", quick=True)
def gpt2_head_not_tied() -> Pair:
    """The head was copied from the embedding and then trained on."""
    model = gpt2()

    def untie(m: Any) -> None:
        m.lm_head.weight = nn.Parameter(m.lm_head.weight.clone() * 1.01)

    return logits(model), logits(changed(model, untie)), (ids(2),)


@defect("precision", "ST")
def t5_encoder_weights_through_half() -> Pair:
    """Weights that went through float16 in a checkpoint."""
    model = t5()

    def through_half(m: Any) -> None:
        for parameter in m.parameters():
            parameter.copy_(parameter.half().float())

    return logits(model), logits(changed(model, through_half)), (ids(),)


@defect("semantic", "ST")
def batch_norm_statistics_lost() -> Pair:
    """Running statistics were not loaded."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8) * 2 + 1)
    model.eval()
    return model, changed(model, lambda m: m[1].reset_running_stats()), (randn(2, 3, 8, 8),)


@defect("semantic", "ST FO", quick=True)
def llama_rotary_base() -> Pair:
    """Rotary base 10000 where the model has 500000."""
    table = {"rope_type": "default", "rope_theta": 500000.0}
    return logits(llama(rope_parameters=table)), logits(llama()), (ids(length=20),)


# --------------------------------------------------------------------------- defects: formula


@defect("semantic", "FO ST")
def mixtral_router_not_renormalised() -> Pair:
    """The chosen experts' probabilities are not made to sum to one."""
    weight, experts = randn(4, 16, seed=1), randn(4, 16, 16, seed=2) / 4

    def run(renormalise: bool) -> Any:
        def mix(x: torch.Tensor) -> torch.Tensor:
            chosen, index = torch.softmax(x @ weight.T, -1).topk(2, -1)
            if renormalise:
                chosen = chosen / chosen.sum(-1, keepdim=True)
            every = torch.einsum("nd,edf->nef", x, experts)
            return (chosen[..., None] * every.gather(1, index[..., None].expand(-1, -1, 16))).sum(1)

        return mix

    return run(True), run(False), (randn(6, 16),)


@defect("semantic", "FO", quick=True)
def embeddings_not_scaled() -> Pair:
    """Embeddings times √d are left unscaled."""
    table, weight = randn(20, 16, seed=1), randn(16, 16, seed=2)

    def run(scaled: bool) -> Any:
        def embed(x: torch.Tensor) -> torch.Tensor:
            rows = F.embedding(x, table)
            return torch.tanh((rows * 16**0.5 if scaled else rows) @ weight)

        return embed

    return run(True), run(False), (torch.arange(10)[None],)


@defect("semantic", "FO")
def rms_norm_without_the_mean() -> Pair:
    """Layer norm's formula where RMS norm is meant (nothing else differs)."""
    weight = 1 + 0.1 * randn(32, seed=1)
    return (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight,
        lambda x: F.layer_norm(x, (32,), weight, None, 1e-6),
        (randn(6, 32) + 0.5,),
    )


@defect("semantic", "FO", quick=True)
def gate_and_up_swapped() -> Pair:
    """A fused gate-and-up projection read in the other order."""
    weight, down = randn(64, 16, seed=1), randn(32, 16, seed=2)

    def run(swapped: bool) -> Any:
        def mlp(x: torch.Tensor) -> torch.Tensor:
            gate, up = F.linear(x, weight).chunk(2, -1)
            if swapped:
                gate, up = up, gate
            return (F.silu(gate) * up) @ down

        return mlp

    return run(False), run(True), (randn(5, 16),)


# --------------------------------------------------------------------------- defects: precision, range, compiler


@defect("precision", "PR")
def softmax_in_bf16() -> Pair:
    """Attention probabilities computed, step by step, in bfloat16 instead of float32."""
    q, k, v = (randn(1, 2, 16, 16, seed=s, dtype=torch.bfloat16) for s in range(3))

    def run(wide: bool) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            scores = q @ k.transpose(-1, -2) / 4
            e = torch.exp((scores.float() if wide else scores) - scores.amax(-1, keepdim=True))
            return (e / e.sum(-1, keepdim=True)).to(q.dtype) @ v

        return attend

    return run(True), run(False), (q, k, v)


@defect("precision", "PR")
def head_in_bf16() -> Pair:
    """The last projection in bfloat16 on one side."""
    torch.manual_seed(0)
    body, head = nn.Linear(32, 32), nn.Linear(32, 50, bias=False)
    return (
        lambda x: head(torch.tanh(body(x))),
        lambda x: F.linear(torch.tanh(body(x)).bfloat16(), head.weight.bfloat16()).float(),
        (randn(4, 32),),
    )


@defect("unstable", "OV", quick=True)
def squares_overflow_in_half() -> Pair:
    """RMS norm's squares taken in float16."""

    def wide(x: torch.Tensor) -> torch.Tensor:
        return (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).half()

    def narrow(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    return wide, narrow, ((400 * randn(4, 32)).half(),)


@defect("unstable", "OV")
def a_row_masked_throughout() -> Pair:
    """A padded row with every key hidden: its softmax is NaN."""
    scores = randn(4, 6)
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[2] = False
    return (
        lambda s, m: torch.softmax(s.masked_fill(~m, -1e9), -1),
        lambda s, m: torch.softmax(s.masked_fill(~m, -math.inf), -1),
        (scores, keep),
    )


# --------------------------------------------------------------------------- defects: inputs, cache, mode, loss


@defect("semantic", "IN")
def gemma2_window_one_wider() -> Pair:
    """The sliding window sees one more token."""
    q, k, v = (randn(1, 2, 12, 8, seed=s) for s in range(3))

    def run(window: int) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            at = torch.arange(12)
            keep = (at[:, None] >= at[None]) & (at[:, None] - at[None] < window)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)

        return attend

    return run(4), run(5), (q, k, v)


@defect("semantic", "IN")
def bert_packed_positions_go_on() -> Pair:
    """Two packed sequences; positions of the second do not begin anew."""
    model = bert()

    def run(anew: bool) -> Any:
        def encode(x: torch.Tensor) -> torch.Tensor:
            at = torch.arange(12)
            at = torch.where(at < 6, at, at - 6) if anew else at
            return model(x, position_ids=at[None])[0]  # type: ignore[no-any-return]

        return encode

    return run(True), run(False), (ids(1, 12),)


@defect("semantic", "IN", quick=True)
def encoder_not_causal() -> Pair:
    """``is_causal`` is forgotten."""
    q, k, v = (randn(1, 2, 9, 8, seed=s) for s in range(3))
    return (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        (q, k, v),
    )


@defect("semantic", "MD")
def vit_dropout_left_on() -> Pair:
    """Only the encoder's layers were left in training mode."""
    model = vit(hidden_dropout_prob=0.2)

    def train(m: Any) -> None:
        for module in m.modules():
            if isinstance(module, nn.Dropout):
                module.train()

    return logits(model), logits(changed(model, train)), (randn(1, 3, 16, 16),)


@defect("semantic", "TR", quick=True)
def accumulated_loss_not_divided() -> Pair:
    """Losses of four micro-batches are added, not averaged."""
    weight = randn(8, 12, seed=1)

    def run(divide: bool) -> Any:
        def loss(x: torch.Tensor) -> torch.Tensor:
            total = torch.zeros(())
            for part in x.chunk(4):
                total = total + F.cross_entropy(part @ weight.T, torch.arange(len(part)))
            return total / 4 if divide else total

        return loss

    return run(True), run(False), (randn(20, 12),)


@defect("semantic", "ST MD", every=True)
def bert_weight_and_mode() -> Pair:
    """A changed weight, and dropout left on; an unused buffer differs too."""
    model = bert()

    def plant(m: Any) -> None:
        m.encoder.layer[1].intermediate.dense.weight[2, 2] += 0.2
        m.register_buffer("unused", torch.ones(2), persistent=False)
        m.train()

    return logits(model), logits(changed(model, plant)), (ids(),)


@defect("semantic", "ST FO IN", every=True)
def toy_weight_scale_and_mask() -> Pair:
    """A changed weight, another scale and a wider mask at once."""
    weight = randn(16, 16, seed=4) / 4

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(16, 16, bias=False)
            self.project.weight.data.copy_(weight)

    class Right(Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.project(x)
            scores = (h @ h.transpose(-1, -2)) * 0.25
            return torch.softmax(scores.masked_fill(torch.ones(8, 8).bool().triu(1), -math.inf), -1) @ h

    class Wrong(Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.project(x)
            scores = (h @ h.transpose(-1, -2)) * 0.2
            return torch.softmax(scores.masked_fill(torch.ones(8, 8).bool().triu(2), -math.inf), -1) @ h

    right, wrong = Right(), Wrong()
    wrong.project.weight.data[1, 1] += 0.3
    return right, wrong, (randn(2, 8, 16),)


# --------------------------------------------------------------------------- benign


@benign("identical", quick=True)
def gemma2_built_twice() -> Pair:
    """Two objects, one seed; another name and an unused setting."""
    return logits(gemma2()), logits(gemma2(initializer_range=0.02, bos_token_id=5)), (ids(),)


@benign()
def gpt2_batch_in_bf16() -> Pair:
    """Row 0 alone and in a batch of 8, bfloat16."""
    model = gpt2().to(torch.bfloat16)
    return (lambda x: model(x[:1])[0]), (lambda x: model(x)[0]), (ids(8, 10),)


@benign(quick=True)
def mean_over_rows_in_chunks() -> Pair:
    """A mean of a long row, and a mean of chunk means."""
    return (
        lambda x: torch.tanh(x.mean(-1)),
        lambda x: torch.tanh(torch.stack([part.mean(-1) for part in x.chunk(4, -1)]).mean(0)),
        (randn(5, 4096),),
    )


@benign(quick=True)
def convolution_as_a_product() -> Pair:
    """conv2d and unfold with a product."""
    weight = randn(6, 3, 3, 3, seed=1)

    def unfolded(x: torch.Tensor) -> torch.Tensor:
        return (weight.reshape(6, -1) @ F.unfold(x, 3)).reshape(x.shape[0], 6, 6, 6)

    return (lambda x: F.conv2d(x, weight)), unfolded, (randn(2, 3, 8, 8),)


@benign("rounding identical precision", "PR")
def softmax_asked_for_in_bf16() -> Pair:
    """The kernel computes in float32 inside, whatever it is asked for: rounded afterwards, no bit differs."""
    q, k, v = (randn(1, 2, 16, 16, seed=s, dtype=torch.bfloat16) for s in range(3))

    def run(wide: bool) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            scores = q @ k.transpose(-1, -2) / 4
            return torch.softmax(scores, -1, dtype=torch.float32 if wide else None).to(q.dtype) @ v

        return attend

    return run(True), run(False), (q, k, v)


@benign(quick=True)
def softmax_by_hand() -> Pair:
    """Softmax fused and in three ops."""

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        e = torch.exp(x - x.amax(-1, keepdim=True))
        return e / e.sum(-1, keepdim=True)

    return (lambda x: torch.softmax(x, -1)), by_hand, (4 * randn(8, 50),)


@benign()
def gpt2_eager_against_sdpa() -> Pair:
    """Two attention implementations of GPT-2."""
    return logits(gpt2(attention="eager")), logits(gpt2()), (ids(1, 12),)


@benign("rounding identical precision")
def bert_eager_against_sdpa_bf16() -> Pair:
    """Two attention implementations in bfloat16; one keeps probabilities in float32."""
    one, other = bert(attention="eager").to(torch.bfloat16), bert().to(torch.bfloat16)
    return logits(one), logits(other), (ids(1, 12),)


@benign()
def bert_feed_forward_in_chunks() -> Pair:
    """The feed-forward part two tokens at a time."""
    return logits(bert()), logits(bert(chunk_size_feed_forward=2)), (ids(1, 12),)


@benign()
def llama_left_padded_with_positions() -> Pair:
    """Left padding, masked, with positions that do not count it."""
    model = llama(attention="eager")

    def padded(x: torch.Tensor) -> torch.Tensor:
        more = F.pad(x, (3, 0))
        mask = (torch.arange(more.shape[1]) >= 3).long()[None]
        at = (mask.cumsum(-1) - 1).clamp(min=0)
        return model(more, attention_mask=mask, position_ids=at)[0][:, 3:]  # type: ignore[no-any-return]

    return (lambda x: model(x, attention_mask=torch.ones_like(x))[0]), padded, (ids(1, 9),)


@benign()
def gpt2_prefill_in_two_parts() -> Pair:
    """Chunked prefill with a cache against one pass."""
    model = gpt2(use_cache=True)

    def chunked(x: torch.Tensor) -> torch.Tensor:
        cache = model(x[:, :6], use_cache=True).past_key_values
        return model(x[:, 6:], past_key_values=cache, use_cache=True)[0]  # type: ignore[no-any-return]

    return (lambda x: model(x, use_cache=False)[0][:, 6:]), chunked, (ids(1, 11),)


@benign()
def vit_alone_and_in_a_batch() -> Pair:
    """An image alone and among eight."""
    model = vit()
    return (lambda x: model(x[:1])[0]), (lambda x: model(x)[0][:1]), (randn(8, 3, 16, 16),)


@benign()
def mixtral_batch_of_equal_prompts() -> Pair:
    """Tokens are grouped by expert: other groups in a batch."""
    model = mixtral()
    return (lambda x: model(x[:1])[0]), (lambda x: model(x)[0][:1]), (ids(6, 8),)


@benign()
def gradients_of_a_batch_in_two_halves() -> Pair:
    """One backward pass, and two that accumulate."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    weights = list(model.parameters())

    def whole(x: torch.Tensor) -> Any:
        return torch.autograd.grad(model(x).pow(2).mean(), weights)

    def halves(x: torch.Tensor) -> Any:
        parts = [torch.autograd.grad(model(half).pow(2).mean() / 2, weights) for half in x.chunk(2)]
        return tuple(a + b for a, b in zip(*parts, strict=True))

    return whole, halves, (randn(8, 16),)


@benign("rounding identical", quick=True)
def einsum_against_bmm() -> Pair:
    """One contraction, two spellings."""
    return (
        lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b),
        lambda a, b: (b @ a.transpose(-1, -2)).transpose(-1, -2),
        (randn(2, 3, 5, 40), randn(2, 3, 7, 40, seed=1)),
    )

"""First half: written while the detectors were written."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from tests.corpus.cases import Pair, benign, defect
from tests.corpus.models import bert, changed, gemma2, gpt2, ids, llama, logits, mixtral, randn, t5, vit
from torch import nn

# --------------------------------------------------------------------------- defects: state


@defect("precision", "ST", quick=True)
def llama_rotary_table_in_bf16() -> Pair:
    """``model.to(bfloat16)`` rounds the rotary table along with the weights."""
    model = llama().to(torch.float32)
    table = model.model.rotary_emb.inv_freq.clone()
    reference = changed(model, lambda m: m.to(torch.bfloat16))
    reference.model.rotary_emb.inv_freq = table
    candidate = changed(model, lambda m: m.to(torch.bfloat16))
    return logits(reference), logits(candidate), (ids(length=24),)


@defect("semantic", "ST", quick=True)
def llama_one_weight_changed() -> Pair:
    """One element of one weight differs by a hundredth."""
    model = llama()
    candidate = changed(model, lambda m: m.model.layers[1].mlp.down_proj.weight[3, 5].add_(0.01))
    return logits(model), logits(candidate), (ids(),)


@defect("semantic", "ST")
def bert_position_rows_swapped() -> Pair:
    """Two rows of the learned position table are swapped."""
    model = bert()

    def swap(m: Any) -> None:
        weight = m.embeddings.position_embeddings.weight
        weight[[2, 3]] = weight[[3, 2]].clone()

    return logits(model), logits(changed(model, swap)), (ids(2),)


@defect("semantic", "ST")
def t5_relative_bias_lost() -> Pair:
    """The relative position bias was not loaded."""
    model = t5()
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    model.get_submodule(bias).weight.data.normal_()
    candidate = changed(model, lambda m: m.get_submodule(bias).weight.zero_())
    return logits(model), logits(candidate), (ids(),)


@defect("semantic", "ST", quick=True)
def vit_layer_norm_epsilon() -> Pair:
    """Layer norm with epsilon 1e-5 instead of 1e-12."""
    model = vit()

    def coarser(m: Any) -> None:
        for module in m.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-3

    return logits(model), logits(changed(model, coarser)), (randn(2, 3, 16, 16),)


@defect("semantic", "ST")
def mixtral_one_expert_instead_of_two() -> Pair:
    """The router chooses one expert where two were trained."""
    return logits(mixtral()), logits(mixtral(num_experts_per_tok=1)), (ids(),)


# --------------------------------------------------------------------------- defects: formula


@defect("semantic", "FO ST")
def gpt2_gelu_erf_for_tanh() -> Pair:
    """GELU by erf where the model was trained with the tanh approximation."""
    return logits(gpt2()), logits(gpt2(activation_function="gelu")), (ids(),)


@defect("semantic", "FO", quick=True)
def attention_scale_off_by_one() -> Pair:
    """Scores divided by √(d+1)."""

    def attention(width: int) -> Any:
        def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            scores = q @ k.transpose(-1, -2) / math.sqrt(width)
            return torch.softmax(scores, -1) @ v

        return run

    q, k, v = (randn(2, 4, 12, 16, seed=s) for s in range(3))
    return attention(16), attention(17), (q, k, v)


@defect("semantic", "FO", quick=True)
def rotary_pairs_interleaved() -> Pair:
    """Rotary embedding rotates neighbours where halves were meant."""
    angles = torch.arange(12)[:, None] * 1e2 ** -(torch.arange(8) / 8)
    weight = randn(16, 16, seed=5)

    def halves(x: torch.Tensor) -> torch.Tensor:
        h = x @ weight
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        one, two = h.chunk(2, -1)
        return torch.softmax(h * cos + torch.cat([-two, one], -1) * sin, -1)

    def neighbours(x: torch.Tensor) -> torch.Tensor:
        h = x @ weight
        cos, sin = angles.cos().repeat_interleave(2, -1), angles.sin().repeat_interleave(2, -1)
        turned = torch.stack([-h[..., 1::2], h[..., ::2]], -1).flatten(-2)
        return torch.softmax(h * cos + turned * sin, -1)

    return halves, neighbours, (randn(3, 12, 16),)


@defect("semantic", "FO")
def qkv_split_by_head() -> Pair:
    """A fused projection split as (head, 3, size) where it was stored as (3, head, size)."""
    weight = randn(96, 32, seed=1) / 6

    def run(pattern: str) -> Any:
        def attend(x: torch.Tensor) -> torch.Tensor:
            fused = F.linear(x, weight)
            batch, length, _ = fused.shape
            if pattern == "3 h d":
                q, k, v = fused.view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
            else:
                q, k, v = fused.view(batch, length, 4, 3, 8).permute(3, 0, 2, 1, 4)
            out = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
            return out.transpose(1, 2).reshape(batch, length, 32)

        return attend

    return run("3 h d"), run("h 3 d"), (randn(2, 6, 32),)


@defect("semantic", "FO")
def grouped_heads_tiled() -> Pair:
    """Key heads repeated a b a b where the queries are grouped a a b b."""
    q, k, v = randn(1, 4, 6, 8), randn(1, 2, 6, 8, seed=1), randn(1, 2, 6, 8, seed=2)

    def run(tiled: bool) -> Any:
        def spread(x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 2, 1, 1) if tiled else x.repeat_interleave(2, 1)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.softmax(q @ spread(k).transpose(-1, -2) / 8**0.5, -1) @ spread(v)

        return attend

    return run(False), run(True), (q, k, v)


@defect("semantic", "FO ST")
def gemma2_without_soft_capping() -> Pair:
    """Soft capping of the scores is left out."""
    model = gemma2(attn_logit_softcapping=1.0)
    return logits(model), logits(gemma2(attn_logit_softcapping=None)), (ids(),)


# --------------------------------------------------------------------------- defects: precision and range


@defect("precision", "PR", quick=True)
def products_of_bf16_inputs() -> Pair:
    """A float32 product whose operands went through bfloat16."""
    weight = randn(48, 64, seed=1)

    def narrow(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh((x.bfloat16() @ weight.T.bfloat16()).float())

    return (lambda x: torch.tanh(x @ weight.T)), narrow, (randn(8, 64),)


@defect("precision", "PR EN")
def bert_under_autocast() -> Pair:
    """The candidate runs under autocast to bfloat16."""
    model = bert()

    def autocast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)[0].float()  # type: ignore[no-any-return]

    return logits(model), autocast, (ids(),)


@defect("precision", "PR")
def norm_multiplies_before_the_cast() -> Pair:
    """RMS norm: times the weight in bfloat16 against in float32 before rounding."""
    weight = (1 + 0.1 * randn(64, seed=1)).bfloat16()

    def norm(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)

    return (
        lambda x: weight * norm(x).to(x.dtype),
        lambda x: (weight.float() * norm(x)).to(x.dtype),
        (randn(8, 64, dtype=torch.bfloat16),),
    )


@defect("unstable semantic", "FO", also="OV")
def one_pass_variance_of_a_large_mean() -> Pair:
    """E[x²] − E[x]² cancels where the mean is large."""

    def two_pass(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)

    def one_pass(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x * x).mean(-1, keepdim=True) - mean * mean
        return (x - mean) * torch.rsqrt(variance.clamp(min=0) + 1e-5)

    return two_pass, one_pass, (randn(8, 64) * 0.1 + 3000.0,)


@defect("unstable", "OV", quick=True)
def half_scores_scaled_late() -> Pair:
    """fp16 scores overflow because they are scaled after the product."""
    q, k = (60 * randn(1, 2, 8, 64, seed=s) for s in range(2))

    def early(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.softmax(((q / 8) @ k.transpose(-1, -2)).float(), -1)

    def late(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.softmax(((q @ k.transpose(-1, -2)) / 8).float(), -1)

    return early, late, (q.half(), k.half())


# --------------------------------------------------------------------------- defects: positions, masks, cache


@defect("semantic", "IN", quick=True)
def gpt2_positions_from_one() -> Pair:
    """Positions counted from one, as a serving engine's off-by-one has it."""
    model = gpt2()

    def run(start: int) -> Any:
        return lambda x: model(x, position_ids=torch.arange(start, start + x.shape[1])[None])[0]

    return run(0), run(1), (ids(2),)


@defect("semantic", "IN")
def bert_padding_mask_forgotten() -> Pair:
    """Padded keys take part in attention because no mask was given."""
    model = bert()
    x = ids(2)
    mask = torch.ones_like(x)
    mask[1, 8:] = 0
    return (
        lambda x, m: model(x, attention_mask=m)[0],
        lambda x, m: model(x, attention_mask=torch.ones_like(m))[0],
        (x, mask),
    )


@defect("semantic", "IN FO ST", quick=True)
def causal_mask_one_too_wide() -> Pair:
    """Every query sees the next token."""
    q, k, v = (randn(1, 2, 10, 8, seed=s) for s in range(3))

    def run(diagonal: int) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            hidden = torch.ones(10, 10, dtype=torch.bool).triu(diagonal)
            scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(hidden, -math.inf)
            return torch.softmax(scores, -1) @ v

        return attend

    return run(1), run(2), (q, k, v)


@defect("semantic", "IN")
def gpt2_left_padding_without_positions() -> Pair:
    """A left-padded prompt whose positions count the padding (absolute positions)."""
    model = gpt2()
    x = ids(1, 12)
    mask = torch.ones_like(x)
    mask[0, :4] = 0
    return (
        lambda x, m: model(x, attention_mask=m, position_ids=(m.cumsum(-1) - 1).clamp(min=0))[0][:, 4:],
        lambda x, m: model(x, attention_mask=m, position_ids=torch.arange(12)[None])[0][:, 4:],
        (x, mask),
    )


@defect("semantic", "IN")
def llama_stale_cache() -> Pair:
    """The second prompt goes on with the first prompt's cache."""
    model = llama(use_cache=True)

    def run(stale: bool) -> Any:
        def generate(first: torch.Tensor, second: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            cache = model(first, use_cache=True).past_key_values
            other = model(second, use_cache=True).past_key_values
            return model(last, past_key_values=cache if stale else other)[0]  # type: ignore[no-any-return]

        return generate

    return run(False), run(True), (ids(1, 8, 1), ids(1, 8, 2), ids(1, 1, 3))


# --------------------------------------------------------------------------- defects: mode, random numbers, loss


@defect("semantic", "MD")
def bert_left_in_training_mode() -> Pair:
    """``eval()`` was forgotten."""
    model = bert()
    return logits(model), logits(changed(model, lambda m: m.train())), (ids(),)


@defect("semantic nondeterministic", "MD", quick=True)
def dropout_that_ignores_eval() -> Pair:
    """``F.dropout(x, p)`` without ``training=self.training``."""

    class Obeys(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(F.dropout(x, 0.2, training=self.training))  # type: ignore[no-any-return]

    class Ignores(Obeys):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(F.dropout(x, 0.2))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    reference, candidate = Obeys().eval(), Ignores().eval()
    candidate.load_state_dict(reference.state_dict())
    return reference, candidate, (randn(4, 16),)


@defect("semantic", "TR FO", quick=True)
def loss_over_rows_for_tokens() -> Pair:
    """The sum of token losses divided by sequences instead of tokens."""
    weight = randn(24, 16, seed=1)

    def run(by_tokens: bool) -> Any:
        def loss(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            summed = F.cross_entropy((x @ weight.T).flatten(0, 1), labels.flatten(), reduction="sum")
            return summed / (labels.numel() if by_tokens else labels.shape[0])

        return loss

    return run(True), run(False), (randn(3, 7, 16), torch.arange(21).view(3, 7) % 24)


# --------------------------------------------------------------------------- defects: several at once


@defect("semantic", "ST001 ST003 ST006", every=True)
def llama_three_causes_and_decoys() -> Pair:
    """A rounded table, a changed weight, another epsilon; an unused buffer and an unused setting differ too."""
    model = llama()
    model.register_buffer("unused", torch.zeros(4), persistent=False)

    def plant(m: Any) -> None:
        m.model.rotary_emb.inv_freq.copy_(m.model.rotary_emb.inv_freq.bfloat16().float())
        m.model.layers[0].mlp.up_proj.weight[1, 2] += 0.05
        m.model.norm.variance_epsilon = 1e-3
        m.unused.fill_(1.0)
        m.config.initializer_range = 0.5

    return logits(model), logits(changed(model, plant)), (ids(length=16),)


@defect("semantic", "ST001 ST006", every=True, also="FO")
def bert_weight_and_activation() -> Pair:
    """A changed bias and the tanh GELU at once."""
    model = bert()

    def plant(m: Any) -> None:
        m.encoder.layer[0].output.dense.bias[3] += 0.1
        for layer in m.encoder.layer:
            layer.intermediate.intermediate_act_fn = nn.GELU(approximate="tanh")

    reference = changed(
        model, lambda m: [setattr(x.intermediate, "intermediate_act_fn", nn.GELU()) for x in m.encoder.layer]
    )
    return logits(reference), logits(changed(reference, plant)), (ids(),)


# --------------------------------------------------------------------------- benign: the same again


@benign("identical", quick=True)
def llama_reloaded() -> Pair:
    """Saved, built anew and loaded."""
    model = llama()
    other = llama(initializer_range=0.3)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    return logits(model), logits(other), (ids(),)


@benign("identical", quick=True)
def t5_with_inert_decoys() -> Pair:
    """Dropout's rate, an unused buffer and an unused position differ; nothing changes."""
    model = t5()

    def plant(m: Any) -> None:
        m.register_buffer("unused", torch.ones(3), persistent=False)
        for module in m.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5

    return logits(model), logits(changed(model, plant)), (ids(),)


# --------------------------------------------------------------------------- benign: batch, threads, order


@benign(quick=True)
def llama_alone_and_in_a_batch() -> Pair:
    """Row 0 of a batch of 20 against the row alone; all rows are returned."""
    model = llama()
    return (lambda x: model(x[:1])[0]), (lambda x: model(x)[0]), (ids(20, 8),)


@benign()
def bert_row_of_a_batch_bf16() -> Pair:
    """Row 0 of a batch, cut out, in bfloat16."""
    model = bert().to(torch.bfloat16)
    return (lambda x: model(x[:1])[0]), (lambda x: model(x)[0][:1]), (ids(16, 9),)


@benign("rounding identical", "EN")
def mlp_with_one_thread_and_two() -> Pair:
    """Another number of threads."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 512), nn.GELU(), nn.Linear(512, 64))

    def run(threads: int) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return model(x)  # type: ignore[no-any-return]
            finally:
                torch.set_num_threads(before)

        return forward

    return run(1), run(2), (randn(3, 1024),)


@benign(quick=True)
def sum_in_two_halves() -> Pair:
    """A product over K in one piece and in two."""
    weight = randn(32, 512, seed=1)
    return (
        lambda x: torch.tanh(x @ weight.T / 20),
        lambda x: torch.tanh((x[:, :256] @ weight[:, :256].T + x[:, 256:] @ weight[:, 256:].T) / 20),
        (randn(4, 512),),
    )


@benign()
def products_reassociated_bf16() -> Pair:
    """(x A) B against x (A B), bfloat16."""
    a, b = (randn(64, 64, seed=s, dtype=torch.bfloat16) / 8 for s in (1, 2))
    return (lambda x: (x @ a) @ b), (lambda x: x @ (a @ b)), (randn(8, 64, dtype=torch.bfloat16),)


# --------------------------------------------------------------------------- benign: attention, fusion


@benign()
def llama_eager_against_sdpa() -> Pair:
    """Two implementations of attention, float32."""
    return logits(llama(attention="eager")), logits(llama(attention="sdpa")), (ids(2, 16),)


@benign("rounding precision")
def sdpa_math_against_flash_bf16() -> Pair:
    """One call, two backends, bfloat16: flash rounds the probabilities to bfloat16, math keeps them in float32."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def run(backend: SDPBackend) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return attend

    q, k, v = (randn(1, 4, 32, 16, seed=s, dtype=torch.bfloat16) for s in range(3))
    return run(SDPBackend.MATH), run(SDPBackend.FLASH_ATTENTION), (q, k, v)


@benign(quick=True)
def layer_norm_fused_and_by_hand() -> Pair:
    """The fused operator against its formula."""
    weight, bias = 1 + 0.1 * randn(64, seed=1), randn(64, seed=2)

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * weight + bias

    return (lambda x: F.layer_norm(x, (64,), weight, bias)), by_hand, (randn(6, 64),)


@benign(quick=True)
def gelu_fused_and_by_hand() -> Pair:
    """GELU by erf, fused and composed."""
    return (lambda x: F.gelu(x)), (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))), (randn(16, 33),)


@benign()
def qkv_fused_and_separate() -> Pair:
    """One product of three stacked weights against three products."""
    weight = randn(96, 32, seed=1) / 6

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / 32**0.5, -1) @ v

    return (
        lambda x: attend(*F.linear(x, weight).chunk(3, -1)),
        lambda x: attend(*(F.linear(x, w) for w in weight.chunk(3))),
        (randn(2, 9, 32),),
    )


@benign()
def mixtral_experts_in_a_loop_and_grouped() -> Pair:
    """Experts one after another against batched products."""
    one, other = mixtral(), mixtral()
    one.config._experts_implementation = "eager"
    other.config._experts_implementation = "batched_mm"
    return logits(one), logits(other), (ids(1, 10),)


@benign()
def vit_channels_last() -> Pair:
    """Images in another memory layout."""
    model = vit()
    return (lambda x: model(x)[0], lambda x: model(x.to(memory_format=torch.channels_last))[0], (randn(2, 3, 16, 16),))


@benign()
def cross_entropy_by_parts() -> Pair:
    """Cross entropy against log-softmax and gather."""
    weight = randn(24, 16, seed=1)
    labels = torch.arange(12) % 24
    return (
        lambda x: F.cross_entropy(x @ weight.T, labels),
        lambda x: -torch.log_softmax(x @ weight.T, -1).gather(1, labels[:, None]).mean(),
        (randn(12, 16),),
    )


# --------------------------------------------------------------------------- benign: padding, cache, positions


@benign()
def bert_padded_on_the_right() -> Pair:
    """Four padded and masked keys more; the rows of the real tokens are returned."""
    model = bert(attention="eager")

    def padded(x: torch.Tensor) -> torch.Tensor:
        more = F.pad(x, (0, 4))
        mask = (torch.arange(more.shape[1]) < x.shape[1]).long()[None]
        return model(more, attention_mask=mask)[0][:, : x.shape[1]]  # type: ignore[no-any-return]

    return (lambda x: model(x, attention_mask=torch.ones_like(x))[0]), padded, (ids(1, 9),)


@benign()
def gpt2_right_padding_in_the_result() -> Pair:
    """The padded rows of the result are garbage by design: the padding token differs."""
    model = gpt2()
    x = ids(1, 12)
    mask = (torch.arange(12) < 9).long()[None]

    def run(token: int) -> Any:
        return lambda x, m: model(torch.where(m.bool(), x, token), attention_mask=m)[0][:, :9]

    return run(0), run(1), (x, mask)


@benign()
def llama_step_by_step() -> Pair:
    """The last logits with a cache, token by token, against one pass."""
    model = llama(use_cache=True)

    def stepwise(x: torch.Tensor) -> torch.Tensor:
        cache = model(x[:, :-1], use_cache=True).past_key_values
        return model(x[:, -1:], past_key_values=cache, use_cache=True)[0]  # type: ignore[no-any-return]

    return (lambda x: model(x, use_cache=False)[0][:, -1:]), stepwise, (ids(1, 10),)


@benign("rounding", "IN")
def llama_all_positions_shifted() -> Pair:
    """Rotary attention only sees distances: a common offset changes nothing but rounding."""
    model = llama()

    def run(start: int) -> Any:
        return lambda x: model(x, position_ids=torch.arange(start, start + x.shape[1])[None])[0]

    return run(0), run(5), (ids(1, 12),)

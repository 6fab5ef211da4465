"""Third part: held out, by another author who had not read the detectors; the expectations came before the run."""

from __future__ import annotations

import copy
import math
import tempfile
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from tests.corpus.cases import Pair, benign, defect
from tests.corpus.models import changed, gpt2, ids, llama, logits, mistral, neox, qwen2, randn, t5, vit, whisper
from torch import nn

# --------------------------------------------------------------------------- defects: state


@defect("semantic", "ST FO004")
def llama_query_rows_not_permuted() -> Pair:
    """A converter forgot to reorder query and key rows from neighbouring pairs to halves."""
    model = llama()

    def interleave(m: Any) -> None:
        for layer in m.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                weight = projection.weight
                pairs = weight.view(-1, 2, 4, weight.shape[1])  # heads of 8, each two halves of 4
                weight.copy_(pairs.transpose(1, 2).reshape(weight.shape).clone())

    return logits(model), logits(changed(model, interleave)), (ids(2),)


@defect("precision", "ST")
def neox_one_layer_through_bf16() -> Pair:
    """The weights of the second layer alone went through bfloat16."""
    model = neox()

    def round_(m: Any) -> None:
        for parameter in m.gpt_neox.layers[1].parameters():
            parameter.copy_(parameter.bfloat16().float())

    return logits(model), logits(changed(model, round_)), (ids(2),)


# --------------------------------------------------------------------------- defects: formula


@defect("semantic", "FO", quick=True)
def convolution_padded_on_both_sides() -> Pair:
    """A strided convolution padded by one all round where 'SAME' pads on the right and below only."""
    weight, head = randn(8, 3, 3, 3, seed=1) / 5, randn(5, 8, 1, 1, seed=2)

    def run(same: bool) -> Any:
        def stem(x: torch.Tensor) -> torch.Tensor:
            padded = F.pad(x, (0, 1, 0, 1) if same else (1, 1, 1, 1))
            return F.conv2d(F.relu(F.conv2d(padded, weight, stride=2)), head).mean((2, 3))

        return stem

    return run(True), run(False), (randn(2, 3, 8, 8),)


@defect("semantic", "FO ST")
def neox_residual_not_parallel() -> Pair:
    """The feed-forward part reads what attention wrote, where both should read the layer's input."""
    return logits(neox()), logits(neox(use_parallel_residual=False)), (ids(2),)


# --------------------------------------------------------------------------- defects: masks and caches


@defect("semantic", "IN ST")
def mistral_window_ignored() -> Pair:
    """The sliding window of four tokens is not applied."""
    return logits(mistral(sliding_window=4)), logits(mistral(sliding_window=None)), (ids(1, 14),)


@defect("semantic", "IN FO006 FO007")
def gpt2_beams_not_reordered() -> Pair:
    """The beams changed places, their keys and values did not."""
    model = gpt2(use_cache=True)

    def run(reorder: bool) -> Any:
        def step(prompts: torch.Tensor, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            cache = model(prompts, use_cache=True).past_key_values
            if reorder:
                cache.reorder_cache(beams)
            return model(tokens, past_key_values=cache, use_cache=True)[0]  # type: ignore[no-any-return]

        return step

    return run(True), run(False), (ids(3, 8), torch.tensor([2, 0, 0]), ids(3, 1, seed=1))


# --------------------------------------------------------------------------- defects: mode, repetition, loss


def _convolutional() -> Any:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, 3, 8, 8) * 2 + 1)
    return model.eval()


@defect("semantic", "MD", quick=True)
def batch_norm_left_in_training() -> Pair:
    """The norms normalise by the batch, while all else is in evaluation mode."""
    model = _convolutional()

    def train(m: Any) -> None:
        for module in m:
            if isinstance(module, nn.BatchNorm2d):
                module.train()

    return model, changed(model, train), (randn(4, 3, 8, 8),)


@defect("nondeterministic", "ND MD")
def router_noise_left_on() -> Pair:
    """The router's jitter is not switched off, and draws from a generator of its own."""
    weight, experts = randn(4, 16, seed=1), randn(4, 16, 16, seed=2) / 4
    source = torch.Generator().manual_seed(11)

    def run(jitter: float) -> Any:
        def mix(x: torch.Tensor) -> torch.Tensor:
            h = x
            if jitter:
                h = h * (1 + jitter * (2 * torch.rand(h.shape, generator=source, dtype=h.dtype) - 1))
            share = torch.softmax(h @ weight.T, -1)
            return torch.einsum("ne,nd,edf->nf", share, x, experts)

        return mix

    return run(0.0), run(0.05), (randn(6, 16),)


@defect("semantic", "TR", quick=True)
def loss_over_ignored_labels() -> Pair:
    """Ignored labels add nothing to the sum and still count in the mean."""
    weight = randn(24, 16, seed=1)
    labels = torch.arange(21).view(3, 7) % 24
    labels[1, 5:] = labels[2, 3:] = -100

    def run(only_labelled: bool) -> Any:
        def loss(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            each = F.cross_entropy((x @ weight.T).flatten(0, 1), labels.flatten(), reduction="none")
            return each.sum() / (labels != -100).sum() if only_labelled else each.mean()

        return loss

    return run(True), run(False), (randn(3, 7, 16), labels)


# --------------------------------------------------------------------------- defects: precision, range, comparison


@defect("precision", "PR")
def rotary_angles_in_bf16() -> Pair:
    """Positions times frequencies taken in bfloat16: late tokens share their angles."""
    frequencies = 1e4 ** -(torch.arange(8) / 8)

    def run(narrow: bool) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            at = torch.arange(q.shape[-2])
            if narrow:
                angles = (at.bfloat16()[:, None] * frequencies.bfloat16()).to(q.dtype)
            else:
                angles = at.to(q.dtype)[:, None] * frequencies
            cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()

            def turn(x: torch.Tensor) -> torch.Tensor:
                one, two = x.chunk(2, -1)
                return x * cos + torch.cat([-two, one], -1) * sin

            return F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)

        return attend

    return run(False), run(True), tuple(randn(1, 2, 300, 16, seed=s) for s in range(3))


@defect("unstable", "OV")
def softmax_without_the_maximum() -> Pair:
    """Exponentials of scores that were not lowered by their maximum overflow."""

    def bare(x: torch.Tensor) -> torch.Tensor:
        e = torch.exp(x)
        return e / e.sum(-1, keepdim=True)

    return (lambda x: torch.softmax(x, -1)), bare, (60 * randn(6, 20),)


@defect("incomparable", "NC")
def vit_hidden_state_before_the_norm() -> Pair:
    """The last hidden state, and the last of the list of hidden states, which is before the final norm."""
    model = vit()
    return (
        lambda x: model(x).last_hidden_state,
        lambda x: model(x, output_hidden_states=True).hidden_states[-1],
        (randn(2, 3, 16, 16),),
    )


# --------------------------------------------------------------------------- benign: the same again


@benign("identical")
def qwen2_saved_and_loaded() -> Pair:
    """Written to a folder with its tied head, and read again."""
    model = qwen2(tie_word_embeddings=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        other = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=model.dtype).eval()
    return logits(model), logits(other), (ids(2),)


@benign("identical rounding")
def llama_gradients_recomputed() -> Pair:
    """Gradients with activations kept, and with activations recomputed."""
    model = llama().train()
    other = copy.deepcopy(model)
    other.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def run(m: Any) -> Any:
        def step(x: torch.Tensor) -> Any:
            loss = m(x, labels=x).loss
            return loss, *torch.autograd.grad(loss, list(m.model.layers[0].parameters()))

        return step

    return run(model), run(other), (ids(2),)


# --------------------------------------------------------------------------- benign: kernels, threads, layouts


@benign("rounding identical", "EN")
def whisper_encoder_with_one_thread_and_two() -> Pair:
    """A speech encoder under another number of threads."""
    model = whisper(d_model=256, encoder_ffn_dim=1024)

    def run(threads: int) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return model(x)[0]  # type: ignore[no-any-return]
            finally:
                torch.set_num_threads(before)

        return forward

    return run(1), run(2), (randn(2, 8, 128),)


@benign("rounding identical precision", "PR")
def qwen2_eager_against_sdpa_bf16() -> Pair:
    """Grouped causal attention in bfloat16: one implementation stores the scores in it, the other does not."""
    one, other = qwen2(attention="eager").to(torch.bfloat16), qwen2().to(torch.bfloat16)
    return logits(one), logits(other), (ids(2, 16),)


@benign()
def convolutions_channels_last() -> Pair:
    """Weights and images of a convolutional net in channels-last memory."""
    model = _convolutional()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return (lambda x: model(x), lambda x: other(x.to(memory_format=torch.channels_last)), (randn(4, 3, 16, 16),))


@benign(quick=True)
def attention_in_tiles() -> Pair:
    """A softmax over all keys, and one over tiles of keys that is rescaled as it goes."""

    def tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        top = torch.full_like(q[..., :1], -math.inf)
        total, out = torch.zeros_like(top), torch.zeros_like(q)
        for keys, values in zip(k.split(8, -2), v.split(8, -2), strict=True):
            scores = q @ keys.transpose(-1, -2) / 4
            new = torch.maximum(top, scores.amax(-1, keepdim=True))
            e, fade = torch.exp(scores - new), torch.exp(top - new)
            total = total * fade + e.sum(-1, keepdim=True)
            out, top = out * fade + e @ values, new
        return out / total

    return (
        lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v,
        tiles,
        tuple(randn(1, 2, 24, 16, seed=s) for s in range(3)),
    )


# --------------------------------------------------------------------------- benign: another form of one function


@benign(quick=True)
def adapter_merged_and_apart() -> Pair:
    """A low-rank update beside the weight, and added to it."""
    weight, down, up = randn(32, 32, seed=1) / 6, randn(4, 32, seed=2) / 6, randn(32, 4, seed=3) / 2
    merged = weight + 2 * up @ down
    return (
        lambda x: torch.tanh(F.linear(x, weight) + 2 * F.linear(F.linear(x, down), up)),
        lambda x: torch.tanh(F.linear(x, merged)),
        (randn(6, 32),),
    )


@benign()
def rotary_in_complex_numbers() -> Pair:
    """Halves are rotated, or neighbours as complex numbers with the projections' rows in that order."""
    query, key = randn(16, 16, seed=1) / 4, randn(16, 16, seed=2) / 4
    order = torch.arange(16).view(2, 8).T.flatten()

    def angles(x: torch.Tensor) -> torch.Tensor:
        return torch.arange(x.shape[-2]).to(x.dtype)[:, None] * 1e2 ** -(torch.arange(8) / 8)

    def halves(x: torch.Tensor) -> torch.Tensor:
        cos, sin = torch.cat([angles(x).cos()] * 2, -1), torch.cat([angles(x).sin()] * 2, -1)

        def turn(h: torch.Tensor) -> torch.Tensor:
            one, two = h.chunk(2, -1)
            return h * cos + torch.cat([-two, one], -1) * sin

        return torch.softmax(turn(x @ query.T) @ turn(x @ key.T).transpose(-1, -2) / 4, -1) @ x

    def neighbours(x: torch.Tensor) -> torch.Tensor:
        unit = torch.polar(torch.ones_like(angles(x)), angles(x))

        def turn(h: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(torch.view_as_complex(h.unflatten(-1, (8, 2))) * unit).flatten(-2)

        return torch.softmax(turn(x @ query[order].T) @ turn(x @ key[order].T).transpose(-1, -2) / 4, -1) @ x

    return halves, neighbours, (randn(2, 10, 16),)


@benign()
def loss_in_chunks_of_tokens() -> Pair:
    """The head and the loss over all tokens, and seven tokens at a time, divided once by the labels."""
    weight = randn(40, 64, seed=1) / 4
    labels = torch.arange(30) % 40
    labels[[4, 11, 12, 29]] = -100

    def chunked(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=x.dtype)
        for part, wanted in zip(x.split(7), labels.split(7), strict=True):
            total = total + F.cross_entropy(part @ weight.T, wanted, reduction="sum")
        return total / (labels != -100).sum()

    return (lambda x, labels: F.cross_entropy(x @ weight.T, labels)), chunked, (randn(30, 64), labels)


@benign()
def gpt2_gradients_accumulated_by_labels() -> Pair:
    """One backward pass, and two micro-batches of unequal length divided by the labels of both."""
    model = gpt2()
    weights = list(model.transformer.h[1].parameters())
    labels = ids(4, 10)
    labels[2:, 4:] = -100

    def summed(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x)[0][:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")

    def whole(x: torch.Tensor, labels: torch.Tensor) -> Any:
        return torch.autograd.grad(summed(x, labels) / (labels[:, 1:] != -100).sum(), weights)

    def accumulated(x: torch.Tensor, labels: torch.Tensor) -> Any:
        count = (labels[:, 1:] != -100).sum()
        parts = [
            torch.autograd.grad(summed(a, b) / count, weights) for a, b in zip(x.chunk(2), labels.chunk(2), strict=True)
        ]
        return tuple(a + b for a, b in zip(*parts, strict=True))

    return whole, accumulated, (ids(4, 10), labels)


# --------------------------------------------------------------------------- benign: padding and caches


@benign()
def t5_short_prompt_in_a_padded_batch() -> Pair:
    """Seven tokens alone, and as the padded first row of a batch of three; the real tokens are returned."""
    model = t5()
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[0, 7:] = 0
    return (lambda x, m: model(x[:1, :7])[0], lambda x, m: model(x, attention_mask=m)[0][:1, :7], (ids(3, 12), mask))


@benign()
def qwen2_static_cache() -> Pair:
    """A cache that grows, and one of sixteen slots of which some are still empty and masked."""
    model = qwen2(use_cache=True)

    def run(make: Any) -> Any:
        def step(x: torch.Tensor) -> torch.Tensor:
            cache = make()
            model(x[:, :-1], past_key_values=cache, use_cache=True)
            return model(x[:, -1:], past_key_values=cache, use_cache=True)[0]  # type: ignore[no-any-return]

        return step

    def fixed() -> Any:
        return transformers.StaticCache(config=model.config, max_cache_len=16)

    return run(transformers.DynamicCache), run(fixed), (ids(1, 10),)

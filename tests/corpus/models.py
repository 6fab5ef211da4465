"""Small random models of real architectures, each built anew from one seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
VOCABULARY = 96
_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "use_cache": False,
}


def ids(batch: int = 1, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random token ids, int64[batch, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal values from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _built(kind: str, config: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    implementation = settings.pop("attention", "sdpa")
    made = getattr(transformers, config)(**settings)
    made._attn_implementation = implementation
    model = getattr(transformers, kind)(made).eval()
    for name, parameter in model.named_parameters():  # norms and biases at random too, so that none is a no-op
        if parameter.ndim == 1:
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))
        del name
    return model


def llama(**settings: Any) -> Any:
    """LlamaForCausalLM, 2 layers, width 32."""
    return _built("LlamaForCausalLM", "LlamaConfig", **(_DECODER | settings))


def qwen2(**settings: Any) -> Any:
    """Qwen2ForCausalLM: like Llama, with biases of queries, keys and values."""
    return _built("Qwen2ForCausalLM", "Qwen2Config", **(_DECODER | settings))


def mistral(**settings: Any) -> Any:
    """MistralForCausalLM, 2 layers, width 32."""
    return _built("MistralForCausalLM", "MistralConfig", **(_DECODER | settings))


def neox(**settings: Any) -> Any:
    """GPTNeoXForCausalLM: parallel residual, partial rotary embedding, fused qkv."""
    small = {k: v for k, v in _DECODER.items() if k != "num_key_value_heads"}
    return _built("GPTNeoXForCausalLM", "GPTNeoXConfig", **(small | settings))


def whisper(**settings: Any) -> Any:
    """The encoder of a WhisperModel on 8 mel bands and 128 frames."""
    small = {
        "vocab_size": VOCABULARY,
        "num_mel_bins": 8,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_source_positions": 64,
        "max_target_positions": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    return _built("WhisperModel", "WhisperConfig", **(small | settings)).encoder


def gemma2(**settings: Any) -> Any:
    """Gemma2ForCausalLM with eager attention (soft capping needs it)."""
    return _built(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        **(_DECODER | {"head_dim": 8, "attention": "eager", "sliding_window": 8} | settings),
    )


def mixtral(**settings: Any) -> Any:
    """MixtralForCausalLM with 4 experts, 2 of them chosen."""
    return _built("MixtralForCausalLM", "MixtralConfig", **(_DECODER | {"num_local_experts": 4} | settings))


def bert(**settings: Any) -> Any:
    """BertModel without pooler."""
    small = {k: v for k, v in _DECODER.items() if k not in ("num_key_value_heads", "use_cache")}
    return _built("BertModel", "BertConfig", **(small | settings))


def gpt2(**settings: Any) -> Any:
    """GPT2LMHeadModel, 2 layers, width 32."""
    return _built(
        "GPT2LMHeadModel",
        "GPT2Config",
        **(
            {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}
            | settings
        ),
    )


def t5(**settings: Any) -> Any:
    """T5EncoderModel, 2 layers, width 32."""
    return _built(
        "T5EncoderModel",
        "T5Config",
        **(
            {
                "vocab_size": VOCABULARY,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 2,
                "num_heads": 4,
                "attention": "eager",
                "use_cache": False,
            }
            | settings
        ),
    )


def vit(**settings: Any) -> Any:
    """ViTModel on images of 3×16×16, patches of 4."""
    return _built(
        "ViTModel",
        "ViTConfig",
        **(
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 16,
                "patch_size": 4,
            }
            | settings
        ),
    )


def changed(model: Any, change: Callable[[Any], Any]) -> Any:
    """A copy with ``change`` done to it."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    return other


def logits(model: Any, **fixed: Any) -> Callable[..., torch.Tensor]:
    """A callable that gives a decoder's logits or an encoder's last hidden state alone."""

    def run(x: torch.Tensor) -> torch.Tensor:
        return model(x, **fixed)[0]  # type: ignore[no-any-return]

    return run

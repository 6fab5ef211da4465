"""Every architecture of transformers that reads token ids, built small from its configuration with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

PARAMETERS = 3_000_000
_SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim", "emb_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_hidden_groups"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("hidden_dim", "ffn_hidden_size", "dense_intermediate_size", "block_ff_dim", "mlp_dim"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size_mlp", "ffn_intermediate_size", "expert_dim"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "block_size"), 64),
    **dict.fromkeys(("head_dim", "d_kv", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank", "kv_dim"), 8),
    **dict.fromkeys(("attention_head_dim", "global_head_dim", "index_head_dim"), 8),
    "qk_rope_head_dim": 4,
    "sliding_window": 4,
    "vocab_size": 99,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def architectures() -> Iterator[tuple[str, Any, Any]]:
    """(name, class of the configuration, class of the model), by name: language models, causal and masked."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mappings = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING)
    for name in sorted(CONFIG_MAPPING):
        for mapping in mappings:
            try:
                config = CONFIG_MAPPING[name]
                classes = mapping[config]
            except (KeyError, ImportError, AttributeError):
                continue
            yield name, config, classes[0] if isinstance(classes, tuple) else classes
            break


def config_of(kind: Any) -> Any:
    """A small configuration; the fields it has are those of the default one."""
    default = kind()
    given = default.to_dict()
    sizes = {
        name: value for name, value in _SIZES.items() if name in given and not isinstance(given[name], (list, dict))
    }
    sizes = {name: value for name, value in sizes.items() if given[name] is not None or name == "pad_token_id"}
    return kind(**sizes)


def build(config: Any, model: Any, attention: str) -> torch.nn.Module:
    """The model with weights that depend on nothing but its shapes."""
    torch.manual_seed(0)
    made = model._from_config(copy.deepcopy(config), attn_implementation=attention)
    made.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(made.named_parameters()):
            if parameter.ndim >= 2:
                parameter.normal_(std=0.2)
    return made  # type: ignore[no-any-return]


def parameters(config: Any, model: Any) -> int:
    """How many parameters the model would have, without memory for them."""
    with torch.device("meta"):
        made = model._from_config(copy.deepcopy(config), attn_implementation="eager")
    return sum(p.numel() for p in made.parameters())

"""``python -m tests.scores.transformers``: eager attention against sdpa, and buffers that loading leaves unwritten.

*Architectures*: every decoder and encoder of text that can be built from its configuration made small, on a batch of
which one row begins with padding. The pair is benign where the texts alone agree in float64 by plain calculation
(`plain.OTHER`), and the positions of the padded batch that are no padding closely in float32; then the verdict may not be
`semantic` or `unstable`: what attention makes of wholly masked rows is no defect. *Loads*: a model with a buffer that is
not saved (huggingface/transformers issue 48892) against the same model loaded again and again, whatever the memory
holds; ST004 must be its first cause.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from tests.scores import plain, rows

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

TOKENS, PADDED, LARGEST, LOADS = 8, 3, 5_000_000, 20
CLOSE = 1e-4
"""How near two results of float32 lie that are one function, relative to the largest."""
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "hidden_dim", "n_inner"), 64),
    **dict.fromkeys(
        ("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size"), 64
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "n_group", "topk_group"), 1),
    **dict.fromkeys(("vocab_size",), 99),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
}
"""What a configuration of these names is set to."""


def benign(diagnosis: Diagnosis) -> bool:
    """Whether a pair of one function may be called that."""
    return diagnosis.verdict not in (Verdict.SEMANTIC, Verdict.UNSTABLE)


def named(diagnosis: Diagnosis) -> bool:
    """Whether the unwritten buffer comes first."""
    return rows.found(diagnosis)[:1] in (("ST004",), ("ST004@",))


def architectures() -> Iterator[tuple[str, str, Any]]:
    """One job for each model type."""
    for name in sorted(transformers.CONFIG_MAPPING):
        yield f"{name} eager sdpa", "eager against sdpa", lambda n=name: _architecture(n)


def _architecture(name: str) -> rows.Row | None:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            eager, sdpa = _pair(name)
            far = _apart(eager, sdpa)
    except Exception as error:  # noqa: BLE001 - what cannot be built small, or does not read text alone, is no pair
        print(f"no pair: {name}: {type(error).__name__}: {error}"[:160], file=sys.stderr)
        return None
    if far is None or far >= plain.OTHER:  # some compute a softmax in float32 whatever they are given
        print(f"no pair: {name}: {far} apart in float64", file=sys.stderr)
        return None
    return rows.timed(f"{name} eager sdpa", "eager against sdpa", lambda: compare(eager, sdpa, **_batch()), benign)


def _pair(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """One small model with either attention, of the same weights.

    Raises:
        ValueError: it is too large, or has no sdpa.
    """
    models = []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[name]()
        with torch.device("meta"):
            _shrink(config)
            if sum(p.numel() for p in transformers.AutoModel.from_config(config).parameters()) > LARGEST:
                raise ValueError("too large")
        models.append(transformers.AutoModel.from_config(config, attn_implementation=attention).eval())
    models[1].load_state_dict(models[0].state_dict())
    if models[1].config._attn_implementation != "sdpa":
        raise ValueError("it has no sdpa")
    return models[0].requires_grad_(False), models[1].requires_grad_(False)


def _shrink(config: Any) -> None:
    for key, value in SMALL.items():
        if isinstance(getattr(config, key, None), int):
            with contextlib.suppress(AttributeError, NotImplementedError, ValueError):
                setattr(config, key, value)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    for part in vars(config).values():
        if isinstance(part, transformers.PretrainedConfig):
            _shrink(part)


def _batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 99, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :PADDED] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _apart(eager: torch.nn.Module, sdpa: torch.nn.Module) -> float | None:
    """How far the two lie apart on the texts alone, in float64, and, in units of float32, on the batch without padding."""
    ids, mask = _batch().values()
    kept = mask.bool()
    alone, padded = [], []
    for model in (eager, sdpa):
        batch = model(**_batch())
        pooled = batch.get("pooler_output")  # which may be taken at a place that is padding
        padded.append(torch.cat([batch.last_hidden_state[kept], *([] if pooled is None else [pooled])]).numpy())
        model.double()
        texts = [model(row[own][None]).last_hidden_state[0] for row, own in zip(ids, kept, strict=True)]
        alone.append(torch.cat(texts).numpy())
        model.float()
    found = [plain.apart(*([one] for one in pair)) for pair in (alone, padded)]
    if None in found or not np.isfinite(found).all():
        return None
    return max(found[0], found[1] * plain.OTHER / CLOSE)


class ToyConfig(transformers.PretrainedConfig):
    """Of the toy model."""

    model_type = "whydiff-toy"

    def __init__(self, width: int = 8, **more: Any) -> None:
        super().__init__(**more)
        self.width = width


class Toy(transformers.PreTrainedModel):
    """A linear layer and a table that is computed in ``__init__`` and not saved."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.linear = torch.nn.Linear(config.width, config.width)
        self.register_buffer("table", torch.linspace(0.1, 1.7, config.width), persistent=False)
        self.post_init()

    def forward(self, x: torch.Tensor) -> Any:
        """[N, width] → [N, width]."""
        return self.linear(x) * self.table


def loads() -> Iterator[tuple[str, str, Any]]:
    """A model against itself loaded, each time into memory that other work left."""
    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    reference = Toy(ToyConfig(width=64)).eval()
    with contextlib.redirect_stderr(io.StringIO()):
        reference.save_pretrained(folder)
    for number in range(LOADS):
        yield f"load {number}", "ST004 first", lambda n=number: _load(n, folder, reference)


def _load(number: int, folder: str, reference: Any) -> rows.Row:
    """Every fourth load holds zeros, every fourth numbers like a table's (as memory may), the others what there was."""
    with contextlib.redirect_stderr(io.StringIO()):
        candidate = Toy.from_pretrained(folder).eval()
    left = {0: torch.zeros(64), 1: torch.linspace(0.1, 1.69, 64)}.get(number % 4)
    if left is None and torch.equal(candidate.table, reference.table):  # memory that held the right table: no defect
        left = torch.randn(64, generator=torch.Generator().manual_seed(number))
    if left is not None:
        candidate.table.copy_(left)
    held = candidate.table.tolist()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(number))
    return rows.timed(
        f"load {number}", "ST004 first", lambda: compare(reference, candidate, x), named, {"held": held[:4]}
    )


def main() -> int:
    """Run, print misses as they come, then the rates."""
    given = rows.options(__doc__).parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    print(rows.summary(rows.collect(itertools.chain(loads(), architectures()), given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

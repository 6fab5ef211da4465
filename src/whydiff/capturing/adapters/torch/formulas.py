"""Wide formulas of ops whose kernels accept no float64 (attention kernels, scaled and grouped products).

Each takes the op's own arguments, already wide, and returns the outputs that have a meaning outside the
kernel (the result and, for attention, the log-sum-exp); `filled` adds what only its own backward reads.
Source of the formulas: ``_scaled_dot_product_attention_math`` in ``aten/src/ATen/native/transformers/
attention.cpp``; ``_scaled_mm`` in ``aten/src/ATen/native/cuda/Blas.cpp``; ``_grouped_mm`` in
``aten/src/ATen/native/GroupedMMUtils.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import dtype_of
from whydiff.errors import ReplayError
from whydiff.records import TensorSpec

Tensor = torch.Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """softmax(scale * Q Kᵀ + bias) V and its log-sum-exp; heads of K and V are repeated for grouped queries.

    Args:
        query: [..., heads, queries, width].
        key: [..., a divisor of the query's heads, keys, width].
        value: likewise.
        bias: added to the scores, or boolean (False hides); may be None.
        dropout: must be 0.
        causal: query i sees keys 0 … i.
        scale: of the scores; 1 / sqrt(width) if None.

    Raises:
        ReplayError: dropout, whose mask lives inside the kernel.
    """
    _without_dropout(dropout)
    probabilities, logsumexp, value = _probabilities(query, key, value, bias, causal, scale)
    return probabilities @ value, logsumexp


def attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attention` by query, key and value; a head that several queries share gets the sum."""
    shared = key.size(-3)
    probabilities, _, value = _probabilities(query, key, value, bias, causal, scale)
    key = key.repeat_interleave(query.size(-3) // shared, dim=-3)
    factor = scale if scale is not None else 1 / math.sqrt(query.size(-1))
    by_probability = grad @ value.transpose(-1, -2)
    centre = (by_probability * probabilities).sum(-1, keepdim=True)
    by_score = probabilities * (by_probability - centre) * factor
    by_key, by_value = by_score.transpose(-1, -2) @ query, probabilities.transpose(-1, -2) @ grad
    by_key, by_value = (each.unflatten(-3, (shared, -1)).sum(-3) for each in (by_key, by_value))
    return by_score @ key, by_key, by_value


def _probabilities(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    groups = query.size(-3) // key.size(-3)
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
    factor = scale if scale is not None else 1 / math.sqrt(query.size(-1))
    scores = query @ key.transpose(-1, -2) * factor
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    if bias is not None:
        scores = scores.masked_fill(~bias, -math.inf) if bias.dtype is torch.bool else scores + bias
    return torch.softmax(scores, -1), torch.logsumexp(scores, -1), value


def _cpu_flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Any:
    return attention(q, k, v, attn_mask, dropout_p, is_causal, scale)


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    return attention(q, k, v, None, dropout_p, is_causal, scale)


def _biased(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *_: Any,
    scale: float | None = None,
) -> Any:
    return attention(q, k, v, attn_bias, dropout_p, is_causal, scale)


def _backward(
    *, dropout: int, causal: int, bias: int | None = None, asked: int | None = None
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The backward of a kernel: gradient, query, key and value come first, the others stand at these positions.

    ``asked`` is the position of the flags that say which gradients are wanted, the bias's being the fourth.
    """

    def formula(*given: Any, scale: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
        _without_dropout(given[dropout])
        if asked is not None and given[asked][3]:
            raise ReplayError("The gradient of a bias inside an attention kernel is not widened.")
        is_causal = given[causal] if causal < len(given) else False
        grad, query, key, value = given[:4]
        return attention_backward(grad, query, key, value, None if bias is None else given[bias], is_causal, scale)

    return formula


def _without_dropout(dropout: float) -> None:
    if dropout:
        raise ReplayError("Dropout inside an attention kernel is not widened.", actual=f"dropout_p={dropout}")


def filled(outputs: Sequence[Tensor], given: Sequence[TensorSpec]) -> list[Tensor]:
    """What a formula gives, in the shapes that the kernel gives: what only the kernel's own backward reads is zeros.

    Args:
        outputs: a formula's.
        given: all that the kernel gives. A log-sum-exp may have a further dimension of size 1, be
            padded to a multiple of a block, or not be asked for.
    """
    found = list(outputs[: len(given)])
    for at, (one, shape) in enumerate(zip(found, (spec.shape for spec in given), strict=False)):
        if tuple(one.shape) == shape:
            continue
        if math.prod(shape) in (0, one.numel()):
            found[at] = one.reshape(shape) if one.numel() == math.prod(shape) else one.new_zeros(shape)
        elif one.shape[:-1] == shape[:-1] and one.size(-1) < shape[-1]:
            found[at] = torch.nn.functional.pad(one, (0, shape[-1] - one.size(-1)), value=math.inf)
    device = outputs[0].device
    rest = given[len(found) :]
    return found + [torch.zeros(spec.shape, dtype=dtype_of(spec.dtype), device=device) for spec in rest]


def _scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: Any = None,
    use_fast_accum: bool = False,
) -> Any:
    if scale_a.numel() not in (1, a.size(0)) or scale_b.numel() not in (1, b.size(1)):
        raise ReplayError("Block-wise scales are not widened.", actual=f"{list(scale_a.shape)}, {list(scale_b.shape)}")
    product = (a @ b) * scale_a * scale_b
    product = product if bias is None else product + bias
    return product if scale_result is None else product * scale_result


def _grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Any:
    """Products of groups: of rows of a (b: [groups, k, n]), of columns of b (a: [groups, m, k]), or of terms.

    ``offs`` holds where each group ends; rows beyond the last end are zero.

    Raises:
        ReplayError: with a bias.
    """
    if bias is not None:
        raise ReplayError("A grouped product with a bias is not widened.")
    if a.dim() == 3 and b.dim() == 3:
        return torch.bmm(a, b)
    if offs is None:
        raise ReplayError("A grouped product without the ends of its groups is not widened.")
    ends = offs.tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    if a.dim() == 2 and b.dim() == 2:
        return torch.stack([a[:, begin:end] @ b[begin:end] for begin, end in spans])
    if a.dim() == 2:
        out = a.new_zeros(a.size(0), b.size(2))
        for (begin, end), weight in zip(spans, b, strict=True):
            out[begin:end] = a[begin:end] @ weight
        return out
    out = b.new_zeros(a.size(1), b.size(1))
    for (begin, end), weight in zip(spans, a, strict=True):
        out[:, begin:end] = weight @ b[:, begin:end]
    return out


def _rnn_layer(x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer in one direction, as oneDNN's kernel computes it.

    Raises:
        ReplayError: another recurrent layer.
    """
    *weights, h, c, reverse, sizes, mode, _, layers, biases, both, _, _ = given
    if mode != _LSTM or sizes or layers != 1 or both:
        raise ReplayError("Only one LSTM layer in one direction has a formula.")
    x = x.flip(0) if reverse else x
    out, h, c = torch.lstm(
        x, (h[None], c[None]), weights if biases else weights[:2], biases, 1, 0.0, False, False, False
    )
    return (out.flip(0) if reverse else out), h[0], c[0]


_LSTM = 2
"""Of ``mkldnn_rnn_layer``'s modes: ``ideep::rnn_kind::LSTM``."""

FORMULAS: dict[str, Callable[..., Any]] = {
    "mkldnn_rnn_layer": _rnn_layer,
    "_scaled_dot_product_flash_attention_for_cpu": _cpu_flash,
    "_scaled_dot_product_flash_attention": _flash,
    "_scaled_dot_product_efficient_attention": _biased,
    "_scaled_dot_product_cudnn_attention": _biased,
    "_scaled_dot_product_flash_attention_backward": _backward(dropout=10, causal=11),
    "_scaled_dot_product_efficient_attention_backward": _backward(dropout=9, causal=11, bias=4, asked=10),
    "_scaled_dot_product_cudnn_attention_backward": _backward(dropout=13, causal=14, bias=8),
    "_scaled_mm": _scaled_mm,
    "_grouped_mm": _grouped_mm,
}
"""By op name without namespace and overload; tried when the op itself refuses wide arguments."""

"""float64 formulas of the ops that are judged by sampled outputs: products, attention, norms.

Each returns values at flat output indices only, so that an oracle of 4096 outputs costs O(4096 * K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import Role
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.numbers import products
from whydiff.numbers.products import AS_THEY_ARE, Change, Operand


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """alpha * (left @ right) + beta * bias with batch axes in front.

    Attributes:
        left: ``[B, M, K]``.
        right: ``[B, N, K]`` (the K axis last on both).
        bias: broadcastable to ``[B, M, N]``, or None.
        weight: which read is the right operand.
    """

    left: Operand
    right: Operand
    bias: Array | None
    alpha: float
    beta: float
    weight: int


def product(op: Operation) -> Product | None:
    """The operands of a matrix product; None if its shapes are not those of a plain one."""
    index = op.read_at("right")
    ours, theirs, bias = op.held("left"), op.held("right"), op.tensor("bias")
    if ours is None or theirs is None or index is None:
        return None
    left, right = ours.bits, theirs.bits
    if Role.ROWS in op.roles:
        left, right = left.reshape(-1, left.shape[-1])[None], right[None]
        bias = bias if bias is None else bias.reshape(1, 1, -1)
    else:
        left = left[None] if left.ndim == 1 else left
        columns = right.ndim == 1
        right = right[None] if columns else np.swapaxes(right, -1, -2)
        if columns and bias is not None:
            bias = bias.reshape(-1, 1) if bias.ndim else bias
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        left = np.broadcast_to(left, batch + left.shape[-2:]).reshape(-1, *left.shape[-2:])
        right = np.broadcast_to(right, batch + right.shape[-2:]).reshape(-1, *right.shape[-2:])
    if left.shape[0] != right.shape[0] or left.shape[-1] != right.shape[-1]:
        return None
    if left.shape[0] * left.shape[1] * right.shape[1] != math.prod(op.shape):
        return None
    beta, alpha = (float(op.argument(name, 1)) for name in ("beta", "alpha"))
    operands = Operand(left, ours.dtype), Operand(right, theirs.dtype)
    return Product(left=operands[0], right=operands[1], bias=bias, alpha=alpha, beta=beta, weight=index)


def product_at(parts: Product, index: Array, changes: tuple[Change, Change] = AS_THEY_ARE) -> Array:
    """Outputs of a product at flat indices.

    Args:
        parts: from `product`.
        index: flat positions in ``[B, M, N]``.
        changes: applied to the elements of the left and of the right operand before they are multiplied (rounding,
            say), to each alone.

    Returns:
        float64, one per index, without the bias.
    """
    return np.asarray(products.product_at(parts.left, parts.right, index, changes) * parts.alpha)


def sums_at(parts: Product, index: Array) -> Array:
    """Outputs of a product at flat indices, with the sums of its terms' magnitudes and squares.

    Returns:
        float64 ``[3, outputs]``: ``sum(terms)``, ``sum(abs(terms))``, ``sum(terms ** 2)``, each times alpha, without the bias.
    """
    return np.asarray(products.sums_at(parts.left, parts.right, index) * parts.alpha)


def bias_at(parts: Product, index: Array) -> Array:
    """The term beta * bias at flat indices (0 without one)."""
    if parts.bias is None or parts.beta == 0:
        return np.zeros(index.size)
    shape = (parts.left.shape[0], parts.left.shape[1], parts.right.shape[1])
    whole = np.broadcast_to(parts.bias, shape) if parts.bias.ndim <= 3 else parts.bias.reshape(shape)
    return np.asarray(whole[np.unravel_index(index, shape)] * parts.beta)


# ------------------------------------------------------------------------------------------ attention


def is_attention(op: Operation) -> bool:
    """Whether `attention_at` can compute it (dropout cannot be repeated in float64)."""
    return "causal" in op.at and len(op.shape) == 4 and not op.argument("dropout", 0.0)


def attention_scale(op: Operation) -> float:
    """The factor on the scores: given, or 1 / sqrt(head size)."""
    scale = op.argument("scale")
    return float(scale) if scale is not None else 1.0 / math.sqrt(op.reads[0].shape[-1])


def attention_at(
    op: Operation, index: Array, scale: float | None = None, *, scaled: bool = True
) -> tuple[Array, Array]:
    """Softmax(scale * q kᵀ + mask) v at whole rows of outputs, and its error scale.

    Args:
        op: q ``[B, H, L, D]``, k ``[B, Hk, S, D]``, v ``[B, Hk, S, Dv]``.
        index: from ``sample_of(op.shape, rows=True)``.
        scale: instead of the op's own.
        scaled: S is wanted; else nothing is in its place.

    Returns:
        (outputs, S): S = Σ p (1 + 2 Σ|q||k| scale) |v|, how far rounding of scores, probabilities and
        products can move an output per unit roundoff (Higham, section 3.1, first order).
    """
    q, k, v = (op.tensor(meaning) for meaning in ("query", "key", "value"))
    if q is None or k is None or v is None:
        raise ValueError("attention without q, k and v")
    mask, causal = op.tensor("mask"), bool(op.argument("causal", False))
    if mask is not None:
        if mask.dtype == bool:
            mask = np.where(mask, 0.0, -np.inf)
        mask = np.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
    factor = attention_scale(op) if scale is None else scale
    width, group = op.shape[-1], q.shape[1] // k.shape[1]
    rows = index.reshape(-1, width)[:, 0] // width
    batch, heads, positions = np.unravel_index(rows, op.shape[:3])
    out, size = np.empty((rows.size, width)), np.empty((rows.size, width))
    kept = batch * k.shape[1] + heads // group
    for number in np.unique(kept):  # rows that read the same keys and values
        at = np.flatnonzero(kept == number)
        b, h, position = batch[at], heads[at], positions[at]
        keys, vectors = k.reshape(-1, *k.shape[2:])[number], v.reshape(-1, *v.shape[2:])[number]
        scores = q[b, h, position] @ keys.T * factor
        if mask is not None:
            scores = scores + mask[b, h, position]
        if causal:
            scores = np.where(np.arange(scores.shape[1]) <= position[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[at] = weights @ vectors
        if scaled:
            spread = np.abs(q[b, h, position]) @ np.abs(keys).T * abs(factor)
            size[at] = (weights * (1 + 2 * spread)) @ np.abs(vectors)
    return out.reshape(-1), size.reshape(-1)


# ---------------------------------------------------------------------------------------------- norms


def is_norm(op: Operation) -> bool:
    """Whether `norm` can compute it."""
    return Role.NORM in op.roles and norm_eps(op) is not None


def norm_eps(op: Operation) -> float | None:
    """The eps that a norm was called with."""
    eps = op.argument("eps")
    return None if eps is None else float(eps)


def norm(op: Operation, eps: float | None = None, correction: int = 0) -> tuple[Array, Array]:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, and its error scale.

    Args:
        op: a layer norm or an RMS norm (no mean, no bias).
        eps: instead of the op's own.
        correction: 0: variance over n, 1: over n - 1.

    Returns:
        (whole output, S): S = (|x| + mean|x|) (1 + mean² / var) |weight| / std + |bias|; the factor
        mean² / var is the condition of a one-pass variance (Chan, Golub and LeVeque, The American
        Statistician 37, 1983).
    """
    x = op.reads[0]
    axes = tuple(range(x.ndim - len(op.argument("over")), x.ndim))
    weight, bias = op.tensor("weight"), op.tensor("bias")
    centred = "bias" in op.at
    count = math.prod(x.shape[i] for i in axes)
    mean = x.mean(axes, keepdims=True) if centred else np.zeros(())
    variance = np.square(x - mean).sum(axes, keepdims=True) / max(count - correction, 1)
    chosen = norm_eps(op) if eps is None else eps
    inverse = 1.0 / np.sqrt(variance + (chosen or 0.0))
    weight = np.ones(()) if weight is None else weight
    bias = np.zeros(()) if bias is None else bias
    condition = 1 + mean**2 / np.maximum(variance, np.finfo(np.float64).tiny)
    size = (np.abs(x) + np.abs(x).mean(axes, keepdims=True) * centred) * condition * inverse * np.abs(weight)
    return (x - mean) * inverse * weight + bias, size + np.abs(bias)


def softmax_scale(op: Operation, output: Array) -> Array:
    """S of a softmax, p (1 + |x - max|), or of a log-softmax, 1 + |x - max| + |log p|."""
    axis = int(op.argument("axis", -1))
    x = op.reads[0]
    distance = np.abs(x - x.max(axis=axis, keepdims=True)) if x.ndim else np.zeros(())
    distance = np.where(np.isfinite(distance), distance, 0.0)
    if Role.LOGARITHMIC in op.roles:
        return np.asarray(1 + distance + np.where(np.isfinite(output), np.abs(output), 0.0))
    return np.asarray(output * (1 + distance))

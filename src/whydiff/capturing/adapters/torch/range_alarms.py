"""Looks taken once, when an alarm is raised: what the op would have given in float64, which rows are masked."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.numbers.ranges import LIMITS, limits


def examine_overflow(func: Any, args: Any, kwargs: Any, dtype: str) -> dict[str, Any]:
    """The op on the same inputs in float64: its largest magnitude, and which formats would hold it.

    Returns:
        ``true_largest`` and ``missing_bits`` (how far beyond the format), ``fits`` (formats that hold it);
        empty if the op cannot be executed in float64 (that is no finding).
    """
    try:
        wide = func(*_widened(args), **{name: _widened(value) for name, value in kwargs.items() if name != "dtype"})
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return {}
    tensor = wide if isinstance(wide, torch.Tensor) else next((t for t in wide if isinstance(t, torch.Tensor)), None)
    if tensor is None or not tensor.is_floating_point() or not tensor.numel():
        return {}
    finite = tensor[torch.isfinite(tensor)]
    if not finite.numel():
        return {"float64": "not finite either"}
    largest = float(finite.abs().max())
    found: dict[str, Any] = {"true_largest": largest}
    if torch.isfinite(tensor).all() and largest > limits(dtype).largest:
        found["fits"] = ", ".join(name for name, form in LIMITS.items() if form.largest >= largest)
    if not torch.isfinite(tensor).all():
        found["float64"] = "not finite either"
    return found


def examine_masked_rows(reads: list[torch.Tensor], output: torch.Tensor) -> int:
    """How many rows (along the last dimension) of an input of the output's shape are minus infinity throughout."""
    for tensor in reads:
        if tensor.shape == output.shape and tensor.dim():
            return int(torch.isneginf(tensor).all(-1).sum())
    return 0


def nans_with_finite_mask(func: Any, args: Any, kwargs: Any) -> dict[str, int]:
    """The op again with minus infinity replaced by the lowest number in fully masked rows: how many NaN are left."""
    with torch.no_grad():
        result = func(*(lowest_in_masked_rows(a) if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
    first = result if isinstance(result, torch.Tensor) else result[0]
    return {"nans_with_finite_mask": int(torch.isnan(first).sum())}


def lowest_in_masked_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose rows (last dimension) of minus infinity throughout hold the format's lowest number instead."""
    if not tensor.is_floating_point() or not tensor.dim():
        return tensor
    masked = torch.isneginf(tensor).all(-1, keepdim=True)
    return torch.where(masked, torch.finfo(tensor.dtype).min, tensor)


def scale_factor(op: str, args: Any) -> float | None:
    """The number by which ``mul`` or ``div`` scales its first tensor; None if it is no single number."""
    if op not in ("mul", "div", "mul_", "div_") or len(args) < 2:
        return None
    other = args[1]
    if isinstance(other, torch.Tensor):
        if other.numel() != 1 or other.dim():
            return None
        other = float(other.detach())
    if isinstance(other, bool) or not isinstance(other, (int, float)) or not other:
        return None
    return abs(float(other)) if op.startswith("mul") else abs(1 / float(other))


def vanished_constant(op: str, args: Any, kwargs: Any, dtype: str) -> float | None:
    """The number that ``add``, ``sub`` or ``clamp`` is given to keep its result from zero, if the format rounds it to 0.

    Half of the smallest number of a format and less rounds to zero (ties to even).
    """
    other = kwargs.get("min") if op.startswith("clamp") else kwargs.get("other")
    if other is None and len(args) > 1:
        other = args[1]
    if isinstance(other, torch.Tensor):
        if other.dim() or other.is_complex():
            return None
        other = float(other.detach())
    if isinstance(other, bool) or not isinstance(other, (int, float)):
        return None
    constant = float(other) * (1.0 if op.startswith("clamp") else float(kwargs.get("alpha", 1)))
    return constant if 0 < abs(constant) <= limits(dtype).smallest / 2 else None


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_widened(item) for item in value)
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    return value

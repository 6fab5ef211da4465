"""State dicts from files. Nothing is unpickled that could run code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whydiff.errors import TraceFormatError


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Tensors by name from a ``.pt``/``.pth``/``.bin`` or ``.safetensors`` file, on the CPU.

    Nested dicts are flattened (``{"model": {"w": …}}`` → ``"model.w"``); what is no tensor is left out.

    Args:
        path: the file; pickled ones are read with ``weights_only=True``.

    Raises:
        TraceFormatError: no such file, not a state dict, damaged, or it would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise TraceFormatError("There is no such file.", where=str(path), expected="a state dict in a file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise _unreadable(path, error) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error
    found = dict(_tensors(content))
    if not found:
        raise TraceFormatError(
            "The file holds no tensors by name.",
            where=str(path),
            actual=type(content).__name__,
            expected="a state dict: model.state_dict() saved with torch.save",
        )
    return found


def _tensors(value: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor) and path:
        return [(path, value.detach())]
    if not isinstance(value, Mapping):
        return []
    return [item for key, nested in value.items() for item in _tensors(nested, f"{path}.{key}" if path else str(key))]


def _unreadable(path: Path, error: Exception) -> TraceFormatError:
    lines = str(error).strip().splitlines()
    return TraceFormatError(
        "The file cannot be read as plain tensors.",
        where=str(path),
        actual=f"{type(error).__name__}: {lines[0] if lines else ''}"[:300],
        expected="a state dict that torch.load(weights_only=True) reads, or safetensors",
        next_step="Save model.state_dict() alone; files that hold code are never executed.",
    )

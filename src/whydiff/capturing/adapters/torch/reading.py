"""How PyTorch's values are read when a run gives them back; see `whydiff.capturing.adapters._outputs`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from whydiff.capturing.adapters._outputs import Reader, Step
from whydiff.capturing.adapters.torch.dtypes import not_comparable, to_payload
from whydiff.capturing.adapters.torch.state import state_of
from whydiff.records import Payload

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}
_WHOLE = (torch.sparse_coo, torch._mkldnn, *_COMPRESSED)  # type: ignore[attr-defined]
_PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)
_WORDS = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator)


class TorchReader(Reader):
    """Tensors of every layout, modules by their state."""

    def tensor(self, value: Any) -> Payload | str | None:
        """A strided tensor's elements, with a lazy conjugation or negation carried out."""
        if not isinstance(value, torch.Tensor) or _has_parts(value):
            return None
        why = not_comparable(value)
        if why:
            return why
        with torch.no_grad():
            return to_payload(value.detach().resolve_conj().resolve_neg())

    def parts(self, value: Any) -> Iterable[tuple[Step, Any]] | None:
        """Sparse, quantised and nested tensors, tensors made of tensors, and the state of modules."""
        if isinstance(value, torch.nn.Module):
            return [(f'["{leaf.name}"]', leaf.tensor) for leaf in state_of("", value)]
        if not isinstance(value, torch.Tensor):
            return None
        with torch.no_grad():
            return _parts(value.detach())

    def text(self, value: Any) -> str | None:
        """Dtypes, devices and layouts."""
        if isinstance(value, torch.Generator):
            return f"generator on {value.device}"
        return repr(value) if isinstance(value, _WORDS) else None


def _has_parts(value: torch.Tensor) -> bool:
    return value.is_nested or value.layout in _WHOLE or value.is_quantized or is_traceable_wrapper_subclass(value)


def _parts(value: torch.Tensor) -> list[tuple[Step, Any]]:
    if value.is_nested:
        return [(f"[{index}]", part) for index, part in enumerate(value.unbind())]
    wrapper: Any = value
    if is_traceable_wrapper_subclass(wrapper):
        names, _ = wrapper.__tensor_flatten__()
        return [(f".{name}", getattr(value, name)) for name in names]
    if value.layout is torch.sparse_coo:
        whole = value.coalesce()
        return [(".shape", list(value.shape)), (".indices", whole.indices()), (".values", whole.values())]
    if value.layout in _COMPRESSED:
        named = [(f".{name}", getattr(value, name)()) for name in _COMPRESSED[value.layout]]
        return [(".shape", list(value.shape)), *named, (".values", value.values())]
    if value.is_quantized:
        found = [(".values", value.dequantize()), (".dtype", value.dtype)]
        if value.qscheme() in _PER_TENSOR:
            return [*found, (".scale", value.q_scale()), (".zero_point", value.q_zero_point())]
        return [
            *found,
            (".scale", value.q_per_channel_scales()),
            (".zero_point", value.q_per_channel_zero_points()),
            (".axis", value.q_per_channel_axis()),
        ]
    return [(".values", value.to_dense())]


READER = TorchReader()

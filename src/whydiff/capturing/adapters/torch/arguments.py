"""Argument templates: everything an op was given, as JSON-able data with places for its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.collectives import Told
from whydiff.capturing.adapters.torch.dtypes import dtype_name, dtype_of
from whydiff.errors import ReplayError

_PLAIN = frozenset((type(None), bool, int, float, str))


def encode(value: Any) -> Any:
    """JSON-able template of one argument; ``Place`` objects become ``{"$read": i}``."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is Place:
        place: dict[str, Any] = {"$read": value.index}
        for bit in value.bits:
            place = {f"${bit}": place}
        return place
    if kind is list or kind is tuple:
        return [item if type(item) in _PLAIN else encode(item) for item in value]
    return _encode_rarer(value)


def encoded(values: Sequence[Any]) -> list[Any]:
    """Templates of positional arguments, most of which are plain values and plain tensors' places."""
    return [
        value
        if type(value) in _PLAIN
        else {"$read": value.index}
        if type(value) is Place and not value.bits
        else encode(value)
        for value in values
    ]


def _encode_rarer(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Told):
        return value.template
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, torch.dtype):
        return {"$dtype": dtype_name(value)}
    if isinstance(value, torch.device):
        return {"$device": str(value)}
    if isinstance(value, torch.layout):
        return {"$layout": str(value).removeprefix("torch.")}
    if isinstance(value, torch.memory_format):
        return {"$memory_format": str(value).removeprefix("torch.")}
    if isinstance(value, complex):
        return {"$complex": [value.real, value.imag]}
    if isinstance(value, torch.Generator):
        return {"$generator": str(value.device)}
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return {"$opaque": f"symbolic {value}"}
    if isinstance(value, dict):
        return {"$dict": [[str(key), encode(item)] for key, item in value.items()]}
    return {"$opaque": type(value).__name__}


def decode(
    template: Any,
    reads: Sequence[Any],
    *,
    generator: torch.Generator | None = None,
    place: Callable[[str], torch.device] = torch.device,
) -> Any:
    """The argument again, with ``reads`` in their places.

    Args:
        template: what `encode` gave.
        reads: the tensors that the call is given, or their places.
        generator: takes the place of a recorded one.
        place: the device to use where the run used the one of this name.

    Raises:
        ReplayError: the argument was not recorded in a form that can be given again.
    """
    if isinstance(template, list):
        return [decode(item, reads, generator=generator, place=place) for item in template]
    if not isinstance(template, dict):
        return template
    (kind, content), *rest = template.items()
    if rest or kind not in _DECODERS:
        raise ReplayError("An argument cannot be given again.", actual=str(template), expected="a template")
    if kind == "$read":
        if type(content) is not int or not 0 <= content < len(reads):
            raise ReplayError(
                "An argument names a tensor that the call did not read.",
                actual=f"{content!r:.60}",
                expected=f"a number below {len(reads)}",
            )
        return reads[content]
    if kind in _LAZY:
        viewed = decode(content, reads, generator=generator, place=place)
        return viewed.viewed(kind[1:]) if isinstance(viewed, Place) else _LAZY[kind](viewed)
    if kind == "$generator":
        return generator
    if kind == "$device":
        return place(content)
    if kind == "$dict":
        return {key: decode(item, reads, generator=generator, place=place) for key, item in content}
    return _DECODERS[kind](content)


def _constant(kind: type) -> Callable[[Any], Any]:
    """A reader of torch's constants of one type; a trace may name nothing else of torch."""

    def read(name: Any) -> Any:
        found = getattr(torch, name, None) if isinstance(name, str) else None
        if not isinstance(found, kind):
            raise ReplayError("An argument cannot be given again.", actual=f"{name!r:.60}", expected=f"a {kind}")
        return found

    return read


def _opaque(content: str) -> Any:
    raise ReplayError("An argument was not recorded.", actual=content, expected="plain data or tensors")


_LAZY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "$conj": lambda tensor: tensor.conj(),
    "$neg": lambda tensor: torch._neg_view(tensor),
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$read": lambda content: content,
    "$conj": lambda content: content,
    "$neg": lambda content: content,
    "$generator": lambda content: content,
    "$dict": lambda content: content,
    "$dtype": dtype_of,
    "$device": torch.device,
    "$layout": _constant(torch.layout),
    "$memory_format": _constant(torch.memory_format),
    "$complex": lambda pair: complex(*pair),
    "$opaque": _opaque,
}


class Place:
    """Stands for the i-th tensor that a call read.

    Args:
        index: position among the reads.
        bits: lazy views that the op has to look through (``"neg"``, ``"conj"``), innermost first;
            fingerprints and payloads are of the raw memory below them.
    """

    __slots__ = ("bits", "index")

    def __init__(self, index: int, bits: tuple[str, ...] = ()) -> None:
        self.index, self.bits = index, bits

    def viewed(self, bit: str) -> Place:
        """The place of the same tensor under one more lazy view."""
        return Place(self.index, (*self.bits, bit))

    def of(self, reads: Sequence[Any]) -> Any:
        """The tensor, of those that the call is given."""
        value = reads[self.index]
        for bit in self.bits:
            value = _LAZY[f"${bit}"](value)
        return value


def lazy_bits(tensor: torch.Tensor) -> tuple[str, ...]:
    """Lazy views of a tensor (conjugated, negated) that its memory does not show."""
    return (("neg",) if tensor.is_neg() else ()) + (("conj",) if tensor.is_conj() else ())


PLACES = tuple(Place(index) for index in range(32))
"""Of tensors without lazy views."""


def place_of(index: int, tensor: torch.Tensor) -> Place:
    """The place of a tensor, the i-th that a call reads."""
    bits = lazy_bits(tensor)
    return PLACES[index] if index < len(PLACES) and not bits else Place(index, bits)

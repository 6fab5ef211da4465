"""Argument templates: what was given comes back, and a stranger's template reaches nothing else of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.capturing.adapters.torch.arguments import Place, decode, encode
from whydiff.errors import ReplayError


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, "x", [1, [2]], torch.float8_e4m3fn, torch.device("cpu"), torch.strided, torch.channels_last],
)
def test_what_was_given_comes_back(value: Any) -> None:
    assert decode(encode(value), []) == value


def test_tensors_come_from_the_reads() -> None:
    reads = [torch.ones(1), torch.zeros(1)]
    assert decode(encode([Place(1), Place(0)]), reads) == [reads[1], reads[0]]
    assert decode(encode(Place(0, ("neg",))), reads).item() == -1.0


@pytest.mark.parametrize(
    "template",
    [
        {"$layout": "load"},
        {"$layout": "float32"},
        {"$memory_format": "hub"},
        {"$memory_format": "__builtins__"},
        {"$layout": ["strided"]},
        {"$read": -1},
        {"$read": 1},
        {"$read": True},
        {"$read": "0"},
        {"$read": []},
        {"$eval": "1"},
        {"$read": 0, "$dtype": "float32"},
        {"$opaque": "Stream"},
    ],
)
def test_a_template_names_nothing_else(template: dict[str, Any]) -> None:
    with pytest.raises(ReplayError):
        decode(template, [torch.ones(1)])


def test_a_template_is_decoded_before_there_are_tensors() -> None:
    reads = [torch.ones(1), torch.zeros(1)]
    places = [Place(0), Place(1)]
    first, [second] = decode(encode([Place(0, ("neg",)), [Place(1)]]), places)
    assert (first.of(reads).item(), second.of(reads)) == (-1.0, reads[1])
    assert (first.index, first.bits, second.bits) == (0, ("neg",), ())

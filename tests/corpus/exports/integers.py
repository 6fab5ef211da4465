"""Exported files that are dynamically quantised, with one scale for a weight and with one per channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from tests.corpus.apart import Check
from tests.corpus.exports.places import path as module

from whydiff.records import Diagnosis

QUANTISED = ("MatMul", "Gemm")
WORDS = {False: "one scale for the whole tensor", True: "one scale per channel"}


def quantised(file: Path) -> Iterator[tuple[bool, Path]]:
    """(one scale per channel, the quantised file); nothing where no product has a weight or the tool refuses the file."""
    from onnxruntime.quantization import quantize_dynamic

    if not modules(onnx.load(file)):
        return
    for per_channel in WORDS:
        small = file.with_name(f"small{int(per_channel)}.onnx")
        try:
            quantize_dynamic(file, small, per_channel=per_channel, op_types_to_quantize=[*QUANTISED])
        except Exception:  # noqa: BLE001, S112  (the tool refuses it)
            continue
        yield per_channel, small


def modules(model: Any) -> set[str]:
    """Where a product has a weight of several axes."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    return {module(node) for node in model.graph.node if node.op_type in QUANTISED and weights & set(node.input)}


def as_quantised(name: str, found: Diagnosis, places: set[str], *, per_channel: bool) -> Check:
    """Every origin is such a product; the rounding of its weight is named with its scales, and nothing else is."""
    sure = [c for c in found.causes if c.status == "confirmed"]
    told = "; ".join(f"{c.code} {c.status} {c.says}" for c in found.causes if c.code != "CP003")
    return Check(
        name=name,
        kind="planted",
        placed=bool(found.origins) and all(origin.site.scope in places for origin in found.origins),
        named=any(c.code == "ST003" and WORDS[per_channel] in c.says for c in sure),
        wrong=tuple(f"{c.code}: {c.says}" for c in sure if c.code != "ST003"),
        told=f"{found.verdict} at {[str(o.site) for o in found.origins]}, planted in {sorted(places)} {told}",
    )

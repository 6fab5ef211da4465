"""Which kernels XLA chose for one operation, read off the program that it compiled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.ops import MOVES, Op
from whydiff.capturing.adapters.jax.values import as_like

_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?(\S+) = .*? ([a-z][\w\-]*)\((.*)$")
_KIND = re.compile(r"\bkind=(\w+)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_FUSION = re.compile(r'"kind":"([^"]+)"')
_ALGORITHM = re.compile(r'"selected_algorithm":"?(-?\d+)')
_TILES = re.compile(r'"(block_[mnk]|split_k|num_warps|num_stages)":"?(\d+)')
_OUTPUT = re.compile(r'"output_tiles":\[\{"sizes":\[([^\]]*)\]')
_MOVING = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "copy",
    "copy-start",
    "copy-done",
    "transpose",
    "reshape",
    "broadcast",
    "convert",
)


def kernels(op: Op, reads: Sequence[Any]) -> list[str]:
    """What an operation alone, compiled for values of these shapes, is carried out by.

    On a GPU the library call or the generated kernel with the choice of the autotuner (algorithm number, tile
    sizes, split of the sum), on a CPU the library or XLA's own loop. Moving and converting is left out if anything
    else is done; the names are XLA's.
    """
    if op.name in MOVES:
        return []
    text = jax.jit(lambda *given: _bound(op, given)).lower(*_placed(op, reads)).compile().as_text()
    return named(text or "")


def _placed(op: Op, reads: Sequence[Any]) -> list[Any]:
    tensors = [aval for aval in op.inputs if hasattr(aval, "shape")]
    return [as_like(read, aval) for read, aval in zip(reads, tensors, strict=True)]


def _bound(op: Op, given: Sequence[Any]) -> list[Any]:
    items = iter(given)
    values = [next(items) if hasattr(spot, "shape") else spot.value for spot in op.inputs]
    with op.traced():
        return internals.bind(op.primitive, values, op.params)


def named(text: str) -> list[str]:
    """Kernels of a compiled program's text (optimised HLO), in order, each once."""
    _, _, entry = text.partition("\nENTRY ")
    computing, rest = [], []
    for line in entry.splitlines()[1:]:
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        name, opcode, operands = found.groups()
        if opcode in _MOVING:
            continue
        kind = _KIND.search(operands)
        if opcode == "custom-call":
            target = _TARGET.search(operands)
            computing.append(_chosen(target.group(1) if target else name, operands))
        elif opcode == "fusion" and kind is not None and kind.group(1) == "kCustom":
            known = _FUSION.search(operands)
            computing.append(_chosen(known.group(1) if known else name, operands))
        elif opcode == "fusion" and kind is not None and kind.group(1) == "kLoop":
            rest.append("XLA loop")
        else:
            computing.append(f"XLA fusion ({kind.group(1)})" if kind is not None else f"XLA {opcode}")
    return list(dict.fromkeys(computing or rest))


def _chosen(name: str, config: str) -> str:
    """A kernel's name with what the autotuner chose."""
    parts = [f"tile {sizes.replace(chr(34), '').replace(',', '×')}" for sizes in _OUTPUT.findall(config)]
    parts += [f"{key}={value}" for key, value in _TILES.findall(config)]
    algorithm = _ALGORITHM.search(config)
    if algorithm is not None and int(algorithm.group(1)) >= 0:
        parts.append(f"algorithm {algorithm.group(1)}")
    return " ".join([name, *parts])

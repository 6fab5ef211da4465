"""Random small programs in torch and in JAX, in pairs: one of each pair may carry a planted change.

A program is a list of steps from values to values of one shape, and a way of giving some of them back. Everything is
drawn from a seed, so that a pair is its number.
"""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

SHAPE = (4, 8)
Two = namedtuple("Two", "first second")


@dataclass
class Answer:
    """What a program may give back: an object with numbers and words."""

    logits: Any
    best: Any
    text: str


@dataclass(frozen=True)
class Step:
    """``op`` of the values at ``read`` with a constant; the last value is the newest."""

    op: str
    read: tuple[int, int]
    constant: float


@dataclass(frozen=True)
class Program:
    """A program of a framework; calling it with arrays runs it."""

    framework: str
    steps: tuple[Step, ...]
    output: str
    change: str = ""

    def __call__(self, *arrays: Any) -> Any:
        lib = _library(self.framework)
        values = list(arrays)
        for step in self.steps:
            values.append(OPS[step.op](lib, values[step.read[0]], values[step.read[1]], step.constant))
        return OUTPUTS[self.output](lib, values[-1], values[-2], self.change)


def _library(framework: str) -> Any:
    if framework == "torch":
        import torch

        return torch
    import jax.numpy as jnp

    return jnp


def _is_torch(lib: Any) -> bool:
    return bool(lib.__name__ == "torch")


# --------------------------------------------------------------------------- steps

Op = Callable[[Any, Any, Any, float], Any]


def _bfloat16(lib: Any, a: Any) -> Any:
    return a.bfloat16().float() if _is_torch(lib) else a.astype("bfloat16").astype("float32")


def _integers(lib: Any, a: Any) -> Any:
    return (a * 4).int().float() if _is_torch(lib) else (a * 4).astype("int32").astype("float32")


def _in_numpy(lib: Any, a: Any) -> Any:
    host = np.tanh(np.asarray(a.detach() if _is_torch(lib) else a))
    return lib.from_numpy(host) if _is_torch(lib) else lib.asarray(host)


def _complex(lib: Any, a: Any, b: Any) -> Any:
    z = lib.complex(a, b) if _is_torch(lib) else a + 1j * b
    return (z * z.conj()).real


def _row(lib: Any, name: str, a: Any) -> Any:
    found = getattr(lib, name)(a, -1)
    return (found if name != "max" or not _is_torch(lib) else found[0])[..., None]


def _in_place(lib: Any, a: Any, c: float) -> Any:
    return a.clone().mul_(c) if _is_torch(lib) else a.at[0].multiply(c)


OPS: dict[str, Op] = {
    "add": lambda lib, a, b, c: a + b,
    "subtract": lambda lib, a, b, c: a - b,
    "multiply": lambda lib, a, b, c: a * b,
    "scale": lambda lib, a, b, c: a * c,
    "double": lambda lib, a, b, c: a * 2,
    "twice": lambda lib, a, b, c: a + a,
    "shift": lambda lib, a, b, c: a + c,
    "tanh": lambda lib, a, b, c: lib.tanh(a),
    "sin": lambda lib, a, b, c: lib.sin(a),
    "exp": lambda lib, a, b, c: lib.exp(a * 0.1),
    "sigmoid": lambda lib, a, b, c: 1 / (1 + lib.exp(-a)),
    "abs": lambda lib, a, b, c: lib.abs(a),
    "sqrt": lambda lib, a, b, c: lib.sqrt(lib.abs(a) + 1e-6),
    "log1p": lambda lib, a, b, c: lib.log1p(lib.abs(a)),
    "product": lambda lib, a, b, c: a @ b.T @ a,
    "center": lambda lib, a, b, c: a - _row(lib, "mean", a),
    "soften": lambda lib, a, b, c: (
        lib.exp(a - _row(lib, "max", a)) / _row(lib, "sum", lib.exp(a - _row(lib, "max", a)))
    ),
    "where": lambda lib, a, b, c: lib.where(a > c, a, b),
    "clip": lambda lib, a, b, c: lib.clip(a, -1.5, 1.5),
    "cumsum": lambda lib, a, b, c: lib.cumsum(a, -1),
    "flip": lambda lib, a, b, c: lib.flip(a, (0,)),
    "turned": lambda lib, a, b, c: (a.T + c).T,
    "joined": lambda lib, a, b, c: lib.concatenate([a[:2], b[2:]]),
    "bfloat16": lambda lib, a, b, c: _bfloat16(lib, a),
    "integers": lambda lib, a, b, c: _integers(lib, a),
    "complex": lambda lib, a, b, c: _complex(lib, a, b),
    "numpy": lambda lib, a, b, c: _in_numpy(lib, a),
    "in place": lambda lib, a, b, c: _in_place(lib, a, c),
}
_ALIKE = {"tanh": "sin", "add": "subtract", "multiply": "add", "sqrt": "log1p", "sin": "tanh", "abs": "sqrt"}
_SAME = {"double": "twice", "twice": "double"}

# --------------------------------------------------------------------------- what is given back

OUTPUTS: dict[str, Callable[[Any, Any, Any, str], Any]] = {
    "tensor": lambda lib, a, b, change: a,
    "two": lambda lib, a, b, change: (a, b),
    "named": lambda lib, a, b, change: Two(a, [b, None]),
    "dict": lambda lib, a, b, change: {"logits": a, "other" if change == "key" else "hidden": {0: b, "0": 1}},
    "zero-dimensional": lambda lib, a, b, change: a.sum(),
    "numpy": lambda lib, a, b, change: np.asarray(a),
    "numpy scalar": lambda lib, a, b, change: np.float32(float(a.sum())),
    "float": lambda lib, a, b, change: float(a.mean()),
    "int": lambda lib, a, b, change: int(a.argmax()) + (change == "word"),
    "text": lambda lib, a, b, change: f"{float(a.mean()):.4f}" + ("!" if change == "word" else ""),
    "list": lambda lib, a, b, change: a[0].tolist(),
    "object": lambda lib, a, b, change: Answer(a, a.argmax(), "yes" if change == "word" else "no"),
    "complex": lambda lib, a, b, change: complex(float(a[0, 0]), float(b[0, 0])),
    "complex tensor": lambda lib, a, b, change: lib.complex(a, b) if _is_torch(lib) else a + 1j * b,
    "bool": lambda lib, a, b, change: bool(a.sum() > 0),
    "flags": lambda lib, a, b, change: a > b,
    "indices": lambda lib, a, b, change: lib.argsort(a, -1),
    "half": lambda lib, a, b, change: a.bfloat16() if _is_torch(lib) else a.astype("bfloat16"),
}
_LEAVE_THE_PROGRAM = ("numpy", "numpy scalar", "float", "int", "text", "list", "complex", "bool")


def arrays(framework: str, draw: random.Random) -> tuple[Any, ...]:
    """Two inputs."""
    generator = np.random.default_rng(draw.randrange(2**32))
    made = [generator.standard_normal(SHAPE).astype(np.float32) for _ in range(2)]
    lib = _library(framework)
    return tuple(lib.from_numpy(one.copy()) if _is_torch(lib) else lib.asarray(one) for one in made)


def pair(number: int) -> tuple[Program, Program, tuple[Any, ...], str]:
    """(reference, candidate, inputs, the planted change; empty: none)."""
    draw = random.Random(number)
    framework = "jax" if number % 3 == 2 else "torch"
    steps = []
    for count in range(draw.randint(2, 7)):
        read = (draw.randrange(count + 2), draw.randrange(count + 2)) if draw.random() < 0.5 else (count + 1, count)
        steps.append(Step(draw.choice(list(OPS)), read, round(draw.uniform(-1, 2), 3)))
    reference = Program(framework, tuple(steps), draw.choice(list(OUTPUTS)))
    change, candidate = draw.choice(CHANGES)(reference, draw)
    return reference, candidate, arrays(framework, draw), change


# --------------------------------------------------------------------------- planted changes

Changed = tuple[str, Program]


def _at(program: Program, place: int, **what: Any) -> Program:
    steps = list(program.steps)
    steps[place] = replace(steps[place], **what)
    return replace(program, steps=tuple(steps))


def nothing(program: Program, draw: random.Random) -> Changed:
    return "", program


def constant(program: Program, draw: random.Random) -> Changed:
    place = draw.randrange(len(program.steps))
    factor = draw.choice((1 + 1e-7, 1 + 1e-4, 1.5))
    return "constant", _at(program, place, constant=program.steps[place].constant * factor)


def exchanged(program: Program, draw: random.Random) -> Changed:
    place = draw.randrange(len(program.steps))
    op = program.steps[place].op
    return "op", _at(program, place, op=_ALIKE.get(op, draw.choice(list(OPS))))


def rewritten(program: Program, draw: random.Random) -> Changed:
    steps = tuple(replace(step, op=_SAME.get(step.op, step.op)) for step in program.steps)
    return "rewritten", replace(program, steps=steps)


def inserted(program: Program, draw: random.Random) -> Changed:
    newest = len(program.steps) + 1
    op = draw.choice(("bfloat16", "numpy", "scale", "in place", "clip"))
    return "inserted", replace(program, steps=(*program.steps, Step(op, (newest, newest), 1.0)))


def left_out(program: Program, draw: random.Random) -> Changed:
    return "left out", replace(program, steps=program.steps[:-1])


def returned(program: Program, draw: random.Random) -> Changed:
    word = "key" if program.output == "dict" else "word"
    return "returned", replace(program, change=word)


CHANGES = (nothing, nothing, nothing, constant, exchanged, rewritten, inserted, left_out, returned)

"""A small trace with three steps that every test of the store shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from whydiff.capturing.store import TraceWriter, save
from whydiff.records import (
    Call,
    Environment,
    Event,
    Fingerprint,
    Leaf,
    ObserverCheck,
    Payload,
    RecordedTrace,
    Site,
    TensorSpec,
)

SPEC = TensorSpec((2, 3), "bfloat16", "cpu", (3, 1))


def make_call(index: int, step: int = 0) -> Call:
    """A call that reads leaf 0 and what the call before it wrote."""
    site = Site("layers.0.attn", "mm", step=step, occurrence=index)
    previous = index if index else 0
    reads = (
        Event(site.at("read.0"), SPEC, 0, -1, Fingerprint((index, 2**64 - 1), 12), payload="leaf"),
        Event(site.at("read.1"), SPEC, previous, index - 1, skipped="sparse"),
    )
    writes = (Event(site.at("output"), SPEC, index + 1, index, Fingerprint((7, index), 12, "span")),)
    arguments = {"args": [{"$read": 0}, {"$read": 1}], "kwargs": {"beta": float("-inf"), "z": 1 + 2j}}
    return Call(index, site, "aten.mm.default", "compute", reads, writes, arguments, (1,), 0, "rng", "a.py:3")


def make_leaf() -> Leaf:
    return Leaf(0, "parameter", "layers.0.w", SPEC, Fingerprint((1, 2), 12), payload="leaf")


def make_payload(value: int = 0) -> Payload:
    return Payload(np.arange(value, value + 6, dtype=np.uint16).reshape(2, 3), "bfloat16")


def write_steps(path: Path, steps: int, *, close: bool) -> TraceWriter:
    """A trace with one call and one payload a step; ``close=False`` leaves it as a killed writer does."""
    writer = TraceWriter(path, framework="torch", level="op")
    writer.add_leaves([make_leaf()])
    for step in range(steps):
        writer.add_calls([make_call(step, step)])
        writer.add_payload("leaf" if step == 0 else f"kept/{step}", make_payload(step))
        writer.end_step()
    if close:
        writer.close()
    return writer


@pytest.fixture
def steps() -> Callable[..., TraceWriter]:
    return write_steps


@pytest.fixture
def call() -> Callable[..., Call]:
    return make_call


@pytest.fixture
def leaf() -> Leaf:
    return make_leaf()


@pytest.fixture
def payload() -> Payload:
    return make_payload()


@pytest.fixture
def recorded() -> RecordedTrace:
    return RecordedTrace(
        "torch",
        "op",
        tuple(make_call(i) for i in range(4)),
        (make_leaf(),),
        Environment({"torch": "2.13.0"}, {"cpu": "x"}, {"tf32": False, "limit": 1j}, {}, {"cpu": "ab"}),
        ObserverCheck(True, None, 3, "not instrumented"),
        ties=(("lm_head.weight", "embed.weight"),),
        scalars={"norm.eps": 1e-5, "window": (3, 4), "dim": None},
        config={"rope.theta": 1e4},
        contexts=({"autocast": False},),
        note="hello",
        payloads={"leaf": make_payload, "rng": Payload(np.zeros(5, np.uint8), "uint8")},
    )


@pytest.fixture
def saved(recorded: RecordedTrace, tmp_path: Path) -> Path:
    path = tmp_path / "saved.trace"
    save(recorded, path)
    return path

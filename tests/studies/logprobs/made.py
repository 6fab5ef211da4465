"""Pairs of logs with known mistakes, each made from its own seed with numpy alone.

Every case draws contexts with random logits, samples tokens from the engine's distribution, and lets the trainer score
them with benign noise and the planted mistakes. Half of the cases were kept back (`answers.json`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Mistake = tuple[str, Any]


@dataclass(frozen=True)
class Case:
    """What is planted: mistakes (kind, size) besides benign noise."""

    name: str
    mistakes: tuple[Mistake, ...]
    noise: str = "batch"
    suffix: str = ".jsonl"
    seed: int = 0


@dataclass
class Made:
    """One side of a case, before it is written."""

    ids: list[str]
    tokens: list[list[int]]
    logprobs: list[list[float]]
    extra: dict[str, list[Any]] = field(default_factory=dict)


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def bfloat16(values: Array) -> Array:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def with_noise(logits: Array, kind: str, random: np.random.Generator) -> Array:
    """Benign noise of one side's logits."""
    if kind == "none":
        return logits
    if kind == "bf16":
        return bfloat16(logits * (1 + 2.0**-9 * random.standard_normal(logits.shape)))
    if kind == "fp8":
        return bfloat16(logits + 0.04 * logits.std(-1, keepdims=True) * random.standard_normal(logits.shape))
    return logits + 0.01 * random.standard_t(5, logits.shape)


def cut(logprobs: Array, kind: str, size: float) -> Array:
    """A distribution that was truncated and normalised again; -inf outside."""
    ordered = np.sort(logprobs, -1)[:, ::-1]
    if kind == "top-k":
        least = ordered[:, int(size) - 1]
    elif kind == "min-p":
        least = ordered[:, 0] + np.log(size)
    else:
        mass = np.cumsum(np.exp(ordered), -1)
        least = np.take_along_axis(ordered, (mass < size).sum(-1, keepdims=True).clip(0, ordered.shape[1] - 1), 1)[:, 0]
    return log_softmax(np.where(logprobs >= least[:, None], logprobs, -np.inf))


def make(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the engine's and the trainer's file of a case."""
    random = np.random.default_rng(case.seed)
    planted = dict(case.mistakes)
    lengths = random.integers(30, 120, 24)
    vocabulary = int(random.choice([64, 128]))
    total = int(lengths.sum())
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    workers, steps = sequence % 4, sequence // 3
    logits = random.standard_normal((total, vocabulary)) * np.exp(random.uniform(0.3, 1.7, (total, 1)))
    engine = log_softmax(with_noise(logits, case.noise, random))
    sampling = engine
    for kind in ("top-p", "top-k", "min-p"):
        if kind in planted:
            sampling = engine = cut(engine, kind, planted[kind])
    tokens = (sampling + random.gumbel(size=sampling.shape)).argmax(-1)
    theirs = with_noise(logits, case.noise, random)
    if "temperature" in planted:
        theirs = theirs / planted["temperature"]
    if "worker temperature" in planted:
        theirs = np.where((workers == 2)[:, None], theirs / planted["worker temperature"], theirs)
    off = np.zeros(total)
    if "stale" in planted:
        off = planted["stale"] * steps / steps.max()
    if "worker" in planted:
        off = planted["worker"] * (workers == 1)
    if "sequences" in planted:
        off = planted["sequences"] * np.isin(sequence, (3, 7))
    if "padded" in planted:
        off = planted["padded"] * (lengths[sequence] < lengths.max())
    theirs = theirs + off[:, None] * random.standard_normal(theirs.shape)
    if "outliers" in planted:
        chosen = np.flatnonzero(random.random(total) < planted["outliers"])
        theirs[chosen] += 2.5 * random.standard_normal((chosen.size, vocabulary))
    trainer = log_softmax(theirs)
    if "trainer top-k" in planted:
        trainer = cut(trainer, "top-k", planted["trainer top-k"])

    def side(values: Array) -> Made:
        picked = np.take_along_axis(values, tokens[:, None], 1)[:, 0]
        ends = np.cumsum(lengths)[:-1]
        return Made(
            ids=[f"sample-{n}" for n in range(len(lengths))],
            tokens=[part.tolist() for part in np.split(tokens, ends)],
            logprobs=[part.tolist() for part in np.split(picked, ends)],
        )

    pair = side(engine), side(trainer)
    if {"worker", "worker temperature", "named"} & planted.keys():
        pair[0].extra["worker"] = [f"gpu-{n % 4}" for n in range(len(lengths))]
    if "stale" in planted or "steps" in planted:
        pair[0].extra["step"] = [n // 3 for n in range(len(lengths))]
    for kind, change in CHANGES.items():
        if kind in planted:
            change(pair, planted[kind], random)
    return tuple(
        write(one, folder / f"{name}{case.suffix}") for one, name in zip(pair, ("engine", "trainer"), strict=True)
    )  # type: ignore[return-value]


# ------------------------------------------------------------------------------ mistakes of the files


def _shift(pair: tuple[Made, Made], by: int, random: np.random.Generator) -> None:
    pair[1].logprobs = [np.roll(row, by).tolist() for row in pair[1].logprobs]


def _front(side: int, length: Callable[[int], int], token: int | None) -> Callable[..., None]:
    """Tokens before every sequence of a side: one id, or (None) random ones."""

    def change(pair: tuple[Made, Made], size: Any, random: np.random.Generator) -> None:
        made = pair[side]
        for n, (tokens, values) in enumerate(zip(made.tokens, made.logprobs, strict=True)):
            many = length(n) if size is True else size
            front = [token] * many if token is not None else random.integers(2, 100, many).tolist()
            made.tokens[n] = front + tokens
            made.logprobs[n] = (-3 * random.random(many)).tolist() + values

    return change


def _end(pair: tuple[Made, Made], token: int, random: np.random.Generator) -> None:
    pair[0].tokens = [[*row, token] for row in pair[0].tokens]
    pair[0].logprobs = [[*row, -0.1] for row in pair[0].logprobs]


def _zeros(pair: tuple[Made, Made], size: int, random: np.random.Generator) -> None:
    for n, values in enumerate(pair[1].logprobs):
        many = size + n % 5
        pair[1].logprobs[n] = [0.0] * many + values[many:]


def _tokenised(pair: tuple[Made, Made], every: int, random: np.random.Generator) -> None:
    """Two tokens of some sequences become one of the trainer's."""
    made = pair[1]
    for n in range(0, len(made.tokens), every):
        at = 5 + n % 7
        made.tokens[n] = [*made.tokens[n][:at], 9999, *made.tokens[n][at + 2 :]]
        made.logprobs[n] = [*made.logprobs[n][:at], -1.5, *made.logprobs[n][at + 2 :]]


def _pads(pair: tuple[Made, Made], opposite: bool, random: np.random.Generator) -> None:
    """The trainer's sequences are padded on the left; the engine's on the right, or not at all."""
    longest = max(map(len, pair[0].tokens))
    for n, row in enumerate(pair[0].tokens):
        pads = [0] * (longest - len(row))
        zeros = [0.0] * len(pads)
        pair[1].tokens[n] = pads + pair[1].tokens[n]
        pair[1].logprobs[n] = zeros + pair[1].logprobs[n]
        if opposite:
            pair[0].tokens[n] = row + pads
            pair[0].logprobs[n] = pair[0].logprobs[n] + zeros


def _unit(pair: tuple[Made, Made], kind: str, random: np.random.Generator) -> None:
    convert = {
        "base 2": lambda v: v / np.log(2),
        "base 10": lambda v: v / np.log(10),
        "negative": lambda v: -v,
        "probabilities": np.exp,
        "scaled": lambda v: 1.25 * v,
    }[kind]
    pair[1].logprobs = [np.asarray(convert(np.array(row))).tolist() for row in pair[1].logprobs]


CHANGES: dict[str, Callable[..., None]] = {
    "shift": _shift,
    "unit": _unit,
    "zeros": _zeros,
    "bos": _front(1, lambda n: 1, 1),
    "prompt": _front(0, lambda n: 10 + 3 * n % 17, None),
    "trainer prompt": _front(1, lambda n: 8, None),
    "eos": _end,
    "tokenised": _tokenised,
    "pads": _pads,
}


# ------------------------------------------------------------------------------ files


def write(made: Made, path: Path) -> Path:
    """JSONL, parquet or npz (padded, with lengths)."""
    if path.suffix == ".jsonl":
        rows = [
            {"id": name, "token_ids": tokens, "logprobs": values} | {k: v[n] for k, v in made.extra.items()}
            for n, (name, tokens, values) in enumerate(zip(made.ids, made.tokens, made.logprobs, strict=True))
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        columns: Mapping[str, Any] = {"uid": made.ids, "response_ids": made.tokens, "log_probs": made.logprobs}
        parquet.write_table(pyarrow.table({**columns, **made.extra}), path)
    else:
        longest = max(map(len, made.tokens))
        padded = [np.array([row + [0] * (longest - len(row)) for row in rows]) for rows in (made.tokens, made.logprobs)]
        np.savez(
            path,
            id=np.arange(len(made.ids)),
            input_ids=padded[0],
            logprobs=padded[1],
            length=np.array(list(map(len, made.tokens))),
            **{k: np.array(v) if k == "step" else np.array([int(x[-1]) for x in v]) for k, v in made.extra.items()},
        )
    return path


# ------------------------------------------------------------------------------ the cases

_PLANTED: tuple[tuple[Mistake, ...], ...] = (
    *((("temperature", t),) for t in (0.6, 0.8, 0.93, 1.2, 1.5)),
    *((("unit", kind),) for kind in ("base 2", "base 10", "negative", "probabilities", "scaled")),
    *((("shift", by),) for by in (1, -1, 3)),
    (("bos", 1),),
    (("eos", 2),),
    *((("tokenised", every),) for every in (2, 8)),
    (("top-p", 0.9),),
    (("top-p", 0.7),),
    (("top-k", 20),),
    (("min-p", 0.1),),
    (("trainer top-k", 30),),
    (("prompt", True),),
    (("trainer prompt", True),),
    (("zeros", 4),),
    *((("stale", size),) for size in (0.08, 0.2, 0.6)),
    (("pads", False),),
    (("pads", True),),
    (("padded", 0.3),),
    *((("outliers", share),) for share in (0.005, 0.03)),
    (("worker", 0.15),),
    (("worker", 0.8),),
    (("worker temperature", 0.7),),
    (("sequences", 0.5),),
    (("bos", 1), ("temperature", 0.7)),
    (("prompt", True), ("top-p", 0.8)),
    (("shift", 1), ("temperature", 0.8)),
    (("shift", -1), ("stale", 0.4)),
    (("pads", False), ("temperature", 1.3)),
    (("eos", 2), ("worker", 0.5)),
    (("unit", "negative"), ("shift", 2)),
    (("trainer prompt", True), ("outliers", 0.02)),
    (("zeros", 3), ("temperature", 0.85)),
    (("tokenised", 4), ("shift", 1)),
    (("unit", "base 2"), ("bos", 1)),
    (("bos", 1), ("stale", 0.3)),
)
_BENIGN = (
    *(("bf16", mistakes) for mistakes in ((), (("named", True),), (("steps", True),), ())),
    *(("fp8", mistakes) for mistakes in ((), (("named", True),), (("steps", True),), ())),
    *(("batch", mistakes) for mistakes in ((), (("named", True),), (("steps", True),), ())),
)
_TESTS = {
    "bos": "special tokens",
    "eos": "special tokens",
    "tokenised": "tokenisation",
    "top-p": "truncated",
    "top-k": "truncated",
    "min-p": "truncated",
    "trainer top-k": "truncated",
    "prompt": "prompt positions",
    "trainer prompt": "prompt positions",
    "zeros": "prompt positions",
    "stale": "stale weights",
    "pads": "padding side",
    "padded": "padding",
    "worker temperature": "worker",
    "sequences": "worker",
}


def cases() -> tuple[Case, ...]:
    """The cases in an order of no meaning."""
    noises = ("batch", "bf16")
    made = [
        (" + ".join(f"{kind} {size}" for kind, size in mistakes), mistakes, noises[n % 2])
        for n, mistakes in enumerate(_PLANTED)
    ] + [(f"benign {noise} {n}", mistakes, noise) for n, (noise, mistakes) in enumerate(_BENIGN)]
    order = np.random.default_rng(60).permutation(len(made)).tolist()
    suffixes = (".jsonl", ".parquet", ".npz")
    return tuple(
        Case(name=made[n][0], mistakes=made[n][1], noise=made[n][2], suffix=suffixes[place % 3], seed=1000 + n)
        for place, n in enumerate(order)
    )


def expected(case: Case) -> list[str]:
    """The tests that must find something."""
    return sorted({_TESTS.get(kind, kind) for kind, _ in case.mistakes if kind not in ("named", "steps")})

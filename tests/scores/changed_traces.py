"""Sealed traces, each an honest one with something changed; see `tests.scores.hostile`."""

from __future__ import annotations

import copy
import gc
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.scores import strangers
from tests.scores.judged import everything, judged
from tests.scores.strangers import calls, computing, copied, executed, parts, seal_payloads, spec, text
from tests.sealed import Rows, seal

import whydiff
from whydiff.errors import WhydiffError

EDGES: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 2**15, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, -(2**31), -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1e308, {"$float": "nan"}, {"$float": "inf"}, {"$complex": [1.0, -2.0]}),
    *(True, False, None, "", "sum", "mean", "/etc/passwd", "\x1b[2J\u202e\ud800", "cpu", "cuda:7", "a" * 5000),
    *([], {}, [0], [2**20, 2**20], [-1], [[[]]], [1] * 40, {"$read": 0}, {"$read": 9}, {"$dtype": "float16"}),
    *({"$dtype": "int64"}, {"$device": "meta"}, {"$layout": "sparse_coo"}, {"$memory_format": "channels_last"}),
    *({"$generator": "cpu"}, {"$opaque": "x"}, {"$dict": [["a", 1]]}, {"$tuple": [1, 2]}, {"$conj": {"$read": 0}}),
]


class Small(torch.nn.Module):
    """Looks up, normalises, attends, draws, counts: a little of every kind of operator."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm, self.up = torch.nn.Embedding(7, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 4)
        self.conv, self.batch = torch.nn.Conv1d(3, 3, 2), torch.nn.BatchNorm1d(3)
        self.down = torch.nn.Linear(3, 2)
        with torch.no_grad():
            self.up.bias.fill_(bias)

    def forward(self, ids: torch.Tensor) -> Any:
        x = self.norm(self.table(ids))
        scores = torch.softmax(x @ self.up(x).transpose(-1, -2), -1)
        x = self.batch(self.conv(scores @ x))
        best = scores.argmax(-1)
        picked = torch.gather(scores, -1, best[..., None])
        return self.down(torch.nn.functional.dropout(x, 0.25, training=True)), picked.cumsum(-1), best


def honest(folder: Path) -> list[tuple[Path, Path]]:
    """Pairs of honest traces, whose outputs differ."""
    found = []
    ids = torch.tensor([[1, 2, 3], [6, 0, 2]])
    for name, keep in (("kept", "all"), ("leaves", ["leaf/*", "rng*", "output/*"])):
        paths = []
        for side, bias in (("r", 0.5), ("c", 0.625)):
            paths.append(folder / f"{name}.{side}")
            with torch.no_grad(), whydiff.capture(paths[-1], payloads=keep):
                Small(bias)(ids)
        found.append((paths[0], paths[1]))
    return found


def operators() -> list[str]:
    """Every registered operator, then every attribute of torch's objects as if it were one."""
    named = []
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        namespace, _, rest = name.partition("::")
        op, _, overload = rest.partition(".")
        named.append(f"{namespace}.{op}.{overload or 'default'}")
    attributes = sorted({*dir(torch.ops.aten), *dir(torch.ops.aten.mul), *dir(torch.ops.aten.mul.Tensor), *dir(object)})
    asked = (form.format(name) for name in attributes for form in ("aten.{}.__call__", "aten.mul.{}"))
    return list(dict.fromkeys([*named, *asked]))


def made_up(kind: str, number: int, rng: random.Random) -> Any:
    """An argument of a type, as the schema writes it."""
    if rng.random() < 0.1:
        return copy.deepcopy(rng.choice(EDGES))
    kind = kind.removeprefix("Optional[").removesuffix("]") if kind.startswith("Optional[") else kind
    if kind.startswith("List["):
        return [made_up(kind[5:-1], number, rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))]
    if kind == "Tensor":
        return {"$read": rng.randrange(number)} if number else None
    simple: dict[str, Callable[[], Any]] = {
        "int": lambda: rng.choice((-1, 0, 1, 1, 2, 3, 4, 2**20, 2**40)),
        "number": lambda: rng.choice((0, 1, 2, 0.5, -1.5, 1e30)),
        "float": lambda: rng.choice((0.0, 0.5, 1.0, -2.0, 1e-5, 1e30)),
        "bool": lambda: rng.random() < 0.5,
        "str": lambda: rng.choice(("mean", "sum", "none", "ij,jk->ik", "constant", "floor", "/etc/passwd")),
        "Generator": lambda: None,
        "Device": lambda: {"$device": rng.choice(("cpu", "cpu", "meta"))},
    }
    return simple[kind]() if kind in simple else None


def arguments_for(target: str, number: int, rng: random.Random) -> list[Any]:
    """Arguments that fit an operator's schema, mostly."""
    namespace, op, overload = target.split(".")
    try:
        schema = getattr(getattr(getattr(torch.ops, namespace), op), overload)._schema
    except (AttributeError, RuntimeError):
        return [[copy.deepcopy(rng.choice(EDGES)) for _ in range(rng.randrange(4))], {}]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in schema.arguments:
        if argument.has_default_value() and rng.random() < 0.4:
            if argument.kwarg_only:
                continue
            break
        value = made_up(str(argument.type), number, rng)
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return [args, kwargs]


def looks(rows: Rows, call: list[Any], rng: random.Random) -> None:
    """Let a call read more, or other, looks at memory that there is."""
    leaves = [row for row in rows if row[0] == "leaf" and row[1] >= 0]
    sizes = {"float32": 4, "int64": 8, "int32": 4, "float64": 8, "bool": 1, "uint8": 1, "bfloat16": 2, "complex64": 8}
    for position in range(rng.randrange(1, 4)):
        leaf = rng.choice(leaves)
        held = rows[1][1][leaf[4]]
        count = int(np.prod(held[0])) * sizes.get(rows[0][1][held[1]], 4)
        dtype = rng.choice((*sizes, rows[0][1][held[1]], rows[0][1][held[1]]))
        most = max(1, count // sizes[dtype])
        shape = rng.choice(([most], [1, most], [most, 1], [min(2, most), max(1, most // 2)], [], [0, 3], [3, 1, 1]))
        strides = rng.choice((list(np.cumprod([1, *shape[:0:-1]])[::-1]) if shape else [], [0] * len(shape)))
        event = [
            text(rows, f"read.{position}"),
            spec(rows, shape, [int(s) for s in strides], 0, dtype),
            leaf[1],
            -1,
            None,
        ]
        call[5][position : position + 1] = [[*event, text(rows, ""), text(rows, "")]]


def swapped(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """Some part of a document replaced by another, or by a value from the edges."""
    if isinstance(value, (list, dict)) and value and (depth < 1 or rng.random() < 0.85):
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value[key] = swapped(value[key], rng, depth + 1)
        return value
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2, 1000))
    return copy.deepcopy(rng.choice(EDGES))


class Traces:
    """Makes and tries changed traces; `number` decides everything about one."""

    KINDS = ("operator", "operator", "operator", "arguments", "specs", "index", "manifest", "payloads")

    def __init__(self, folder: Path) -> None:
        self.folder, self.pairs, self.every = folder, honest(folder), operators()
        for pair in self.pairs:
            "".join(everything(strangers.warm(*pair)))
        gc.collect()  # files that the warming up mapped

    def changed(self, number: int) -> tuple[str, Path, Path]:
        rng = random.Random(number)
        kind = self.KINDS[number % len(self.KINDS)]
        pair = self.pairs[rng.random() < 0.7 if kind in ("manifest", "index", "payloads") else 1]
        reference, candidate = copied(pair[0], self.folder / "r"), copied(pair[1], self.folder / "c")
        manifest, rows = parts(candidate)
        if kind == "operator":
            turn = number // len(self.KINDS) * self.KINDS.count(kind) + number % len(self.KINDS)
            target = self.every[turn % len(self.every)]
            executed(rows)
            call = rng.choice(computing(rows))
            looks(rows, call, rng)
            call[3], call[7], call[8] = text(rows, target), arguments_for(target, len(call[5]), rng), []
            kind = f"operator {target}"
        elif kind == "arguments":
            executed(rows)
            for _ in range(rng.randrange(1, 3)):
                rng.choice(computing(rows))[7] = swapped(rng.choice(computing(rows))[7], rng)
        elif kind == "specs":
            executed(rows)
            for _ in range(rng.randrange(1, 4)):
                rows[1][1][rng.randrange(len(rows[1][1]))] = swapped(rng.choice(rows[1][1]), rng)
        elif kind == "index":
            for _ in range(rng.randrange(1, 4)):
                self.index(rows, rng)
        elif kind == "manifest":
            for _ in range(rng.randrange(1, 4)):
                swapped(manifest, rng)
        else:
            self.payloads(candidate, rows, rng)
        seal(candidate, manifest, rows)
        return kind, reference, candidate

    def index(self, rows: Rows, rng: random.Random) -> None:
        what, place = rng.randrange(5), rng.randrange(len(rows))
        if what == 0:
            rows.insert(place, copy.deepcopy(rng.choice(rows)))
        elif what == 1:
            del rows[place]
        elif what == 2:
            other = rng.randrange(len(rows))
            rows[place], rows[other] = rows[other], rows[place]
        else:
            swapped(rng.choice(calls(rows) if what == 3 and calls(rows) else rows), rng)

    def payloads(self, root: Path, rows: Rows, rng: random.Random) -> None:
        path = root / "payloads-00000.safetensors"
        raw = bytearray(path.read_bytes())
        begin = 8 + int.from_bytes(raw[:8], "little")
        for _ in range(rng.choice((1, 8, 500))):
            at = rng.randrange(begin, len(raw))
            new = rng.choice((b"\x07", b"\xff" * 8, bytes(8), rng.randbytes(8)))
            raw[at : at + 8] = new[: len(raw) - at]
        path.write_bytes(raw)
        if rng.random() < 0.5:
            executed(rows)
        seal_payloads(root, rows)

    def tried(self, number: int) -> tuple[str, list[str], str]:
        """(kind, what is wrong, what came out)."""
        kind, reference, candidate = self.changed(number)
        wrong: list[str] = []
        begun = time.process_time()
        with strangers.forking() as forks:
            try:
                found = whydiff.compare(str(reference), str(candidate))
                said, outcome = "".join(everything(found)), found.verdict.value
                fixed = kind.startswith(("operator", "arguments"))
                if fixed and outcome == "identical":
                    wrong.append("identical, and the recorded outputs differ")
            except WhydiffError as error:
                said, outcome = str(error), type(error).__name__
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                said, outcome = "", type(error).__name__
                wrong.append(f"{type(error).__name__}: {error}"[:300])
        used = time.process_time() - begun
        wrong += judged(said, max([used, *(f.seconds for f in forks)]), max([f.peak for f in forks], default=0))
        if left := [path.name for path in Path(tempfile.gettempdir()).iterdir()]:
            wrong.append(f"left behind: {left}")
        deaths = [fork.code for fork in forks[:-1]]
        return kind, wrong, f"{outcome}{f' after {deaths}' if deaths else ''}"

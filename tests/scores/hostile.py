"""``python -m tests.scores.hostile --traces 20000 --artifacts 5000``: sealed files that somebody changed on purpose.

Each trace is an honest one with something changed and every checksum computed anew: values of the manifest, lines of the
index, specs, arguments, the operator (every registered one and every attribute of torch's objects, in turn, with arguments
made up from its schema), the payloads' bytes. It is compared with its honest counterpart by the code that users have, in a
process forked from this one instead of a new interpreter. Each artifact is a file of a tree, changed in its bytes, in the
members of its archive, or in its values.

Wrong is: an exception other than a clear error; a verdict `identical` although the recorded outputs differ; more than 10 s
of the processor or 1 GiB; a file, socket or process that was asked for; a control character in a report; a change of this
process's state.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import json
import os
import pickle
import random
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tests import process_state
from tests.scores import strangers
from tests.scores.strangers import Rows, calls, computing, copied, executed, parts, seal, seal_payloads, spec, text

import whydiff
from whydiff.errors import WhydiffError, harmless

SECONDS, MEMORY = 10.0, 1 << 30
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


# ------------------------------------------------------------------------------------------------ traces


def operators() -> list[str]:
    """Every registered operator, then every attribute of torch's objects as if it were one."""
    named = []
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        namespace, _, rest = name.partition("::")
        op, _, overload = rest.partition(".")
        named.append(f"{namespace}.{op}.{overload or 'default'}")
    attributes = {*dir(torch.ops.aten), *dir(torch.ops.aten.mul), *dir(torch.ops.aten.mul.Tensor), *dir(object)}
    return [
        *named,
        *(f"aten.{name}.__call__" for name in sorted(attributes)),
        *(f"aten.mul.{n}" for n in sorted(attributes)),
    ]


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

    KINDS = ("operator", "operator", "arguments", "specs", "index", "manifest", "payloads")

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
            turn = number // len(self.KINDS) * 2 + number % len(self.KINDS)
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


def everything(found: Any) -> Iterator[str]:
    """All that is shown of a result."""
    yield json.dumps(found.to_dict(), ensure_ascii=False)
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        found.print(color="never", verbose=True)
    yield screen.getvalue()


def judged(said: str, seconds: float, peak: int) -> Iterator[str]:
    """What is wrong with what was said, and with what it took."""
    if said != harmless(said):
        yield "a control character"
    if "does no such thing" in said:
        yield said[max(0, said.index("does no such thing") - 80) :][:200]
    if seconds > SECONDS:
        yield f"{seconds:.1f} s of the processor"
    if peak > MEMORY + _loaded():
        yield f"{(peak - _loaded()) >> 20} MiB"


def _loaded() -> int:
    """Bytes of this process, which a fork begins with."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------------------------------------ artifacts


def tree(folder: Path, delta: float) -> None:
    """One file of each kind that is looked into, one value other."""
    folder.mkdir(parents=True)
    floats, whole = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6), np.arange(12, dtype=np.int64)
    floats[1, 2] += delta
    save_file({"w": floats, "i": whole}, folder / "a.safetensors", metadata={"made": "here"})
    np.save(folder / "b.npy", floats)
    np.savez(folder / "c.npz", w=floats, i=whole)
    np.savez_compressed(folder / "d.npz", w=floats)
    nested = {
        "w": torch.from_numpy(floats.copy()),
        "deep": [{"i": torch.from_numpy(whole.copy())}, 3, "x"],
        "s": {"a", "b"},
    }
    torch.save(nested, folder / "e.pt")
    torch.save(nested, folder / "f.pt", _use_new_zipfile_serialization=False)
    text = {"w": floats.tolist(), "name": "x", "n": [1, 2, {"k": None}]}
    (folder / "g.json").write_text(json.dumps(text))
    (folder / "h.jsonl").write_text("\n".join(json.dumps({"i": i, "t": f"line {i}"}) for i in range(5)))
    (folder / "i.csv").write_text("a,b\n" + "\n".join(f"{i},{i / 7 + delta}" for i in range(5)))
    (folder / "j.bin").write_bytes(bytes(range(200)))


def bytes_changed(raw: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut, doubled or put in."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 6))):
        at = rng.randrange(max(1, len(data)))
        what = rng.randrange(6)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at : at + 1] = rng.choice(
                (b"\x00", b"\xff" * 8, b"[" * 300, b"\xe2\x80\xa8", b"\n", b'"', b"1e999", b"NaN")
            )
        elif what == 2:
            del data[at : at + rng.choice((1, 8, 100))]
        elif what == 3:
            data[at:at] = data[at : at + rng.choice((1, 16, 200))]
        elif what == 4:
            data[at : at + 8] = struct.pack("<q", rng.choice((0, -1, 2**31, 2**62)))[: len(data[at : at + 8])]
        else:
            del data[at:]
    return bytes(data)


def members_changed(raw: bytes, rng: random.Random) -> bytes:
    """An archive written anew, with right checksums, around changed members."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(made, "w", old.infolist()[0].compress_type) as new:
        members = old.infolist()
        chosen = rng.choice([m for m in members if m.filename.endswith((".pkl", ".npy"))] or members)
        for member in members:
            data = old.read(member)
            new.writestr(member.filename, bytes_changed(data, rng) if member is chosen else data)
    return made.getvalue()


def pickle_made(rng: random.Random) -> bytes:
    """A pickle that names one container very often, or very deeply."""
    what, size = rng.randrange(4), rng.choice((10, 30, 60, 2000))
    value: Any = ["x"] * 3
    if what == 0:
        for _ in range(min(size, 60)):
            value = [value, value]
    elif what == 1:
        for _ in range(min(size, 60)):
            value = {"k" * rng.choice((1, 100)): value, "l": value}
    elif what == 2:
        inner = b"".join(b"(" for _ in range(size)) + b"N" + b"".join(b"t" for _ in range(size))
        return b"\x80\x02" + inner + b"."
    else:
        value = [[]] * size
    return pickle.dumps(value, 2)


class Artifacts:
    """Makes and tries changed files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tree(folder / "honest", 0.0)
        self.files = sorted((folder / "honest").iterdir())
        (folder / "one").mkdir()
        (folder / "two").mkdir()
        whydiff.compare_artifacts(folder / "honest", folder / "honest")

    def tried(self, number: int) -> tuple[str, list[str], str]:
        """(kind, what is wrong, what came out)."""
        rng = random.Random(number)
        file = self.files[number % len(self.files)]
        raw = file.read_bytes()
        archive = zipfile.is_zipfile(file)
        how = rng.choice(("bytes", "bytes", "members", "pickle")) if archive else "bytes"
        changed = bytes_changed(raw, rng) if how == "bytes" else members_changed(raw, rng)
        if how == "pickle" and file.suffix == ".pt":
            made = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(made, "w") as new:
                for member in old.infolist():
                    data = pickle_made(rng) if member.filename.endswith("data.pkl") else old.read(member)
                    new.writestr(member.filename, data)
            changed = made.getvalue()
        places = [self.folder / side / file.name for side in ("one", "two")]
        for other in (*(self.folder / "one").iterdir(), *(self.folder / "two").iterdir()):
            other.unlink()
        places[0].write_bytes(raw)
        places[1].write_bytes(changed)
        said, outcome, seconds, peak = apart(lambda: self.compared())
        wrong = list(judged(said, seconds, peak))
        if outcome.startswith("!"):
            wrong.append(outcome[:300])
        if changed != raw and outcome == "identical, and nothing said":
            wrong.append("bytes differ, and nothing is said of it")
        if left := [path.name for path in Path(tempfile.gettempdir()).iterdir()]:
            wrong.append(f"left behind: {left}")
        return f"{file.suffix} {how}", wrong, outcome

    def compared(self) -> tuple[str, str]:
        try:
            found = whydiff.compare_artifacts(self.folder / "one", self.folder / "two")
        except WhydiffError as error:
            return str(error), type(error).__name__
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            return "", f"!{type(error).__name__}: {error}"
        quiet = found.status == "identical" and not found.not_compared
        return "".join(everything(found)), f"{found.status}{', and nothing said' if quiet else ''}"


def apart(work: Callable[[], tuple[str, str]]) -> tuple[str, str, float, int]:
    """What work in a fork says; what it took."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        with open(theirs, "w", encoding="utf-8", errors="surrogateescape") as out:
            json.dump(work(), out)
            out.flush()
        os._exit(0)
    os.close(theirs)
    with open(ours, encoding="utf-8") as read:
        answer = read.read()
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    said, outcome = json.loads(answer) if answer else ("", f"!it ended with {code}")
    return said, outcome, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


# ------------------------------------------------------------------------------------------------ running


def state() -> dict[str, Any]:
    """This process, in words that compare."""
    return {**process_state.of_python(), **process_state.of_torch()}


def run(name: str, maker: Any, numbers: range, report: Callable[[str], None]) -> Counter[str]:
    """Try many; tell of every wrong one; count what came out."""
    outcomes: Counter[str] = Counter()
    before = state()
    for number in numbers:
        kind, wrong, outcome = maker.tried(number)
        outcomes[outcome.partition(" after")[0]] += 1
        outcomes["processes that died"] += " after" in outcome
        if now := [key for key, value in before.items() if value != state()[key]]:
            wrong.append(f"this process changed: {', '.join(now)}")
            before = state()
        if wrong:
            outcomes["WRONG"] += 1
            report(f"{name} #{number} ({kind}): {outcome}: {'; '.join(wrong)}")
        if (number + 1) % 500 == 0:
            report(f"{name}: {number + 1} tried, {dict(outcomes)}")
    return outcomes


def main() -> int:
    """Run, print what is wrong as it comes, then what came out how often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=20_000)
    parser.add_argument("--artifacts", type=int, default=5_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    given = parser.parse_args()
    os.environ.pop("WHYDIFF_RAISE", None)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    every = 0

    def report(line: str) -> None:
        print(harmless(line), flush=True)

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
        tempfile.tempdir = temporary  # nothing may stay there
        for name, made, count in (("artifact", Artifacts, given.artifacts), ("trace", Traces, given.traces)):
            if count:
                place = Path(folder) / name
                place.mkdir()
                outcomes = run(name, made(place), range(given.first, given.first + count), report)
                report(f"{name}s: {count} tried; {dict(outcomes)}")
                every += outcomes["WRONG"]
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())

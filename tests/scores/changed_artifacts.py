"""Files of a tree, changed in their bytes, their archive's members or their values; see `tests.scores.hostile`."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from safetensors.numpy import save_file
from tests.scores.judged import everything, judged

import whydiff
from whydiff.errors import WhydiffError


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
    columns = {"w": floats[0], "t": [f"line {i % 2}" for i in range(6)], "l": [[i] * (i % 3) for i in range(6)]}
    parquet.write_table(pyarrow.table(columns), folder / "k.parquet")


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


def file_changed(raw: bytes, rng: random.Random, *, pickled: bool) -> tuple[str, bytes]:
    """(how, what a file holds then): its bytes, an archive's members, or the pickle in it."""
    how = rng.choice(("bytes", "bytes", "members", "pickle")) if zipfile.is_zipfile(io.BytesIO(raw)) else "bytes"
    if how != "pickle" or not pickled:
        return how, bytes_changed(raw, rng) if how == "bytes" else members_changed(raw, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(made, "w") as new:
        for member in old.infolist():
            data = pickle_made(rng) if member.filename.endswith("data.pkl") else old.read(member)
            new.writestr(member.filename, data)
    return how, made.getvalue()


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
        how, changed = file_changed(raw, rng, pickled=file.suffix == ".pt")
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

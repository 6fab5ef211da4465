"""The format's page is enough to write another reader: here is one, from json, zlib and safetensors alone."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from whydiff.capturing.store import open_trace
from whydiff.records import RecordedTrace

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "trace-format.md"


def read(root: Path) -> dict[str, Any]:
    text = (root / "manifest.json").read_bytes()
    manifest = json.loads(text)
    assert list(manifest)[-1] == "checksum"
    head = text.rpartition(b'"checksum"')[0]
    assert manifest["checksum"] == f"{zlib.crc32(head):08x}"
    index = (root / "events.jsonl").read_bytes()
    assert (len(index), zlib.crc32(index)) == (manifest["index_bytes"], manifest["index_crc32"])
    found: dict[str, Any] = {"manifest": manifest, "strings": [], "specs": [], "payloads": {}, "words": []}
    for line in index.split(b"\n")[:-1]:
        assert line[:9] == b"%08x " % zlib.crc32(line[9:])
        word, *fields = json.loads(line[9:])
        found["words"].append(word)
        if word in ("strings", "specs"):
            found[word] += fields[0]
        elif word == "payload":
            found["payloads"][fields[0]] = fields[1:]
        else:
            found.setdefault(word, []).append(fields)
    for key, (_, stored, _, shard, crc) in found["payloads"].items():
        array = load_file(root / f"payloads-{shard:05d}.safetensors")[key]
        assert array.dtype.name == stored and zlib.crc32(array.tobytes()) == crc
    return found


def test_another_reader_finds_the_same(saved: Path, recorded: RecordedTrace) -> None:
    found, call = read(saved), recorded.calls[2]
    assert found["manifest"]["environment"]["flags"] == {"tf32": False, "limit": {"$complex": [0.0, 1.0]}}
    index, site, target, kind, reads, writes, arguments, mutates, context, rng, source = found["call"][2]
    string, spec = found["strings"].__getitem__, found["specs"].__getitem__
    assert (index, string(target), kind, mutates, context) == (2, call.target, call.kind, [1], 0)
    assert (string(rng), string(source)) == (call.rng, call.source)
    assert [string(number) for number in site[:3]] == [call.site.scope, call.site.op, call.site.phase]
    assert arguments["kwargs"] == {"beta": {"$float": "-inf"}, "z": {"$complex": [1.0, 2.0]}}
    first = reads[0]
    assert string(first[0]) == "read.0" and first[2:4] == [0, -1] and string(first[6]) == "leaf"
    assert first[4] == [f"{2:016x}{2**64 - 1:016x}", 12] and writes[0][4][2] == "span"
    shape, dtype, device, strides, offset = spec(first[1])
    assert (shape, string(dtype), string(device), strides, offset) == ([2, 3], "bfloat16", "cpu", [3, 1], 0)
    assert found["payloads"]["leaf"][:3] == ["bfloat16", "uint16", [2, 3]]
    assert found["end"] == [[0, 4, 1, 1, 2, 1]]


def test_the_page_names_every_key_and_line(saved: Path) -> None:
    page, found = PAGE.read_text(), read(saved)
    for word in {*found["manifest"], *found["words"], "step"}:
        assert re.search(rf"^\|[^|]*`{word}`", page, re.MULTILINE), f"the page has no row for {word}"
    example = re.search(r"^([0-9a-f]{8}) (\[.*\])$", page, re.MULTILINE)
    assert example and example[1] == f"{zlib.crc32(example[2].encode()):08x}"
    assert open_trace(saved).complete

"""A trace taken apart and written again with right checksums, so that only what it says is wrong."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
Rows = list[Any]


def parts(root: Path) -> tuple[Manifest, Rows]:
    """The manifest, and the index's lines as data."""
    rows = [json.loads(line[9:]) for line in (root / "events.jsonl").read_bytes().splitlines()]
    return manifest_of(root), rows


def manifest_of(root: Path) -> Manifest:
    """The manifest as data."""
    found: Manifest = json.loads((root / "manifest.json").read_text())
    return found


def write_index(root: Path, lines: Iterable[bytes]) -> Manifest:
    """Write lines of the index; what the manifest has to say of them."""
    data = b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines)
    (root / "events.jsonl").write_bytes(data)
    return {"index_bytes": len(data), "index_crc32": zlib.crc32(data)}


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with its checksum."""
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    head = json.dumps(body).encode()[:-1] + b", "
    (root / "manifest.json").write_bytes(head + b'"checksum": "%08x"}' % zlib.crc32(head))


def seal(root: Path, manifest: Manifest, rows: Rows) -> None:
    """Write both."""
    index = write_index(root, (json.dumps(row).encode() for row in rows))
    write_manifest(root, manifest | (index if type(manifest.get("index_bytes")) is int else {}))

"""The manifest: what a trace is, how it was captured, and whether its writer closed it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from whydiff.capturing.store import strict
from whydiff.capturing.store.layout import (
    COPY_AGAIN,
    FORMAT,
    MANIFEST,
    NOT_A_TRACE,
    read_text_file,
    regular_file,
    replace_file,
)
from whydiff.errors import TraceFormatError, TraceVersionError, harmless
from whydiff.records import (
    SCHEMA_VERSION,
    Environment,
    Fingerprint,
    Hole,
    HoleKind,
    ObserverCheck,
    Output,
    OutputKind,
    Slot,
    TensorSpec,
)

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Schema version → function that turns that version's manifest into the next version's."""

NOT_CHECKED = ObserverCheck(deterministic=None, unchanged=None, outputs=0, note="the trace was never closed")


@dataclass(frozen=True)
class Manifest:
    """Fields as in ``docs/reference/trace-format.md``.

    Attributes:
        closed: the writer came to its end (with or without an error).
        complete: it was closed and nothing is missing.
        captured: how the run was captured (payload globs, level …), JSON-able.
        outputs: what the run gave back, numbers by their fingerprints; None: written before they were recorded.
        holes: what was met and not recorded.
        index_bytes: size of the index when closed, index_crc32: its CRC-32; both -1 while open.
    """

    framework: str
    level: str
    closed: bool = False
    complete: bool = False
    note: str = ""
    captured: Mapping[str, Any] = field(default_factory=dict)
    environment: Environment = field(default_factory=Environment)
    observer: ObserverCheck = NOT_CHECKED
    ties: tuple[tuple[str, ...], ...] = ()
    scalars: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    index_bytes: int = -1
    index_crc32: int = -1
    outputs: tuple[Output, ...] | None = None
    holes: tuple[Hole, ...] = ()


_HOLES = frozenset(get_args(HoleKind))
_ENVIRONMENT = ("versions", "hardware", "flags", "variables", "rng")


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` in one step (a temporary file, then a rename).

    Raises:
        CaptureError: a value that JSON cannot carry.
    """
    environment, observer = manifest.environment, manifest.observer
    body = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "framework": manifest.framework,
        "level": manifest.level,
        "closed": manifest.closed,
        "complete": manifest.complete,
        "note": manifest.note,
        "captured": strict.encode(dict(manifest.captured), 1),
        "environment": {part: strict.encode(dict(getattr(environment, part)), 2) for part in _ENVIRONMENT},
        "observer": {
            "deterministic": observer.deterministic,
            "unchanged": observer.unchanged,
            "outputs": observer.outputs,
            "note": observer.note,
            "drew": list(observer.drew),
        },
        "ties": [list(names) for names in manifest.ties],
        "scalars": strict.encode(dict(manifest.scalars), 1),
        "config": strict.encode(dict(manifest.config), 1),
        "index_bytes": manifest.index_bytes,
        "index_crc32": manifest.index_crc32,
    }
    if manifest.holes:
        body["holes"] = [[hole.kind, _ascii(hole.why), _ascii(hole.where), hole.count] for hole in manifest.holes]
    if manifest.outputs is not None:
        body["outputs"] = [encoded(output) for output in manifest.outputs]
    text = json.dumps(body, indent=1, allow_nan=False).encode("ascii")
    head = text[: -len(b"\n}")] + b",\n "
    replace_file(root / MANIFEST, head + b'"checksum": "%08x"\n}\n' % zlib.crc32(head))


def _ascii(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _hole(row: Any) -> Hole:
    if type(row) is not list or [type(part) for part in row] != [str, str, str, int] or row[3] < 1:
        raise ValueError(f"'holes' holds {row!r:.60}")
    if row[0] not in _HOLES:
        raise ValueError(f"'holes' names {row[0]!r:.60}")
    return Hole(kind=row[0], why=row[1], where=row[2], count=row[3])


def read_manifest(root: Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        TraceFormatError: missing, damaged, not a trace's manifest, or a value of the wrong type.
        TraceVersionError: a schema version that this whydiff does not read.
    """
    path = regular_file(root, MANIFEST, NOT_A_TRACE)
    try:
        raw = read_text_file(path)
        found = strict.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(
            "The manifest of a trace is damaged.",
            where=str(path),
            actual=str(error),
            expected="strict JSON",
            next_step=COPY_AGAIN,
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise TraceFormatError(
            "This manifest does not belong to a whydiff trace.",
            where=str(path),
            actual=repr(found.get("format") if isinstance(found, dict) else found)[:80],
            expected=f'"format": "{FORMAT}"',
            next_step=NOT_A_TRACE,
        )
    found = _migrate(found, path)
    head, mark, _ = raw.rpartition(b'"checksum"')
    if not mark or found.get("checksum") != f"{zlib.crc32(head):08x}":
        raise TraceFormatError(
            "The manifest of a trace was changed after it was written.",
            where=str(path),
            actual=f"checksum {found.get('checksum')!r:.40}",
            expected=f"{zlib.crc32(head):08x}",
            next_step=COPY_AGAIN,
        )
    try:
        return _manifest({name: value if name == "outputs" else strict.cleaned(value) for name, value in found.items()})
    except ValueError as error:
        raise TraceFormatError(
            "The manifest of a trace is malformed.", where=str(path), actual=str(error), next_step=COPY_AGAIN
        ) from error


def _migrate(found: dict[str, Any], path: Path) -> dict[str, Any]:
    version = found.get("schema_version")
    if type(version) is not int or version < 1:
        raise TraceFormatError(
            "The manifest names no schema version.",
            where=str(path),
            actual=repr(version)[:40],
            expected=f"an integer from 1 to {SCHEMA_VERSION}",
            next_step=COPY_AGAIN,
        )
    if version > SCHEMA_VERSION:
        raise TraceVersionError(
            "This trace was written by a newer whydiff.",
            where=str(path),
            actual=f"schema version {version}",
            expected=f"at most {SCHEMA_VERSION}",
            next_step="Open it with the whydiff that wrote it: pip install --upgrade whydiff.",
        )
    for old in range(version, SCHEMA_VERSION):
        if old not in MIGRATIONS:
            raise TraceVersionError(
                "This trace was written by an older whydiff, and nothing converts it.",
                where=str(path),
                actual=f"schema version {version}",
                expected=str(SCHEMA_VERSION),
                next_step="Capture the run again, or open the trace with the whydiff that wrote it.",
            )
        found = MIGRATIONS[old](found)
    return found


def _get(found: dict[str, Any], key: str, *types: type) -> Any:
    if key not in found:
        raise ValueError(f"{key!r} is missing")
    value = found[key]
    if type(value) not in types:
        names = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"{key!r} must be {names}, not {value!r:.60}")
    return value


def _mapping(found: dict[str, Any], key: str, *types: type) -> dict[str, Any]:
    value: dict[str, Any] = _get(found, key, dict)
    for name, item in value.items():
        if type(name) is not str or (types and type(item) not in types):
            raise ValueError(f"{key!r} holds {name!r:.60}: {item!r:.60}")
    return value


def _names(found: dict[str, Any], key: str) -> tuple[str, ...]:
    names = _get(found, key, list)
    if not all(type(name) is str for name in names):
        raise ValueError(f"{key!r} must be a list of names")
    return tuple(names)


def _manifest(found: dict[str, Any]) -> Manifest:
    outside, check = _get(found, "environment", dict), _get(found, "observer", dict)
    nothing = type(None)
    parts = {
        part: _mapping(outside, part) if part == "flags" else _mapping(outside, part, str) for part in _ENVIRONMENT
    }
    ties = _get(found, "ties", list)
    if not all(type(names) is list and all(type(name) is str for name in names) for names in ties):
        raise ValueError("'ties' must be a list of lists of names")
    manifest = Manifest(
        framework=_get(found, "framework", str),
        level=_get(found, "level", str),
        closed=_get(found, "closed", bool),
        complete=_get(found, "complete", bool),
        note=_get(found, "note", str),
        captured=_mapping(found, "captured"),
        environment=Environment(**parts),
        observer=ObserverCheck(
            deterministic=_get(check, "deterministic", bool, nothing),
            unchanged=_get(check, "unchanged", bool, nothing),
            outputs=_get(check, "outputs", int),
            note=_get(check, "note", str),
            drew=_names(check, "drew") if "drew" in check else (),
            why=_get(check, "why", str) if "why" in check else "",
        ),
        ties=tuple(tuple(names) for names in ties),
        scalars=_mapping(found, "scalars"),
        config=_mapping(found, "config"),
        index_bytes=_get(found, "index_bytes", int),
        index_crc32=_get(found, "index_crc32", int),
        outputs=tuple(decoded(row) for row in _get(found, "outputs", list)) if "outputs" in found else None,
        holes=tuple(_hole(row) for row in _get(found, "holes", list)) if "holes" in found else (),
    )
    if manifest.complete and not manifest.closed:
        raise ValueError("'complete' is true although 'closed' is false")
    return manifest


_KINDS = frozenset(get_args(OutputKind))
_LANES = re.compile(r"[0-9a-f]{32}")


def encoded(output: Output) -> dict[str, Any]:
    """The JSON form of an output; its bits lie among the payloads, if they were kept."""
    row: dict[str, Any] = {
        "slot": [output.slot.number, output.slot.name],
        "kind": output.kind,
        "type": output.type,
        "text": output.text.encode("utf-8", "backslashreplace").decode(),
    }
    if output.places:
        row["places"] = output.places
    if output.spec is not None:
        row |= {"dtype": output.spec.dtype, "shape": list(output.spec.shape)}
    if output.fingerprint is not None:
        low, high = output.fingerprint.lanes
        row |= {"lanes": f"{low:016x}{high:016x}", "nbytes": output.fingerprint.nbytes}
    return row


def decoded(row: Any) -> Output:
    """The output behind a row of the manifest.

    Raises:
        ValueError: the row is malformed.
    """
    try:
        number, name = row["slot"]
        seen = harmless(name, one_line=True) if type(name) is str else name
        kind = harmless(row["type"], one_line=True)
        output = Output(Slot(number, seen), row["kind"], kind, text=row["text"], places=row.get("places", ""))
        well = type(number) is int and number >= 0 and row["kind"] in _KINDS
        texts = (name, row["type"], row["text"], output.places, row.get("dtype", ""), row.get("lanes", "0" * 32))
        shape, nbytes = row.get("shape", []), row.get("nbytes", 0)
        well = well and all(type(text) is str for text in texts) and type(nbytes) is int and nbytes >= 0
        well = well and type(shape) is list and all(type(size) is int and size >= 0 for size in shape)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"'outputs' holds {row!r:.60}") from error
    if not well or not _LANES.fullmatch(texts[-1]):
        raise ValueError(f"'outputs' holds {row!r:.60}")
    if output.kind != "numbers":
        return output
    spec = TensorSpec(tuple(shape), row.get("dtype", ""))
    lanes = row.get("lanes")
    found = None if lanes is None else Fingerprint((int(lanes[:16], 16), int(lanes[16:], 16)), nbytes)
    return replace(output, spec=spec, fingerprint=found)

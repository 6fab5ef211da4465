"""What a run gave back, in the manifest: numbers by dtype, shape and fingerprint, everything else as text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, get_args

from whydiff.errors import harmless
from whydiff.records import Fingerprint, Output, OutputKind, Slot, TensorSpec

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

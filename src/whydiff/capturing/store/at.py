"""How far a trace is written."""

from __future__ import annotations

from typing import NamedTuple


class At(NamedTuple):
    """How far a trace is written; replaced as a whole, so that no interrupt leaves it half changed."""

    size: int = 0
    crc: int = 0
    strings: int = 0
    specs: int = 0
    calls: int = 0
    leaves: int = 0
    contexts: int = 0
    steps: int = 0
    payloads: int = 0
    shards: int = 0
    payload_bytes: int = 0
    finished: int = 0

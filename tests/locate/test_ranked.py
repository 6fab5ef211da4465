"""Values that ranks and the one process have in float64: one that a replay does not give is missing, and no error."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np

from whydiff.errors import PayloadError
from whydiff.locate.ranked import Values
from whydiff.records import Event, Fingerprint, Payload, Site, TensorSpec

SITE = Site("layer", "attention", 0, "output.0")


def event(slot: str) -> Event:
    spec = TensorSpec((2,), "float32")
    known = {"site": dataclasses.replace(SITE, slot=slot), "spec": spec, "fingerprint": Fingerprint((1, 2), 8)}
    fields = {f.name: None for f in dataclasses.fields(Event) if f.default is dataclasses.MISSING}
    return Event(**{**fields, **known})


class Replay:
    """A kernel's result, without what only its backward pass reads."""

    def read(self, event: Event) -> Any:
        if event.site.slot == "output.1":
            raise PayloadError("The call that made this tensor was not executed.", where=str(event.site))
        return np.ones(2, np.float32)

    def payload(self, value: Any) -> Payload:
        return Payload(value, "float32")


def test_what_a_replay_does_not_give_is_missing_and_the_rest_is_kept() -> None:
    writes = event("output.1"), event("output.0")
    found = Values(frozenset(one.site for one in writes))
    executor: Any = Replay()
    call: Any = SimpleNamespace(reads=(), writes=writes)
    found.after(executor, call)
    assert list(found.found) == [writes[1].site]
    assert found.bytes == 16

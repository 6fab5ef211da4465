"""Every port of the corpus, right and with each planted mistake, on square and other sizes: what is found of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from tests.corpus import apart
from tests.corpus.apart import Check, Planned
from tests.corpus.ports.blocks import PORTS as BLOCKS
from tests.corpus.ports.images import PORTS as IMAGES
from tests.corpus.ports.layers import PORTS as LAYERS
from tests.corpus.ports.parts import SIZES, Mistake, Port
from tests.corpus.ports.sequences import PORTS as SEQUENCES

from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

PORTS: tuple[Port, ...] = (*IMAGES, *SEQUENCES, *BLOCKS, *LAYERS)
CASES = {f"{port.name} [{size}]": (port, size) for port in PORTS for size in SIZES}


def checked(port: Port, size: str, mistake: Mistake | None = None) -> Diagnosis:
    ours, theirs, mine, other = port.make(size, **(mistake.given if mistake else {}))
    with torch.no_grad():
        return check_port(ours, theirs, mine, other)


def placed(diagnosis: Diagnosis, mistake: Mistake) -> bool:
    """Whether the first origin is where the mistake was planted."""
    first = next(iter(diagnosis.origins), None)
    return first is not None and (mistake.at is None or first.site.scope.startswith(mistake.at))


def named(diagnosis: Diagnosis, mistake: Mistake) -> bool:
    """Whether every planted mistake is confirmed by a cause that names it."""
    sure = [cause for cause in diagnosis.causes if cause.status == "confirmed"]
    said = " ".join(cause.says for cause in sure)
    two = len(mistake.given) > 1 and len(mistake.codes) > 1
    codes = {cause.code for cause in sure}
    enough = set(mistake.codes) <= codes if two else bool(codes & set(mistake.codes))
    return enough and all(word in said for word in mistake.says)


def wrong(diagnosis: Diagnosis, mistake: Mistake | None) -> tuple[str, ...]:
    """What is confirmed and was not planted."""
    codes = mistake.codes if mistake else ()
    return tuple(f"{c.code}: {c.says}" for c in diagnosis.causes if c.status == "confirmed" and c.code not in codes)


def case(name: str) -> Iterator[Planned | Check]:
    """One port at one size: right, and with each planted mistake."""
    port, size = CASES[name]
    mistakes = {f"{name} {mistake.given}": mistake for mistake in port.mistakes}
    yield [(name, "right"), *((one, "planted") for one in mistakes)]
    found = checked(port, size)
    right = found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    yield Check(name=name, kind="right", placed=right, named=right, wrong=wrong(found, None), told=found.reason)
    for one, mistake in mistakes.items():
        found = checked(port, size, mistake)
        told = "; ".join(f"{c.code} {c.status} {c.says}" for c in found.causes) or found.reason
        yield Check(
            name=one,
            kind="planted",
            placed=placed(found, mistake),
            named=named(found, mistake),
            wrong=wrong(found, mistake),
            told=f"at {','.join(o.site.scope for o in found.origins)}: {told}",
        )


if __name__ == "__main__":
    sys.exit(apart.main("tests.corpus.ports.score", list(CASES), case))

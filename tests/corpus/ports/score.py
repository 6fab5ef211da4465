"""Every port of the corpus, right and with each planted mistake, on square and other sizes: what is found of it."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator

import torch
from tests.corpus.ports.images import PORTS as IMAGES
from tests.corpus.ports.parts import SIZES, Mistake, Port
from tests.corpus.ports.sequences import PORTS as SEQUENCES

from whydiff.records import Diagnosis, Verdict
from whydiff.studies.port import check_port

PORTS: tuple[Port, ...] = (*IMAGES, *SEQUENCES)


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


def wrong(diagnosis: Diagnosis, mistake: Mistake | None) -> list[str]:
    """What is confirmed and was not planted."""
    codes = mistake.codes if mistake else ()
    return [f"{c.code}: {c.says}" for c in diagnosis.causes if c.status == "confirmed" and c.code not in codes]


def rows(words: list[str]) -> Iterator[tuple[str, bool, bool, list[str], str]]:
    for port in PORTS:
        if words and not any(word in port.name for word in words):
            continue
        for size in SIZES:
            found = checked(port, size)
            right = found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
            yield f"{port.name} [{size}]", right, right, wrong(found, None), "" if right else found.reason
            for mistake in port.mistakes:
                found = checked(port, size, mistake)
                told = "; ".join(f"{c.code} {c.status} {c.says}" for c in found.causes) or found.reason
                at = ",".join(o.site.scope for o in found.origins)
                yield (
                    f"{port.name} [{size}] {mistake.given}",
                    placed(found, mistake),
                    named(found, mistake),
                    wrong(found, mistake),
                    f"at {at}: {told}",
                )


def main() -> int:
    """Print what is not as it should be, and the sums."""
    warnings.filterwarnings("ignore")
    sums = {"right": [0, 0], "placed": [0, 0], "named": [0, 0]}
    confirmed_wrongly, begin = 0, time.perf_counter()
    for name, place, cause, others, told in rows(sys.argv[1:]):
        kinds = ("placed", "named") if "{" in name else ("right",)
        for kind, good in zip(kinds, (place, cause), strict=False):
            sums[kind][0] += good
            sums[kind][1] += 1
        confirmed_wrongly += len(others)
        if not (place and cause) or others:
            print(
                f"{name}: {'' if place else 'NOT PLACED '}{'' if cause else 'NOT NAMED '}{others or ''} {told}",
                flush=True,
            )
    told = ", ".join(f"{kind} {good} of {all_}" for kind, (good, all_) in sums.items())
    print(f"{told}; confirmed wrongly {confirmed_wrongly}; {time.perf_counter() - begin:.0f} s")
    return int(confirmed_wrongly > 0)


if __name__ == "__main__":
    sys.exit(main())

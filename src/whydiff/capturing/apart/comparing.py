"""Comparisons of strangers' traces in a process of their own: a call that ends it costs that call, and is named."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from whydiff import errors
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.apart.asking import Died, Told, asked
from whydiff.capturing.apart.beat import Beat
from whydiff.capturing.limits import Limits
from whydiff.capturing.store import DiskTrace, open_side, save
from whydiff.capturing.store.own import is_own
from whydiff.capturing.store.remote import fetch, is_url
from whydiff.errors import Interrupted, TraceError
from whydiff.records import Count, Trace, wire

ATTEMPTS = 3
"""Calls that may end the process before nothing is executed any more."""


def strange(side: Any) -> bool:
    """Whether a side is the path or URL of a trace that this process did not write."""
    if not isinstance(side, (str, os.PathLike)):
        return False
    return is_url(side) or not (Path(side).is_dir() and is_own(Path(side)))


def compared(sides: Sequence[Any], options: Mapping[str, Any], limits: Limits | None, progress: Told | None) -> Any:
    """The Diagnosis of two traces, made in another process.

    Args:
        sides: paths or URLs.
        options: ``level``, ``rename`` and ``rows`` of `whydiff.pipeline.Options`.
        limits: what it may take.
        progress: told of its stages.

    Raises:
        TraceError: a trace cannot be opened, or following it takes too much even where nothing is executed.
        whydiff.errors.Interrupted: Ctrl-C.
    """
    with _local(sides) as places:
        told = [{"path": str(p), "from": str(s), "own": not strange(s)} for p, s in zip(places, sides, strict=True)]
        rows = options["rows"]
        given = rows if rows is None or isinstance(rows, str) else {"mask": np.asarray(rows).tolist()}
        request = {
            "sides": told,
            "level": options["level"],
            "rename": [list(rule) for rule in options["rename"]],
            "rows": given,
            "limits": asdict(limits or Limits()),
        }
        return _found(_attempts(request, progress)[0], sides)


def rehearse(traces: Sequence[Trace], options: Mapping[str, Any], progress: Told | None) -> None:
    """Carry out in another process what is about to be executed here of a stranger's trace.

    What ends that process is denied to the trace, so that it is not executed here either.

    Args:
        traces: a live run's and one on disk, in either order.
        options: as for `compared`.
        progress: told of its stages.
    """
    with tempfile.TemporaryDirectory(prefix="whydiff-rehearsed-") as folder:
        request: dict[str, Any] = {"sides": [], "rows": None, **options}
        request["rename"] = [list(rule) for rule in options["rename"]]
        for trace in traces:
            if not isinstance(trace, DiskTrace):
                save(trace, Path(folder) / "live")
            place = str(trace.directory) if isinstance(trace, DiskTrace) else str(Path(folder) / "live")
            request["sides"].append({"path": place, "from": place, "own": not isinstance(trace, DiskTrace)})
            request["limits"] = asdict(trace.limits) if isinstance(trace, DiskTrace) else request.get("limits")
        request["limits"] = request["limits"] or asdict(Limits())
        answer, denied, refused = _attempts(request, progress)
    for number, trace in enumerate(traces):
        if isinstance(trace, DiskTrace):
            trace.denied = {call: why for side, call, why in denied if side == number}
            trace.refused = refused or (f"rehearsing it failed: {answer.how}" if isinstance(answer, Died) else "")


Denied = list[tuple[int, int, str]]


def _attempts(request: Mapping[str, Any], progress: Told | None) -> tuple[Mapping[str, Any] | Died, Denied, str]:
    """The answer; calls (side, index, why) that ended a process; why nothing is executed any more, if so."""
    denied: Denied = []
    refused = ""
    while True:
        answer = asked({**request, "denied": denied, "refused": refused}, progress)
        if not isinstance(answer, Died) or refused:
            return answer, denied, refused
        if answer.place is not None and len(denied) < ATTEMPTS and not answer.slow:
            denied.append((*answer.place, f"executing it ended the process that replays: {answer.how}"))
        elif answer.place is not None:
            refused = f"executing it took too much, or ended the process that replays: {answer.how}"
        else:
            return answer, denied, refused


def _found(answer: Mapping[str, Any] | Died, sides: Sequence[Any]) -> Any:
    where = " or ".join(map(str, sides))
    if isinstance(answer, Died):
        raise TraceError(
            "Following these traces takes more than a comparison of strangers' traces may.",
            where=where,
            actual=answer.how,
            next_step="If you know who made them: --trust. Or raise a limit: --limit seconds=N, --limit memory=GIB.",
        )
    if "failed" in answer:
        raise TraceError(
            "A trace cannot be followed.",
            where=where,
            actual=str(answer["failed"]),
            expected="calls as whydiff records them",
            next_step="capture it again; if whydiff wrote it and nobody changed it, report this with --trust --traceback",
        )
    if "error" in answer:
        name, texts = answer["error"]
        kinds = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}
        kind = kinds.get(name, TraceError)
        raise (kind if issubclass(kind, errors.WhydiffError) else TraceError)(**texts)
    if "interrupted" in answer:
        raise Interrupted(wire.decode(answer["interrupted"]))
    return wire.decode(answer["done"])


@contextmanager
def _local(sides: Sequence[Any]) -> Iterator[list[Path]]:
    """The sides as paths; URLs are copied, since the other process opens no connection."""
    with tempfile.TemporaryDirectory(prefix="whydiff-remote-") as folder:
        yield [
            fetch(str(side), _made(Path(folder) / str(number))) if is_url(side) else Path(os.path.abspath(side))
            for number, side in enumerate(sides)
        ]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def compare_apart(
    request: Mapping[str, Any], tell: Told, begin: Callable[[Limits], Beat], compare: Callable[..., Any]
) -> Any:
    """In that process: the diagnosis that was asked for.

    Args:
        request: as `compared` and `rehearse` make it.
        tell: told of the stages.
        begin: bounds the process, and gives what is to be told of every call.
        compare: (two opened traces, options) → Diagnosis.
    """
    limits, sides = Limits(**request["limits"]), []
    for number, side in enumerate(request["sides"]):
        trace = open_side(side["path"], trust=side["own"], limits=limits)
        denied = {call: why for at, call, why in request["denied"] if at == number}
        trace.tell(came_from=side["from"], refused=request["refused"], denied=denied)
        for_framework(trace.framework)  # loaded before the process gives up its rights
        sides.append(trace)
    held = sum(trace.payload_bytes for trace in sides), sum(len(trace.calls) for trace in sides)
    beat = begin(limits.with_payloads(*held))
    for number, trace in enumerate(sides):
        trace.watch(functools.partial(beat.during, number))
    mask = request["rows"]
    rows = np.asarray(mask["mask"]) if isinstance(mask, dict) else mask
    rename = [(pattern, text) for pattern, text in request["rename"]]
    return compare(tuple(sides), level=request["level"], rename=rename, rows=rows, progress=tell)


def denied(sides: Sequence[Any]) -> Iterator[Count]:
    """Calls of strangers' traces, among a comparison's sides, that ended the process that replayed them."""
    for name, side in zip(("reference", "candidate"), sides, strict=True):
        for index, why in side.denied.items() if isinstance(side, DiskTrace) else ():
            sites = tuple(str(call.site) for call in side.calls[index : index + 1])
            yield Count(what="calls that are not executed", reason=f"{name}: {why}", count=1, examples=sites)

"""`whydiff.capture`: record a run to disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from whydiff import registry
from whydiff.capturing.adapters import Recorded
from whydiff.capturing.adapters.contract import Session
from whydiff.capturing.ranks import Rank, part
from whydiff.capturing.steps import FILE, StepWriter
from whydiff.capturing.store import TraceWriter
from whydiff.errors import UsageError, WhydiffError, one_line
from whydiff.numbers.kernels import threads
from whydiff.records import Hole
from whydiff.takes import COUNT, NAMES, PATH, TEXT, Kind, check, takes

MAX_BYTES = 8 * 2**30
"""Full tensors of one capture on disk, unless another budget is given."""
STEP = "step"
"""The level at which only steps are told of."""
_OPTIONS = ("payloads", "level", "framework", "overwrite", "max_bytes")
SHARD_BYTES = 32 * 2**20
"""Full tensors that a capture holds in memory until they are written."""


@takes(path=PATH, payloads=NAMES, level=TEXT, framework=TEXT, max_bytes=COUNT)
@contextmanager
def capture(
    path: str | os.PathLike[str],
    *,
    payloads: Literal["all", "none"] | Sequence[str] = "all",
    level: str = "op",
    framework: str = "torch",
    overwrite: bool = False,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> Iterator[Any]:
    """Record everything that runs in the block, on this thread, to a trace on disk.

    Where several processes run a program together (torchrun, MPI, a process group), each writes its own part of the
    trace, a folder ``rank-00000`` …, and none waits for another.

    A block that raises leaves a trace that is marked as incomplete and says with what it ended; a process
    that dies leaves one that opens up to the last complete step. In both cases the program's own error
    goes on.

    Args:
        path: directory to make, or an fsspec URL (extra ``remote``) to which it is copied at the end.
        payloads: which full tensors are kept: ``"all"``, ``"none"``, or globs over sites such as
            ``["model.layers.0.*"]`` (state and inputs are then kept too, so that the trace can be replayed).
        level: ``"op"``, ``"module"``, or ``"step"``: of a training program, a line of digests, samples and losses per
            step and nothing more, cheap enough to stay on.
        framework: ``"torch"`` or ``"jax"``.
        overwrite: replace an existing trace.
        max_bytes: of full tensors on disk, and never more than half of what is free there; what is left out beyond it
            is counted in the trace's ``holes``.
        **options: further options of the framework's session.

    Yields:
        The running capture session.

    Raises:
        whydiff.errors.UsageError: the path exists, or an option is unknown.
    """
    from whydiff.capturing.store.remote import is_url, send

    adapter: Recorded = registry.get("adapters", framework)
    options = {name: list(given) if isinstance(given, Iterator) else given for name, given in options.items()}
    _refuse(options, {} if level == STEP else adapter.options, level)
    if level != STEP:  # whatever it does not take is refused before there is a folder
        adapter.session(level=level, payloads=payloads, **options)
    rank = adapter.rank()
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="whydiff-remote-") as folder:
            try:
                with capture(
                    Path(folder) / "trace",
                    payloads=payloads,
                    level=level,
                    framework=framework,
                    max_bytes=max_bytes,
                    **options,
                ) as session:
                    yield session
            finally:
                found = Path(part(Path(folder) / "trace", rank))
                if found.is_dir():
                    send(found, f"{path}/{found.name}" if rank.several else str(path), overwrite=overwrite)
        return
    path = part(path, rank)
    with ExitStack() as stack:
        if not threads.started():
            stack.callback(threads.stop)
        if level == STEP:
            yield stack.enter_context(_steps(Path(path), adapter, rank, overwrite=overwrite))
            return
        writer = TraceWriter(
            path,
            framework=framework,
            level=level,
            overwrite=overwrite,
            environment=adapter.environment(),
            captured={"rank": rank.number, "ranks": rank.size},
            shard_bytes=SHARD_BYTES,
            max_bytes=budget(path, max_bytes),
            tolerant=True,
        )
        stack.enter_context(writer)
        session = adapter.session(level=level, payloads=payloads, sink=writer, **options)
        try:
            with session:
                yield session
        except BaseException as error:
            note = f"the program ended with {type(error).__name__}: {error}".rstrip(": ")
            _close(writer, session, complete=False, note=note)
            raise
        _close(writer, session)


def _refuse(options: Mapping[str, Any], further: Mapping[str, Kind], level: str) -> None:
    unknown = [name for name in options if name not in further]
    if unknown:
        raise UsageError(
            f"A capture at level {level} has no such option.",
            actual=", ".join(unknown),
            expected=", ".join((*_OPTIONS, *sorted(further))),
            next_step="correct the name, or leave it out",
        )
    for name, value in options.items():
        check(value, further[name], name, "capture")


@contextmanager
def _steps(folder: Path, adapter: Recorded, rank: Rank, *, overwrite: bool) -> Iterator[Any]:
    """Write a log of the steps that a training program takes in the block."""
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if there and not (overwrite and there == [FILE]):
        raise UsageError(
            "There is something at the path of the new log of steps.",
            where=str(folder),
            actual=", ".join(there[:5]),
            expected="nothing, or an empty directory",
            next_step="Choose another path.",
        )
    try:
        writer = StepWriter(folder, ranks=rank.size)
    except OSError as error:
        raise UsageError("The log cannot be written here.", where=str(folder), actual=str(error)) from error
    complete, note = False, ""
    try:
        with adapter.watching(writer.add) as watching:
            yield watching
        complete, note = not watching.lost, watching.lost and f"a step could not be looked at: {watching.lost}"
    except BaseException as error:
        note = f"the program ended with {one_line(error)}"
        raise
    finally:
        writer.close(complete=complete, note=note)


def budget(path: str | os.PathLike[str], wanted: int) -> int:
    """Bytes that full tensors may take: what is wanted, and at most half of what is free."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return min(wanted, shutil.disk_usage(folder).free // 2)


def _close(writer: TraceWriter, session: Session, **how: Any) -> None:
    """Close the trace; what cannot be written of the manifest is left out, and the program is not told."""
    found = session.manifest()
    try:
        writer.close(**found, **how)
    except WhydiffError as error:
        hole = Hole("failed", one_line(error), "manifest")
        kept = {name: value for name, value in found.items() if name in ("environment", "observer")}
        writer.close(**kept, **how, holes=(*found.get("holes", ()), hole))

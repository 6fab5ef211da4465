"""`whydiff.capture`: record a run to disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from whydiff import registry
from whydiff.capturing.adapters import Recorded
from whydiff.errors import CaptureError


@contextmanager
def capture(
    path: str | os.PathLike[str],
    *,
    payloads: Literal["all", "none"] | Sequence[str] = "all",
    level: str = "op",
    framework: str = "torch",
    overwrite: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """Record everything that runs in the block, on this thread, to a trace on disk.

    A block that raises leaves a trace that is marked as incomplete and says with what it ended; a process
    that dies leaves one that opens up to the last complete step. In both cases the program's own error
    goes on.

    Args:
        path: directory to make, or an fsspec URL (extra ``remote``) to which it is copied at the end.
        payloads: which full tensors are kept: ``"all"``, ``"none"``, or globs over sites such as
            ``["model.layers.0.*"]`` (state and inputs are then kept too, so that the trace can be replayed).
        level: ``"op"`` or ``"module"``.
        framework: ``"torch"`` or ``"jax"``.
        overwrite: replace an existing trace.
        **options: further options of the framework's session.

    Yields:
        The running capture session.

    Raises:
        whydiff.errors.UsageError: the path exists, or an option is unknown.
    """
    from whydiff.capturing.store import TraceWriter
    from whydiff.capturing.store.remote import is_url, send

    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="whydiff-remote-") as folder:
            try:
                with capture(
                    Path(folder) / "trace", payloads=payloads, level=level, framework=framework, **options
                ) as session:
                    yield session
            finally:
                if (Path(folder) / "trace").is_dir():
                    send(Path(folder) / "trace", str(path), overwrite=overwrite)
        return
    adapter: Recorded = registry.get("adapters", framework)
    with TraceWriter(
        path, framework=framework, level=level, overwrite=overwrite, environment=adapter.environment()
    ) as writer:
        session = adapter.session(level=level, payloads=payloads, sink=writer, **options)
        try:
            with session:
                yield session
        except CaptureError:  # nothing more can be written
            raise
        except BaseException as error:
            note = f"the program ended with {type(error).__name__}: {error}".rstrip(": ")
            writer.close(**session.manifest(), complete=False, note=note)
            raise
        writer.close(**session.manifest())

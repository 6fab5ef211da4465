"""Traces and artifacts at fsspec URLs (object stores …): brought to a temporary folder, or sent there.

Plain paths pass through untouched and need no fsspec. A URL needs the extra ``remote`` (and its scheme's own
package, s3fs for ``s3://`` say).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from whydiff.errors import MissingPackageError, TraceFormatError, UsageError


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL (``scheme://…``) rather than a path."""
    return isinstance(place, str) and "://" in place


@contextmanager
def localized(place: str | os.PathLike[str]) -> Iterator[Path]:
    """A local path of a file or folder for the length of the block; a URL is copied to a temporary folder.

    Raises:
        UsageError: nothing is there, the scheme is unknown, or fsspec is not installed.
        TraceFormatError: a name at the URL leads out of its folder.
    """
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="whydiff-remote-") as folder:
        yield fetch(str(place), Path(folder))


def fetch(url: str, folder: Path) -> Path:
    """Copy a file or folder from a URL into a folder; returns its local path. Errors as `localized`."""
    system, root = _system(url)
    try:
        if system.isfile(root):
            target = folder / (PurePosixPath(root).name or "file")
            system.get_file(root, str(target))
            return target
        names = system.find(root)
        for name in names:
            target = folder / _inside(name, root, url)
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(name, str(target))
    except (OSError, ValueError) as error:
        raise UsageError("A URL cannot be read.", where=url, actual=f"{type(error).__name__}: {error}") from error
    if not names:
        raise UsageError("There is nothing at this URL.", where=url)
    return folder


def send(folder: Path, url: str, *, overwrite: bool = False) -> None:
    """Copy a folder to a URL; ``overwrite`` replaces what is there.

    Raises:
        UsageError: it cannot be written, or something is there already.
    """
    system, root = _system(url)
    try:
        if system.exists(root) and overwrite:
            system.rm(root, recursive=True)
        elif system.exists(root):
            raise UsageError("There is something at this URL.", where=url, expected="a new name")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{root.rstrip('/')}/{path.relative_to(folder).as_posix()}"
                system.makedirs(name.rpartition("/")[0], exist_ok=True)
                system.put_file(str(path), name)
    except (OSError, ValueError) as error:
        raise UsageError("A URL cannot be written.", where=url, actual=f"{type(error).__name__}: {error}") from error


def _system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, f"Reading {url}") from error
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError("This kind of URL cannot be read.", where=url, actual=str(error)) from error
    return found


def _inside(name: str, root: str, url: str) -> PurePosixPath:
    """A remote name relative to its root.

    Raises:
        TraceFormatError: it is absolute, or ``..`` leads out of the folder.
    """
    base = root.rstrip("/")
    relative = PurePosixPath(name[len(base) :].lstrip("/") if name.startswith(base) else name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise TraceFormatError("A name at a URL leads out of its folder.", where=url, actual=name)
    return relative

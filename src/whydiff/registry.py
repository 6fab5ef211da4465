"""One list per kind of part: adapters, metrics, causes, reporters.

Adding a part is adding one file to its package: the file defines ``REGISTER`` (the object) and is found by
listing the package. Third parties use entry points of the group ``whydiff.<kind>``. Nothing is imported
before someone asks.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
from pathlib import PurePath
from typing import Any

from whydiff.errors import UsageError

PACKAGES = {
    "adapters": "whydiff.capturing.adapters",
    "metrics": "whydiff.numbers.metrics",
    "causes": "whydiff.explain.causes",
    "reporters": "whydiff.report",
}
"""Kind of part → the package whose files are such parts. A package lists what is shared there in ``SHARED``."""
FOLDERS = tuple(PACKAGES)


@functools.cache
def names(folder: str) -> tuple[str, ...]:
    """Names of every part in a folder, own files first, sorted; imports none of the parts.

    Raises:
        UsageError: no such folder.
    """
    if folder not in FOLDERS:
        raise UsageError("There is no such registry.", actual=folder, expected=", ".join(FOLDERS))
    package = importlib.import_module(PACKAGES[folder])
    shared = getattr(package, "SHARED", ())
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    own = sorted(name for name in modules if not name.startswith("_") and name not in shared)
    third = sorted(entry.name for entry in importlib.metadata.entry_points(group=f"whydiff.{folder}"))
    return (*own, *(name for name in third if name not in own))


@functools.cache
def get(folder: str, name: str) -> Any:
    """The part itself (its file's ``REGISTER``, or the loaded entry point).

    Raises:
        UsageError: unknown name, or the file forgot to register.
    """
    if name not in names(folder):
        raise UsageError(f"No {folder[:-1]} has this name.", actual=name, expected=", ".join(names(folder)) or "(none)")
    module_name = f"{PACKAGES[folder]}.{name}"
    if importlib.util.find_spec(module_name) is None:
        (entry,) = importlib.metadata.entry_points(group=f"whydiff.{folder}", name=name)
        return entry.load()
    module = importlib.import_module(module_name)
    if not hasattr(module, "REGISTER"):
        raise UsageError("A registered file defines no REGISTER.", where=module_name)
    return module.REGISTER


def parts(folder: str) -> dict[str, Any]:
    """Every part of a folder by name."""
    return {name: get(folder, name) for name in names(folder)}


def reporter_for(path: str) -> Any:
    """The reporter that writes a path's suffix.

    Raises:
        UsageError: no reporter does.
    """
    suffix = PurePath(path).suffix.lower()
    writers = {s: r for r in parts("reporters").values() for s in getattr(r, "suffixes", ())}
    if suffix not in writers:
        raise UsageError(
            "No reporter writes this kind of file.",
            where=path,
            actual=suffix or "(no suffix)",
            expected=", ".join(sorted(writers)),
        )
    return writers[suffix]()

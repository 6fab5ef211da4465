"""Two trees of files: which files correspond, and what was left out of the walk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from whydiff.errors import UsageError


@dataclass
class Tree:
    """Regular files under a root, by relative path with ``/``.

    Attributes:
        root: a folder, or a single file (its name is then the one path).
        files: relative path → file.
        skipped: reason → relative paths.
    """

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)


def walk(root: Path) -> Tree:
    """Every regular file under a root; links to files are followed, links to folders are not.

    Raises:
        UsageError: nothing is there.
    """
    tree = Tree(root)
    if root.is_file():
        tree.files["(file)"] = root
        return tree
    if not root.is_dir():
        raise UsageError("There is no such folder or file.", where=str(root), expected="a folder of artifacts")
    for folder, folders, names in os.walk(root, followlinks=False):
        here = Path(folder)
        folders.sort()  # the order of a directory is nobody's: the same trees give the same report
        for name in folders:
            if (here / name).is_symlink():
                tree.skipped.setdefault("a link to a folder is not followed", []).append(_relative(root, here / name))
        for name in sorted(names):
            path = here / name
            if path.is_file():
                tree.files[_relative(root, path)] = path
            else:
                tree.skipped.setdefault("no regular file", []).append(_relative(root, path))
    return tree


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()

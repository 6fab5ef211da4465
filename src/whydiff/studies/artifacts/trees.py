"""Two trees of files: which files correspond, and what was left out of the walk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from whydiff.errors import UsageError
from whydiff.studies.artifacts.foreign.reading import is_orbax
from whydiff.studies.artifacts.readers import reader_for


@dataclass
class Tree:
    """Regular files under a root, and folders that are one checkpoint (Orbax), by relative path with ``/``.

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
    if root.is_file() or is_orbax(root):
        tree.files["(file)"] = root
        return tree
    if not root.is_dir():
        raise UsageError("There is no such folder or file.", where=str(root), expected="a folder of artifacts")
    for folder, folders, names in os.walk(root, followlinks=False):
        here = Path(folder)
        for name in [name for name in folders if is_orbax(here / name) and not (here / name).is_symlink()]:
            folders.remove(name)
            tree.files[_relative(root, here / name)] = here / name
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


@dataclass(frozen=True, slots=True)
class FilePair:
    """Two files that correspond; ``name`` is the reference's, and the candidate's where it is another one."""

    name: str
    reference: Path
    candidate: Path


def paired(ours: Tree, theirs: Tree) -> tuple[list[FilePair], tuple[str, ...], tuple[str, ...]]:
    """Files with the same path, then lone ones whose path differs in the suffix alone and that are both looked into.

    Returns:
        the pairs, and the paths that only the reference and only the candidate has.
    """
    found = [FilePair(path, ours.files[path], theirs.files[path]) for path in ours.files if path in theirs.files]
    missing = [path for path in ours.files if path not in theirs.files]
    extra = [path for path in theirs.files if path not in ours.files]
    if len(missing) == len(extra) == 1 and not found:
        matches = [(missing[0], extra[0])]
    else:
        stems = {_stem(path): path for path in missing}
        matches = [(stems[_stem(path)], path) for path in extra if _stem(path) in stems]
        matches = [match for match in matches if sum(_stem(p) == _stem(match[0]) for p in (*missing, *extra)) == 2]
    for one, other in matches:
        if reader_for(ours.files[one]) is not None and reader_for(theirs.files[other]) is not None:
            found.append(FilePair(f"{one} ↔ {other}", ours.files[one], theirs.files[other]))
            missing.remove(one)
            extra.remove(other)
    return found, tuple(missing), tuple(extra)


def _stem(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.rpartition('.')[0] or name}"


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size

"""A plain folder: ``.pt``, ``.npy``, ``.npz`` and ``.safetensors`` files named by module, or one file of many tensors."""

from __future__ import annotations

import re
from pathlib import Path

from whydiff.studies.dumps.readers.files import TENSORS, Skipped, content, counted, natural
from whydiff.studies.dumps.records import Dump, Entry, Role

_ROLE = re.compile(r"^(?P<scope>.*?)[._/-]?(?P<role>inputs?|outputs?|args|in|out)(?:[._\[-]?(?P<part>\w+)\]?)?$")
_LEADING = re.compile(r"^\d+[._-]+(?=\D)")


def recognised(place: Path) -> bool:
    """Whether there are tensor files."""
    return any(path.suffix.lower() in TENSORS for path in _files(place))


def read(place: Path) -> Dump:
    """The entries in the order of the names, numbers as numbers."""
    skipped: Skipped = {}
    found = []
    for path in _files(place):
        stem = path.relative_to(place).with_suffix("").as_posix() if place.is_dir() else ""
        held = content(path, skipped)
        for name, stored in held.tensors.items():
            inner = "" if name in ("array", "(all)", "data", "value") and len(held.tensors) == 1 and stem else name
            found.append((".".join(word for word in (stem.replace("/", "."), inner) if word), stored))
    found.sort(key=lambda one: natural(one[0]))
    numbered = bool(found) and all(_LEADING.match(name) for name, _ in found)
    entries = []
    for order, (name, stored) in enumerate(found):
        scope, role, part = _named(_LEADING.sub("", name) if numbered else name)
        entries.append(Entry(scope=scope, part=part, role=role, order=order, stored=stored, spec=str(stored)))
    unknown = () if numbered else ("the order of execution is not known: names are in the order of their text",)
    return Dump(
        source=str(place),
        tool="a folder of tensors",
        entries=tuple(entries),
        ordered=numbered,
        unknown=unknown,
        skipped=counted(skipped),
    )


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def _named(name: str) -> tuple[str, Role, str]:
    found = _ROLE.match(name)
    if found is None or not found["scope"]:
        return name, "output", "0"
    return found["scope"], "input" if found["role"][0] in "ia" else "output", found["part"] or "0"

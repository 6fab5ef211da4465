"""SGLang's dumper: one ``.pt`` file for each value, its name a list of ``key=value`` joined by ``___``.

Keys are ``step`` (``forward_pass_id`` in older versions), ``rank``, ``dump_index``, ``name``, and tags such as
``layer_id``; the file holds ``{"value": tensor, "meta": {...}}``, or the tensor itself in older versions.
"""

from __future__ import annotations

from pathlib import Path

from whydiff.studies.dumps.readers.files import Skipped, content, counted, named, natural
from whydiff.studies.dumps.records import Dump, Entry, Role

_JOIN = "___"
_INTRUDED = "non_intrusive__"
_OWN = ("name", "rank", "dump_index", "recompute_status", "duplicate_index")


def recognised(place: Path) -> bool:
    """Whether SGLang's dumper wrote it."""
    return place.is_dir() and any(_tags(path) for path in named(place, "*.pt"))


def read(place: Path) -> Dump:
    """The entries, in the order in which they were dumped."""
    skipped: Skipped = {}
    found = [(tags, path) for path in named(place, "*.pt") if (tags := _tags(path))]
    found.sort(key=lambda one: (natural(one[0]["dump_index"]), natural(one[0].get("rank", ""))))
    entries = []
    calls: dict[tuple[str, ...], int] = {}
    for order, (tags, path) in enumerate(found):
        held = content(path, skipped)
        rank = f"rank={tags['rank']}" if "rank" in tags else ""
        around = " ".join(f"{key}={value}" for key, value in tags.items() if key not in _OWN)
        scope, role, part = _named(tags["name"])
        number = calls[scope, part, around, rank] = calls.get((scope, part, around, rank), -1) + 1
        for name, stored in held.tensors.items():
            if not name.startswith("meta"):
                inner = name.removeprefix("value").strip(".[]")
                entries.append(
                    Entry(
                        scope=scope,
                        op=f"#{number}" if number else "",
                        part=".".join(word for word in (part, inner if inner != "(all)" else "") if word) or "0",
                        role=role,
                        order=order,
                        around=around,
                        rank=rank,
                        stored=stored,
                        spec=str(stored),
                    )
                )
    unknown = ("what lies between two dumped values is not there",)
    return Dump(
        source=str(place), tool="SGLang's dumper", entries=tuple(entries), unknown=unknown, skipped=counted(skipped)
    )


def _tags(path: Path) -> dict[str, str]:
    pairs = [word.partition("=") for word in path.name.removesuffix(".pt").split(_JOIN)]
    tags = {key: value for key, equals, value in pairs if equals}
    number = tags.get("dump_index", "")
    right = len(tags) == len(pairs) and "name" in tags and number.isascii() and number.isdigit()
    return tags if right else {}


def _named(name: str) -> tuple[str, Role, str]:
    """(module or point, role, part) of a value that a hook or a line of the program dumped."""
    if not name.startswith(_INTRUDED):
        return name, "output", ""
    words = name.removeprefix(_INTRUDED).split(".")
    for n, word in enumerate(words):
        if word in ("inputs", "output"):
            return ".".join(words[:n]), "input" if word == "inputs" else "output", ".".join(words[n + 1 :])
    return ".".join(words), "output", ""

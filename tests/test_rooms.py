"""The import graph: no cycle, few floors, parts that do not know each other (import-linter checks the layers)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from whydiff import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/whydiff"
FLOORS = 14
"""The longest chain of rooms that import each other, at most."""


def part_of(module: str, folder: str) -> str:
    """Name of the part that a module belongs to; empty for shared helpers (``_base``) and other rooms."""
    package = importlib.import_module(registry.PACKAGES[folder])
    prefix = f"{package.__name__}."
    name = module.removeprefix(prefix).split(".")[0] if module.startswith(prefix) else ""
    return "" if name.startswith("_") or name in getattr(package, "SHARED", ()) else name


def sibling_imports(graph: grimp.ImportGraph, folder: str) -> list[tuple[str, str]]:
    return [
        (module, imported)
        for module in sorted(graph.modules)
        if part_of(module, folder)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if part_of(imported, folder) not in ("", part_of(module, folder))
    ]


def imports(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports."""
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def between_rooms(modules: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same for rooms: what stands directly below the package; the package itself is not one."""

    def room(module: str) -> str:
        return module.partition(".")[2].partition(".")[0]

    found: dict[str, set[str]] = {}
    for module, imported in modules.items():
        found.setdefault(room(module), set()).update(room(one) for one in imported)
    return {name: others - {name, ""} for name, others in found.items() if name}


def cycle(modules: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty if none do."""
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def floors(rooms: Mapping[str, set[str]]) -> int:
    """How many rooms the longest chain of imports goes through."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        height[room] = 1 + max((height[below] for below in rooms.get(room, ())), default=0)
    return max(height.values())


def rooms_of_the_table(text: str) -> list[str]:
    """The first column of CONTRIBUTING's table of rooms."""
    return re.findall(r"^\| `([\w.]+?)/?` \|", text.partition("## Rooms")[2].partition("\n## ")[0], re.MULTILINE)


@pytest.fixture(scope="module")
def every_import() -> dict[str, set[str]]:
    return imports(grimp.build_graph("whydiff", exclude_type_checking_imports=False))


def test_no_modules_import_each_other_in_a_ring_not_even_for_types(every_import: dict[str, set[str]]) -> None:
    assert cycle(every_import) == []
    assert cycle(between_rooms(every_import)) == []


def test_there_are_few_floors(every_import: dict[str, set[str]]) -> None:
    assert floors(between_rooms(every_import)) <= FLOORS


def test_rings_and_floors_are_seen() -> None:
    ring = {"whydiff.a.x": {"whydiff.b.x"}, "whydiff.b.y": {"whydiff.a.y"}}
    assert cycle(ring) == []
    assert sorted(set(cycle(between_rooms(ring)))) == ["a", "b"]
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}) == 3


def test_contributing_names_every_room_and_no_other() -> None:
    named = rooms_of_the_table((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    built = {path.name for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(named) == sorted(built - {"__init__.py", "__main__.py"})


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("whydiff", exclude_type_checking_imports=True)


@pytest.mark.parametrize("folder", registry.FOLDERS)
def test_parts_do_not_import_each_other(folder: str, graph: grimp.ImportGraph) -> None:
    assert sibling_imports(graph, folder) == []


def test_the_test_above_can_fail() -> None:
    graph = grimp.ImportGraph()
    graph.add_import(importer="whydiff.explain.causes.mask", imported="whydiff.explain.causes._base")
    graph.add_import(importer="whydiff.explain.causes.mask.deep", imported="whydiff.explain.causes.mask")
    assert sibling_imports(graph, "causes") == []
    graph.add_import(importer="whydiff.explain.causes.mask.deep", imported="whydiff.explain.causes.scale")
    assert sibling_imports(graph, "causes") == [("whydiff.explain.causes.mask.deep", "whydiff.explain.causes.scale")]


def private_imports(modules: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """(module, what it imports) where a part of that has an underscore and lies in a package that the module is not in."""

    def home(module: str) -> str:
        """The package that keeps a private module to itself; the whole tree for a module without an underscore."""
        package, private, _ = module.partition("._")
        return package if private and not module.endswith("__main__") else "whydiff"

    return sorted(
        (module, one)
        for module, imported in modules.items()
        for one in imported
        if not f"{module}.".startswith(f"{home(one)}.")
    )


def test_no_room_reaches_behind_anothers_door(every_import: dict[str, set[str]]) -> None:
    assert private_imports(every_import) == []
    behind = {
        "whydiff.judge.a": {"whydiff.explain._b", "whydiff.explain.c"},
        "whydiff.explain.c": {"whydiff.explain._b"},
    }
    assert private_imports(behind) == [("whydiff.judge.a", "whydiff.explain._b")]

"""Parts of one registry folder do not know each other (import-linter checks the layers)."""

from __future__ import annotations

import importlib

import grimp
import pytest

from whydiff import registry


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

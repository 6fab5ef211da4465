"""Habits that no linter knows: code reads fields, never sentences; large records are made with keywords."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from whydiff import records

SOURCE = Path(__file__).parents[1] / "src/whydiff"
SENTENCES = {"reason", "why", "what", "note", "notes", "statement", "outcome", "prediction", "skipped"}
"""Attributes that people read."""
SEARCHES = {"startswith", "endswith", "find", "index", "count"}
LONGEST = 400
"""Lines of a file that a reader still finds the way in."""
ASKED = (ast.Attribute, ast.Call, ast.Compare, ast.ImportFrom)
MOST = 3
"""Fields that a record may be given by position."""
LARGE = {
    name
    for name, part in vars(records).items()
    if isinstance(part, type) and dataclasses.is_dataclass(part) and len(dataclasses.fields(part)) > MOST
}


def is_sentence(node: ast.expr) -> bool:
    """An attribute that holds a sentence, also called (``.what.lower()``); a class may read its own (``self.x``)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_sentence(node.func.value)
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return isinstance(node, ast.Attribute) and node.attr in SENTENCES and not own


def is_code(node: ast.expr) -> bool:
    """Something that a sentence is compared with, other than with nothing."""
    return not (isinstance(node, ast.Constant) and node.value in ("", None)) and not is_sentence(node)


def read_sentences(nodes: Iterable[ast.AST]) -> Iterator[int]:
    """Lines that look for something in a sentence."""
    for node in nodes:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if isinstance(node.left, ast.Name) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
                continue  # a collection: `index in walk.skipped`
            if any(map(is_sentence, sides)) and any(map(is_code, sides)):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in SEARCHES and is_sentence(node.value):
            yield node.lineno


def placed_by_position(nodes: Sequence[ast.AST]) -> Iterator[int]:
    """Lines that give a large record more than `MOST` fields by position."""
    foreign = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("whydiff.records")
        for alias in node.names
    }
    for node in nodes:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LARGE - foreign):
            continue
        if len(node.args) > MOST or any(isinstance(one, ast.Starred) for one in node.args):
            yield node.lineno


def nodes_of(code: str) -> list[ast.AST]:
    """Those that a rule asks for; of names, constants and the like there are many more."""
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ASKED)]


@pytest.fixture(scope="module")
def sources() -> list[tuple[Path, list[ast.AST]]]:
    return [(path.relative_to(SOURCE), nodes_of(path.read_text("utf-8"))) for path in sorted(SOURCE.rglob("*.py"))]


def places(rule: Callable[[list[ast.AST]], Iterator[int]], sources: list[tuple[Path, list[ast.AST]]]) -> list[str]:
    return [f"{path}:{line}" for path, nodes in sources for line in rule(nodes)]


def test_code_reads_fields_and_no_sentences(sources: list[tuple[Path, list[ast.AST]]]) -> None:
    assert places(read_sentences, sources) == []


def test_large_records_are_made_with_keywords(sources: list[tuple[Path, list[ast.AST]]]) -> None:
    assert places(placed_by_position, sources) == []


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("'shape' in one.reason", [1]),
        ("look.why.startswith('no slice')", [1]),
        ("one.what == APART", [1]),
        ("accepted.text in one.statement", [1]),
        ("index in walk.skipped", []),
        ("x != cell.note.lower()", [1]),
        ("one.reason == '' or one.reason != other.reason", []),
        ("self.what == OUTPUTS", []),
        ("f'{one.reason}'", []),
    ],
)
def test_sentences_that_are_read_are_seen(code: str, lines: list[int]) -> None:
    assert list(read_sentences(nodes_of(code))) == lines


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("Count('a', 'b', 1)", []),
        ("Count('a', 'b', 1, ())", [1]),
        ("Count(*x)", [1]),
        ("from own import Count; Count(*x)", []),
        ("Evidence('a', {})", []),
    ],
)
def test_records_by_position_are_seen(code: str, lines: list[int]) -> None:
    assert list(placed_by_position(nodes_of(code))) == lines


def test_no_file_is_too_long() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}

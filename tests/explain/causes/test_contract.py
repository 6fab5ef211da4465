"""What every registered cause promises; a new file in the folder is tested by being there."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plain import unplain

from whydiff import registry
from whydiff.errors import UsageError
from whydiff.explain.causes import by_code, detectors
from whydiff.explain.causes._page import sections, write
from whydiff.explain.causes._rule import HEADINGS
from whydiff.pipeline import compare
from whydiff.records import Cause, Diagnosis
from whydiff.report.proof import tried
from whydiff.studies.matrix import Matrix, MatrixOptions, run_matrix, settings

DOCS = Path(__file__).parents[3] / "docs"
CODES = [detector.code for detector in detectors()]
SLOW = ("CP005", "DS001", "DS002", "DS003", "DS004", "DS005", "DS006")
"""Causes whose examples compile on a ladder or start processes: seconds each."""
BY_MATRIX = {
    "EN001": "WHYDIFF_TEST_RELEASE=1.0.0",
    "EN002": "WHYDIFF_TEST_ONEDNN=0",
    "EN004": "ATEN_CPU_CAPABILITY=default",
}
"""Causes outside the program: confirmed by running it again in other processes, with one variable changed."""
LOCATED = ("CP002", "DS003", "EN003", "FO005", "FO009", "ND001", "PR001", "PR007", "ST004", "ST007")
"""Causes whose example is located only: what takes them away carries a part of the reference into the candidate."""
ANOTHER = {
    "CP003": "no order of roundings is right where terms cancel: the fix is another formula",
    "CP004": "the values are given to the compiled code; the fix is to trace it again",
    "CP007": "autocast is turned off in the compiled code; the fix is to compile it together, or with another backend",
    "MD002": "the draws are left out; the fix is the setting that leads to them",
    "OR001": "the reference's order is replayed; the fix is to call the same op",
    "OV001": "the op is carried in float32; the fix is bfloat16, or other numbers",
    "OV002": "the op is carried in float32; the fix is to carry what comes before it so",
    "OV005": "the op is carried in float32; the fix may be another constant",
    "ST005": "the values are restored; the fix is to tie the tensors",
    "TR001": "the reference's count is given; the fix names the one that is right",
}
"""Causes whose fix is another change than the one that was proven, and why."""
ON_AN_ACCELERATOR = ("PR005",)
"""The CPU backend ignores what these change, and the experiment finds just that."""


def each(*but: str) -> list[Any]:
    """The codes, those of examples that take long marked as slow."""
    return [pytest.param(code, marks=pytest.mark.slow) if code in SLOW else code for code in CODES if code not in but]


@cache
def diagnosis(code: str) -> Diagnosis:
    return compare(*by_code(code).example())


def of(code: str) -> list[Cause]:
    return [cause for cause in diagnosis(code).causes if cause.code == code]


def accepted(cause: Cause) -> bool:
    return cause.remedy is not None and cause.remedy.accepts


def test_there_are_causes_and_their_codes_and_names_are_unique() -> None:
    assert {"ST001", "ST002", "ST003", "ST004", "ST005", "ST006", "IN001", "MD001", "ND001"} <= set(CODES)
    assert len(set(CODES)) == len(CODES)
    assert len({detector.name for detector in detectors()}) == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_code_name_and_file_follow_the_rules(code: str) -> None:
    detector = by_code(code)
    assert re.fullmatch(r"[A-Z]{2}\d{3}", code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", detector.name)
    assert registry.get("causes", code.lower()) is detector
    assert by_code(detector.name) is detector


@pytest.mark.parametrize("code", CODES)
def test_the_docstring_has_every_heading_with_text(code: str) -> None:
    found = sections(by_code(code))
    assert found.pop("")
    assert tuple(found) == HEADINGS
    assert all(found.values())


def test_every_cause_gets_a_page_and_the_checked_in_list_names_them_all(tmp_path: Path) -> None:
    write(tmp_path)
    assert {path.stem for path in (tmp_path / "causes").glob("*.md")} == set(CODES)
    for code in CODES:
        text = (tmp_path / "causes" / f"{code}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {code} {by_code(code).name}\n")
        assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == HEADINGS
        assert "```python\ndef example(" in text
    listed = (tmp_path / "reference" / "causes.md").read_text(encoding="utf-8")
    assert (DOCS / "reference" / "causes.md").read_text(encoding="utf-8") == listed, "run: make docs"
    assert re.findall(r"^\| ([A-Z]{2}\d{3}) \|", listed, re.MULTILINE) == CODES


@pytest.mark.parametrize("code", each())
def test_the_example_fires_its_cause_and_no_other(code: str) -> None:
    assert {cause.code for cause in diagnosis(code).causes} == {code}


@pytest.mark.parametrize("code", each())
def test_what_is_found_has_evidence_and_a_remedy(code: str) -> None:
    for cause in of(code):
        assert cause.name == by_code(code).name
        assert cause.site
        assert cause.evidence
        assert all(evidence.statement and evidence.data for evidence in cause.evidence)
        assert cause.remedy is not None
        assert cause.remedy.text


@pytest.mark.parametrize("code", each(*BY_MATRIX))
def test_the_code_to_paste_is_python(code: str) -> None:
    for cause in of(code):
        assert cause.remedy is not None
        compile(cause.remedy.code, code, "exec")


@pytest.mark.parametrize("code", each(*BY_MATRIX, *ON_AN_ACCELERATOR))
def test_the_example_is_confirmed_by_experiment(code: str) -> None:
    assert [cause.status for cause in of(code)] == ["located" if code in LOCATED else "confirmed"]
    assert of(code)[0].experiments
    assert not of(code)[0].inert


@pytest.mark.parametrize("code", each(*BY_MATRIX, *ON_AN_ACCELERATOR, *LOCATED))
def test_a_fix_that_is_the_proven_undo_says_that_it_was_tried(code: str) -> None:
    (cause,) = of(code)
    assert tried(cause).startswith(" (untried)" if code in ANOTHER else (" (tried: ", "")[accepted(cause)])


@pytest.mark.parametrize("code", each())
def test_a_report_of_the_example_that_is_sent_is_plain(code: str) -> None:
    assert unplain(diagnosis(code)) == []


@pytest.mark.parametrize("code", ["IN005", "PR006"])
def test_a_fix_of_the_reference_is_tried_there(code: str) -> None:
    (cause,) = compare(*reversed(by_code(code).example())).causes
    assert cause.remedy is not None and cause.remedy.undoes == "reference" and cause.remedy.carried_out
    assert tried(cause).startswith(" (tried: ")
    assert tried(replace(cause, experiments=cause.experiments[:1])) == " (untried)"


@pytest.mark.parametrize("code", each())
def test_it_is_not_confirmed_on_its_impostors(code: str) -> None:
    pairs = list(by_code(code).impostors())
    assert len(pairs) >= 2
    for number, pair in enumerate(pairs):
        causes = compare(*pair).causes
        assert not [c for c in causes if c.code == code and c.status == "confirmed" and not c.inert], number


@pytest.mark.parametrize("code", ON_AN_ACCELERATOR)
def test_an_example_for_an_accelerator_is_confirmed_there_and_inert_elsewhere(code: str) -> None:
    (found,) = of(code)
    acts = any(comparison.status == "differs" for _, comparison in diagnosis(code).outputs)
    assert (found.status, found.inert) == (("confirmed", False) if acts else ("refuted", True))
    assert found.experiments


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    target = f"{Path(__file__).with_name('environments.py')}:run"
    return run_matrix(
        target, settings([sys.executable], list(BY_MATRIX.values())), MatrixOptions(tmp_path_factory.mktemp("matrix"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("code", BY_MATRIX)
def test_a_cause_outside_the_program_is_confirmed_by_running_it_elsewhere(code: str, matrix: Matrix) -> None:
    if code == "EN004" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine has one instruction set only")
    assert [(cause.status, "whydiff matrix" in cause.reason) for cause in of(code)] == [("inconclusive", True)]
    pairing = matrix.pairings[list(BY_MATRIX).index(code)]
    assert [(cause.code, cause.status) for cause in pairing.causes] == [(code, "confirmed")], pairing.reason
    assert [(c["code"], c["status"]) for c in pairing.diagnosis["causes"]] == [(code, "confirmed")]
    assert [one.outcome for one in pairing.causes[0].experiments] == [
        "it gives the candidate's bits",
        "the bits are the reference's",
    ]


@pytest.mark.parametrize("code", each())
def test_a_status_that_is_not_confirmed_says_why(code: str) -> None:
    assert all(cause.reason for cause in of(code) if cause.status != "confirmed")


@pytest.mark.parametrize("code", each())
def test_the_diagnosis_can_be_written_as_json(code: str) -> None:
    assert [cause["code"] for cause in diagnosis(code).to_dict()["causes"]] == [code]


@pytest.mark.parametrize("code", CODES)
def test_a_framework_is_imported_inside_functions_only(code: str) -> None:
    module = inspect.getmodule(type(by_code(code)))
    assert module is not None
    names = [
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    ]
    assert names
    assert not {name.split(".")[0] for name in names} & {"torch", "jax", "transformers"}


def test_an_unknown_code_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="no such cause"):
        by_code("ST999")

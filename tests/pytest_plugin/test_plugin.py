"""The plugin in projects of its own: markers, golden traces, reports, with and without xdist."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

import whydiff
from whydiff.pytest_plugin._findings import annotation, sarif
from whydiff.pytest_plugin._told import file_name

pytest_plugins = ["pytester"]
SOURCE = Path(whydiff.__file__).parents[1]
INSTALLED = importlib.metadata.entry_points(group="pytest11", name="whydiff")
PLUGIN = () if INSTALLED else ("-p", "whydiff.pytest_plugin")

MODEL = """
import pytest, torch, whydiff
torch.manual_seed(0)
torch.set_num_threads(1)
old = torch.nn.Linear(64, 8)
x = torch.linspace(-1, 1, 192).reshape(3, 64)
def refactored(x): return torch.nn.functional.linear(x, old.weight, old.bias)
def pieces(x): return x[:, :31] @ old.weight.T[:31] + x[:, 31:] @ old.weight.T[31:] + old.bias
def defect(x): return old(x) * 1.01
class Batch(torch.nn.Module):  # every row depends on how many there are
    def forward(self, x): return x / x.shape[0]
class Order(torch.nn.Module):  # rounds otherwise in a batch
    def forward(self, x): return x.sum(-1) if len(x) == 1 else x.flip(-1).cumsum(-1)[:, -1]
count = 0
def drifts(x):
    global count
    count += 1
    return x + count
"""

MARKS = (
    MODEL
    + """
def test_refactor(): whydiff.assert_same(old, refactored, x)
def test_other_order(): whydiff.assert_same(old, pieces, x)
def test_defect(): whydiff.assert_same(old, defect, x)
@pytest.mark.whydiff_allow("semantic")
def test_allowed_defect(): whydiff.assert_same(old, defect, x)
@pytest.mark.whydiff_allow("identical")
def test_nothing_allowed(): whydiff.assert_same(old, pieces, x)
@pytest.mark.whydiff_allow("identical")
def test_the_assertion_says_more_than_the_marker(): whydiff.assert_same(old, pieces, x, allow="rounding")
@pytest.mark.whydiff_batch_invariant(sizes=(1, 3))
def test_rows(): return Batch(), x
@pytest.mark.whydiff_batch_invariant(sizes=(1, 3))
def test_rows_that_are_alone(): return torch.sin, x
@pytest.mark.whydiff_allow("rounding")
@pytest.mark.whydiff_batch_invariant((1, 3))
def test_rows_rounded(): return Order(), x
@pytest.mark.whydiff_allow(verdict="rounding")
@pytest.mark.whydiff_batch_invariant
def test_rows_beyond_rounding(): return Batch(), x
@pytest.mark.whydiff_batch_invariant
def test_rows_by_default(): return Order(), x
@pytest.mark.whydiff_deterministic
def test_drift(): return drifts, x
@pytest.mark.whydiff_deterministic
def test_steady(): return old, x
@pytest.mark.whydiff_deterministic
def test_returns_nothing(): pass
def test_expects_a_difference():
    with pytest.raises(AssertionError): whydiff.assert_same(old, defect, x)
def test_without_whydiff(): pass
"""
)
DEFECT = """
def test_defect(): whydiff.assert_same(old, defect, x)
"""
PASSED = 9
FAILED = ("defect", "nothing_allowed", "rows", "rows_beyond_rounding", "rows_by_default", "drift", "returns_nothing")
WRONG = {
    'whydiff_allow("exact")': "whydiff_allow: verdict is str 'exact', not one of identical, *",
    'whydiff_allow("precison")': "whydiff_allow: verdict is str 'precison', not *; did you mean precision?",
    "whydiff_allow": "whydiff_allow: missing a required argument: 'verdict'; it takes (verdict)",
    "whydiff_batch_invariant(size=3)": "whydiff_batch_invariant: got an unexpected keyword argument 'size'; it *",
    "whydiff_batch_invariant(rows=1)": "whydiff_batch_invariant: rows is int 1, not a list of whole numbers",
    "whydiff_deterministic(3)": "whydiff_deterministic: too many positional arguments; it takes nothing",
    "whydiff_determinstic": "*: there is no such marker; did you mean whydiff_deterministic? There are whydiff_allow, *",
}
"""Markers that guard nothing as they are written, and the line that says why."""

GOLDEN = (
    MODEL
    + """
import os
now = {"old": old, "refactored": refactored, "pieces": pieces, "defect": defect}[os.environ.get("NOW", "old")]
@pytest.mark.parametrize("rows", [1, 3])
def test_logits(whydiff_golden, rows): whydiff_golden(now, x[:rows])
"""
)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def properties(file: Path) -> dict[str, dict[str, str]]:
    cases = ElementTree.parse(file).iter("testcase")
    return {c.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in c.iter("property")} for c in cases}


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Runs in this process forget what they imported, and torch can be imported only once: import all before."""
    importlib.import_module("torch._dynamo")
    whydiff.assert_same(torch.sin, lambda x: x.sin() + 0, torch.ones(4), allow="semantic")
    whydiff.assert_batch_invariant(torch.sin, torch.ones(2, 1))


def test_markers_messages_and_reports(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.makepyfile(test_marks=MARKS)
    options = (
        "--junitxml=j.xml",
        "--whydiff-sarif=s.sarif",
        "--strict-markers",
        "-W",
        "error::pytest.PytestReturnNotNoneWarning",
    )
    result = project.runpytest_inprocess(*PLUGIN, *options)
    result.assert_outcomes(passed=PASSED, failed=len(FAILED))
    text = result.stdout.str()
    for name in FAILED:
        assert f"FAILED test_marks.py::test_{name} - " in text
    for promised in (
        "E   whydiff.Differs: SEMANTIC, proven: ",
        "E   allowed is no more than rounding",
        "E   whydiff.Differs: ROUNDING",
        "E   allowed is no difference",
        "E   fix     ",
        "(size, row) pairs differ",
        "\nNONDETERMINISTIC",
        "a test with this marker returns (program, inputs), and this one returned NoneType",
    ):
        assert promised in text, promised
    assert "pytest_plugin/" not in text, "no frame of the plugin's own"

    told = properties(project.path / "j.xml")
    assert told["test_refactor"]["whydiff_verdict"] == "identical"
    assert told["test_other_order"]["whydiff_verdict"] == "rounding"
    assert "whydiff_verdict" not in told["test_without_whydiff"]
    saved = Path(told["test_defect"]["whydiff_report"])
    assert "SEMANTIC" in saved.read_text() and str(saved) in text
    assert "whydiff_report" not in told["test_refactor"]

    log = json.loads((project.path / "s.sarif").read_text())
    found = {r["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]: r for r in log["runs"][0]["results"]}
    assert set(found) == {f"test_marks.py::test_{name}" for name in FAILED if name != "returns_nothing"}
    line = MARKS.splitlines().index("def test_defect(): whydiff.assert_same(old, defect, x)")
    place = found["test_marks.py::test_defect"]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "test_marks.py" and place["region"]["startLine"] in (line, line + 1)
    assert found["test_marks.py::test_nothing_allowed"]["level"] == "note"
    assert {r["ruleId"] for r in found.values()} == {rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]}
    assert text.count("\n::error file=test_marks.py,line=") == len(found)
    assert "During handling" not in text, "a failure by a marker is told once"
    assert "SEMANTIC" in Path(told["test_rows"]["whydiff_report"]).read_text(), "what the sweep found"


def test_a_marker_that_guards_nothing_is_refused_in_one_line(project: pytest.Pytester) -> None:
    tests = [f"@pytest.mark.{marker}\ndef test_{n}(): return abs, 1\n" for n, marker in enumerate(WRONG)]
    project.makepyfile(test_wrong="import pytest\n" + "".join(tests))
    result = project.runpytest_inprocess(*PLUGIN, "-p", "no:warnings")
    result.assert_outcomes(errors=len(WRONG))
    for number, line in enumerate(WRONG.values()):
        result.stdout.fnmatch_lines([f"*ERROR at setup of test_{number} *", line])
    assert ".py:" not in result.stdout.str().partition("short test summary")[0], "no frame of a traceback"


def test_an_error_ends_at_the_line_that_called(project: pytest.Pytester) -> None:
    calls = ("assert_same(old, defect, x, ", "assert_batch_invariant(old, x, ", "whydiff_golden(old, x, ")
    tests = [f"def test_{n}(whydiff_golden): {call}allow='precison')\n" for n, call in enumerate(calls)]
    raises = "def raises(x): raise OSError(x.shape)\ndef test_raises(): assert_same(old, raises, x)\n"
    project.makepyfile(test_told=MODEL + "from whydiff import *\n" + "".join(tests) + raises)
    text = project.runpytest_inprocess(*PLUGIN).stdout.str().partition("short test summary")[0]
    assert text.count("E     actual: 'precison'") == text.count("did you mean precision?") == len(calls)
    assert "whydiff/" not in text, "no frame of whydiff's own"
    assert "E     actual: OSError: torch.Size([3, 64])" in text and "def raises(x): raise OSError" in text
    assert len(text.splitlines()) < 80


def test_golden_traces(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makepyfile(test_golden=GOLDEN)

    def run(now: str, *options: str) -> pytest.RunResult:
        monkeypatch.setenv("NOW", now)
        return project.runpytest_inprocess(*PLUGIN, *options)

    none = run("old")
    none.assert_outcomes(failed=2)
    none.stdout.fnmatch_lines(
        ["*There is no golden trace *test_golden-test_logits-1.trace. Run pytest --whydiff-update*"]
    )
    recorded = run("old", "--whydiff-update")
    recorded.assert_outcomes(passed=2)
    recorded.stdout.fnmatch_lines(["recorded *test_golden-test_logits-3.trace (* bytes)"])
    traces = sorted((project.path / "golden").iterdir())
    assert [trace.name for trace in traces] == [f"test_golden-test_logits-{rows}.trace" for rows in (1, 3)]
    assert all(sum(file.stat().st_size for file in trace.iterdir()) < 20_000 for trace in traces)

    before = [(trace / "manifest.json").read_bytes() for trace in traces]
    assert "recorded" not in run("refactored", "--whydiff-update").stdout.str()
    assert [(trace / "manifest.json").read_bytes() for trace in traces] == before, "a refactor rewrites nothing"
    run("pieces").assert_outcomes(passed=2)
    broken = run("defect")
    broken.assert_outcomes(failed=2)
    broken.stdout.fnmatch_lines(["E   whydiff.Differs: *"])


@pytest.mark.slow
def test_with_xdist(project: pytest.Pytester) -> None:
    project.makepyfile(test_golden=GOLDEN, test_marks=MODEL + DEFECT)
    options = ("-n", "2", "--whydiff-update", "--junitxml=j.xml", "--whydiff-sarif=s.sarif")
    result = project.runpytest_subprocess(*PLUGIN, *options)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines_random(["recorded *test_logits-1.trace*", "recorded *test_logits-3.trace*"])
    assert len(list((project.path / "golden").iterdir())) == 2, "no worker leaves a part"
    assert properties(project.path / "j.xml")["test_defect"]["whydiff_verdict"] == "semantic"
    assert len(json.loads((project.path / "s.sarif").read_text())["runs"][0]["results"]) == 1, "written once"


def test_a_report_that_cannot_be_written_hides_no_failure(project: pytest.Pytester) -> None:
    project.makepyfile(test_marks=MODEL + DEFECT)
    (project.path / "taken").write_text("")
    result = project.runpytest_inprocess(*PLUGIN, "--whydiff-reports=taken/here")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E   whydiff.Differs: SEMANTIC*", "*whydiff report*", "*taken*"])


def test_outputs_that_are_too_large_are_not_recorded(project: pytest.Pytester) -> None:
    project.makepyfile(test_golden=GOLDEN)
    project.makeini("[pytest]\nwhydiff_golden_max = 50\n")
    result = project.runpytest_inprocess(*PLUGIN, "--whydiff-update", "-k", "1")
    result.assert_outcomes(passed=1)
    project.makeini("[pytest]\nwhydiff_golden_max = 1 MB\n")
    result = project.runpytest_inprocess(*PLUGIN, "-k", "3")
    result.stdout.fnmatch_lines(["whydiff_golden_max is '1 MB', not a number of bytes"])
    project.makeini("[pytest]\nwhydiff_golden_max = 50\n")
    result = project.runpytest_inprocess(*PLUGIN, "--whydiff-update")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*The outputs are too large to be committed.*"])


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, whydiff.pytest_plugin; print({'torch', 'numpy', 'rich', 'safetensors', 'jax'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def report(line: int | None = 6) -> pytest.TestReport:
    return pytest.TestReport("a/test_b.py::test", ("a/test_b.py", line, "test"), {}, "failed", "no", "call")


def test_annotations_escape_what_github_reads() -> None:
    said = {"whydiff_verdict": "semantic", "whydiff_cause": "ST001 x, y: z", "whydiff_message": "50 %\nnext"}
    expected = "::error file=a/test_b.py,line=7,title=test%3A semantic ST001 x%2C y%3A z::50 %25%0Anext"
    assert annotation(report(), said) == expected


def test_sarif_without_findings_and_without_a_cause() -> None:
    assert sarif([])["runs"][0]["results"] == []
    (result,) = sarif([(report(None), {"whydiff_verdict": "inconclusive", "whydiff_message": "m"})])["runs"][0][
        "results"
    ]
    assert result["ruleId"] == "inconclusive" and result["level"] == "error"
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}


@pytest.mark.parametrize(
    ("nodeid", "name"), [("test_a[x/y-é:z]", "test_a-x-y-é-z"), ("../a::b", "a-b"), ("T::test[1 2]", "T-test-1-2")]
)
def test_names_of_files_are_safe(nodeid: str, name: str) -> None:
    assert file_name(nodeid) == name

"""Other distributions' parts: the documented project works, and a broken one hurts nobody."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.forked import executed, ran

from whydiff import registry
from whydiff.errors import PluginError
from whydiff.explain.causes import _telling, asked
from whydiff.pipeline import compare
from whydiff.records import Diagnosis

ACME = Path(__file__).parent / "acme"
PAGE = Path(__file__).parents[2] / "docs/how-to/write-a-plugin.md"
CAUSE = (ACME / "acme_whydiff/cause.py").read_text(encoding="utf-8")
METRIC = (ACME / "acme_whydiff/metric.py").read_text(encoding="utf-8")
REPORTER = (ACME / "acme_whydiff/reporter.py").read_text(encoding="utf-8")

Install = Callable[..., None]


def install(folder: Path, distribution: str, entry_points: dict[str, dict[str, str]], files: dict[str, str]) -> None:
    """What an installer leaves behind: modules, metadata and entry points."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def forget() -> None:
    """What was looked up once is looked up again."""
    for cached in (registry.get, registry._third, _telling.asked, _telling.who):
        cached.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install distributions for the length of a test, in which what a part raises is counted."""
    before = set(sys.modules)

    def do(distribution: str, entry_points: dict[str, dict[str, str]], files: dict[str, str]) -> None:
        install(tmp_path / distribution, distribution, entry_points, files)
        monkeypatch.syspath_prepend(str(tmp_path / distribution))
        forget()

    monkeypatch.setenv("WHYDIFF_RAISE", "0")
    yield do
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if name.startswith("third_"):
            del sys.modules[name]
    forget()


def pair() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    reference = torch.nn.Linear(8, 4)
    candidate = copy.deepcopy(reference)
    candidate.weight.data.neg_()
    return reference, candidate, torch.randn(2, 8)


def failed(diagnosis: Diagnosis) -> dict[str, tuple[str, int]]:
    """Part → (reason, count) of what was counted because it failed or cannot be used."""
    return {c.what: (c.reason, c.count) for c in diagnosis.not_compared if "of third" in c.what or "failed" in c.reason}


def others_report(diagnosis: Diagnosis) -> None:
    """What the other parts say of `pair`, as without any plugin."""
    assert [(cause.code, cause.status) for cause in diagnosis.causes] == [("ST001", "confirmed")]
    assert str(diagnosis.verdict) == "semantic"
    assert (dict(diagnosis.outputs)["output"].value("max_abs") or 0) > 0


# --------------------------------------------------------------------------- the page


@pytest.mark.parametrize("name", ["pyproject.toml", *(f"acme_whydiff/{p}.py" for p in ("cause", "metric", "reporter"))])
def test_the_page_shows_the_project_to_the_letter(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    text = (ACME / name).read_text(encoding="utf-8")
    assert f"`{name}`:\n\n```{'toml' if name.endswith('.toml') else 'python'}\n{text}```\n" in page


SCRIPT = """
import copy, json, sys
sys.path.insert(0, sys.argv.pop())
import torch, whydiff
from whydiff.explain.causes import by_code
rule = by_code("negated-weights")
seen = whydiff.compare(*rule.example())
(impostor,) = rule.impostors()
other = whydiff.compare(*impostor)
seen.save(sys.argv[1])
print(json.dumps({
    "causes": [(c.code, c.status) for c in seen.causes],
    "impostor": [(c.code, c.status) for c in other.causes],
    "metric": seen.outputs[0][1].value("mean_square"),
    "expected": seen.outputs[0][1].value("rel_l2"),
    "failed": [c.what for c in seen.not_compared],
}), flush=True)
from whydiff.cli import main
sys.argv[1:] = ["cause", "AC001", "--color", "never"]
main()
"""


def test_the_project_of_the_page_works(tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib")  # newer than the oldest Python
    project = tomllib.loads((ACME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = {f"acme_whydiff/{path.name}": path.read_text(encoding="utf-8") for path in ACME.glob("acme_whydiff/*.py")}
    install(tmp_path / "site", project["name"], project["entry-points"], files)
    table = tmp_path / "causes.csv"
    done = ran(executed, SCRIPT, (str(table), str(tmp_path / "site")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said, page = done.stdout.split("\n", 1)
    found = json.loads(said)
    assert found["causes"] == [["AC001", "confirmed"]]
    assert found["impostor"] == [["ST001", "confirmed"]]
    assert found["metric"] > 0 < found["expected"]
    assert found["failed"] == []
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert rows == [{"code": "AC001", "name": "negated-weights", "site": "weight", "status": "confirmed"}]
    assert "opposite sign" in page


# --------------------------------------------------------------------------- broken ones

BROKEN: dict[str, tuple[str, str, str, str]] = {
    # what is wrong: (kind, entry point's name, source, what the report says)
    "cannot be imported": ("causes", "tc001", "import no_such_module", "imported.*No module named 'no_such_module'"),
    "exits at import": ("causes", "tc001", "raise SystemExit(3)", "imported.*SystemExit: 3"),
    "registers nothing": ("causes", "tc001", "OTHER = 1", "imported.*no attribute 'REGISTER'"),
    "has no code": ("causes", "tc001", CAUSE.replace('    code = "AC001"\n', ""), "no code like 'ST003'"),
    "has a code of another form": ("causes", "tc001", CAUSE.replace('"AC001"', '"acme"'), "no code .* but 'acme'"),
    "has no page": ("causes", "tc001", CAUSE.replace("    Remedy:\n", ""), "lacks the headings Remedy"),
    "cannot be called as it is": (
        "causes",
        "tc001",
        CAUSE.replace("def detect(self, case: Case)", "def detect(self)").replace("(case, self.code)", "()"),
        r"detect\(self\).* cannot be called as detect\(self, case\)",
    ),
    "lacks a method": ("causes", "tc001", CAUSE.replace("def detect", "def find"), "abstract"),
    "is a class": (
        "causes",
        "tc001",
        CAUSE.replace("NegatedWeights()\n", "NegatedWeights\n"),
        "class .*not an instance",
    ),
    "is of another type": ("metrics", "mine", "REGISTER = 3", "an object of type int, not an instance of .*Metric"),
    "has another name": ("metrics", "mine", METRIC, "name is 'mean_square', and it is registered as 'mine'"),
    "has no formula": (
        "metrics",
        "mean_square",
        METRIC.replace('"elements", mean_square', '"elements", 3'),
        "formula is 3",
    ),
    "is an instance": ("reporters", "csv", REPORTER.replace("CsvReporter\n", "CsvReporter()\n"), "not a subclass"),
    "needs arguments": (
        "reporters",
        "csv",
        REPORTER.replace("header: bool = True", "header: bool"),
        "without arguments",
    ),
    "writes no suffix": ("reporters", "csv", REPORTER.replace('(".csv",)', '("csv",)'), "'csv' is not a dot"),
    "clashes with an own part": (
        "causes",
        "st001",
        CAUSE,
        "'st001' is registered by whydiff.explain.causes.st001 and by",
    ),
    "claims an own code": (
        "causes",
        "tc001",
        CAUSE.replace('"AC001"', '"ST001"'),
        "ST001 is claimed by .*third_broken.* and by whydiff.explain.causes.st001",
    ),
    "claims an own suffix": ("reporters", "csv", REPORTER.replace(".csv", ".json"), "json is claimed by .*report.json"),
    "goes in a circle": (
        "causes",
        "tc001",
        CAUSE.replace('precedes = ("ST001", "ST002")', 'precedes = ("ST003",)\n    yields_to = ("ST001",)'),
        "yield to each other in a circle.*AC001",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_named_and_the_others_report(what: str, installed: Install) -> None:
    kind, name, source, said = BROKEN[what]
    installed("third-party", {f"whydiff.{kind}": {name: "third_broken:REGISTER"}}, {"third_broken.py": source})
    diagnosis = compare(*pair())
    others_report(diagnosis)
    ((part, (reason, count)),) = failed(diagnosis).items()
    assert part == f"{kind[:-1]} {name!r} of third-party 1.0 (third_broken:REGISTER)"
    assert re.search(said, reason), reason
    assert count == 1


def test_two_plugins_of_one_name_are_both_left_out_and_both_named(installed: Install) -> None:
    for one in ("third-a", "third-b"):
        module = one.replace("-", "_")
        installed(one, {"whydiff.causes": {"ac001": f"{module}:REGISTER"}}, {f"{module}.py": CAUSE})
    diagnosis = compare(*pair())
    others_report(diagnosis)
    ((_, (reason, _)),) = failed(diagnosis).items()
    assert "third-a 1.0" in reason and "third-b 1.0" in reason


def test_two_plugins_of_one_code_are_both_left_out_and_both_named(installed: Install) -> None:
    for one in ("third-a", "third-b"):
        module = one.replace("-", "_")
        installed(one, {"whydiff.causes": {module: f"{module}:REGISTER"}}, {f"{module}.py": CAUSE})
    diagnosis = compare(*pair())
    others_report(diagnosis)
    assert len(failed(diagnosis)) == 2
    assert all("third-a 1.0" in reason and "third-b 1.0" in reason for reason, _ in failed(diagnosis).values())


# --------------------------------------------------------------------------- those that raise at work

RAISING: dict[str, tuple[str, str, str, str]] = {
    "detect": (
        "causes",
        "ac001",
        CAUSE.replace("        for difference in", "        raise KeyError(7)\n        for difference in"),
        "KeyError: 7",
    ),
    "explain_state": (
        "causes",
        "ac001",
        CAUSE.replace("        if view.payloads", "        1 / 0\n        if view.payloads"),
        "ZeroDivisionError",
    ),
    "metric": ("metrics", "mean_square", METRIC.replace("s.sum_square /", "s.no_such_sum /"), "no_such_sum"),
}


@pytest.mark.parametrize("what", ["detect", "explain_state", "metric"])
@pytest.mark.parametrize("stored", [False, True], ids=["live", "disk"])
def test_a_plugin_that_raises_is_counted_and_no_trace_is_blamed(
    what: str, stored: bool, installed: Install, tmp_path: Path
) -> None:
    import whydiff

    kind, name, source, said = RAISING[what]
    reference, candidate, x = pair()
    installed("third-party", {f"whydiff.{kind}": {name: "third_raises:REGISTER"}}, {"third_raises.py": source})
    if stored:
        for side, model in (("a", reference), ("b", candidate)):
            with torch.no_grad(), whydiff.capture(tmp_path / side, payloads="all"):
                model(x)
        diagnosis = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    else:
        diagnosis = compare(reference, candidate, x)
    assert [(cause.code, cause.status) for cause in diagnosis.causes if cause.code == "ST001"] == (
        [] if what == "detect" else [("ST001", "confirmed")]
    )
    assert str(diagnosis.verdict) == "semantic"
    ((part, (reason, count)),) = failed(diagnosis).items()
    assert part == f"{kind[:-1]} {name!r} of third-party 1.0 (third_raises:REGISTER)"
    assert said in reason
    assert count >= 1


def test_what_is_no_cause_is_counted(installed: Install) -> None:
    source = CAUSE.replace("        for difference in", "        yield 3\n        for difference in")
    installed("third-party", {"whydiff.causes": {"ac001": "third_odd:REGISTER"}}, {"third_odd.py": source})
    ((_, (reason, count)),) = failed(compare(*pair())).items()
    assert "detect() gave 3, not a whydiff.records.Cause of code AC001" in reason
    assert count == 1


def test_a_reporter_that_raises_is_named(installed: Install, tmp_path: Path) -> None:
    source = REPORTER.replace("        out = io", "        raise OSError(5)\n        out = io")
    installed("third-party", {"whydiff.reporters": {"csv": "third_raises:REGISTER"}}, {"third_raises.py": source})
    diagnosis = compare(*pair())
    with pytest.raises(PluginError, match=r"third-party 1\.0") as caught:
        diagnosis.save(str(tmp_path / "a.csv"))
    assert "OSError: 5" in str(caught.value)
    diagnosis.save(str(tmp_path / "a.json"))


def test_with_the_switch_that_tests_set_what_a_part_raises_comes_through(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name, source, _ = RAISING["metric"]
    installed("third-party", {f"whydiff.{kind}": {name: "third_raises:REGISTER"}}, {"third_raises.py": source})
    monkeypatch.setenv("WHYDIFF_RAISE", "1")
    with pytest.raises(PluginError, match="no_such_sum") as caught:
        compare(*pair())
    assert isinstance(caught.value.__cause__, AttributeError)


def test_the_order_of_causes_keeps_every_declared_relation() -> None:
    place = {rule.code: number for number, rule in enumerate(asked())}
    for rule in asked():
        for other in asked():
            names = {other.code, other.code[:2]}
            if other is not rule and names & {*rule.yields_to}:
                assert place[other.code] < place[rule.code]
            if other is not rule and names & {*rule.precedes}:
                assert place[rule.code] < place[other.code]
    assert [rule.general for rule in asked()] == sorted(rule.general for rule in asked())

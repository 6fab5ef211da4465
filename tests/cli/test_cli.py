from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import whydiff
from whydiff import registry
from whydiff.cli import app
from whydiff.cli import capture as _command  # noqa: F401 - the module is reached through sys.modules below
from whydiff.cli._progress import progress
from whydiff.cli._report import status
from whydiff.errors import TraceFormatError
from whydiff.records import Alignment, Diagnosis, Environment, ObserverCheck, Side, Verdict

ROOT = Path(__file__).parents[2]
SIDE = Side("live", "torch", "op", 3, Environment(), ObserverCheck(True, True, 1))


def diagnosis(verdict: Verdict) -> Diagnosis:
    return Diagnosis(verdict, "Because.", (), (), (), (), (), Alignment(()), (SIDE, SIDE))


@dataclass
class Pipeline:
    """Stands in for the pipeline: gives a prepared answer and remembers what it was asked."""

    verdict: Verdict = Verdict.IDENTICAL
    does: Callable[[], object] = lambda: None
    asked: tuple[Any, ...] = ()
    options: Any = None

    def compare(self, *args: Any, options: types.SimpleNamespace) -> Diagnosis:
        self.asked, self.options = args, options
        options.progress("capture", 1, 2)
        print("the user's program prints")
        self.does()
        return diagnosis(self.verdict)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    stub = Pipeline()
    module = types.ModuleType("whydiff.pipeline")
    module.compare, module.Options = stub.compare, types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "whydiff.pipeline", module)
    monkeypatch.setattr(whydiff, "pipeline", module, raising=False)
    return stub


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.chdir(tmp_path)
    for name in ("a.trace", "b.trace"):
        (tmp_path / name).mkdir()
    return ("a.trace", "b.trace")


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


# ------------------------------------------------------------------------------------------- compare


@pytest.mark.parametrize(
    ("verdict", "allow", "code"),
    [
        (Verdict.IDENTICAL, None, 0),
        (Verdict.ROUNDING, None, 1),
        (Verdict.ROUNDING, "rounding", 0),
        (Verdict.PRECISION, "rounding", 1),
        (Verdict.SEMANTIC, "semantic", 0),
        (Verdict.INCONCLUSIVE, "semantic", 1),
        (Verdict.INCONCLUSIVE, "inconclusive", 0),
        (Verdict.INCOMPARABLE, "semantic", 1),
    ],
)
def test_the_exit_status_is_the_verdict_against_what_is_allowed(
    pipeline: Pipeline, traces: tuple[str, str], verdict: Verdict, allow: str | None, code: int
) -> None:
    pipeline.verdict = verdict
    result = invoke("compare", *traces, *(["--allow", allow] if allow else []))
    assert result.exit_code == code
    assert result.stdout.startswith(str(verdict).upper())


@pytest.mark.parametrize("verdict", Verdict)
def test_identical_always_passes_and_naming_a_verdict_allows_it(verdict: Verdict) -> None:
    assert status(Verdict.IDENTICAL, verdict) == 0 and status(verdict, verdict) == 0


def test_json_is_alone_on_standard_output(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    result = invoke("compare", *traces, "--json")
    assert json.loads(result.stdout) == diagnosis(Verdict.IDENTICAL).to_dict()
    assert "the user's program prints" in result.stderr


def test_sides_and_arguments_reach_the_pipeline(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    Path("p.py").write_text("def run(n, text): return n")
    assert invoke("compare", "p.py:run", traces[1], "32", "hello").exit_code == 0
    assert pipeline.asked[0].__name__ == "run"
    assert pipeline.asked[1:] == (Path("b.trace"), 32, "hello")


def test_level_and_renames_reach_the_pipeline(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    invoke("compare", *traces, "--level", "module", "--rename", "h=layers", "--rename", "(?=x)y=")
    assert pipeline.options.level == "module" and pipeline.options.rename == [("h", "layers"), ("(?=x)y", "")]
    wrong = invoke("compare", *traces, "--rename", "h.")
    assert wrong.exit_code == 2 and "PATTERN=TEXT" in wrong.stderr


def test_rows_reach_the_pipeline(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    invoke("compare", *traces, "--rows", "attention_mask")
    assert pipeline.options.rows == "attention_mask"


def test_reports_are_saved_too(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    assert invoke("compare", *traces, "--save", "r.json", "-s", "r.md").exit_code == 0
    assert json.loads(Path("r.json").read_text())["verdict"] == "identical"
    assert Path("r.md").read_text().startswith("# whydiff: identical")


def test_an_unknown_kind_of_report_costs_no_run(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    result = invoke("compare", *traces, "--save", "r.docx")
    assert result.exit_code == 2 and ".docx" in result.stderr and pipeline.asked == ()


def test_colour_survives_a_pipe_when_it_is_forced(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    assert "\x1b[" in invoke("compare", *traces, "--color", "always").stdout
    assert "\x1b[" not in invoke("compare", *traces, "--color", "never").stdout


# ------------------------------------------------------------------------------------------- errors


def test_a_designed_error_is_its_message_alone(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    def fail() -> None:
        raise TraceFormatError("This is not a trace.", where="a.trace", next_step="Capture it again.")

    pipeline.does = fail
    result = invoke("compare", *traces)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: This is not a trace.\n  where: a.trace\n  next: Capture it again.\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in invoke("compare", *traces, "--traceback").stderr


def test_a_bug_of_ours_is_no_finding(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    pipeline.does = lambda: 1 / 0
    result = invoke("compare", *traces)
    assert result.exit_code == 2 and "whydiff itself failed" in result.stderr
    assert "ZeroDivisionError" in result.stderr and "Traceback" not in result.stderr


def test_an_interrupt_is_not_a_difference(pipeline: Pipeline, traces: tuple[str, str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    pipeline.does = interrupt
    assert invoke("compare", *traces).exit_code == 130


@pytest.mark.parametrize("words", [["compare", "missing.py:f", "missing.py:g"], ["compare", "one"], ["nonsense"]])
def test_usage_errors_exit_with_2(words: list[str], traces: tuple[str, str]) -> None:
    result = invoke(*words)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr and "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------- demo, cause, version


def test_a_demo_that_ran_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whydiff.cli.demos.run", lambda name, progress: diagnosis(Verdict.PRECISION))
    assert invoke("demo").stdout.startswith("PRECISION")
    result = invoke("demo", "smollm", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["verdict"] == "precision"


def test_an_unknown_demo_is_a_usage_error() -> None:
    result = invoke("demo", "missing")
    assert result.exit_code == 2 and "smollm" in result.stderr


class _Example:
    """A table was cast.

    ## What it detects
    A *table* that lost bits.
    """

    code, name = "PR001", "state-cast-to-lower-precision"


@pytest.fixture
def causes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "parts", lambda folder: {"example": _Example})


@pytest.mark.usefixtures("causes")
def test_causes_are_listed_and_explained() -> None:
    assert re.search(r"PR001 +state-cast-to-lower-precision +A table was cast\.", invoke("cause").stdout)
    for wanted in ("pr001", "state-cast-to-lower-precision"):
        page = invoke("cause", wanted, "--color", "never").stdout
        assert "What it detects" in page and "##" not in page and "A table that lost bits." in page


@pytest.mark.usefixtures("causes")
def test_causes_as_json() -> None:
    (listed,) = json.loads(invoke("cause", "--json").stdout)
    assert listed["code"] == "PR001" and listed["summary"] == "A table was cast."
    assert "A *table* that lost bits." in json.loads(invoke("cause", "PR001", "--json").stdout)["text"]


@pytest.mark.usefixtures("causes")
def test_an_unknown_cause_names_what_is_near() -> None:
    result = invoke("cause", "PR002")
    assert result.exit_code == 2 and "PR001?" in result.stderr


def test_version() -> None:
    assert invoke("--version").stdout == f"whydiff {whydiff.__version__}\n"


# ------------------------------------------------------------------------------------------- capture

CHILD = """
import json, os, pathlib, runpy, sys
import whydiff
out, level, payloads, room, script, *args = sys.argv[1:]
pathlib.Path(out).mkdir(parents=True)
pathlib.Path(out, "asked.json").write_text(json.dumps([level, payloads, whydiff.__file__]))
sys.argv = [script, *args]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stub_child.py").write_text(CHILD)
    (tmp_path / "script.py").write_text(
        "import sys, os\nprint('script', sys.argv[1:], flush=True)\nif sys.argv[1:]: os._exit(int(sys.argv[-1]))"
    )
    monkeypatch.setattr(sys.modules["whydiff.cli.capture"], "CHILD", "stub_child")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    here = str(Path(sys.executable).parent)  # some systems have no ``python`` outside of environments
    monkeypatch.setenv("PATH", here, prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_capture_runs_the_script_in_the_named_interpreter(child: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("-o", "a.trace", "--level", "module", "--payloads", "a.*", "--payloads", "b.*")
    result = invoke("capture", *words, "--", sys.executable, "-X", "dev", "script.py", "--flag", "--", "0")
    assert result.exit_code == 0 and "Trace written to a.trace" in result.stderr
    assert "script ['--flag', '--', '0']" in capfd.readouterr().out
    level, payloads, lent = json.loads((child / "a.trace/asked.json").read_text())
    assert (level, payloads) == ("module", "a.*,b.*")
    assert not (Path(lent).parents[1] / "typer").exists(), "only whydiff is lent, not its neighbours"


def test_a_failing_script_keeps_its_status_and_its_trace(child: Path) -> None:
    result = invoke("capture", "-o", "a.trace", "--", "python", "script.py", "7")
    assert result.exit_code == 7
    assert "The script failed with status 7. What it did until then can be read in a.trace." in result.stderr


def test_a_script_that_a_signal_ends_is_reported_as_shells_do(child: Path) -> None:
    (child / "script.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert invoke("capture", "-o", "a.trace", "--", "script.py").exit_code == 137


def test_capture_as_json(child: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = invoke("capture", "-o", "a.trace", "--json", "script.py", "3")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "trace": "a.trace",
        "status": 3,
        "level": "op",
        "payloads": ["all"],
        "command": ["script.py", "3"],
    }
    assert "script ['3']" in capfd.readouterr().err


def test_no_trace_is_an_error_even_if_the_script_ended_well(child: Path) -> None:
    (child / "stub_child.py").write_text("")
    result = invoke("capture", "-o", "a.trace", "--", "script.py")
    assert result.exit_code == 2 and "left no trace" in result.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["python", "missing.py"], "There is no such script."),
        (["python"], "There is no such script."),
        (["no-such-python", "script.py"], "There is no such interpreter."),
        (["python", "-m", "module"], "Only a script can be captured"),
        (["python", "-c", "1"], "Only a script can be captured"),
    ],
)
def test_what_cannot_be_captured_says_why(child: Path, command: list[str], message: str) -> None:
    result = invoke("capture", "-o", "a.trace", "--", *command)
    assert result.exit_code == 2 and message in result.stderr and not Path("a.trace").exists()


def test_capture_overwrites_nothing(child: Path) -> None:
    (child / "a.trace").mkdir()
    (child / "a.trace" / "manifest.json").write_text("{}")
    result = invoke("capture", "-o", "a.trace", "--", "script.py")
    assert result.exit_code == 2 and "would overwrite" in result.stderr


# ------------------------------------------------------------------------------------------- the whole


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def shown(quiet: bool) -> str:
        with progress(quiet) as report:
            report("capture the reference", 1, 2)
            report("capture the reference", 2, 2)
            report("align")
        return str(capsys.readouterr().err)

    assert shown(quiet=False) == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "align" in shown(quiet=False)
    assert shown(quiet=True) == ""


def test_the_stub_of_the_pipeline_has_its_signature() -> None:
    import dataclasses

    from whydiff import pipeline as real

    assert {"level", "rename", "progress", "rows"} <= {field.name for field in dataclasses.fields(real.Options)}
    assert "options" in inspect.signature(real.compare).parameters


LOADED = (
    "import sys\nfrom whydiff.cli import app\n{0}\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
    "print('loaded:', sorted({{'torch', 'jax', 'numpy', 'transformers'}} & set(sys.modules)))"
)


@pytest.mark.parametrize(("before", "loaded"), [("", "[]"), ("import numpy", "['numpy']")])
def test_help_imports_no_framework(before: str, loaded: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(before)], env=environment, capture_output=True, text=True, check=True
    )
    assert "Usage:" in done.stdout and done.stdout.splitlines()[-1] == f"loaded: {loaded}"


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


@pytest.mark.parametrize("name", commands())
def test_every_command_writes_json_and_shows_tracebacks(name: str) -> None:
    parameters = inspect.signature(commands()[name].callback).parameters
    assert {"json", "traceback"} <= set(parameters)


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_is_documented(name: str) -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## `whydiff (\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert name in parts, f"docs/reference/cli.md has no section '## `whydiff {name}`'"
    shared = page.partition("## Options that several commands share")[2]
    for parameter in commands()[name].params:
        if parameter.name == "help":
            continue
        names = [n for n in parameter.opts if n.startswith("-")] or [parameter.metavar or parameter.name]
        for option in names:
            short = option.startswith("-") and not option.startswith("--")
            found = parts[name] + (shared if short else "")
            assert re.search(rf"`[^`\n]*{re.escape(option)}\b", found), f"{name} {option} is not documented"


def test_the_documentation_names_no_command_or_option_that_does_not_exist() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    real = {opt for command in commands().values() for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"--[a-z][a-z-]*", page)) <= real | {
        opt for p in typer.main.get_command(app).params for opt in p.opts
    } | {"--help"}
    assert set(re.findall(r"^## `whydiff (\w+)`", page, re.MULTILINE)) == set(commands())


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "whydiff", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("whydiff ")

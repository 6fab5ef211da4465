from __future__ import annotations

import io
import subprocess
import sys

import pytest
from golden import GOLDEN, PRECISION, TWO_CAUSES
from rich.console import Console

from whydiff.report.terminal import TerminalReporter


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: pytest.CaptureFixture[str], **options: object) -> str:
    TerminalReporter(**options).print(PRECISION)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_color_always_survives_a_pipe_and_never_is_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" in printed(capsys, color="always")
    assert "\x1b[" not in printed(capsys, color="auto")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in printed(capsys, color="auto")
    assert "\x1b" not in printed(capsys, color="never")


def test_no_color_wins_over_force_color_but_not_over_the_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" not in printed(capsys, color="auto")
    assert "\x1b[" in printed(capsys, color="always")


def test_a_pipe_gets_the_answer_as_a_terminal_does(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    TerminalReporter(console=Console(file=file, width=200, force_terminal=True, color_system=None)).print(PRECISION)
    assert file.getvalue() == printed(capsys)


def test_a_pipe_cuts_and_folds_no_section(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, verbose=1)
    assert max(map(len, out.splitlines())) > 120
    assert "model.rotary_emb.original_inv_freq: precision, inconclusive; no effect here" in out


def test_sections_are_shown_on_demand_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Where a difference starts" not in printed(capsys) and "print(verbose=1) shows everything" in printed(capsys)
    assert "-v shows everything; --save report.html" in printed(capsys, command=True)
    assert "Where a difference starts" in printed(capsys, verbose=1) and "-v shows" not in printed(capsys, verbose=1)
    assert len(printed(capsys, verbose=2)) > len(printed(capsys, verbose=True))


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_narrow_terminal_folds_but_loses_no_character(width: int) -> None:
    file = io.StringIO()
    TerminalReporter(verbose=1, console=Console(file=file, width=width, color_system=None)).print(TWO_CAUSES)
    assert all(len(line) <= width for line in file.getvalue().splitlines())
    squeezed = "".join(file.getvalue().split("Where a difference starts")[1].split())
    assert "model.norm:add#1.output" in squeezed


def test_a_table_that_does_not_fit_keeps_its_names_whole() -> None:
    file = io.StringIO()
    TerminalReporter(verbose=1, console=Console(file=file, width=80, color_system=None)).print(TWO_CAUSES)
    origins = file.getvalue().split("Where a difference starts (6)")[1].split("Causes")[0]
    assert "  model.norm:add#1.output ↔ decoder.norm:add#1.output\n    times 1; kind arguments; verdict" in origins
    assert "max abs inf; rel L2 nan; different 25.0 %" in " ".join(origins.split())
    assert "  model.layers.0       1   1.8e-03" in file.getvalue(), "a table that fits stays a table"


@pytest.mark.parametrize("case", GOLDEN)
def test_a_terminal_without_unicode_gets_ascii(case: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    TerminalReporter(verbose=1, console=Console(file=file, width=200)).print(GOLDEN[case])
    file.flush()
    assert raw.getvalue().startswith(str(GOLDEN[case].verdict).upper().encode())


def test_markup_in_a_name_is_text() -> None:
    from dataclasses import replace

    shown = TerminalReporter().render(replace(PRECISION, notes=("[red]not markup[/red] [/]",)))
    assert "[red]not markup[/red] [/]" in shown


def test_print_of_the_diagnosis_passes_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    PRECISION.print(color="always")
    assert "\x1b[" in capsys.readouterr().out


def test_rendering_imports_no_framework() -> None:
    code = (
        "import sys; from whydiff import registry; registry.parts('reporters'); "
        "print([m for m in ('torch', 'jax', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"

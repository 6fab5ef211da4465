"""Every study can be saved as every kind of file, and its first line is the result in capitals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whydiff.errors import UsageError
from whydiff.report.answer import WIDTH
from whydiff.report.blocks import Chart, Lines, Section, Text
from whydiff.studies.base import SUFFIXES, Study, check_suffixes, headline


class Example(Study):
    title = "example"

    @property
    def word(self) -> str:
        return "rounding"

    def answer(self) -> Lines:
        return (headline(self.word, "the <same> function"), ("fix", "accept it"))

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        chart = Chart(title="sizes", kind="line", x=("1", "2"), series=(("a", (1.0, None)),))
        return (Section("Sizes", (chart, Text("two sizes"))), Section("Sizes", (Text("twice"),)), Section("None", ()))

    def fields(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_is_saved_with_its_answer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    Example().save(str(path))
    text = path.read_text()
    assert "ROUNDING: the" in text and "accept it" in text
    if suffix == ".json":
        assert json.loads(text)["answer"] == {"headline": "ROUNDING: the <same> function", "fix": "accept it"}
    else:
        assert "two sizes" in text
    if suffix == ".html":
        assert "the &lt;same&gt; function" in text and text.count('data-chart="0"') == 1
        ids = [part.split('"')[0] for part in text.split('<section id="')[1:]]
        assert len(set(ids)) == len(ids) == 3


def test_another_suffix_is_refused_before_the_study_runs() -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        check_suffixes(["x.docx"])
    check_suffixes([f"x{suffix}" for suffix in SUFFIXES])


def test_it_prints_its_answer_and_the_rest_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    Example().print(color="never")
    short = capsys.readouterr().out
    assert short.startswith(
        "ROUNDING: the <same> function\nfix     accept it\nmore    print(verbose=1) shows everything"
    )
    assert "two sizes" not in short and max(map(len, short.splitlines())) <= WIDTH
    for verbose in (1, 2, True):
        Example().print(color="never", verbose=verbose)
        full = capsys.readouterr().out
        assert "two sizes" in full and "more    -v" not in full


def test_verbose_once_shows_sections_and_twice_shortens_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    class Long(Example):
        def sections(self, verbose: bool = False) -> tuple[Section, ...]:
            return (Section("Sizes", (Text("all of them" if verbose else "the first"),)),)

    Long().print(color="never", verbose=1)
    assert "the first" in capsys.readouterr().out
    Long().print(color="never", verbose=2)
    assert "all of them" in capsys.readouterr().out

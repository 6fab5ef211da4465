"""What every registered reporter promises, on every golden Diagnosis."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any

import pytest
from golden import GOLDEN

from whydiff import registry
from whydiff.errors import UsageError
from whydiff.records import Diagnosis

cases = pytest.mark.parametrize("case", GOLDEN)
reporters = pytest.mark.parametrize("name", registry.names("reporters"))


def text(name: str, diagnosis: Diagnosis) -> str:
    rendered = registry.get("reporters", name)().render(diagnosis)
    if name == "html":
        before, _, rest = rendered.partition('<script type="text/plain"')  # the library of charts, which is megabytes
        rendered = before + rest.partition("</script>")[2]
        return unescape(re.sub(r"<style>.*?</style>|<script.*?</script>|<[^>]+>", " ", rendered, flags=re.DOTALL))
    return re.sub(r"\\(?=[\\`*_{}\[\]<>#|~@&])", "", rendered) if name == "markdown" else rendered


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from strings(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from strings(item)


def test_the_reporters_are_registered() -> None:
    assert set(registry.names("reporters")) >= {"html", "json", "markdown", "terminal"}


@reporters
@cases
def test_every_reporter_shows_verdict_origins_causes_and_gaps(name: str, case: str) -> None:
    diagnosis = GOLDEN[case]
    shown = text(name, diagnosis)
    assert str(diagnosis.verdict).upper() in shown
    if diagnosis.origins:
        assert str(diagnosis.origins[0].site) in shown
    for cause in diagnosis.causes:
        assert cause.code in shown and cause.name in shown and cause.status in shown
    for gap in diagnosis.not_compared:
        assert gap.what in shown and gap.reason in shown and gap.examples[0] in shown
        assert re.search(rf"\b{gap.count}\b", shown)
    for note in diagnosis.notes:
        assert note in shown


@reporters
@cases
def test_every_reporter_counts_the_unpaired_calls(name: str, case: str) -> None:
    diagnosis, shown = GOLDEN[case], text(name, GOLDEN[case])
    shown = " ".join(shown.split())
    reference, candidate = diagnosis.alignment.unpaired_reference, diagnosis.alignment.unpaired_candidate
    assert (f"{len(reference)} extra ops in the reference" in shown) == bool(reference)
    assert (f"{len(candidate)} extra ops in the candidate" in shown) == bool(candidate)


@reporters
def test_every_reporter_says_when_looking_changed_the_numbers(name: str) -> None:
    shown = text(name, GOLDEN["nondeterministic"])
    assert "looking at the candidate changed its numbers" in shown
    assert "the candidate ran twice and differed" in shown
    assert "output.1 differs between two plain runs by 2.0e-07" in shown
    assert "ran twice and differed" not in text(name, GOLDEN["precision"])


@reporters
def test_every_reporter_says_that_a_trace_is_incomplete(name: str) -> None:
    shown = text(name, GOLDEN["incomplete"])
    assert "the recording of the candidate is incomplete" in shown and "The capture was killed after step 3." in shown
    assert "is incomplete" not in text(name, GOLDEN["precision"])


@reporters
def test_every_reporter_gives_the_code_of_the_remedy(name: str) -> None:
    shown = text(name, GOLDEN["precision"]).replace('\\"', '"')
    assert 'model = AutoModelForCausalLM.from_pretrained(path, dtype="bfloat16")' in shown


@reporters
@cases
def test_every_reporter_saves_what_it_renders(name: str, case: str, tmp_path: Any) -> None:
    reporter = registry.get("reporters", name)()
    for suffix in reporter.suffixes:
        path = tmp_path / f"report{suffix}"
        GOLDEN[case].save(str(path))
        assert path.read_text(encoding="utf-8") == reporter.render(GOLDEN[case])


@reporters
def test_a_report_that_cannot_be_written_says_where(name: str, tmp_path: Any) -> None:
    path = tmp_path / "missing" / "report"
    with pytest.raises(UsageError, match="cannot be written") as caught:
        registry.get("reporters", name)().save(GOLDEN["identical"], str(path))
    assert str(path) in str(caught.value)


@cases
def test_every_string_of_the_diagnosis_is_in_the_json(case: str) -> None:
    def leaves(data: Any) -> Iterator[str]:
        if isinstance(data, dict):
            for key, item in data.items():
                yield from (key, *leaves(item))
        elif isinstance(data, list):
            for item in data:
                yield from leaves(item)
        elif isinstance(data, str):
            yield data

    missing = set(strings(GOLDEN[case])) - set(leaves(GOLDEN[case].to_dict()))
    assert not missing

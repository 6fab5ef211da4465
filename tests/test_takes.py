"""Arguments of a wrong kind are refused by name: what, which, what was given, what is expected, what to do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.errors import TargetError, UsageError
from whydiff.takes import BOUNDS, COUNT, NAMES, PATH, SIZES, Kind, takes

GIVEN = torch.ones(8, 4)
MODEL = torch.nn.Linear(4, 4)
ROW = {"id": [1], "tokens": [[1]], "logprobs": [[-0.1]]}


def captured(**options: Any) -> None:
    with whydiff.capture("a.trace", **options):
        GIVEN.sin()


WRONG: dict[str, tuple[str, Callable[[Any], Any], Any]] = {
    name: (argument, call, value)
    for name, argument, call, value in [
        ("compare", "options", lambda v: whydiff.compare(torch.sin, torch.sin, GIVEN, options=v), {"level": "op"}),
        ("capture", "path", lambda v: whydiff.capture(v), 3),
        ("capture payloads", "payloads", lambda v: captured(payloads=v), [3]),
        ("capture level", "level", lambda v: captured(level=v), 3),
        ("capture bytes", "max_bytes", lambda v: captured(max_bytes=v), "lots"),
        ("capture fewer bytes", "max_bytes", lambda v: captured(max_bytes=v), -1),
        ("capture a module as roots", "roots", lambda v: captured(roots=v), MODEL),
        ("capture names as roots", "roots", lambda v: captured(roots=v), ["model"]),
        ("capture text as roots", "roots", lambda v: captured(roots=v), "model"),
        ("capture a mapping as roots", "roots", lambda v: captured(roots=v), {"model": MODEL}),
        ("capture tensors", "tensors", lambda v: captured(tensors=v), [GIVEN]),
        ("open", "path", lambda v: whydiff.open(v), 3),
        ("open limits", "limits", lambda v: whydiff.open("a.trace", limits=v), 3),
        ("sizes", "sizes", lambda v: whydiff.assert_batch_invariant(MODEL, GIVEN, sizes=v), 1.5),
        ("rows", "rows", lambda v: whydiff.assert_batch_invariant(MODEL, GIVEN, rows=v), 3),
        ("ops", "ops", lambda v: whydiff.batch_invariant(MODEL, ops=v), 3),
        ("rows of a piece", "rows", lambda v: whydiff.batch_invariant(MODEL, rows=v), "x"),
        ("port", "reference_args", lambda v: whydiff.check_port(MODEL, MODEL, v, v), {"input": GIVEN}),
        ("ranks", "path", lambda v: whydiff.check_ranks(v), 3),
        ("artifacts", "candidate", lambda v: whydiff.compare_artifacts(".", v), 3),
        ("tolerances", "tolerances", lambda v: whydiff.compare_artifacts(".", ".", tolerances=v), {"float32": 1}),
        ("chunk", "chunk", lambda v: whydiff.compare_decoding(MODEL, GIVEN, chunk=v), "a"),
        ("ways", "ways", lambda v: whydiff.compare_decoding(MODEL, GIVEN, ways=v), [MODEL]),
        ("dumps", "reference", lambda v: whydiff.compare_dumps(v, "."), 3),
        ("formulas", "formulas", lambda v: whydiff.compare_formulas(v, [GIVEN]), [1, 2]),
        ("formulas' inputs", "inputs", lambda v: whydiff.compare_formulas([torch.sin, torch.cos], v), GIVEN),
        ("engine", "engine", lambda v: whydiff.compare_logprobs(v, ROW), [1]),
        ("fields", "fields", lambda v: whydiff.compare_logprobs(ROW, ROW, fields=v), 3),
        ("clip", "clip", lambda v: whydiff.compare_logprobs(ROW, ROW, clip=v), 3),
        ("training", "options", lambda v: whydiff.compare_training("a", "b", v), 3),
        ("folder", "folder", lambda v: whydiff.smallest_graph(torch.sin, GIVEN, folder=v), 3),
        ("seconds", "seconds", lambda v: whydiff.smallest_graph(torch.sin, GIVEN, folder=".", seconds=v), 0),
        ("batch", "batch", lambda v: whydiff.sweep(MODEL, GIVEN, batch=v), 1.5),
        ("against", "against", lambda v: whydiff.sweep(MODEL, GIVEN, batch="1,2", against=v), "rows"),
        ("row", "row", lambda v: whydiff.sweep(MODEL, GIVEN, batch="1,2", row=v), "a"),
        ("workers", "workers", lambda v: whydiff.sweep(MODEL, GIVEN, batch="1,2", workers=v), 0),
        ("resume", "resume", lambda v: whydiff.sweep(MODEL, GIVEN, batch="1,2", resume=v), 3),
        ("inputs", "inputs", lambda v: whydiff.sweep(MODEL, v, batch="1,2"), 3),
    ]
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kind_is_refused_before_anything_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argument, call, value = WRONG[name]
    with pytest.raises(UsageError) as caught:
        call(value)
    error = caught.value
    assert error.where == argument and type(value).__name__ in error.actual
    assert error.what and error.expected
    assert not [*tmp_path.iterdir()], "a folder is left of a capture that never began"


@pytest.mark.parametrize(
    ("name", "value"), [("save", 3), ("color", "blue"), ("width", "wide"), ("width", 0), ("verbose", "very")]
)
def test_a_report_refuses_a_wrong_kind_too(name: str, value: object) -> None:
    found = whydiff.compare(torch.sin, torch.sin, GIVEN)
    with pytest.raises(UsageError, match="Diagnosis"):
        found.save(value) if name == "save" else found.print(**{name: value})  # type: ignore[func-returns-value,arg-type]


def test_a_file_to_resume_in_no_folder_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        whydiff.sweep(lambda x: pytest.fail("it ran"), GIVEN, batch="1,2", resume=tmp_path / "no/x.json")


def test_an_unknown_level_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such capture level"), whydiff.capture(tmp_path / "a", level="ops"):
        pass
    assert not (tmp_path / "a").exists()


def test_an_error_of_any_type_of_value_is_a_message() -> None:
    assert "actual: 3" in str(UsageError("No.", actual=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (PATH, ["a", Path("a")], [b"a", 3, None]),
        (COUNT, [0, 7, torch.tensor([7]).shape[0]], [-1, 1.0, True, "1"]),
        (SIZES, ["1,2", 3, [1, 2], (1,)], [1.5, None]),
        (NAMES, ["all", ["a", "b"], ()], [3, [3]]),
        (BOUNDS, [(0.8, 1.2), [0, 1]], [3, (1,), ("a", "b")]),
    ],
)
def test_kinds(kind: Kind, right: list[Any], wrong: list[Any]) -> None:
    assert all(map(kind.fits, right)) and not any(map(kind.fits, wrong))


def test_what_is_right_passes_and_the_function_stays_itself() -> None:
    @takes(a=COUNT, b=PATH)
    def f(a: int = -5, b: str | None = None, *rest: int, **more: int) -> tuple[Any, ...]:
        """Its own words."""
        return a, b, rest, more

    assert f() == (-5, None, (), {})
    assert f(1, "x", 2, c=3) == (1, "x", (2,), {"c": 3})
    assert f(-5) == (-5, None, (), {})  # its own default, whatever that is
    assert f.__doc__ == "Its own words." and list(inspect.signature(f).parameters) == ["a", "b", "rest", "more"]
    with pytest.raises(UsageError, match="f cannot take this as a"):
        f(math.inf)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="positional argument"):
        takes(a=COUNT)(lambda a: a)()  # type: ignore[call-arg]


def test_what_can_be_gone_through_once_reaches_the_function_whole(tmp_path: Path) -> None:
    """A look at its items would take them away."""

    @takes(names=NAMES, bounds=BOUNDS)
    def of(names: Any, bounds: Any = ()) -> tuple[list[str], list[float]]:
        return list(names), list(bounds)

    assert of(iter(["a", "b"]), iter([0.1, 0.2])) == (["a", "b"], [0.1, 0.2])
    with pytest.raises(UsageError):
        of(iter([3]))
    with whydiff.capture(tmp_path / "of_roots", roots=(pair for pair in [("mine", MODEL)])):
        MODEL(GIVEN)
    assert {leaf.name for leaf in whydiff.open(tmp_path / "of_roots").leaves} >= {"mine.weight", "mine.bias"}


def wrong_in_row_3(x: torch.Tensor) -> torch.Tensor:
    return x + 1e-3 * (len(x) > 1) * (torch.arange(len(x)) == 3).float()[:, None]


@pytest.mark.parametrize("rows", [[3], iter([3]), torch.tensor([3])])
def test_rows_are_compared_however_they_are_given(rows: Any) -> None:
    with pytest.raises(AssertionError):
        whydiff.assert_batch_invariant(wrong_in_row_3, GIVEN, rows=rows)


@pytest.mark.parametrize("which", ["rows", "sizes"])
def test_where_nothing_is_asked_nothing_is_the_same(which: str) -> None:
    with pytest.raises(UsageError, match="nothing"):
        whydiff.assert_batch_invariant(MODEL, GIVEN, **{which: []})


def test_a_misspelt_keyword_is_said_to_be_one_where_no_target_takes_it() -> None:
    with pytest.raises(UsageError, match="did you mean allow"):
        whydiff.assert_same(MODEL, MODEL, GIVEN, alow="rounding")
    with pytest.raises(UsageError, match="did you mean options"):
        whydiff.compare(MODEL, MODEL, GIVEN, option=3)
    for taking in (lambda x, alow: x * alow, lambda x, **more: x * more["alow"]):
        whydiff.assert_same(taking, taking, GIVEN, alow=2)


def test_results_classes_and_missing_inputs_are_answered_with_what_to_give() -> None:
    with pytest.raises(UsageError, match="pass a function that returns it: lambda: y"):
        whydiff.compare(MODEL(GIVEN), MODEL(GIVEN))
    with pytest.raises(TargetError, match=r"it needs input(.|\n)*give the inputs: compare"):
        whydiff.compare(MODEL, MODEL)
    with pytest.raises(UsageError, match="Linear is a class"):
        whydiff.compare(torch.nn.Linear, torch.nn.Linear, GIVEN)


def test_a_function_that_fails_inside_is_not_said_to_lack_inputs() -> None:
    with pytest.raises(TargetError, match="raised while it ran"):
        whydiff.compare(lambda: MODEL(), lambda: MODEL())

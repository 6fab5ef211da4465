from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from whydiff.capturing import targets
from whydiff.errors import TargetError, UsageError

PROGRAM = """
import dataclasses

runs = []

@dataclasses.dataclass
class Model:
    scale: int = 2
    def forward(self, x, shift=0): return x * self.scale + shift
    def __call__(self, *args, **kwargs): return self.forward(*args, **kwargs)

model = Model()
def program(): return 7
def optional(x=3): return x
def one(x): return x
number = 5
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def failing(text: str, *arguments: object) -> str:
    with pytest.raises(TargetError) as caught:
        targets.load(text, arguments)
    return str(caught.value)


def test_a_trace_is_its_path(tmp_path: Path) -> None:
    assert targets.load(str(tmp_path)) == tmp_path


def test_a_function_without_arguments_is_returned_as_it_is(program: Path) -> None:
    loaded = targets.load(f"{program}:program")
    assert loaded() == 7  # type: ignore[operator]
    assert loaded.__name__ == "program"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("inputs", "result"),
    [("return (4, 1)", 9), ("return {'x': 4, 'shift': 3}", 11), ("return 4", 8), ("return [1]", [1, 1])],
)
def test_inputs_beside_a_model_are_bound_to_it(program: Path, inputs: str, result: object) -> None:
    program.write_text(PROGRAM + f"\ndef inputs():\n    runs.append(1)\n    {inputs}\n")
    if result == [1, 1]:
        program.write_text(program.read_text().replace("+ shift", ""))
    loaded = targets.load(f"{program}:model")
    assert isinstance(loaded, functools.partial)
    module = sys.modules[type(loaded.func).__module__]
    assert loaded.func is module.model
    assert loaded() == loaded() == result
    assert module.runs == [1], "inputs() must be called once, or two runs could get different inputs"


def test_inputs_are_not_given_to_a_function_without_arguments(program: Path) -> None:
    program.write_text(PROGRAM + "\ndef inputs(): return (4,)\n")
    assert targets.load(f"{program}:program")() == 7  # type: ignore[operator]
    assert targets.load(f"{program}:optional")() == 4  # type: ignore[operator]


def test_optional_arguments_need_no_inputs(program: Path) -> None:
    assert targets.load(f"{program}:optional")() == 3  # type: ignore[operator]


def test_explicit_arguments_win_over_inputs(program: Path) -> None:
    program.write_text(PROGRAM + "\ndef inputs(): raise AssertionError\n")
    loaded = targets.load(f"{program}:model", [3])
    assert loaded(3) == 6  # type: ignore[operator]


def test_one_file_on_both_sides_runs_once(program: Path) -> None:
    first, second = targets.load(f"{program}:program"), targets.load(f"{program}:optional")
    assert first.__globals__ is second.__globals__  # type: ignore[union-attr]


def test_a_file_sees_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("value = 11")
    (tmp_path / "main.py").write_text("import beside_it\ndef run(): return beside_it.value")
    assert targets.load(f"{tmp_path / 'main.py'}:run")() == 11  # type: ignore[operator]


def test_an_attribute_of_a_module_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "prog.py").write_text("class A:\n    @staticmethod\n    def run(): return 13")
    monkeypatch.chdir(tmp_path)
    assert targets.load("pack.prog:A.run")() == 13  # type: ignore[operator]


def test_two_folders_with_a_module_of_the_same_name_are_refused(tmp_path: Path) -> None:
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "shared_name.py").write_text(f"value = {side!r}")
        (tmp_path / side / "main.py").write_text("import shared_name\ndef run(): return shared_name.value")
    assert targets.load(f"{tmp_path}/old/main.py:run")() == "old"  # type: ignore[operator]
    message = failing(f"{tmp_path}/new/main.py:run")
    assert "shared_name is already imported from" in message and "whydiff capture" in message


def test_a_folder_inside_the_other_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path / "sub", tmp_path):
        (folder / "inner_name.py").write_text("value = 1")
        (folder / "main.py").write_text("import inner_name\ndef run(): return inner_name.value")
    targets.load(f"{tmp_path}/sub/main.py:run")
    assert "inner_name is already imported" in failing(f"{tmp_path}/main.py:run")


def test_a_missing_file_names_what_is_near(program: Path) -> None:
    message = failing(f"{program.parent}/progam.py:program")
    assert message.startswith("There is no such file.") and "program.py?" in message


def test_a_missing_name_names_what_is_near_and_what_is_there(program: Path) -> None:
    message = failing(f"{program}:progam")
    assert "progam is not defined there." in message and "program?" in message and "optional" in message


def test_what_is_not_callable_says_its_type(program: Path) -> None:
    assert "number is of type int" in failing(f"{program}:number")


def test_a_target_that_needs_arguments_says_how_to_give_them(program: Path) -> None:
    message = failing(f"{program}:one")
    assert "it needs x" in message and "Define inputs()" in message
    assert "it needs x" in failing(f"{program}:model")


def test_inputs_that_are_no_function_are_refused(program: Path) -> None:
    program.write_text(PROGRAM + "\ninputs = (1,)\n")
    assert "inputs is of type tuple" in failing(f"{program}:one")


@pytest.mark.parametrize("text", ["missing.trace", "a/b", ":name", "nothing:", "C:\\trace", "a/b:c", "a b:c"])
def test_what_is_nothing_says_what_it_could_be(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "FILE.py:name, package.module:name, or the path of a trace" in failing(text)


def test_a_file_without_a_name_says_what_to_add(program: Path) -> None:
    assert f"Write {program}:name." in failing(str(program))


@pytest.mark.parametrize("code", ["raise ValueError('boom')", "import sys; sys.exit('boom')", "boom = ("])
def test_a_file_that_raises_shows_the_end_of_its_traceback(program: Path, code: str) -> None:
    program.write_text(f"x = 1\n{code}\n")
    with pytest.raises(TargetError, match="raised while it was imported") as caught:
        targets.load(f"{program}:x")
    assert "program.py" in str(caught.value) and "boom" in str(caught.value)
    assert caught.value.__cause__ is not None
    program.write_text("def x(): return 1")
    assert targets.load(f"{program}:x")() == 1  # type: ignore[operator]


def test_inputs_that_raise_are_the_users_error(program: Path) -> None:
    program.write_text(PROGRAM + "\ndef inputs(): raise KeyError('no data')\n")
    assert "inputs() raised." in failing(f"{program}:one") and "no data" in failing(f"{program}:one")


def test_a_class_is_not_run_but_what_is_no_class_of_programs_is(program: Path) -> None:
    program.write_text(PROGRAM + "\nclass Block:\n    def __call__(self, x): return x\nclass Pair:\n    pass\n")
    for way in (targets.load, targets.with_inputs):
        with pytest.raises(UsageError, match="Block is a class"):
            way(f"{program}:Block")
    assert isinstance(targets.load(f"{program}:Pair"), type)


def test_a_file_without_inputs_says_how_to_give_them_where_they_are_asked_for(program: Path) -> None:
    with pytest.raises(TargetError, match=r"it needs x(.|\n)*Define inputs\(\) beside the target"):
        targets.with_inputs(f"{program}:one")

"""From what a user types to what the pipeline takes: a callable that runs a program, or a trace's path.

``FILE.py:name``, ``package.module:name`` or the path of a trace. Loading a target runs the user's module,
as ``python FILE.py`` would (its folder is put on the import path); a trace is never run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from whydiff.errors import MissingPackageError, TargetError, meant
from whydiff.takes import needed, refuse_class, signature_of

Target = Path | str | Callable[..., Any]

_FORMS = "FILE.py:name, package.module:name, or the path of a trace"
_TAIL = 6
"""Lines of the user's traceback that an error shows."""


STORED = frozenset(
    [
        ".npz",
        ".npy",
        ".safetensors",
        ".pt",
        ".pth",
        ".bin",
        ".ckpt",
        ".parquet",
        ".csv",
        ".json",
        ".jsonl",
        ".gguf",
        ".onnx",
        ".h5",
        ".hdf5",
        ".msgpack",
        ".faiss",
    ]
)
"""Files that ``whydiff artifacts`` reads."""


def load(text: str, arguments: Sequence[Any] = ()) -> Target:
    """Load one side of a comparison.

    Args:
        text: ``FILE.py:name``, ``package.module:name``, the path of a trace or the URL of one.
        arguments: what the caller will pass to both sides; if there are any, ``inputs`` is not asked.

    Returns:
        the path if it is one; else a callable. Without ``arguments`` it can be called with none: a target
        that takes none is returned as it is, and any other (a model, say) as a `functools.partial` of
        itself with what the function ``inputs`` beside it returned: a tuple of arguments, a mapping of
        keyword arguments, or one argument. ``inputs`` is called once per `load`.

    Raises:
        TargetError: no such file, module or name; not callable; it takes arguments and there are none; or
            the user's code raised (the original is the ``__cause__``).
        UsageError: it is a class of programs.
    """
    where, colon, name = text.rpartition(":")
    if "://" in text:
        return text
    if Path(text).is_file() and Path(text).suffix.lower() in STORED:
        raise TargetError(
            "This file holds numbers, not a program or a trace.",
            where=text,
            expected="a trace, FILE.py:name or package.module:name",
            next_step="compare files of numbers with: whydiff artifacts REF CAND",
        )
    if Path(text).exists() and not Path(text).is_file():
        return Path(text)
    file = where.endswith(".py")
    if not colon or not _dotted(name) or not (file or _dotted(where)):
        _not_a_target(text)
    module = _file(Path(where), text) if file else _module(where, text)
    target = _attribute(module, name, text)
    if not callable(target):
        raise TargetError(
            "The target cannot be called.",
            where=text,
            actual=f"{name} is of type {type(target).__name__}",
            expected="a function or a model",
        )
    refuse_class(target, text)
    return target if arguments or _takes_nothing(target) else _with_inputs(target, module, text)


def with_inputs(text: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A target as it is, and the function ``inputs`` beside it, uncalled.

    Args:
        text: ``FILE.py:name`` or ``package.module:name``.

    Raises:
        TargetError: no such file, module or name; not callable; no function ``inputs`` beside it; or the user's
            code raised.
    """
    where, colon, name = text.rpartition(":")
    file = where.endswith(".py")
    if not colon or not _dotted(name) or not (file or _dotted(where)):
        _not_a_target(text, traces=False)
    module = _file(Path(where), text) if file else _module(where, text)
    target = _attribute(module, name, text)
    refuse_class(target, text)
    if not hasattr(module, "inputs"):
        raise _no_inputs(needed(target) if callable(target) else (), text, "a function inputs() in the same file")
    found = {name: target, "inputs": module.inputs}
    for word, value in found.items():
        if not callable(value):
            raise TargetError(
                f"{word} cannot be called.",
                where=text,
                actual=f"it is of type {type(value).__name__}",
                expected="a function or a model; inputs(batch, length) returns its arguments",
            )
    return found[name], found["inputs"]


def is_library(file: str) -> bool:
    """Whether a file of code is an installed package's, not the user's own."""
    return "site-packages" in file or "dist-packages" in file


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _not_a_target(text: str, traces: bool = True) -> NoReturn:
    exists = Path(text).exists()
    expected = _FORMS if traces else "FILE.py:name or package.module:name, with inputs() beside it"
    if text.endswith(".py") or not traces:
        named = f"The target names a {'file' if Path(text).is_file() else 'folder'} but no function in it."
        raise TargetError(
            named if exists else "There is no such file.",
            where=text,
            expected=expected,
            next_step=f"Write {text}:name."
            if text.endswith(".py") and exists
            else "Check the path."
            if not exists
            else "",
        )
    raise TargetError(
        "There is no such trace, and this names no function either.",
        where=text,
        actual="a file; a trace is a folder" if exists else "nothing at this path",
        expected=expected,
        next_step="whydiff capture -o NAME.trace -- python SCRIPT.py makes a trace.",
    )


def _file(path: Path, text: str) -> ModuleType:
    if not path.is_file():
        near = meant(path.name, (p.name for p in path.parent.glob("*.py")))
        raise TargetError("There is no such file.", where=text, actual=str(path), expected=near or _FORMS)
    path = path.resolve()
    name = f"whydiff_target_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:  # both sides may come from one file, which runs once
        return sys.modules[name]
    _refuse_a_shadowed_module(path, text)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError("The file cannot be imported.", where=text, actual=str(path), expected="Python code")
    module = importlib.util.module_from_spec(spec)
    _put_on_path(path.parent)
    sys.modules[name] = module
    try:
        _run(lambda: spec.loader.exec_module(module), "The file raised while it was imported.", text)  # type: ignore[union-attr]
    except TargetError:
        del sys.modules[name]
        raise
    return module


def _refuse_a_shadowed_module(path: Path, text: str) -> None:
    """Two files from two folders may each import their own ``model.py``; one process holds only one."""
    here = path.parent
    others = {
        Path(m.__file__).parent
        for name, m in list(sys.modules.items())
        if name.startswith("whydiff_target_") and m.__file__
    } - {here}
    for own in sorted(here.iterdir()):
        source = own / "__init__.py" if own.is_dir() else own
        if source.suffix != ".py" or not source.is_file():
            continue
        file = getattr(sys.modules.get(own.stem), "__file__", None)
        loaded = Path(file).resolve() if file else source
        if loaded != source and any(loaded.is_relative_to(other) for other in others):
            raise TargetError(
                "Both sides have a module of the same name, and one process can hold only one of them.",
                where=text,
                actual=f"{own.stem} is already imported from {loaded}",
                expected=str(source),
                next_step="Capture each side with whydiff capture and compare the two traces.",
            )


def _module(name: str, text: str) -> ModuleType:
    _put_on_path(Path.cwd())
    module: ModuleType = _run(
        lambda: importlib.import_module(name), "The module raised while it was imported, or is missing.", text
    )
    return module


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _attribute(module: ModuleType, name: str, text: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            public = sorted(n for n in dir(value) if not n.startswith("_"))
            own = [n for n in public if callable(getattr(value, n, None))]
            raise TargetError(
                f"{name} is not defined there.",
                where=text,
                actual=f"it defines {', '.join(own[:8]) or 'nothing that can be called'}",
                expected=meant(part, public),
            )
        value = getattr(value, part)
    return value


def _takes_nothing(target: Callable[..., Any]) -> bool:
    """True if calling the target without arguments makes sense; a model is judged by its ``forward``."""
    signature = signature_of(target)
    return signature is not None and not signature.parameters


def _with_inputs(target: Callable[..., Any], module: ModuleType, text: str) -> Target:
    inputs = getattr(module, "inputs", None)
    if inputs is None:
        return _without_inputs(target, text)
    if not callable(inputs):
        raise TargetError(
            "inputs is not a function.",
            where=text,
            actual=f"inputs is of type {type(inputs).__name__}",
            expected="def inputs(): that returns a tuple of arguments or a dict of keyword arguments",
        )
    given = _run(inputs, "inputs() raised.", text)
    if isinstance(given, Mapping):
        return functools.partial(target, **given)
    return functools.partial(target, *given) if isinstance(given, tuple) else functools.partial(target, given)


def _without_inputs(target: Callable[..., Any], text: str) -> Target:
    if not (names := needed(target)):
        return target
    raise _no_inputs(names, text, "a target without arguments, or a function inputs() in the same file")


def _no_inputs(names: Sequence[str], text: str, expected: str) -> TargetError:
    return TargetError(
        "The target takes arguments, and there are none.",
        where=text,
        actual=f"it needs {', '.join(names)}" if names else "",
        expected=expected,
        next_step="Define inputs() beside the target: it returns a tuple of arguments or a dict of keywords.",
    )


def _run(call: Callable[[], Any], what: str, text: str) -> Any:
    """Run the user's code; what it raises becomes a `TargetError` with the end of its traceback."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and (error.name or "").partition(".")[0] != text.split(".")[0].split(":")[0]
        ):
            raise MissingPackageError.of(error, text) from error
        frames = traceback.format_exception(type(error), error, error.__traceback__)
        lines = "".join(frames).rstrip().splitlines()
        raise TargetError(
            what,
            where=text,
            actual="\n    ".join([f"{type(error).__name__}", *lines[-_TAIL:]]),
            next_step="Run the file with python to see the whole traceback.",
        ) from error

"""What the public functions take: an argument of another kind is refused by name, before anything runs.

    @takes(path=PATH, max_bytes=COUNT)
    def capture(path, max_bytes=...): ...

An argument that is left at its default is never refused. One that is missing altogether is Python's own TypeError.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from whydiff.errors import TargetError, UsageError, meant

P = ParamSpec("P")
R = TypeVar("R")
_LONGEST = 60
"""Characters of a refused value that the message shows."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of argument: how people would say it, and how it is known."""

    words: str
    fits: Callable[[Any], bool]


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def each(value: Any) -> bool:
        items = value.tolist() if hasattr(value, "tolist") else value  # one of torch or numpy: its Python numbers
        return isinstance(items, Iterable) and not isinstance(items, (str, bytes)) and all(map(fits, items))

    return each


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


PATH = Kind("a path: text or a pathlib.Path", lambda value: isinstance(value, (str, os.PathLike)))
TEXT = Kind("text", _text)
TEXTS = Kind("a list of texts", _all(_text))
COUNT = Kind("a whole number, 0 or more", lambda value: _whole(value) and value >= 0)
NUMBER = Kind("a whole number, 1 or more", lambda value: _whole(value) and value >= 1)
WHOLES = Kind("a list of whole numbers", _all(_whole))
SECONDS = Kind("a number of seconds above 0", lambda value: isinstance(value, Real) and float(value) > 0)
SIZES = Kind(
    "sizes such as '1,2,4' or '61..128', a whole number, or a list of them",
    lambda value: isinstance(value, str) or _whole(value) or _all(lambda one: _whole(one) or _text(one))(value),
)
NAMES = Kind("a name, or a list of names", lambda value: _text(value) or _all(_text)(value))
FUNCTIONS = Kind(
    "name → function, or a list of functions",
    lambda value: all(map(callable, value.values())) if isinstance(value, Mapping) else _all(callable)(value),
)
WAYS = Kind(
    "name → function",
    lambda value: isinstance(value, Mapping) and all(map(_text, value)) and all(map(callable, value.values())),
)
SERIES = Kind(
    "a list or a tuple",
    lambda value: isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and not hasattr(value, "shape"),
)
NUMBERS = Kind("a list of numbers", _all(lambda value: isinstance(value, Real)))
BOUNDS = Kind("two numbers: (low, high)", lambda value: NUMBERS.fits(value) and len(tuple(value)) == 2)
TEXT_TO_TEXT = Kind(
    "name → name", lambda value: isinstance(value, Mapping) and all(_text(k) and _text(v) for k, v in value.items())
)
HOW_MUCH = Kind("0, 1 or 2", lambda value: isinstance(value, bool) or COUNT.fits(value))
BOUNDS_OF = Kind(
    "dtype → (absolute, relative) tolerance",
    lambda value: isinstance(value, Mapping) and all(_text(k) and BOUNDS.fits(v) for k, v in value.items()),
)
COLUMNS = Kind("a path, or name → values", lambda value: PATH.fits(value) or isinstance(value, Mapping))


def pairs(second: type, named: str) -> Kind:
    """A list of (name, object) pairs.

    Args:
        second: class of the objects.
        named: the class, as users write it.
    """

    def fits(one: Any) -> bool:
        return isinstance(one, tuple) and len(one) == 2 and _text(one[0]) and isinstance(one[1], second)

    return Kind(f"a list of pairs: [('its name', {named}), …]", _all(fits))


def one_of(*values: Any) -> Kind:
    """One of a few values."""
    return Kind(
        " or ".join(map(repr, values)), lambda value: any(type(value) is type(v) and value == v for v in values)
    )


def instance(of: type) -> Kind:
    """A record of whydiff's own."""
    return Kind(f"{of.__name__}(…)", lambda value: isinstance(value, of))


def takes(called: str = "", /, **kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse arguments of another kind.

    Args:
        called: what users call the function, if not by its own name.
        **kinds: parameter → what it takes; a parameter that is not named takes anything.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        defaults = {name: signature.parameters[name].default for name in kinds}

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            __tracebackhide__ = True
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:  # something is missing, or twice: Python says it best
                return function(*args, **kwargs)
            given = bound.arguments
            for name, kind in kinds.items():
                if name in given and given[name] is not defaults[name]:
                    if isinstance(given[name], Iterator):  # a look at its items would take them from the function
                        given[name] = tuple(given[name])
                    check(given[name], kind, name, called or function.__name__)
            return function(*bound.args, **bound.kwargs)

        return checked

    return decorate


def check(value: Any, kind: Kind, name: str, function: str) -> None:
    """Refuse one value.

    Args:
        value: as it was given.
        kind: what it should be.
        name: of the argument.
        function: whose argument it is, as users call it.

    Raises:
        UsageError: it is of another kind.
    """
    if not kind.fits(value):
        raise UsageError(
            f"{function} cannot take this as {name}.",
            where=name,
            actual=described(value),
            expected=kind.words,
            next_step=f"help(whydiff.{function}) says what each argument is",
        )


@contextmanager
def options_apart(options: type[Any], kwargs: Mapping[str, Any], targets: Iterable[Any]) -> Iterator[None]:
    """Where a target does not take its keywords: those that are names of options are said to be.

    Args:
        options: the dataclass of options that are given apart from the target's arguments.
        kwargs: what the targets are called with.
        targets: programs, and paths of traces.

    Raises:
        UsageError: ``options`` itself is misspelt.
    """
    refuse_misspelt("options", targets, kwargs)
    try:
        yield
    except TargetError as error:
        named = [one.name for one in fields(options) if one.name in kwargs]
        if not named or not isinstance(error.__cause__, TypeError):
            raise
        options_given = f"options=whydiff.{options.__name__}({', '.join(f'{name}=…' for name in named)})"
        raise TargetError(
            error.what,
            where=error.where,
            actual=error.actual,
            expected=error.expected,
            next_step=f"if {' and '.join(named)} is meant for whydiff: {options_given}; else {error.next_step}",
        ) from error.__cause__


def refuse_misspelt(own: str, targets: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a keyword that no target takes and that is nearly whydiff's own.

    Args:
        own: whydiff's keyword.
        targets: programs that the others are given to, and paths of traces.
        kwargs: what is to be given to them.

    Raises:
        UsageError: one of them is such a keyword.
    """
    for name in kwargs:
        if meant(name, (own,)) and not any(callable(one) and _takes_keyword(one, name) for one in targets):
            raise UsageError("No target takes this keyword.", actual=f"{name}=…", next_step=f"did you mean {own}?")


def _takes_keyword(target: Any, name: str) -> bool:
    signature = signature_of(target)
    if signature is None:
        return True
    found = signature.parameters.values()
    return any(p.kind is p.VAR_KEYWORD or (p.name == name and p.kind is not p.POSITIONAL_ONLY) for p in found)


def refuse_class(target: Any, where: str = "") -> None:
    """Refuse the class of a program where one of its instances is meant.

    Args:
        target: what is to be run.
        where: as users write it.

    Raises:
        UsageError: it is a class, and its instances can be called.
    """
    if isinstance(target, type) and any("__call__" in vars(base) for base in target.__mro__):
        raise UsageError(
            "The target is a class, not a program.",
            where=where,
            actual=f"{target.__name__} is a class",
            expected="an instance of it, or a function",
        )


def signature_of(target: Callable[..., Any]) -> inspect.Signature | None:
    """What a target takes, where that can be told; a model is judged by its ``forward``."""
    forward = getattr(target, "forward", None)
    try:
        return inspect.signature(forward if callable(forward) else target)
    except (TypeError, ValueError):  # some built-in callables have no signature
        return None


def needed(target: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a target cannot do without."""
    signature = signature_of(target)
    return [
        p.name
        for p in (signature.parameters.values() if signature else ())
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def described(value: Any) -> str:
    """A value's type, and the value itself where it is short and plain."""
    shown = repr(value) if isinstance(value, (str, bytes, Real, os.PathLike)) or value is None else ""
    return f"{type(value).__name__} {shown}" if 0 < len(shown) <= _LONGEST else type(value).__name__

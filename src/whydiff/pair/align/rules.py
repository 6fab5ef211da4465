"""Scope renaming rules: a prefix or a regular expression of the candidate's scopes, and its replacement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from whydiff.errors import UsageError

PREFIX = re.compile(r"[\w./]*")
SEPARATORS = "./"

Rule = tuple[str, str]


def validate(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules, checked.

    Raises:
        UsageError: not pairs of strings, a pattern that is not a regular expression, or a replacement that
            names a group the pattern does not have.
    """
    given: Sequence[object] = rules
    checked: list[Rule] = []
    for rule in given:
        if not isinstance(rule, (tuple, list)) or [type(part) for part in rule] != [str, str]:
            raise UsageError(
                "A rename rule is not a pair of strings.",
                where="rename",
                actual=repr(rule),
                expected="(pattern of the candidate's scopes, replacement)",
                next_step='Write for example ("model.encoder", "encoder").',
            )
        pattern, replacement = rule
        if not PREFIX.fullmatch(pattern):
            try:
                re.compile(pattern).sub(replacement, "")
            except (re.error, IndexError) as error:
                raise UsageError(
                    "A rename rule is not a valid regular expression with its replacement.",
                    where="rename",
                    actual=f"{pattern!r} -> {replacement!r}: {error}",
                    expected="a scope prefix, or a regular expression as re.sub takes it",
                    next_step="Escape special characters with a backslash, or give a plain scope prefix.",
                ) from error
        checked.append((pattern, replacement))
    return tuple(checked)


def apply(rules: Iterable[Rule], scope: str) -> str:
    """A scope after every rule, in order.

    A pattern of letters, digits, ``_``, ``.`` and ``/`` only is a prefix of whole scope components (``""``
    is the root: every scope has it); any other pattern is given to ``re.sub``.
    """
    for pattern, replacement in rules:
        if not PREFIX.fullmatch(pattern):
            scope = re.sub(pattern, replacement, scope)
        elif under(scope, pattern.rstrip(SEPARATORS)):
            scope = move(scope, pattern.rstrip(SEPARATORS), replacement.rstrip(SEPARATORS))
    return scope


def under(scope: str, prefix: str) -> bool:
    """Is the scope the prefix itself or inside it?"""
    return not prefix or scope == prefix or (scope.startswith(prefix) and scope[len(prefix)] in SEPARATORS)


def move(scope: str, prefix: str, replacement: str) -> str:
    """The scope with another prefix; scope must be `under` prefix."""
    if not prefix:
        return f"{replacement}.{scope}" if replacement and scope else replacement or scope
    rest = scope[len(prefix) :]
    return replacement + rest if replacement else rest[1:]


def shorten(candidate: str, reference: str) -> Rule:
    """The most general prefix rule behind one renamed scope: both without their common last components.

    ``bert.encoder.layer.0.q`` and ``encoder.blocks.0.q`` give ``bert.encoder.layer`` and ``encoder.blocks``.
    """
    first, second = (re.findall(r"[^./]+|[./]", scope) for scope in (candidate, reference))
    while len(first) > 1 and len(second) > 1 and first[-2:] == second[-2:] and first[-2] in SEPARATORS:
        first, second = first[:-2], second[:-2]
    if len(first) == 1 and second[-1:] == first and len(second) > 1:
        first, second = [], second[:-2]
    elif len(second) == 1 and first[-1:] == second and len(first) > 1:
        first, second = first[:-2], []
    return "".join(first), "".join(second)

"""What an operator's schema says of its arguments: their names, and what is taken where one is left out.

The dispatcher drops arguments that are the default.
"""

from __future__ import annotations

import functools
from typing import Any

from whydiff.capturing.adapters.torch.allowed import lookup
from whydiff.capturing.adapters.torch.arguments import encode
from whydiff.errors import ReplayError


@functools.cache
def default_of(target: str, which: int | str) -> tuple[Any] | None:
    """An argument's default as an argument template; None: it has none, or the operator is not known here."""
    try:
        arguments = lookup(target)._schema.arguments
    except LookupError:
        return None
    found = [one for n, one in enumerate(arguments) if which in (n, one.name) and one.has_default_value()]
    try:
        return (encode(found[0].default_value),) if found else None
    except ReplayError:
        return None


@functools.cache
def name_of(target: str, which: int | str) -> str:
    """What an operator calls its argument at a position or by a name; empty: it has none there, or is not known here."""
    try:
        arguments = lookup(target)._schema.arguments
    except LookupError:
        return ""
    return next((str(one.name) for n, one in enumerate(arguments) if which in (n, one.name)), "")

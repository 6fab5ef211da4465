"""How ranks exchange tensors, as a call of a trace says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

CollectiveKind = Literal[
    "all-reduce",
    "reduce",
    "reduce-scatter",
    "all-gather",
    "gather",
    "scatter",
    "all-to-all",
    "broadcast",
    "send",
    "recv",
    "barrier",
]
_KINDS = frozenset(get_args(CollectiveKind))


@dataclass(frozen=True, slots=True)
class Collective:
    """What one rank's call of a collective says.

    Attributes:
        kind: what is exchanged.
        group: name of the group; the same on every rank of it.
        ranks: who takes part, as ranks of the whole run, in the group's order.
        reduce: how values are put together: ``"sum"``, ``"avg"``, ``"max"`` …; empty where they are not.
        root: whose value is sent, or who receives: a position in ``ranks``; -1: nobody in particular.
    """

    kind: CollectiveKind
    group: str
    ranks: tuple[int, ...]
    reduce: str = ""
    root: int = -1

    def __str__(self) -> str:
        ranks = ", ".join(map(str, self.ranks))
        return f"{self.kind}{f' ({self.reduce})' if self.reduce else ''} among ranks {ranks}"

    @classmethod
    def of(cls, arguments: Any) -> Collective | None:
        """What the third part of a call's arguments says; None: it is no collective, or says nothing of that kind."""
        if not isinstance(arguments, list) or len(arguments) != 3 or not isinstance(arguments[2], dict):
            return None
        found = arguments[2]
        ranks, root = found.get("ranks"), found.get("root", -1)
        texts = [found.get(name, "") for name in ("group", "reduce")]
        right = isinstance(ranks, list) and all(type(rank) is int for rank in (*ranks, root))
        if found.get("kind") not in _KINDS or not right or not all(isinstance(text, str) for text in texts):
            return None
        return cls(kind=found["kind"], group=texts[0], ranks=tuple(ranks or ()), reduce=texts[1], root=root)

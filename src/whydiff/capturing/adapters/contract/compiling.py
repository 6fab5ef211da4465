"""Compiling a live program anew, a part of the compiler more each time, or without one of its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from whydiff.records import Output


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of what a compiler does to a program.

    Attributes:
        name: as `Way.rung` takes it.
        adds: what is done here and not on the rung below, in words.
        parts: what can be left out here, in the order in which it is asked for.
    """

    name: str
    adds: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a compiler does and can be told to leave.

    Attributes:
        name: as `Way.without` takes it.
        says: what it is, in words.
        counted: it is done many times (per op, per pass), and `Way.keep` lets the first of them be.
        group: parts of one group are only asked for if leaving out the whole group (a part, too) helps.
    """

    name: str
    says: str
    counted: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How what a program compiles is compiled anew.

    Attributes:
        rung: up to where; the last one is the compiler as the program asks for it.
        without: parts that are left out.
        keep: how often the (one, counted) part is still done before it is left out.
        only: what the (one, counted) part is not done to, by name; everything else it is; empty: ``keep`` decides.
    """

    rung: str
    without: tuple[str, ...] = ()
    keep: int = 0
    only: str = ""

    def __str__(self) -> str:
        text = self.rung + "".join(f", without {name}" for name in self.without)
        if self.only:
            return f"{text} of {self.only}"
        return f"{text} after the first {self.keep}" if self.keep else text


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a program gave when it was compiled anew.

    Attributes:
        outputs: everything it gave back; None: it raised.
        done: what the counted part was done to, in order, where it was left out.
        failed: why it raised, in words.
    """

    outputs: tuple[Output, ...] | None
    done: tuple[str, ...] = ()
    failed: str = ""


class Graph(ABC):
    """A graph that a program hands its compiler, with the values that it was given.

    Attributes:
        places: positions of what makes a tensor, in order, as `part` takes them.
    """

    places: tuple[int, ...]

    @property
    @abstractmethod
    def ops(self) -> int:
        """How many ops it has."""

    @abstractmethod
    def given(self, *, compiled: bool) -> tuple[Output, ...] | None:
        """What it gives back, compiled as the program asks for it, or op by op; None: it raised."""

    @abstractmethod
    def part(self, first: int, last: int) -> Graph:
        """What ``last`` is made by, of what stands from ``first`` on; what was made before is an input."""

    @abstractmethod
    def save(self, folder: Path) -> Path:
        """Write it as a program that runs without whydiff; the program's path."""

"""Every operator that torch registers, executed by a replay of a stranger's trace; see `tests.scores.hostile`."""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.scores.changed_traces import arguments_for, honest, operators
from tests.scores.judged import MEMORY, SECONDS, state
from tests.scores.strangers import copied

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters._live import FAILURES, short
from whydiff.capturing.apart import child
from whydiff.errors import harmless
from whydiff.records import Event, TensorSpec


class Operators:
    """Has every operator executed by a replay of a stranger's trace, alone, with arguments made up from its schema."""

    TIMES, AT_ONCE = 3, 100

    def __init__(self, folder: Path) -> None:
        importlib.import_module("torch._dynamo")  # which the first of some operators loads, and which sets variables
        _, self.trace = honest(folder)[1]
        self.every = operators()
        found = whydiff.open(copied(self.trace, folder / "stranger"))
        assert not found.trusted
        self.call = next(call for call in found.calls if call.kind == "compute")
        self.executor = for_framework("torch").executor(found)
        shapes = {"float32": ([4], [2, 2], [1, 4], []), "int64": ([2], [1, 2]), "bool": ([4],), "float64": ([2],)}
        floats = [leaf for leaf in found.leaves if leaf.storage >= 0 and leaf.spec.numel > 3]
        self.events = [
            Event(self.call.site.at("read.0"), TensorSpec(tuple(shape), dtype, strides=contiguous(shape)), leaf.storage)
            for leaf in floats[:4]
            for dtype, several in shapes.items()
            for shape in several
        ]
        with self.executor.running():
            for event in self.events:
                self.executor.read(event)

    def one(self, number: int) -> tuple[str, list[str]]:
        """What came of an operator's executions, and what is wrong."""
        outcome, wrong, before = "refused", [], state()
        for again in range(self.TIMES):
            rng = random.Random(number * self.TIMES + again)
            reads = tuple(rng.choices(self.events, k=4))
            arguments = arguments_for(self.every[number], 4, rng)
            call = replace(
                self.call, target=self.every[number], reads=reads, writes=(), arguments=arguments, mutates=()
            )
            try:
                with self.executor.running():
                    copies = [self.executor.copy(self.executor.read(event)) for event in reads]
                    self.executor.apply(call, copies)
                outcome = "executed"
            except LookupError as error:
                said = str(error)
            except FAILURES as error:
                outcome = "an error" if outcome == "refused" else outcome
                said = short(error)
            else:
                said = ""
            wrong += ["a control character"] if said != harmless(said) else []
            wrong += [f"asked for more: {said}"] if "does no such thing" in said else []
        wrong += [f"changed: {key}" for key, value in before.items() if value != state()[key]]
        return outcome, wrong

    def some(self, first: int) -> tuple[list[tuple[str, list[str]]], int]:
        """In a fork: what came of as many as it survives, and how it ended."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(ours)
                with open(theirs, "w", encoding="ascii") as out:
                    child._bound(MEMORY)
                    child._give_up()
                    for number in range(first, min(first + self.AT_ONCE, len(self.every))):
                        used = int(time.process_time()) + 1
                        resource.setrlimit(resource.RLIMIT_CPU, (used + int(SECONDS), -1))
                        out.write(json.dumps(self.one(number)) + "\n")
                        out.flush()
                code = 0
            finally:
                os._exit(code)
        os.close(theirs)
        with open(ours, encoding="ascii") as read:
            done = [json.loads(line) for line in read]
        return done, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def run(self, report: Callable[[str], None]) -> Counter[str]:
        """Every one; tell of what is wrong and of what died."""
        outcomes: Counter[str] = Counter()
        first = 0
        while first < len(self.every):
            done, code = self.some(first)
            for number, (outcome, wrong) in enumerate(done, first):
                outcomes[outcome] += 1
                if wrong:
                    outcomes["WRONG"] += 1
                    report(f"operator {self.every[number]}: {outcome}: {'; '.join(wrong)}")
            first += len(done)
            if code:
                outcomes["ended its process"] += 1
                report(f"operator {self.every[first]} ended its process with {code}")
                first += 1
        return outcomes


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor in row-major order."""
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))

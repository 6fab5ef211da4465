"""Differences of environment by the cause that they may be: for EN001, EN002, EN004 and OR002."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes._explained import explained
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._settings import enough
from whydiff.records import Cause, Environment, Evidence, Origin, Remedy, Verdict

Change = tuple[str, str, str]
Environments = Mapping[str, Mapping[str, Any]]
"""Part of an environment → name → value."""

THREADS = frozenset(
    {"flags.threads", "flags.interop_threads", "variables.OMP_NUM_THREADS", "variables.MKL_NUM_THREADS"}
)
INSTRUCTIONS = frozenset(
    {
        "hardware.cpu_capability",
        "hardware.machine",
        "hardware.cpu",
        "variables.ATEN_CPU_CAPABILITY",
        "variables.ONEDNN_MAX_CPU_ISA",
        "variables.DNNL_MAX_CPU_ISA",
        "variables.MKL_CBWR",
        "variables.MKL_ENABLE_INSTRUCTIONS",
    }
)
"""What decides which instructions the CPU kernels use: the machine, and the variables that limit them."""

INERT = frozenset({"versions.python", "hardware.cores", "flags.grad_enabled", "flags.inference_mode"})
"""Differences that do not change a kernel by themselves; shown, never blamed without an experiment."""


def code_of(where: str) -> str:
    """The cause that a difference may be: EN001, EN002, EN004, OR002; empty for random states."""
    if where.startswith("rng."):
        return ""
    if where in THREADS:
        return "OR002"
    if where in INSTRUCTIONS:
        return "EN004"
    return "EN001" if where.startswith("versions.") else "EN002"


def of_kind(changes: Iterable[Change], code: str) -> tuple[Change, ...]:
    """The differences that may be this cause."""
    return tuple(change for change in changes if code_of(change[0]) == code and change[0] not in INERT)


def unexplained(case: Case) -> tuple[Origin, ...]:
    """Origins at which op, arguments and inputs agree and the output differs: what an environment can do.

    Those that a cause explains from the values are left out, and all if what differs inside the program is enough.
    """
    if enough(case):
        return ()
    named = explained(case)
    return tuple(
        origin
        for index, origin in enumerate(case.localization.origins)
        if origin.kind == "implementation" and index not in named
    )


def hypothesis(case: Case, rule: CauseRule, remedy: Remedy) -> Iterable[Cause]:
    """One cause for all differences of a kind, if there are origins that an environment can explain."""
    changes, origins = of_kind(case.environment_changes, rule.code), unexplained(case)
    if not changes or not origins:
        return
    listed = "; ".join(
        f"{where}: {ours} in the reference, {theirs} in the candidate" for where, ours, theirs in changes
    )
    others = sorted({code_of(c[0]) for c in case.environment_changes if c[0] not in INERT} - {"", rule.code})
    also = f" (and so may {', '.join(others)})" if others else ""
    yield rule.cause(
        site=changes[0][0],
        verdict=Verdict.INCONCLUSIVE,
        evidence=(
            Evidence(f"the environments differ: {listed}", {where: [ours, theirs] for where, ours, theirs in changes}),
            Evidence(
                f"at {len(origins)} places the same op gives other bits on equal inputs and arguments, e.g. "
                f"{origins[0].site}",
                {"origins": len(origins), "ops": sorted({origin.site.op for origin in origins})},
            ),
        ),
        remedy=remedy,
        reason=(f"it may explain them{also}, and only a run with nothing else changed can tell: {command(changes)}"),
    )


def command(changes: Iterable[Change]) -> str:
    """The command that runs the program in both environments with nothing else changed."""
    found = tuple(changes)
    settings = [
        " ".join(
            f"{where.removeprefix('variables.')}={change[side]}"
            for where, *change in found
            if where.startswith("variables.") and change[side] != "None"
        )
        for side in (0, 1)
    ]
    words = " ".join(f'--env "{setting}"' for setting in settings if setting)
    if any(where.startswith("versions.") for where, _, _ in found):
        words = f"--python REFERENCE/bin/python --python CANDIDATE/bin/python {words}".rstrip()
    return f"whydiff matrix FILE.py:name {words or '--env NAME=VALUE'} -o FOLDER"


def doctored(program: Any, change: Environments) -> tuple[str, str]:
    """An example for one process: two traces of a program, the reference as another environment left it.

    The reference's last result is moved by one unit in the last place and its environment is changed; the
    candidate is what this environment really computes. The traces lie in a temporary folder until the process
    ends.

    Args:
        program: a callable without arguments that returns one float32 tensor made by its last op.
        change: part of the environment → name → the reference's value.
    """
    import numpy as np

    from whydiff.capturing.adapters import for_target
    from whydiff.capturing.store import TraceWriter, open_trace, save
    from whydiff.numbers.fingerprint import fingerprint_bytes
    from whydiff.records import Payload, RecordedTrace

    folder = new_folder()
    run = for_target(program).run(program, (), {})
    for side in ("whole", "candidate"):
        with TraceWriter(folder / side, framework="torch", level="op") as writer:
            writer.close(**run.record(writer, payloads="all"))
    trace = open_trace(folder / "whole")
    last = next(call for call in reversed(trace.calls) if call.kind == "compute")
    written = last.writes[0]
    payload = trace.payload(written.payload)
    if payload is None:
        raise AssertionError("a capture with all payloads lacks one")
    moved = Payload(np.nextafter(payload.bits, np.float32(np.inf)), payload.dtype)
    moved_print = fingerprint_bytes(moved.bits)
    calls = []
    for call in trace.calls:
        writes = tuple(replace(e, fingerprint=moved_print) if e == written else e for e in call.writes)
        reads = tuple(
            replace(e, fingerprint=moved_print) if e.storage == written.storage and e.fingerprint else e
            for e in call.reads
        )
        calls.append(replace(call, writes=writes, reads=reads if call.index > last.index else call.reads))
    seen = trace.environment
    environment = Environment(
        **{
            part: {**getattr(seen, part), **change.get(part, {})}
            for part in ("versions", "hardware", "flags", "variables", "rng")
        }
    )
    changed = RecordedTrace(
        framework=trace.framework,
        level=trace.level,
        calls=tuple(calls),
        leaves=tuple(trace.leaves),
        environment=environment,
        observer=trace.observer,
        ties=tuple(trace.ties),
        scalars=trace.scalars,
        config=trace.config,
        contexts=tuple(trace.contexts),
        payloads={**trace.payloads, written.payload: moved},
    )
    save(changed, folder / "reference")
    return str(folder / "reference"), str(folder / "candidate")


def impostors(program: Any, changed: Environments, other: Environments) -> Iterator[tuple[str, str]]:
    """Pairs of `doctored`: another part of the environment differs too; what differs is in the program.

    Args:
        program: see `doctored`.
        changed: what the cause's example changes.
        other: what another cause may be.
    """
    yield doctored(program, {**changed, **other})
    yield doctored(program, changed)[0], doctored(lambda: program() * 1.5, {})[1]


def new_folder() -> Path:
    """An empty folder that is removed when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="whydiff-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

"""Capture to a sink (a trace on disk): ``with whydiff.capture(path, framework="jax") as session: session.run(…)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import equal
from whydiff.capturing.adapters.jax import values
from whydiff.capturing.adapters.jax.environment import environment
from whydiff.capturing.adapters.jax.recorder import Recorder
from whydiff.capturing.adapters.jax.recording import WAYS
from whydiff.capturing.adapters.jax.run import Run, same
from whydiff.capturing.sink import Payloads, Sink, put_away, wanted
from whydiff.errors import UsageError
from whydiff.records import ObserverCheck, Output


class Session(contract.Session):
    """Captures the one program that is given to `run` inside its block.

    JAX has no place where every program of a process passes by, compiled ones least of all; hence `run`.

    Args:
        level: ``"op"``.
        payloads: ``"all"``, ``"none"`` or globs over sites.
        sink: receives calls, leaves and payloads.
    """

    def __init__(self, *, level: str = "op", payloads: Payloads = "none", sink: Sink | None = None) -> None:
        if level != "op":
            raise UsageError("JAX programs are captured equation by equation.", actual=level, expected="op")
        self.payloads, self.sink = payloads, sink
        self._wanted = wanted(payloads)
        self._run: Run | None = None
        self._outputs: tuple[Output, ...] = ()
        self._observer = ObserverCheck(
            deterministic=None, unchanged=None, outputs=0, note="nothing was run: call session.run(target, *args)"
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def run(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Call ``target(*args, **kwargs)``, capture it, and return the arrays of its result by path.

        Raises:
            UsageError: a session captures one program.
            TargetError: the program raised.
        """
        if self._run is not None:
            raise UsageError("A session captures one program.", next_step="open another trace for the next one")
        self._run = run = Run(target, args, kwargs)
        self._outputs = run.anchor()
        plain = run.plain()
        way = next((w for w in WAYS if _same(plain, run.recorded(w)[2])), WAYS[0])
        recorder = Recorder(run.reached, self._key, self._send)
        outputs = run.recorded(way, recorder)[2]
        if self.sink is not None:
            self._outputs = tuple(put_away(x, self.sink if self.payloads != "none" else None) for x in self._outputs)
            self._finish(recorder, self.sink)
        unchanged = _same(plain, outputs)
        self._observer = ObserverCheck(
            deterministic=_same(plain, run.plain()),
            unchanged=unchanged,
            outputs=len(outputs),
            note=f"values by way of {way!r}",
        )
        return dict(jax.block_until_ready(outputs))

    def _key(self, index: int, number: int, site: str) -> str:
        return f"call/{index}/{number}" if self._wanted is not None and self._wanted(site) else ""

    def _send(self, key: str, value: Any) -> None:
        if self.sink is not None:
            self.sink.add_payload(key, values.to_payload(value))

    def _finish(self, recorder: Recorder, sink: Sink) -> None:
        kept = self.payloads != "none"
        leaves = recorder.all_leaves(lambda name: f"leaf/{name}" if kept else "")
        held = {name: ref.value for name, _, ref in recorder.leaves.values()}
        held |= {name: value for name, _, value in recorder.reached.arrays.values() if name not in held}
        for leaf in leaves if kept else ():
            if not leaf.skipped:
                sink.add_payload(f"leaf/{leaf.name}", values.to_payload(held[leaf.name]))
        sink.add_leaves(leaves)
        sink.add_contexts([{}])
        sink.add_calls(recorder.calls)
        sink.end_step()

    def manifest(self) -> dict[str, Any]:
        """What a trace's writer is closed with, after the block."""
        scalars = {} if self._run is None else self._run.reached.scalars
        ties = () if self._run is None else self._run._ties()
        return {
            "environment": environment(),
            "observer": self._observer,
            "ties": ties,
            "scalars": scalars,
            "config": {},
            "outputs": self._outputs,
        }


def _same(first: Sequence[tuple[str, Any]], second: Sequence[tuple[str, Any]]) -> bool:
    return equal(first, second, same)[0]

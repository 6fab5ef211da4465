"""One cell of an environment matrix, in its own process: ``python -m whydiff.studies.matrix.cell REQUEST ANSWER``.

Both are JSON files. A request says ``"do": "capture"`` (run a target once and write its trace) or ``"do":
"compare"`` (compare the reference's trace on disk with the target, run *here*: the reference's tensors come
from the trace and the candidate's ops are executed by this environment's kernels, so that every origin
between two environments is found although no process holds both). The answer has ``"ok": true`` and what
was asked for, or ``"ok": false`` and the error in words. It imports nothing beyond what a capture or a
comparison needs.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whydiff.capturing.store.layout import replace_file
from whydiff.errors import WhydiffError


def main(arguments: list[str]) -> int:
    """Carry out one request; returns 0 if the answer is ok, else 2."""
    request_file, answer_file = arguments
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    try:
        answer = {"ok": True, **_ACTIONS[request["do"]](request)}
    except WhydiffError as error:
        answer = {"ok": False, "kind": type(error).__name__, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - a cell that fails must say so to the process that waits for it
        lines = traceback.format_exc().rstrip().splitlines()
        answer = {"ok": False, "kind": type(error).__name__, "error": f"{error}\n" + "\n".join(lines[-6:])}
    replace_file(Path(answer_file), json.dumps(answer, allow_nan=False).encode())
    return 0 if answer["ok"] else 2


def _load(request: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    from whydiff.capturing import targets

    arguments = list(request.get("arguments", ()))
    return targets.load(request["target"], arguments), arguments


def _capture(request: Mapping[str, Any]) -> dict[str, Any]:
    """Record a target's run; ``payloads`` is ``none`` or ``all``, ``max_bytes`` limits the latter."""
    from whydiff.capturing.adapters import for_target
    from whydiff.capturing.store.limited import LimitedWriter

    target, arguments = _load(request)
    adapter = for_target(target, arguments)
    run = adapter.run(target, arguments, {})
    payloads, out = request["payloads"], request["trace"]
    most = request.get("max_bytes")
    with (writer := LimitedWriter(out, most=most, framework=adapter.name, level="op", overwrite=True)):
        writer.close(**run.record(writer, payloads=payloads, check=request.get("check", True)))
    return {"payload_bytes": writer.taken}


def _compare(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a reference's trace with the target, run live in this environment."""
    from whydiff import pipeline

    target, arguments = _load(request)
    diagnosis = pipeline.compare(Path(request["reference"]), target, *arguments, options=pipeline.Options(trust=True))
    return {"diagnosis": diagnosis.to_dict()}


_ACTIONS = {"capture": _capture, "compare": _compare}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

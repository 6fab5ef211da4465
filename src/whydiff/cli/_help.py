"""What ``--help`` shows besides options: plain usage lines, and command lines to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand


@dataclass(frozen=True, slots=True)
class Help:
    """What the list of commands says of one, and lines to copy."""

    question: str
    examples: tuple[str, ...]

    @property
    def epilog(self) -> str:
        """The end of the command's help; the first character keeps the lines as they are."""
        return "\n".join(["\b", "Examples:", *(f"  {line}" for line in self.examples)])


HELP = {
    "compare": Help(
        "Where and why do two programs or traces differ?",
        (
            "whydiff compare fp32.py:model bf16.py:model",
            "whydiff compare old.trace new.trace --save report.html",
            "whydiff compare golden.trace model.py:run --allow rounding",
        ),
    ),
    "capture": Help(
        "Record a script's run, to compare it elsewhere.",
        (
            "whydiff capture -o old.trace -- python train.py --steps 2",
            "whydiff capture -o small.trace --payloads none -- env/bin/python run.py",
        ),
    ),
    "training": Help(
        "At which step do two training runs part, and why?",
        (
            'whydiff training "train.py --seed 1" "train.py --seed 1 --resume last.pt"',
            "whydiff training old.py:train new.py:train --band 8",
        ),
    ),
    "ranks": Help("Are the ranks of one run still replicas?", ("whydiff ranks run.trace",)),
    "sweep": Help(
        "Does a result depend on batch, length or layout?",
        (
            "whydiff sweep model.py:model --batch 1,2,4,8",
            "whydiff sweep model.py:model --length 61..64 --allow rounding",
        ),
    ),
    "decoding": Help(
        "Do chunks and a cache give the scores of one pass?",
        ("whydiff decoding model.py:model --chunk 8 --prompt 16 --allow rounding",),
    ),
    "port": Help("Is a port to another framework right?", ("whydiff port model_torch.py:model model_jax.py:model",)),
    "matrix": Help(
        "Which change of environment changes the numbers?",
        (
            "whydiff matrix model.py:run --env OMP_NUM_THREADS=1 -o runs",
            "whydiff matrix model.py:run --python a/bin/python -o runs",
        ),
    ),
    "logprobs": Help(
        "Why do an engine's and a trainer's scores differ?",
        ("whydiff logprobs engine.jsonl trainer.jsonl --field id=request",),
    ),
    "dumps": Help(
        "Where do two runs part, by other tools' dumps?",
        (
            "whydiff dumps dump-old/step0/ dump-new/step0/",
            "whydiff dumps engine-dump/ trainer-dump/ --save report.html",
        ),
    ),
    "artifacts": Help(
        "Which index or checkpoint files differ, and how?",
        (
            "whydiff artifacts index-old/ index-new/",
            "whydiff artifacts a.safetensors b.safetensors --tolerance float16=1e-3,1e-2",
        ),
    ),
    "range": Help(
        "What overflows or vanishes in one run, where first?",
        ("whydiff range train.py:step", "whydiff range train.py:step 32 --no-remedies"),
    ),
    "cause": Help("What does a cause such as ST003 mean?", ("whydiff cause", "whydiff cause ST003")),
    "demo": Help("What does an answer look like?", ("whydiff demo", "whydiff demo gemma --save report.html")),
}
"""By command, in the order of the list."""


class Command(TyperCommand):
    """A command whose usage line names an argument as the text does: ``REF``, not ``{REF}`` or ``{REF}...``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

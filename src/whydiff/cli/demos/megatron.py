"""The fourth seed: attention scores that are scaled after the product; does moving the factor inward help?

Three formulas of the same scores at the shape of one Megatron 104B layer's head (head size 128): ``baddbmm`` with
``alpha`` (what the code did), both operands scaled before (what the pull request did), and the product stored
first and divided afterwards. Judged against float64 over a sweep of magnitudes, then audited inside a small training
run in float16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from whydiff.cli.demos import Progress, silent
from whydiff.report.blocks import Lines, Section, Text
from whydiff.studies.base import Study
from whydiff.studies.formulas import FormulaStudy
from whydiff.studies.ranging import RangeReport

if TYPE_CHECKING:
    import torch

HEAD, TOKENS, HEADS = 128, 64, 8
STEPS = 3


@dataclass(frozen=True, slots=True, repr=False)
class MegatronReport(Study):
    """The answer, the sweep of formulas, and one range audit per formula inside a training run.

    Attributes:
        sentences: the answer, each with the numbers of this machine.
        study: the sweep.
        audits: formula → audit of a few training steps with large scores in float16.
    """

    title: ClassVar[str] = "demo megatron"
    sentences: tuple[str, ...]
    study: FormulaStudy
    audits: dict[str, RangeReport]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {
            "schema_version": self.schema_version,
            "answer": list(self.sentences),
            "study": self.study.to_dict(),
            "audits": {name: report.to_dict() for name, report in self.audits.items()},
        }

    @property
    def word(self) -> str:
        """None: the answer is in `sentences`."""
        return ""

    def answer(self) -> Lines:
        """None: the first section holds the sentences."""
        return ()

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """The answer, then the audits and the sweep."""
        audits = tuple(
            Section(
                f"Training with {name}", tuple(Text(f"{label or 'result':8}{text}") for label, text in report.answer())
            )
            for name, report in self.audits.items()
        )
        first = Section("Does moving the factor inward help?", tuple(Text(line) for line in self.sentences))
        return (first, *audits, *self.study.sections(verbose))


def alpha(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """``baddbmm`` with the factor as ``alpha``: scaled in the accumulator, stored once."""
    import torch

    empty = torch.empty(query.shape[0], query.shape[1], key.shape[1], dtype=query.dtype, device=query.device)
    return torch.baddbmm(empty, query, key.transpose(1, 2), beta=0.0, alpha=1 / math.sqrt(query.shape[-1]))


def inward(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The pull request: the square root of the factor on both operands."""
    import torch

    root = 1 / math.sqrt(math.sqrt(query.shape[-1]))
    empty = torch.empty(query.shape[0], query.shape[1], key.shape[1], dtype=query.dtype, device=query.device)
    return torch.baddbmm(empty, root * query, root * key.transpose(1, 2), beta=0.0, alpha=1.0)


def stored(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The product stored first, then divided."""
    import torch

    return torch.bmm(query, key.transpose(1, 2)) / math.sqrt(query.shape[-1])


FORMULAS = {"alpha": alpha, "inward": inward, "stored": stored}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-normal queries and keys, float32 [HEADS, TOKENS, HEAD]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (HEADS, TOKENS, HEAD)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def training(formula: Any) -> Any:
    """A few training steps of one attention layer in float16 whose scores are as large as in a large model."""
    import torch

    query, key = inputs()
    value = torch.randn(query.shape, generator=torch.Generator().manual_seed(1)).half()
    weight = (45.0 * torch.ones(())).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=1e-3)

    def run() -> Any:
        for _ in range(STEPS):
            scores = formula((query * weight).half(), (key * 45.0).half())
            loss = (scores.softmax(-1) @ value).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()

    return run


def run(progress: Progress = silent, device: str = "cpu") -> MegatronReport:
    """Sweep the formulas, audit a training run of each, and answer.

    Args:
        progress: called with (stage, done, total).
        device: where the sweep runs.
    """
    from whydiff.studies.formulas import compare_formulas
    from whydiff.studies.ranging import range_audit

    study = compare_formulas(FORMULAS, inputs(), dtypes=("float16", "bfloat16"), devices=(device,), progress=progress)
    audits = {name: range_audit(training(formula), progress=progress) for name, formula in FORMULAS.items()}
    return MegatronReport(tuple(_answer(study, audits, device)), study, audits)


def _answer(study: FormulaStudy, audits: dict[str, RangeReport], device: str) -> list[str]:
    first = {name: study.first_overflow(name, "float16", device) for name in FORMULAS}
    bits = math.log2(math.sqrt(HEAD))
    lines = []
    if first["alpha"] == first["inward"]:
        lines.append(
            f"No, not against alpha: in float16 both overflow first at input scale {first['alpha']:.4g}; "
            "alpha is applied in the accumulator, before the result is rounded."
        )
    else:
        lines.append(f"Against alpha: overflow begins at {first['alpha']} (alpha) and {first['inward']} (inward).")
    if first["stored"] and first["inward"] and first["stored"] < first["inward"]:
        gain = 2 * math.log2(first["inward"] / first["stored"])
        lines.append(
            f"Yes, against a product that is stored first: that one overflows at {first['stored']:.4g}; moving the "
            f"factor inward gains {gain:.1f} bits of score here (the factor is {bits:.1f} bits; the sweep's step is 1)."
        )
    if study.first_overflow("stored", "bfloat16", device) is None:
        lines.append("In bfloat16 none overflows at any scale tried: there is nothing to gain.")
    for name, report in audits.items():
        (_, verdict), *_ = report.answer()
        lines.append(f"{STEPS} training steps with {name}: {verdict}.")
    return lines

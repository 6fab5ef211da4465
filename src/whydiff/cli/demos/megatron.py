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

from whydiff.cli._progress import Progress, silent
from whydiff.report.blocks import Lines, Section, Text
from whydiff.studies.base import Study, headline
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
        device: where the formulas were swept.
        study: the sweep.
        audits: formula → audit of a few training steps with large scores in float16.
    """

    title: ClassVar[str] = "demo megatron"
    device: str
    study: FormulaStudy
    audits: dict[str, RangeReport]

    @property
    def word(self) -> str:
        """Whether moving the factor inward helps against what the code did."""
        first = self._first()
        return "helps" if (first["inward"] or math.inf) > (first["alpha"] or math.inf) else "does not help"

    def _first(self) -> dict[str, float | None]:
        return {name: self.study.first_overflow(name, "float16", self.device) for name in FORMULAS}

    def answer(self) -> Lines:
        """(label, sentence) pairs: against alpha, against a stored product, in training, and what to write."""
        first = {name: scale or math.inf for name, scale in self._first().items()}
        gain = 2 * math.log2(first["inward"] / first["stored"])
        wider = self.study.first_overflow("stored", "bfloat16", self.device)
        failing = {name: report for name, report in self.audits.items() if report.causes}
        well = ", ".join(name for name in self.audits if name not in failing)
        told = {name: dict(report.answer()) for name, report in failing.items()}
        against = (
            f"moving the factor inward, against alpha, which is applied before the result is rounded: in float16 "
            f"scores overflow at input scale {first['alpha']:.4g} with alpha and {first['inward']:.4g} with inward"
        )
        return (
            headline(self.word, against),
            (
                "where",
                "; ".join(f"{name}: {one['where']}, in {STEPS} training steps" for name, one in told.items())
                or f"nowhere in {STEPS} training steps",
            ),
            (
                "effect",
                f"against a product that is stored first (overflow at {first['stored']:.4g}) it gains {gain:.1f} bits of "
                f"score; in bfloat16 {'none overflows' if wider is None else f'that overflows at {wider:.4g}'}",
            ),
            (
                "proof",
                "; ".join(
                    [dict(self.study.answer())["proof"], *(f"{name}, {one['proof']}" for name, one in told.items())]
                    + [f"training is healthy with {well}"] * bool(well)
                ),
            ),
            (
                "fix",
                ". ".join(
                    [
                        dict(self.study.answer())["fix"],
                        *(f"Of {name} in training: {one['fix']}" for name, one in told.items()),
                    ]
                ),
            ),
        )

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """The audits, then the sweep."""
        audits = tuple(
            Section(
                f"Training with {name}", tuple(Text(f"{label or 'result':8}{text}") for label, text in report.answer())
            )
            for name, report in self.audits.items()
        )
        return (*audits, *self.study.sections(verbose))


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
    return MegatronReport(device, study, audits)

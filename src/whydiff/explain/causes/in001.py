"""IN001 input-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._differs import reading, statement
from whydiff.explain.causes._state import Difference, remember, touched
from whydiff.numbers.comparison import compare_payloads
from whydiff.records import Cause, Comparison, Evidence, Intervention, Leaf, Remedy, Verdict


class InputDiffers(CauseRule):
    """The two runs were given other inputs.

    What it detects:
        An input of the run (a tensor argument) whose values, shape or dtype differ between the sides.
        Two live targets always get copies of the same arguments, so this concerns runs that were
        recorded apart.

    Why it happens:
        Another tokenizer, prompt template, padding side or special token; another preprocessing of
        images or audio; random data without a common seed; positions or masks that one caller builds
        and the other does not; a batch that was shuffled.

    Evidence required:
        The fingerprints of the input differ, with the number of differing elements and their size where
        the values were kept, or the two shapes or dtypes.

    Look-alikes:
        ST002 for a tensor that the callable holds rather than receives. An input that was rounded or
        padded on one side still differs: everything after it follows.

    Example:
        Two recordings of one model, one with another element in its input.

    Remedy:
        Save the inputs once and give both sides the same file.

    How it is verified:
        The candidate runs again with the reference's input (``restore-input``); the outputs must become
        equal bit for bit. If the shapes differ there is no such experiment.

    References:
        huggingface/transformers, padding and truncation; PyTorch, notes on reproducibility.
    """

    code = "IN001"
    name = "input-differs"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per differing input."""
        for reference, candidate in case.differing_leaves:
            if reference.role != "input" or candidate.role != "input":
                continue
            difference = _difference(case, reference, candidate)
            alike = reference.spec.shape == candidate.spec.shape and reference.spec.dtype == candidate.spec.dtype
            value = None if candidate.name == reference.name else reference.name
            yield Cause(
                code=self.code,
                name=self.name,
                site=reference.name,
                verdict=Verdict.SEMANTIC,
                evidence=(Evidence(statement(difference), difference.data), *reading(case, [difference])),
                remedy=Remedy(
                    "Give both runs the same input: save it once and load it on both sides.",
                    _code(case, candidate.name),
                ),
                reason="" if alike else "an input of another shape or dtype cannot take the other's place",
                interventions=(Intervention("restore-input", candidate.name, value),) if alike else (),
            )

    def example(self) -> tuple[Any, Any]:
        """Two recordings of one module; the paths of their traces."""
        import tempfile
        from pathlib import Path

        import torch

        from whydiff.capturing.adapters import for_target
        from whydiff.capturing.store import save

        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4)
        x = torch.randn(2, 8)
        other = x.clone()
        other[1, 5] += 0.25
        folder = Path(tempfile.mkdtemp(prefix="whydiff-"))
        for name, value in (("reference", x), ("candidate", other)):
            save(for_target(model).run(model, (value,), {}).capture(), folder / f"{name}.trace")
        return folder / "reference.trace", folder / "candidate.trace"


def _difference(case: Case, reference: Leaf, candidate: Leaf) -> Difference:
    comparison: Comparison | None = None
    missing = ""
    try:
        comparison = remember(
            case,
            f"input {reference.name}",
            lambda: compare_payloads(case.payload(reference, "reference"), case.payload(candidate, "candidate")),
        )
    except PayloadError as error:
        missing = str(error)
    read = candidate.storage in touched(case)[1]
    return Difference(
        (reference.name,),
        (candidate.name,),
        reference,
        candidate,
        read,
        "IN001",
        comparison=comparison,
        missing=missing,
    )


def _code(case: Case, name: str) -> str:
    if case.candidate.framework != "torch" or not name.isidentifier():
        return ""
    return f'torch.save({name}, "{name}.pt")  # once\n{name} = torch.load("{name}.pt", weights_only=True)\n'


REGISTER = InputDiffers()

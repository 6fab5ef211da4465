"""What a fix says fits what was found: which part, which argument, which step; and it speaks of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.explain.causes.fo008 import _shown
from whydiff.pipeline import compare
from whydiff.report.answer import answer

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
TABLE = torch.linspace(0.1, 0.9, 8)


def scored(first: int) -> Any:
    return lambda: (X.log_softmax(-1)[first : first + 2] * 2).exp()


def looked_up(at: int) -> Any:
    return lambda: X * TABLE[at].sqrt()


@pytest.mark.parametrize(
    ("made", "what", "parts"),
    [(scored, "what log_softmax makes", ("[1–2, :]", "[0–1, :]")), (looked_up, "", ("[1]", "[0]"))],
)
def test_the_part_that_is_read_is_named(made: Any, what: str, parts: tuple[str, str]) -> None:
    found = compare(made(0), made(1))
    said = answer(found)
    assert [cause.code for cause in found.causes] == ["FO006"]
    assert f"the candidate takes {parts[0]}, the reference {parts[1]}" in said.fix and what in said.fix
    assert f"the candidate reads {parts[0]} of" in said.headline and "fused" not in said.fix


def test_an_argument_has_the_name_that_the_operator_gives_it() -> None:
    image = X.reshape(1, 1, 3, 6)

    def grown(aligned: bool) -> Any:
        return lambda: torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=aligned)

    said = answer(compare(grown(False), grown(True)))
    assert "align_corners is False in the reference and True in the candidate" in said.fix


def test_lists_in_lists_keep_their_brackets() -> None:
    assert (_shown([[[1], [0]], [[], []]]), _shown([1, 2]), _shown([]), _shown(-1)) == (
        "[[[1], [0]], [[], []]]",
        "1, 2",
        "[]",
        "-1",
    )


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")
@pytest.mark.parametrize("early", [True, False])
def test_a_scheduler_that_steps_elsewhere_is_no_checkpoint(early: bool) -> None:
    def trained(before: bool) -> Any:
        def run() -> Any:
            torch.manual_seed(0)
            model = torch.nn.Linear(6, 2)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
            for _ in range(4):
                optimizer.zero_grad()
                model(X).square().mean().backward()
                for part in (schedule, optimizer) if before else (optimizer, schedule):
                    part.step()
            return model.weight.detach()

        return run

    found = compare(trained(not early), trained(early))
    (cause,) = (cause for cause in found.causes if cause.code == "TR003")
    assert cause.remedy is not None and "checkpoint" not in cause.remedy.text + cause.remedy.code
    assert cause.remedy.text.endswith(f"the reference's of one step {'later' if early else 'earlier'}.")

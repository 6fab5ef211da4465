"""A model cast as a whole in which something else is wrong too: the mistake is another function, the cast is precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, silu

import whydiff
from whydiff.records import Verdict
from whydiff.report.answer import answer

SCALE = 0.25


class Model(nn.Module):
    """Embeddings, attention and a feed-forward part; every number in it stands in the code, not in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(20, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) * 0.05
        h = self.norm(x)
        x = x + torch.softmax(self.scaled(self.q(h) @ self.k(h).mT), -1) @ self.v(h)
        return self.head(x + self.down(self.act(self.up(self.norm(x)))))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (16,), eps=1e-5)

    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        return scores * SCALE

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return gelu(x)


class OtherEpsilon(Model):
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (16,), eps=1e-3)


class NoScale(Model):
    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        return scores


class OtherActivation(Model):
    def act(self, x: torch.Tensor) -> torch.Tensor:
        return silu(x)


class Backwards(Model):
    """Something that no cause names."""

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(torch.cumsum(gelu(x), 1)).flip(1)


class Respelt(Model):
    """The same function: what is left beside the cast is rounding."""

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.erf(x * 0.5**0.5))


class Held(Model):
    """The activation is a function that the module holds; it acts twice, and more than the cast does."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        for _ in range(2):
            x = x + self.down(self.function(self.up(self.norm(x))))
        return self.head(x)


WRONG = [
    (OtherEpsilon, torch.float16, "FO002", "native_layer_norm"),
    (NoScale, torch.bfloat16, "FO003", "mul"),
    (OtherActivation, torch.float16, "FO001", "gelu"),
]
RIGHT = [(Model, torch.bfloat16), (Model, torch.float16), (Respelt, torch.bfloat16)]


def compared(reference: nn.Module, candidate: nn.Module) -> Any:
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        return whydiff.compare(reference.eval(), candidate.eval(), ids)


def is_named_and_proven(found: Any, code: str) -> None:
    """The mistake and the cast are proven, each with the other: together they are all that differs."""
    assert found.verdict is Verdict.SEMANTIC, found.reason
    assert {c.code: (c.status, c.verdict) for c in found.causes} == {
        code: ("confirmed", Verdict.SEMANTIC),
        "PR002": ("confirmed", Verdict.PRECISION),
    }
    for cause in found.causes:
        assert {e.direction for e in cause.experiments if e.status == "confirmed"} == {"take_away", "put_in"}


@pytest.mark.parametrize(("made", "dtype", "code", "op"), WRONG)
def test_what_is_wrong_beside_a_cast(made: Callable[[], nn.Module], dtype: torch.dtype, code: str, op: str) -> None:
    found = compared(Model(), made().to(dtype))
    is_named_and_proven(found, code)
    place = next(origin for origin in found.origins if origin.site.op == op)
    assert place.verdict is Verdict.SEMANTIC
    assert "test_cast_beside.py" in place.line


def test_a_mistake_that_moves_the_outputs_more_than_the_cast_does() -> None:
    """Without the cast alone the outputs come no nearer, and what a formula gives leaves rounding of the wide dtype."""
    found = compared(Held(gelu), Held(silu).half())
    is_named_and_proven(found, "FO001")
    assert answer(found).proof == (
        "undone in the candidate: with the other causes only rounding is left; "
        "done to the reference: with the other causes all 240 numbers agree"
    )
    two = compared(Held(gelu), Held(lambda x: silu(x).flip(1)).half())
    assert two.verdict is Verdict.SEMANTIC, two.reason
    assert "FO001" not in [cause.code for cause in two.causes if cause.status == "confirmed"]  # it is not all


@pytest.mark.parametrize(("made", "code"), [(OtherEpsilon, "FO002"), (NoScale, "FO003")])
def test_the_reference_may_be_the_cast_side(made: Callable[[], nn.Module], code: str) -> None:
    is_named_and_proven(compared(Model().bfloat16(), made()), code)


def test_it_is_the_same_of_two_recorded_runs(tmp_path: Path) -> None:
    for name, model in (("ours", Model()), ("theirs", NoScale().bfloat16())):
        with torch.no_grad(), whydiff.capture(tmp_path / name, payloads="all"):
            model.eval()(torch.arange(12).reshape(2, 6))
    is_named_and_proven(whydiff.compare(tmp_path / "ours", tmp_path / "theirs"), "FO003")


def test_a_place_is_found_where_no_mistake_is_proven() -> None:
    found = compared(Model(), Backwards().bfloat16())
    assert found.verdict is Verdict.SEMANTIC, found.reason
    assert "flip" in {origin.candidate_site.op for origin in found.origins if origin.verdict is Verdict.SEMANTIC}


@pytest.mark.parametrize(("made", "dtype"), RIGHT)
def test_a_cast_alone_is_precision(made: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    found = compared(Model(), made().to(dtype))
    assert found.verdict is Verdict.PRECISION, found.reason

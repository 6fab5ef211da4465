"""Very many origins: some of every kind are examined once, the rest is counted, and none vanishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whydiff.explain import alike, scaling
from whydiff.explain.causes import _explained
from whydiff.explain.local_test.examine import _Tester
from whydiff.judge.left_out import like_others
from whydiff.pair import lockstep
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Origin, Verdict

X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
MANY = 40


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty origins are very many."""
    monkeypatch.setattr(alike, "EVERY", 10)
    monkeypatch.setattr(_explained, "_FIRST", 2)
    monkeypatch.setattr(_explained, "_ALL", 4)


def norms(eps: Callable[[int], float]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        for number in range(MANY):
            x = F.layer_norm(x, (16,), None, None, eps(number))
        return x

    return run


def passed_over(origin: Origin) -> bool:
    return any(one.statement.startswith("not examined one by one") for one in origin.evidence)


def count(found: Diagnosis, reason: str) -> int:
    return sum(one.count for one in found.not_compared if one.what == "origins" and one.reason.startswith(reason))


@pytest.mark.usefixtures("few")
def test_each_is_listed_and_few_are_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tested: Counter[int] = Counter()
    measured = 0
    judge, difference = _Tester._guarded, scaling.difference

    def guarded(self: Any, number: int, ask: Any) -> None:
        tested[number] += number not in self.results
        judge(self, number, ask)

    def apart(*both: Any) -> Any:
        nonlocal measured
        measured += 1
        return difference(*both)

    monkeypatch.setattr(_Tester, "_guarded", guarded)
    monkeypatch.setattr(scaling, "difference", apart)
    found = compare(norms(lambda _: 1e-5), norms(lambda _: 1e-3), X)
    assert (found.verdict, len(found.origins)) == (Verdict.SEMANTIC, MANY)
    assert {origin.verdict for origin in found.origins} == {Verdict.SEMANTIC}
    assert max(tested.values()) == 1
    assert len(tested) <= alike.EACH + _explained._FIRST + _explained._ALL
    left = [origin for origin in found.origins if passed_over(origin)]
    assert len(left) == MANY - alike.EACH == count(found, "more of the same kind")
    outputs, looks, walks = 10, 3, 4
    assert measured <= outputs + alike.EACH * looks * walks


def test_few_origins_are_all_examined() -> None:
    found = compare(norms(lambda _: 1e-5), norms(lambda _: 1e-3), X)
    assert len(found.origins) == MANY
    assert not any(map(passed_over, found.origins))
    assert not [one for one in found.not_compared if one.what == "origins"]


@pytest.mark.usefixtures("few")
def test_one_that_changes_more_than_its_neighbours_is_examined() -> None:
    found = compare(norms(lambda _: 1e-5), norms(lambda number: 1.0 if number == 30 else 2e-5), X)
    assert len(found.origins) == MANY
    assert not passed_over(found.origins[30])
    assert sum(map(passed_over, found.origins)) > MANY // 2


@pytest.mark.usefixtures("few")
def test_a_kind_of_which_none_was_examined_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "KINDS", 1)

    def run(approximate: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            for _ in range(MANY // 2):
                x = F.layer_norm(x, (16,), None, None, 1e-5 if approximate == "none" else 1e-3)
            for _ in range(MANY // 2):
                x = F.gelu(x + 1, approximate=approximate)
            return x

        return forward

    found = compare(run("none"), run("tanh"), X)
    assert found.verdict is Verdict.SEMANTIC
    nobody = count(found, "none of their kind")
    told = [o for o in found.origins if any("too many kinds" in one.statement for one in o.evidence)]
    assert nobody == len(told) > 0
    assert {o.site.op for o in told} >= {"gelu"}


@pytest.mark.parametrize(
    ("kind", "own", "expected"),
    [
        ("implementation", Verdict.INCONCLUSIVE, Verdict.PRECISION),
        ("region", Verdict.SEMANTIC, Verdict.PRECISION),  # the whole program's, which nobody measured here
        ("region", Verdict.UNSTABLE, Verdict.UNSTABLE),
        ("state", Verdict.SEMANTIC, Verdict.SEMANTIC),
        ("state", Verdict.INCONCLUSIVE, Verdict.PRECISION),
    ],
)
def test_it_is_what_the_gravest_of_its_kind_is_unless_its_own_numbers_say_more(
    kind: str, own: Verdict, expected: Verdict
) -> None:
    origin: Any = SimpleNamespace(kind=kind)
    others: list[Any] = [
        SimpleNamespace(verdict=verdict, site=f"op#{n}")
        for n, verdict in enumerate((Verdict.ROUNDING, Verdict.PRECISION))
    ]
    verdict, (told,) = like_others(origin, own, others)
    assert verdict is expected
    assert "op#0 and 1 more" in told.statement


def test_of_no_kind_that_was_examined_it_stays_what_it_was() -> None:
    origin: Any = SimpleNamespace(kind="implementation")
    assert like_others(origin, Verdict.INCONCLUSIVE, [])[0] is Verdict.INCONCLUSIVE


def test_walks_that_nobody_reads_measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0
    compare_payloads = lockstep.compare_payloads

    def counted(*both: Any) -> Any:
        nonlocal measured
        measured += 1
        return compare_payloads(*both)

    monkeypatch.setattr(lockstep, "compare_payloads", counted)
    found = compare(norms(lambda _: 1e-5), norms(lambda _: 1e-3), X)
    assert len(found.origins) == MANY
    assert measured <= MANY + 4  # the walk that finds them; growth and what is returned

"""Real kernels: replayed bit for bit, wrong trees found out. The machine decides which orders appear.

Where it has one that the product cannot reveal, the product says so and the test is skipped with that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from whydiff.capturing.adapters import for_framework  # noqa: E402
from whydiff.explain.reduction import Proof, Replay, prove, replay  # noqa: E402
from whydiff.explain.reduction.replay import same_bits  # noqa: E402
from whydiff.explain.reduction.trial import as_terms, cancelling, recorded_terms  # noqa: E402

FUNCTIONAL = torch.nn.functional
Recorded = tuple[Any, Any, list[Any]]


def record(function: Callable[[], Any]) -> Recorded:
    """(executor, call, reads) of the first sum that a function carries out."""
    adapter = for_framework("torch")
    trace = adapter.run(function, (), {}).capture()
    executor = adapter.executor(trace)
    with executor.running():
        for call in trace.calls:
            if call.kind != "compute":
                continue
            reads = [executor.read(event) for event in call.reads]
            if adapter.recorded_sum(executor, call, reads) is not None:  # type: ignore[attr-defined]
                return executor, call, reads
            executor.execute(call)
    raise AssertionError([call.target for call in trace.calls])


def total_of(function: Callable[[], Any]) -> Any:
    return for_framework("torch").recorded_sum(*record(function))  # type: ignore[attr-defined]


def replayed(function: Callable[[], Any]) -> Replay:
    return replay(total_of(function))


def proven(reference: Callable[[], Any], candidate: Callable[[], Any]) -> Proof | None:
    return prove(*record(reference), *record(candidate))


def revealed(total: Any) -> Replay:
    """The orders of a sum, every output of which they reproduce; what the product doubts is not asked of a test."""
    return unless_doubted(replay(total))


def unless_doubted(found: Replay) -> Replay:
    if found.doubt:
        pytest.skip(f"this machine's {found.doubt}")
    return found


def judged(proof: Proof | None) -> Proof:
    """A proof in which both orders were revealed without a doubt."""
    assert proof is not None
    if not proof.reproduced:
        pytest.skip(f"this machine: {proof.reason}")
    return proof


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def tensors(*shapes: tuple[int, ...], dtype: Any = torch.float32) -> list[Any]:
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_linear_at_width_1024_is_reproduced(dtype: Any, rows: int) -> None:
    x, weight = tensors((rows, 1024), (128, 1024), dtype=dtype)
    found = revealed(total_of(lambda: FUNCTIONAL.linear(x, weight)))
    assert (found.matched, found.trials_matched) == (found.sampled, found.trials)
    assert found.sampled == rows * 128
    assert found.trials >= 32
    assert found.shuffled < 0.5


OPS = {
    "linear with bias": lambda t: FUNCTIONAL.linear(t(3, 200), t(40, 200), t(40)),
    "linear 3-D": lambda t: FUNCTIONAL.linear(t(2, 5, 96), t(24, 96)),
    "mm": lambda t: t(5, 130) @ t(130, 33),
    "mm transposed": lambda t: t(130, 5).t() @ t(33, 130).t(),
    "addmm": lambda t: torch.addmm(t(6, 20), t(6, 64), t(64, 20)),
    "bmm": lambda t: torch.bmm(t(3, 9, 64), t(3, 64, 17)),
    "baddbmm": lambda t: torch.baddbmm(t(3, 9, 17), t(3, 9, 64), t(3, 64, 17)),
    "mv": lambda t: torch.mv(t(19, 256), t(256)),
    "sum of rows": lambda t: t(12, 1024).sum(-1),
    "sum of columns": lambda t: t(256, 40).sum(0),
    "sum of two dimensions": lambda t: t(6, 5, 64).sum((0, 2)),
    "sum of everything": lambda t: t(1024).sum(),
    "mean": lambda t: t(12, 1024).mean(-1),
    "mean over 1000": lambda t: t(12, 1000).mean(-1),
    "convolution": lambda t: FUNCTIONAL.conv2d(t(2, 8, 9, 9), t(16, 8, 3, 3)),
}


def total_on_random_data(op: Callable[[Any], Any], dtype: Any) -> Any:
    made: list[Any] = []

    def make(*shape: int) -> Any:
        made.append(torch.randn(shape).to(dtype))
        return made[-1]

    def again() -> Any:
        kept = iter(made)
        return op(lambda *shape: next(kept))

    op(make)
    return total_of(again)


@cache
def total_of_op(name: str, dtype: Any) -> Any:
    torch.manual_seed(0)
    return total_on_random_data(OPS[name], dtype)


@cache
def replay_of(name: str, dtype: Any) -> Replay:
    """Of an op on random data; several tests look at it."""
    return replay(total_of_op(name, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_an_op_is_lowered_to_its_terms(name: str, dtype: Any) -> None:
    """Whatever its order, the float64 sum of the terms is what the op computed."""
    total = total_of_op(name, dtype)
    where = np.arange(total.rows * total.columns)
    left, right = total.terms(where)
    products = left.astype(np.float64) * (1.0 if right is None else right.astype(np.float64))
    outputs = total.outputs().reshape(-1)
    scale = np.abs(products).sum(0) / total.divisor
    error = np.abs(products.sum(0) / total.divisor - outputs)
    # Higham's gamma_n for the float32 sum, and one rounding of the output
    unit = 2.0**-8 if dtype is torch.bfloat16 else 2.0**-24
    assert np.all(error <= (len(left) + 1) * 2.0**-24 * scale + unit * np.abs(outputs))
    assert unless_doubted(replay_of(name, dtype)).exact


def test_most_kernels_of_any_machine_are_reproduced() -> None:
    """The other tests skip what the product doubts: it may not doubt everything."""
    doubts = [replay_of(name, torch.float32).doubt for name in OPS]
    assert sum(map(bool, doubts)) <= len(OPS) // 4, doubts


def test_a_shuffled_tree_fails() -> None:
    x, weight = tensors((2, 512), (64, 512))
    total = total_of(lambda: FUNCTIONAL.linear(x, weight))
    found = revealed(total)
    values = found.orders[0].shuffled(seed=0).sums(total, recorded_terms(total, found.where))
    assert same_bits(values, total.outputs().reshape(-1)).mean() < 0.3


def test_a_bfloat16_output_hides_the_order_and_cancelling_terms_show_it() -> None:
    x, weight = tensors((2, 512), (64, 512), dtype=torch.bfloat16)
    total = total_of(lambda: FUNCTIONAL.linear(x, weight))
    found = revealed(total)
    wrong = found.orders[0].shuffled(seed=0)
    plain = wrong.sums(total, recorded_terms(total, found.where))
    assert same_bits(plain, total.outputs().reshape(-1)).mean() > 0.9
    values, factors = cancelling(total, 64, seed=0)
    actual = total.evaluate(values, factors, 0, np.arange(64))
    other = wrong.sums(total, as_terms(total, values, factors))
    assert same_bits(other, actual).mean() < 0.5


def test_the_recorded_tensors_are_left_alone() -> None:
    x, weight = tensors((2, 64), (16, 64))
    before = x.clone(), weight.clone()
    replayed(lambda: FUNCTIONAL.linear(x, weight))
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], weight)


def test_sums_in_two_layouts_are_proven_to_differ_in_order_only() -> None:
    (rows,) = tensors((64, 512))
    columns = rows.t().contiguous().t()
    proof = judged(proven(lambda: rows.sum(-1), lambda: columns.sum(-1)))
    if not proof.differing:
        pytest.skip("this machine sums both layouts alike")
    assert proof.proved, proof.reason
    assert proof.matched == (64, 64)
    assert proof.orders[0] != proof.orders[1]
    assert all(evidence.data for evidence in proof.evidence)


def test_a_row_alone_is_the_counterpart_of_that_row_among_others() -> None:
    x, weight = tensors((16, 1024), (64, 1024))
    proof = judged(proven(lambda: FUNCTIONAL.linear(x, weight), lambda: FUNCTIONAL.linear(x[3:4].clone(), weight)))
    assert (proof.replayed, proof.total) == (64, 64)
    assert proof.matched == (64, 64)
    assert proof.proved is bool(proof.differing)


def test_exchanged_factors_are_the_same_terms() -> None:
    left, right = tensors((300,), (300,))
    proof = judged(proven(lambda: torch.dot(left, right), lambda: torch.mm(left[None], right[:, None])))
    assert proof.matched == (1, 1)
    assert proof.proved is bool(proof.differing), proof.reason


def test_equal_outputs_prove_nothing() -> None:
    x, weight = tensors((4, 64), (16, 64))
    proof = judged(proven(lambda: FUNCTIONAL.linear(x, weight), lambda: FUNCTIONAL.linear(x, weight)))
    assert not proof.proved
    assert "do not differ" in proof.reason


def test_other_terms_are_never_proven_the_same() -> None:
    x, weight = tensors((4, 64), (16, 64))
    changed = weight.clone()
    changed[3, 5] += 2.0**-20
    proof = judged(proven(lambda: FUNCTIONAL.linear(x, weight), lambda: FUNCTIONAL.linear(x, changed)))
    assert not proof.proved
    assert "same terms" in proof.reason


def test_a_cast_product_is_not_comparable_with_the_plain_one() -> None:
    x, weight = tensors((4, 64), (16, 64))
    assert (
        proven(lambda: FUNCTIONAL.linear(x, weight), lambda: FUNCTIONAL.linear(x.bfloat16(), weight.bfloat16())) is None
    )


def test_an_op_that_rounds_its_inputs_is_not_reproduced() -> None:
    """What a TF32 or bfloat16 product inside would look like: right tree, wrong bits."""
    x, weight = tensors((4, 64), (16, 64))
    total = total_of(lambda: FUNCTIONAL.linear(x, weight))

    class Rounding:
        def __getattr__(self, name: str) -> Any:
            return getattr(total, name)

        def outputs(self) -> Any:
            return FUNCTIONAL.linear(x.bfloat16().float(), weight.bfloat16().float()).double().numpy()

    found = replay(Rounding())  # type: ignore[arg-type]
    assert not found.exact
    assert found.matched < found.sampled


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.addmm(torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 4), alpha=0.5),
        lambda: torch.ones(3, 1).expand(3, 8).sum(-1),
        lambda: torch.ones(4, 4, dtype=torch.int64).sum(-1),
        lambda: torch.ones(4, 4, dtype=torch.float32).sum(-1, dtype=torch.float64),
        lambda: torch.ones(4).exp(),
    ],
    ids=["alpha", "one cell for all terms", "integers", "other accumulator", "no sum"],
)
def test_what_cannot_be_probed_is_left_alone(function: Callable[[], Any]) -> None:
    with pytest.raises(AssertionError):
        record(function)


def test_unsupported_sums_say_why() -> None:
    (row,) = tensors((70_000,))
    assert "70000 terms" in replayed(lambda: row.sum()).why
    (half,) = tensors((4, 64), dtype=torch.float16)
    assert "float16" in replayed(lambda: half.mean(-1)).why

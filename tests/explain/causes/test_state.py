"""State that differs: every look-alike gets its own name, several planted causes are all found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.pipeline import compare
from whydiff.records import Cause, Diagnosis, Verdict
from whydiff.report.answer import answer


class Small(torch.nn.Module):
    """Two linear layers, a table that is not saved, a running statistic, a plain attribute and a decoy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = torch.nn.Linear(8, 8)
        self.up = torch.nn.Linear(8, 8, bias=False)
        self.register_buffer("table", 1e4 ** -(torch.arange(8) / 8), persistent=False)
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("decoy", torch.randn(8), persistent=False)
        self.shift = torch.randn(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x) * torch.cos(self.table) - self.mean
        return self.up(x + self.shift)


@pytest.fixture
def pair() -> tuple[Any, Any, torch.Tensor]:
    model = Small()
    return model, copy.deepcopy(model), torch.randn(4, 8)


def up_one_ulp(tensor: torch.Tensor, at: tuple[int, ...]) -> None:
    with torch.no_grad():
        tensor[at] = torch.nextafter(tensor[at], tensor.new_tensor(torch.inf))


def shown(diagnosis: Diagnosis) -> list[tuple[str, str, str, bool]]:
    return sorted((cause.code, cause.site, cause.status, cause.inert) for cause in diagnosis.causes)


def only(diagnosis: Diagnosis) -> Cause:
    (cause,) = diagnosis.causes
    return cause


def test_one_ulp_in_one_weight_is_found_named_and_proven(pair: Any) -> None:
    reference, candidate, x = pair
    up_one_ulp(candidate.up.weight, (3, 5))
    diagnosis = compare(reference, candidate, x)
    assert shown(diagnosis) == [("ST001", "up.weight", "confirmed", False)]
    assert diagnosis.verdict is Verdict.SEMANTIC
    data = only(diagnosis).evidence[0].data
    assert (data["differing_elements"], data["max_ulp"], data["elements"]) == (1, 1, 64)


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("table", lambda t: t.bfloat16().float(), "ST003"),
        ("table", lambda t: t.half().float(), "ST003"),
        ("table", lambda t: t.bfloat16(), "ST003"),
        ("table", lambda t: t * 1.01, "ST002"),
        ("table", lambda t: torch.nextafter(t, torch.full_like(t, 9.0)), "ST002"),
        ("table", lambda t: t.flip(0), "ST002"),
        ("mean", lambda t: t + 1, "ST002"),
        ("mean", lambda t: t.bfloat16().float(), "ST003"),
        ("shift", lambda t: t.bfloat16().float(), "ST003"),
        ("shift", lambda t: t * 2, "ST002"),
        ("mean", lambda t: torch.full_like(t, torch.nan), "ST002"),
        ("mean", lambda t: torch.full_like(t, -torch.inf), "ST002"),
        ("mean", lambda t: torch.full_like(t, torch.finfo(torch.float32).min), "ST002"),
        ("mean", lambda t: 1e-9 ** torch.arange(8.0), "ST002"),
        ("mean", lambda t: torch.zeros(8), "ST002"),
    ],
)
def test_look_alikes_are_told_apart(
    pair: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor], code: str
) -> None:
    reference, candidate, x = pair
    setattr(candidate, name, change(getattr(candidate, name)))
    diagnosis = compare(reference, candidate, x)
    assert shown(diagnosis) == [(code, name, "confirmed", False)]
    expected = {Verdict.PRECISION} if code == "ST003" else {Verdict.SEMANTIC, Verdict.UNSTABLE}  # NaN, overflow
    assert diagnosis.verdict in expected


def test_the_reference_may_be_the_rounded_side(pair: Any) -> None:
    reference, candidate, x = pair
    reference.table = reference.table.bfloat16().float()
    cause = only(compare(reference, candidate, x))
    assert (cause.code, cause.status, cause.evidence[0].data["rounded"]) == ("ST003", "confirmed", "reference")


def test_a_constant_factor_is_measured(pair: Any) -> None:
    reference, candidate, x = pair
    candidate.table = candidate.table * 0.5
    factors = [e.data["factor"] for e in only(compare(reference, candidate, x)).evidence if "factor" in e.data]
    assert factors == [0.5]


def test_a_cast_with_one_changed_element_is_no_cast_and_says_so(pair: Any) -> None:
    reference, candidate, x = pair
    table = candidate.table.bfloat16()
    table[4] += 1
    candidate.table = table
    cause = only(compare(reference, candidate, x))
    assert cause.code == "ST002"
    assert {"equal_to_rounding": 7, "elements": 8} in [evidence.data for evidence in cause.evidence]


def test_a_buffer_that_nothing_reads_is_inert(pair: Any) -> None:
    reference, candidate, x = pair
    candidate.decoy = candidate.decoy + 1
    diagnosis = compare(reference, candidate, x)
    assert diagnosis.verdict is Verdict.IDENTICAL
    assert shown(diagnosis) == [("ST002", "decoy", "refuted", True)]
    assert "no operator reads it" in " ".join(e.statement for e in only(diagnosis).evidence)
    assert " 0 of 0 " not in only(diagnosis).experiments[0].outcome


def test_two_planted_causes_are_found_and_the_decoy_is_inert(pair: Any) -> None:
    reference, candidate, x = pair
    up_one_ulp(candidate.up.weight, (0, 0))
    candidate.table = candidate.table.bfloat16().float()
    candidate.decoy = candidate.decoy.bfloat16().float()
    diagnosis = compare(reference, candidate, x)
    assert shown(diagnosis) == [
        ("ST001", "up.weight", "confirmed", False),
        ("ST003", "decoy", "refuted", True),
        ("ST003", "table", "confirmed", False),
    ]
    assert [cause.inert for cause in diagnosis.causes] == [False, False, True]


def test_another_checkpoint_is_one_cause_that_names_every_parameter() -> None:
    layers = [torch.nn.Linear(4, 4) for _ in range(12)]
    reference = torch.nn.Sequential(*layers[:6])
    candidate = torch.nn.Sequential(*layers[6:])
    cause = only(compare(reference, candidate, torch.randn(2, 4)))
    assert (cause.code, cause.status) == ("ST001", "confirmed")
    assert cause.evidence[0].data["names"] == [name for name, _ in reference.named_parameters()]
    assert cause.evidence[0].statement.startswith("12 of 12 parameters differ")


def test_a_whole_model_that_was_cast_is_one_precision_cause() -> None:
    torch.manual_seed(0)
    reference = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(6)))
    candidate = copy.deepcopy(reference).bfloat16().float()
    diagnosis = compare(reference, candidate, torch.randn(2, 4))
    assert (only(diagnosis).code, only(diagnosis).status) == ("ST003", "confirmed")
    assert diagnosis.verdict is Verdict.PRECISION


@pytest.mark.parametrize("whole", [True, False], ids=["the whole model", "one layer of it"])
def test_a_small_model_that_was_cast_as_a_whole_is_one_cause_and_single_layers_are_several(whole: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8))
    rounded = copy.deepcopy(model)
    (rounded if whole else rounded[2]).bfloat16().float()
    x = torch.randn(4, 16)
    found = compare(lambda: model(x), lambda: rounded(x))
    assert [c.site for c in found.causes if c.code == "ST003"] == (
        ["0.weight and 3 more"] if whole else ["2.weight", "2.bias"]
    )
    assert found.verdict is Verdict.PRECISION


def test_tied_weights_that_differ_are_one_cause() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed = torch.nn.Embedding(16, 8)
            self.head = torch.nn.Linear(8, 16, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    reference, candidate = Tied(), Tied()
    up_one_ulp(candidate.embed.weight, (1, 1))
    cause = only(compare(reference, candidate, torch.tensor([[1, 2]])))
    assert (cause.code, cause.site, cause.status) == ("ST001", "embed.weight", "confirmed")
    assert cause.evidence[0].data["also"] == ["head.weight"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_tie_of_one_side_is_proven_by_the_one_name_alone(turned: bool) -> None:
    class Two(torch.nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            if tied:
                self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    cause = only(compare(Two(turned), Two(not turned), torch.ones(2, 4)))
    assert (cause.code, cause.status) == ("ST005", "confirmed")
    assert {(one.direction, one.left) for one in cause.experiments} == {("take_away", "nothing"), ("put_in", "nothing")}
    assert any(item.name == "untie" for one in cause.experiments for item in one.interventions)


def test_a_lost_tie_with_equal_values_is_silent() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    candidate = copy.deepcopy(model)
    candidate[1].weight = torch.nn.Parameter(candidate[0].weight.detach().clone())
    diagnosis = compare(model, candidate, torch.randn(2, 4))
    assert diagnosis.verdict is Verdict.IDENTICAL
    assert diagnosis.causes == ()


def test_memory_that_is_read_before_it_is_written_is_found() -> None:
    def careless(x: torch.Tensor) -> torch.Tensor:
        return x + torch.empty(x.shape) * 0

    def careful(x: torch.Tensor) -> torch.Tensor:
        filled = torch.empty(x.shape)
        filled[0] = 0
        return x + torch.empty_like(filled).zero_() * 0

    def shifted(x: torch.Tensor) -> torch.Tensor:
        return careless(x) + 1

    found = [c for c in compare(careless, shifted, torch.randn(2, 3)).causes if c.code == "ST004"]
    assert [cause.evidence[0].data["strength"] for cause in found] == ["strong", "strong"]
    assert all(cause.status == "inconclusive" and cause.reason for cause in found)
    assert "ST004" not in {cause.code for cause in compare(careful, careful, torch.randn(2, 3)).causes}


@pytest.mark.parametrize("name", ["table", "up.weight", "shift"])
def test_traces_give_the_same_cause(pair: Any, name: str, tmp_path: Path) -> None:
    reference, candidate, x = pair
    owner, _, last = name.rpartition(".")
    tensor = getattr(candidate.get_submodule(owner), last)
    tensor.data = tensor.data * 1.5
    for side, model in (("r", reference), ("c", candidate)):
        with torch.no_grad(), whydiff.capture(tmp_path / side):
            model(x)
    diagnosis = compare(tmp_path / "r", tmp_path / "c")
    assert [(c.site, c.status) for c in diagnosis.causes] == [(name, "confirmed")]
    assert diagnosis.causes[0].experiments[0].method == "replay"


def test_a_trace_without_payloads_names_the_tensor_and_proves_nothing(pair: Any, tmp_path: Path) -> None:
    reference, candidate, x = pair
    candidate.table = candidate.table * 2
    for side, model in (("r", reference), ("c", candidate)):
        with torch.no_grad(), whydiff.capture(tmp_path / side, payloads="none"):
            model(x)
    cause = only(compare(tmp_path / "r", tmp_path / "c"))
    assert (cause.code, cause.site, cause.status, cause.inert) == ("ST002", "table", "inconclusive", False)
    assert cause.reason


@pytest.mark.parametrize("name", ["table", "mean", "up.weight", "shift"])
def test_the_pasted_remedy_repairs_the_candidate(pair: Any, name: str) -> None:
    reference, candidate, x = pair
    owner, _, last = name.rpartition(".")
    tensor = getattr(candidate.get_submodule(owner), last)
    tensor.data = tensor.data * 1.5
    (cause,) = compare(reference, candidate, x).causes
    assert cause.remedy is not None
    exec(cause.remedy.code, {"reference": reference, "candidate": candidate, "torch": torch})
    assert compare(reference, candidate, x).verdict is Verdict.IDENTICAL


def test_the_pasted_remedy_of_a_cast_keeps_the_table(pair: Any) -> None:
    reference, model, x = pair
    built = copy.deepcopy(model)
    candidate = model.bfloat16().float()
    causes = compare(reference, candidate, x).causes
    code = next(c.remedy.code for c in causes if c.site == "table" and c.code == "ST003" and c.remedy)
    scope = {"model": built, "torch": torch}
    exec(code, scope)
    assert built.table.dtype is torch.float32
    assert built.up.weight.dtype is torch.bfloat16
    assert torch.equal(built.table, Small().table)


def test_tensors_of_two_closures_are_paired_by_where_they_are_read(pair: Any) -> None:
    model, _, first = pair
    second = first + 1
    (cause,) = compare(lambda: model(first), lambda: model(second)).causes
    assert (cause.code, cause.site, cause.status) == ("ST002", "first", "confirmed")
    assert [str(i) for i in cause.interventions] == ["restore-state second = first"]
    rounded = first.bfloat16().float()
    (cause,) = compare(lambda: model(first), lambda: model(rounded)).causes
    assert (cause.code, cause.site, cause.status) == ("ST003", "first", "confirmed")


def _layers(hidden: int, out: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, out))


@pytest.mark.parametrize(
    ("hidden", "out", "shapes"),
    [
        (6, 5, ["2.weight [4, 6] against [5, 6]", "2.bias [4] against [5]"]),
        (7, 4, ["0.weight [6, 8] against [7, 8]", "0.bias [6] against [7]", "2.weight [4, 6] against [4, 7]"]),
    ],
)
def test_tensors_of_other_shapes_are_one_cause_and_are_put_back_together(
    hidden: int, out: int, shapes: list[str]
) -> None:
    reference, candidate = _layers(6, 4), _layers(hidden, out, 1)
    for name, ours in reference.named_parameters():
        theirs = candidate.get_parameter(name)
        if theirs.shape == ours.shape:
            theirs.data = ours.data.clone()
    found = compare(reference, candidate, torch.randn(3, 8))
    proven = [cause for cause in found.causes if cause.status == "confirmed"]
    assert [cause.code for cause in proven] == ["ST001"] and all(one in proven[0].says for one in shapes)
    assert [(one.direction, one.left) for one in proven[0].experiments] == [
        ("take_away", "nothing"),
        ("put_in", "nothing"),
    ]
    said = answer(found)
    assert "same sizes" in said.fix
    assert (said.effect == "the output has shape [3,4] in the reference, [3,5] in the candidate") == (out != 4)


def test_a_tensor_of_another_shape_beside_one_of_other_values_are_two_causes() -> None:
    found = compare(_layers(6, 4), _layers(7, 4, 1), torch.randn(3, 8))
    assert sorted(cause.site for cause in found.causes if cause.status == "confirmed") == [
        "0.weight and 2 more",
        "2.bias",
    ]


def test_outputs_of_another_shape_are_not_called_equally_far_apart() -> None:
    """A weight alone gives the right shape and not yet the right numbers: a step in the right direction."""
    found = compare(torch.nn.Linear(8, 4), torch.nn.Linear(8, 5, bias=False), torch.randn(3, 8))
    weight = next(cause for cause in found.causes if cause.code == "ST001")
    assert weight.status == "inconclusive" and "larger" not in weight.reason and not weight.inert


KEYS = ("position", "velocity", "goal")
HELD = {key: torch.randn(3, 4, generator=torch.Generator().manual_seed(n)) for n, key in enumerate(KEYS)}
SORTED = dict(sorted(HELD.items()))
MIXED = torch.randn(12, 5, generator=torch.Generator().manual_seed(9))


def of_obs(obs: dict[str, torch.Tensor]) -> Callable[[], Any]:
    return lambda: torch.tanh(torch.cat([*obs.values()], -1) @ MIXED)


def of_state(state: dict[str, torch.Tensor]) -> Callable[[], Any]:
    return lambda: torch.tanh(torch.cat([*state.values()], -1) @ MIXED)


@pytest.mark.parametrize("candidate", [of_obs, of_state], ids=["one name", "other name"])
@pytest.mark.parametrize("clone", [False, True], ids=["same tensors", "copies"])
def test_entries_of_a_mapping_are_paired_by_key_whatever_it_is_called(candidate: Any, clone: bool) -> None:
    entries = {key: value.clone() if clone else value for key, value in SORTED.items()}
    diagnosis = compare(of_obs(HELD), candidate(entries))
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert {(cause.code, cause.status) for cause in diagnosis.causes} == {("FO006", "confirmed")}
    assert all("holds" not in cause.says for cause in diagnosis.causes)


def test_many_entries_in_another_order_are_the_same_tensors_under_either_name() -> None:
    rows = {f"row_{i}": torch.full((1, 4), 0.1 * i) for i in range(12)}

    def of(obs: Any) -> Callable[[], Any]:
        return lambda: torch.tanh(torch.cat([*obs.values()]) * torch.arange(12.0)[:, None])

    def of_renamed(state: Any) -> Callable[[], Any]:
        return lambda: torch.tanh(torch.cat([*state.values()]) * torch.arange(12.0)[:, None])

    cause = only(compare(of(rows), of_renamed(dict(sorted(rows.items())))))
    assert (cause.code, cause.status) == ("FO006", "confirmed")
    assert "the same tensors in another order: state.row_10 for obs.row_2" in cause.says


def test_a_key_that_holds_another_tensor_is_that_tensor_under_either_name() -> None:
    other = {key: value + 1 if key == "goal" else value.clone() for key, value in HELD.items()}
    found = [compare(of_obs(HELD), candidate(other)) for candidate in (of_obs, of_state)]
    assert [shown(one) for one in found] == [[("ST002", "obs.goal", "confirmed", False)]] * 2
    assert [str(i) for i in only(found[1]).interventions] == ["restore-state state.goal = obs.goal"]


def test_copies_under_another_name_are_silent() -> None:
    diagnosis = compare(of_obs(HELD), of_state({key: value.clone() for key, value in HELD.items()}))
    assert (diagnosis.verdict, diagnosis.causes) == (Verdict.IDENTICAL, ())


def test_one_tensor_read_transposed_is_another_layout_under_either_name() -> None:
    square = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))
    x = HELD["goal"]

    def of(weight: Any, turned: bool) -> Callable[[], Any]:
        return lambda: torch.tanh(x * (weight.T if turned else weight).sum(0))

    def of_renamed(matrix: Any) -> Callable[[], Any]:
        return lambda: torch.tanh(x * matrix.T.sum(0))

    found = [compare(of(square, False), candidate) for candidate in (of(square, True), of_renamed(square.clone()))]
    assert len({(one.verdict, *map(str, shown(one))) for one in found}) == 1
    assert not any(cause.code == "ST002" for one in found for cause in one.causes)


class Waves(torch.nn.Module):
    """Angles of steps, as one library and as three ports of it make them."""

    def __init__(self, name: str = "inv_freq", *, factor: float = 1.0, dtype: Any = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = torch.nn.Linear(16, 8)
        self.register_buffer(name, (factor * 1e4 ** -(torch.arange(16) / 16)).to(dtype))

    def angles(self, steps: torch.Tensor) -> torch.Tensor:
        return steps[:, None].float() * next(self.buffers()).float()

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        return self.out(self.angles(steps).sin())


class Outer(Waves):
    def angles(self, steps: torch.Tensor) -> torch.Tensor:
        return torch.outer(steps.float(), next(self.buffers()).float())


class Product(Waves):
    def angles(self, steps: torch.Tensor) -> torch.Tensor:
        return steps.float()[:, None] @ next(self.buffers()).float()[None]


STEPS = torch.tensor([0, 3, 77, 410, 999])


@pytest.mark.parametrize("port", [Waves, Outer, Product])
@pytest.mark.parametrize("name", ["inv_freq", "freqs"])
def test_a_rounded_table_that_is_widened_is_a_cast_under_either_name(port: Any, name: str) -> None:
    diagnosis = compare(Waves(), port(name, dtype=torch.float16), STEPS)
    assert diagnosis.verdict is Verdict.PRECISION
    assert shown(diagnosis) == [("ST003", "inv_freq", "confirmed", False)]
    assert not any("not a rounding" in one.statement for origin in diagnosis.origins for one in origin.evidence)
    effect = {one.metric: one.value for one in only(diagnosis).effect}
    assert effect["one_in"] > 0 == effect["leave_one_out"]


@pytest.mark.parametrize("port", [Waves, Outer])
def test_another_table_that_is_widened_is_another_table_under_either_name(port: Any) -> None:
    found = [compare(Waves(), port(name, factor=1.01, dtype=torch.float16), STEPS) for name in ("inv_freq", "freqs")]
    assert [one.verdict for one in found] == [Verdict.SEMANTIC] * 2
    assert [shown(one) for one in found] == [[("ST002", "inv_freq", "confirmed", False)]] * 2


@pytest.mark.parametrize("port", [Waves, Outer, Product])
def test_a_copied_table_under_another_name_is_silent(port: Any) -> None:
    diagnosis = compare(Waves(), port("freqs"), STEPS)
    assert diagnosis.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    assert not [cause for cause in diagnosis.causes if cause.code.startswith("ST")]

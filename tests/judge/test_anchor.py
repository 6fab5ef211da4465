"""Every rule about the outputs as they were, one test a row, and the programs that used to be called identical."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import whydiff
from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.torch.reading import READER
from whydiff.capturing.store import open_trace
from whydiff.explain.reruns import Rerun
from whydiff.explain.scale import Difference, Scale
from whydiff.judge import outputs
from whydiff.judge.anchor import RULES, Inside, anchored
from whydiff.judge.outputs import Anchor, Compared, anchor
from whydiff.judge.outside import Outside
from whydiff.records import Alignment, Comparison, Environment, ObserverCheck, RecordedTrace, Slot, Verdict
from whydiff.report.answer import answer

SEEN = Inside(Verdict.IDENTICAL, "zero bits differ inside", agree=True)
ROUNDED = Inside(Verdict.ROUNDING, "another order")
PRECISE = Inside(Verdict.PRECISION, "a compiler's rounding")
STAYS = Rerun(Scale(Difference(1.0, 1.0), Difference(1.0, 1.0)), (0.0, 1.0))
SHRINKS = Rerun(Scale(Difference(1e-7, 1.0), Difference(1e-16, 1.0)), (1e-7, 1e-7))
COARSE = replace(SHRINKS, errors=(1e-7, 1e-3), coarse="candidate")
BETWEEN = Rerun(Scale(Difference(1e-3, 1.0), Difference(1e-7, 1.0)), (0.0, 0.0))
SEMANTIC = Inside(Verdict.SEMANTIC, "another weight")
STAYED = Rerun(Scale(Difference(1e-7, 1.0), Difference(1e-7, 1.0)), (0.0, 1e-7))
"""A program that casts by itself: rounding stays."""
BLIND = Inside(Verdict.INCONCLUSIVE, "no test tells")


def trace(value: Any) -> RecordedTrace:
    return RecordedTrace(
        "torch", "op", (), (), Environment(), ObserverCheck(True, True), outputs=outputs_of(value, READER)
    )


def between(reference: Any, candidate: Any) -> Anchor:
    return anchor(trace(reference), trace(candidate), Alignment(()))


X = torch.ones(3)
NAN = torch.full((3,), float("nan"))
LINE = (x for x in ())


@pytest.mark.parametrize(
    ("rule", "reference", "candidate", "inside", "verdict"),
    [
        ("does_not_repeat", X, X, Inside(Verdict.NONDETERMINISTIC, "", varying=("reference",)), "nondeterministic"),
        ("ended_early", X, X, replace(SEEN, cut=("candidate",)), "inconclusive"),
        ("nothing_compared", LINE, LINE, SEEN, "inconclusive"),
        ("nothing_compared", len, len, SEEN, "inconclusive"),
        ("nothing_compared", LINE, LINE, SEMANTIC, "semantic"),
        ("nothing_compared", None, None, SEEN, "inconclusive"),
        ("nothing_compared", (None, None), (None, None), SEEN, "inconclusive"),
        ("nothing_compared", X, (X, X), SEEN, "incomparable"),
        ("nothing_compared", X, (X, X), SEMANTIC, "semantic"),
        ("nothing_compared", {"a": LINE}, {"b": X}, SEEN, "incomparable"),
        ("nothing_compared", torch.ones(0, 3), torch.ones(0, 3), SEEN, "inconclusive"),
        ("nothing_compared", (torch.ones(0), None), (torch.ones(0), None), SEEN, "inconclusive"),
        ("other_shapes", torch.ones(0, 3), torch.ones(3, 0), SEEN, "incomparable"),
        ("equal", (X, torch.ones(0)), (X, torch.ones(0)), SEEN, "identical"),
        ("equal", (X, None), (X, None), SEEN, "identical"),
        ("nothing_compared", [], [], SEEN, "inconclusive"),
        ("equal", [X, []], [X, []], SEEN, "identical"),
        ("not_all_readable", (X, LINE), (X, LINE), SEEN, "inconclusive"),
        ("other_structure", (X,), (X, X), SEEN, "incomparable"),
        ("ran_otherwise", X, X.clone(), replace(SEEN, otherwise=("candidate",)), "inconclusive"),
        ("equal", X, X.clone(), SEEN, "identical"),
        ("equal", X, X.clone(), replace(SEMANTIC, origins=3), "identical"),
        ("equal", X * float("nan"), X * float("nan"), SEEN, "identical"),
        ("equal", (X, len), (X, len), SEEN, "identical"),
        ("other_nans", NAN, (NAN.view(torch.int32) + 1).view(torch.float32), SEMANTIC, "rounding"),
        ("other_nans", (X, NAN), (X, -NAN), ROUNDED, "rounding"),
        ("", (X, NAN), (X * 2, -NAN), SEMANTIC, "semantic"),
        ("", NAN, torch.zeros(3), SEMANTIC, "semantic"),
        ("", torch.zeros(3), -torch.zeros(3), SEMANTIC, "semantic"),
        ("another_dtype", X, X.double(), SEEN, "precision"),
        ("other_shapes", X, X[None], ROUNDED, "incomparable"),
        ("other_shapes", 1.0, "1.0", SEEN, "incomparable"),
        ("more_is_returned", (X,), (X * 2, X), ROUNDED, "incomparable"),
        ("more_is_returned", {"a": X, "b": X}, {"a": X * 2}, PRECISE, "incomparable"),
        ("", (X,), (X * 2, X), SEMANTIC, "semantic"),
        ("other_points", X, X * 2, replace(SEEN, rerun=STAYS, apart="not-counterparts"), "incomparable"),
        ("", X, X * 2, replace(SEMANTIC, apart="not-counterparts"), "semantic"),
        (
            "stale_code",
            X,
            X + 1,
            replace(SEEN, changed=("candidate",), stale=("candidate",), rerun=SHRINKS),
            "semantic",
        ),
        ("rerun_tells", X, X * 2, replace(SEEN, rerun=STAYS), "semantic"),
        ("rerun_tells", X, X * 2, replace(SEEN, rerun=SHRINKS), "rounding"),
        ("rerun_tells", X, X * 2, replace(SEEN, rerun=COARSE), "precision"),
        ("rerun_tells", X, X * 2, replace(ROUNDED, rerun=STAYS, changed=("candidate",)), "semantic"),
        ("rerun_tells", X, X * 2, replace(PRECISE, rerun=SHRINKS, changed=("candidate",), proven=True), "precision"),
        ("rerun_tells", X, X * 2, replace(PRECISE, rerun=STAYS, changed=("candidate",), proven=True), "precision"),
        ("rerun_tells", X, X * 2, replace(SEEN, rerun=SHRINKS, changed=("candidate",), bits=True), "precision"),
        ("rerun_tells", X, X * 2, replace(BLIND, rerun=replace(STAYS, errors=(1e-8, 1e-8))), "semantic"),
        ("rerun_tells", X, X * 2, replace(BLIND, rerun=SHRINKS), "rounding"),
        ("", X, X * 2, replace(BLIND, rerun=STAYED), "inconclusive"),
        ("looking_changed_it", X, X * 2, replace(SEEN, rerun=BETWEEN, changed=("candidate",)), "inconclusive"),
        ("looking_changed_it", X, X * 2, replace(PRECISE, changed=("candidate",), proven=True), "precision"),
        ("looking_changed_it", X, X * 2, replace(SEEN, changed=("candidate",)), "inconclusive"),
        ("looking_changed_it", X, X * 2, replace(ROUNDED, changed=("candidate",)), "inconclusive"),
        ("looking_changed_it", X, X * 2, replace(SEMANTIC, changed=("candidate",)), "semantic"),
        ("made_outside", (X, 1), (X * 2, 2), replace(ROUNDED, outside=Outside((), Verdict.SEMANTIC)), "semantic"),
        ("made_outside", (X, "a"), (X * 2, "b"), replace(ROUNDED, outside=Outside(())), "inconclusive"),
        ("unseen", X, X * 2, SEEN, "inconclusive"),
        ("unseen", "a", "b", SEEN, "inconclusive"),
        ("", X, X * 2, ROUNDED, "rounding"),
        ("", (X, LINE), (X * 2, LINE), ROUNDED, "rounding"),
        ("", "a", "b", SEMANTIC, "semantic"),
    ],
)
def test_each_rule(rule: str, reference: Any, candidate: Any, inside: Inside, verdict: str) -> None:
    found = between(reference, candidate)
    applied = [one.__name__ for one in RULES if one(found, inside) is not None]
    assert applied[:1] == ([rule] if rule else [])
    assert str(anchored(found, inside)[0]) == verdict


def test_the_rules_of_the_page_are_the_rules() -> None:
    import whydiff.judge.anchor as room

    rows = [line.split("`")[1] for line in (room.__doc__ or "").splitlines() if line.startswith("| `")]
    assert rows == [rule.__name__ for rule in RULES]


Named, Otherwise = NamedTuple("Named", [("one", Any), ("two", Any)]), NamedTuple("Otherwise", [("a", Any), ("b", Any)])


@pytest.mark.parametrize(
    ("reference", "candidate", "found"),
    [
        ((X, 1), Named(X, 1), ["equal", "equal"]),
        (Named(X, 1), (X, 2), ["equal", "values"]),
        (Named(X, 1), Otherwise(X, 1), ["equal", "equal"]),
        ([(X, 1)], [Named(X, 1)], ["equal", "equal"]),
        ({"one": Named((X,), Named(1, 2))}, {"one": ((X,), Otherwise(1, 2))}, ["equal", "equal", "equal"]),
        ((X, 1), {"one": X, "two": 1}, ["lone", "lone", "lone", "lone"]),
        (Named(X, 1), (X, 1, 2), ["equal", "equal", "lone"]),
    ],
)
def test_a_named_tuples_fields_are_its_places(reference: Any, candidate: Any, found: list[str]) -> None:
    assert [one.found for one in between(reference, candidate).outputs] == found


@pytest.mark.parametrize("inside", [SEEN, ROUNDED, SEMANTIC, Inside(Verdict.INCONCLUSIVE, "")])
def test_identical_exactly_when_every_output_is_bit_equal(inside: Inside) -> None:
    values = [X, X * 2, X.double(), X[None], "a", "b", 1, 2.0, LINE, None, [], len, (X, X), (X, LINE), {"x": X}]
    for number, one in enumerate(values):
        for at, other in enumerate(values):
            found = between(one, other)
            nothing_in_it = one is None or isinstance(one, list)
            undecided = nothing_in_it or one is LINE or one is len or (isinstance(one, tuple) and one[1] is LINE)
            same = number == at and not undecided
            assert (anchored(found, inside)[0] is Verdict.IDENTICAL) == same, (one, other)


def test_whether_only_nans_differ_is_asked_where_no_number_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    known = outputs._only_nans_differ
    monkeypatch.setattr(outputs, "_only_nans_differ", lambda *both: asked.append(both[0].dtype) or known(*both))
    nan = np.array([1.0, np.nan]), np.array([1.0, -np.nan])
    zero = np.array([0.0, np.nan]), np.array([-0.0, -np.nan])
    expected = {"values": (X, X * 2), "nan_bits": nan}
    for word, both in (*expected.items(), ("values", zero)):
        assert [one.found for one in between(*both).outputs] == [word]
    assert asked == ["float64", "float64"]  # not of X, of which a number differs


def test_what_is_not_compared_is_counted() -> None:
    found = between((X, LINE, len), (X, LINE, len, 3))
    assert [(count.reason, count.count) for count in found.counts()] == [
        ("generator cannot be looked into", 1),
        ("builtin_function_or_method: no numbers", 1),
        ("only the candidate has it", 1),
    ]


def test_integers_beyond_a_float_are_told_apart() -> None:
    found = between(2**53, 2**53 + 1).outputs[0]
    assert found.found == "values"
    assert between(2**70, 2**70 + 1).outputs[0].found == "text"


def test_a_lone_output_names_its_side() -> None:
    assert between({"a": X}, {"a": X, "b": X}).outputs[1] == Compared(
        Slot(0, "b"), "lone", Comparison("not_compared", "only the candidate has it", only="candidate")
    )


# --------------------------------------------------------------------------- whole programs


def model(scale: float = 1.0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    made = torch.nn.Linear(4, 4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * scale)
    return made.eval()


GIVEN = torch.linspace(-1, 1, 8).reshape(2, 4)


def numpy_outside(scale: float) -> Any:
    net = model()
    return lambda: net(GIVEN).detach().numpy() * scale


def number(scale: float) -> Any:
    net = model()
    return lambda: float(net(GIVEN).sum()) * scale


def listed(scale: float) -> Any:
    net = model()
    return lambda: [(net(GIVEN) * 1.0).detach().tolist(), scale]


def in_a_thread(scale: float) -> Any:
    net = model(scale)

    def program() -> torch.Tensor:
        found: list[torch.Tensor] = []
        worker = threading.Thread(target=lambda: found.append(net(GIVEN).detach()))
        worker.start()
        worker.join()
        return found[0]

    return program


def through_a_numpy_view(scale: float) -> Any:
    net = model()

    def program() -> torch.Tensor:
        result = net(GIVEN).detach()
        np.multiply(result.numpy(), np.float32(scale), out=result.numpy())
        return result

    return program


def sparse(scale: float) -> Any:
    net = model()
    return lambda: (net(GIVEN).relu().to_sparse() * scale).detach()


def quantised(scale: float) -> Any:
    net = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(model(scale)), {torch.nn.Linear})
    return lambda: net(GIVEN)


def nested(scale: float) -> Any:
    net = model()
    return lambda: torch.nested.nested_tensor([row * scale for row in net(GIVEN).detach()])


@pytest.mark.parametrize(
    "kind", [numpy_outside, number, listed, in_a_thread, through_a_numpy_view, sparse, quantised, nested]
)
def test_what_used_to_be_called_identical(kind: Any) -> None:
    assert whydiff.compare(kind(1.0), kind(1.0)).verdict is Verdict.IDENTICAL
    assert whydiff.compare(kind(1.0), kind(3.0)).verdict not in (Verdict.IDENTICAL, Verdict.ROUNDING)


def rounded_in_numpy(order: int) -> Any:
    net = model()

    def program() -> Any:
        found = net(GIVEN).detach().numpy()
        one, two, three, four = found.T * np.float32(1 / 3)
        return one + (two + (three + four)) if order else ((one + two) + three) + four

    return program


def test_what_is_made_outside_of_the_ops_is_judged_by_reruns() -> None:
    assert whydiff.compare(rounded_in_numpy(0), rounded_in_numpy(1)).verdict is Verdict.ROUNDING
    diagnosis = whydiff.compare(numpy_outside(1.0), numpy_outside(1.001))
    assert diagnosis.verdict is Verdict.SEMANTIC and "where nobody looked" in diagnosis.reason


def nothing(write: Any) -> Any:
    def program(x: torch.Tensor) -> None:
        write(x)

    return program


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (lambda x: None, lambda x: None, "inconclusive"),
        (torch.Tensor.sum, torch.Tensor.mean, "incomparable"),
        (lambda x: x.mul_(2), lambda x: x.mul_(3), "semantic"),
        (lambda x: {"y": x * 2}, lambda x: {"y": x * 3}, "semantic"),
        (lambda x: x.mul_(2), lambda x: x.mul_(2), "identical"),
    ],
)
def test_nothing_returned_is_no_agreement_and_what_was_written_last_stands_for_it(
    ours: Any, theirs: Any, verdict: str
) -> None:
    found = whydiff.compare(nothing(ours), nothing(theirs), torch.rand(3, 8))
    assert str(found.verdict) == verdict
    assert [one.count for one in found.not_compared if one.code == "nothing returned"] == [1]
    text = " ".join(answer(found).text().split())
    assert "neither side returned anything" in text and "output" not in text and "left starts" not in text
    aside = whydiff.compare(lambda x: (x * 2, None), lambda x: (x * 2, None), torch.rand(3))
    assert aside.verdict is Verdict.IDENTICAL and "neither" not in answer(aside).text()


@pytest.mark.parametrize("empty", [[], {"found": [], "more": ()}, set()])
def test_empty_containers_are_nothing_returned_and_what_was_written_last_stands_for_them(empty: Any) -> None:
    def writing(factor: float) -> Any:
        def program(x: torch.Tensor) -> Any:
            if factor:
                x.mul_(factor)
            return empty

        return program

    x = torch.rand(3)
    assert whydiff.compare(writing(2), writing(3), x).verdict is Verdict.SEMANTIC
    assert whydiff.compare(writing(2), writing(2), x).verdict is Verdict.IDENTICAL
    assert whydiff.compare(writing(0), writing(0), x).verdict is Verdict.INCONCLUSIVE
    beside = whydiff.compare(lambda x: (x * 2, empty), lambda x: (x * 2, empty), x)
    assert beside.verdict is Verdict.IDENTICAL and not beside.not_compared
    assert whydiff.compare(lambda x: (x * 2, empty), lambda x: (x * 2, None), x).verdict is not Verdict.IDENTICAL


def test_values_in_other_places_are_no_counterparts() -> None:
    found = whydiff.compare(lambda x: x * 2, lambda x: (x * 2, x + 1), torch.rand(3))
    assert found.verdict is Verdict.INCOMPARABLE
    text = " ".join(answer(found).text().split())
    assert "nothing is in the same place on both" in text and "more is: output, [0], [1]" in text


def test_memory_without_elements_holds_nothing_that_nobody_wrote() -> None:
    assert not whydiff.compare(lambda: torch.empty(0, 3), lambda: torch.empty(0, 3)).causes


@pytest.mark.parametrize("jax", [False, True])
def test_tensors_without_elements_are_no_agreement_and_no_difference_whatever_made_them(jax: bool) -> None:
    library = pytest.importorskip("jax.numpy") if jax else torch
    for other in (library.zeros, library.ones):
        found = whydiff.compare(lambda: library.ones((0, 3)), lambda other=other: other((0, 3)))
        assert found.verdict is Verdict.INCONCLUSIVE, found.reason
        assert jax or "nothing could be compared" in found.reason
    shapes = whydiff.compare(lambda: library.ones((0, 3)), lambda: library.zeros((0, 4)))
    assert shapes.verdict in (Verdict.INCOMPARABLE, Verdict.SEMANTIC)  # another shape is a difference
    x = library.ones(3)
    inside = whydiff.compare(lambda: (x * 2)[:0] + 1, lambda: (x * 3)[:0] + 1)
    assert inside.verdict is Verdict.INCONCLUSIVE and "does not reach the outputs" in inside.reason


def in_words(say: Any) -> Any:
    net = model()

    def program() -> Any:
        found = net(GIVEN).detach()
        return found, say(found)

    return program


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda y: "yes", lambda y: "no"),
        (lambda y: int(y.argmax()), lambda y: int(y.argmin())),
        (lambda y: bool(y.sum() > 0), lambda y: not y.sum() > 0),
        (lambda y: [1, {"a": None}], lambda y: [2, {"a": None}]),
        (lambda y: None, lambda y: []),
    ],
)
def test_equal_numbers_do_not_excuse_other_words_and_choices(ours: Any, theirs: Any) -> None:
    verdict = whydiff.compare(in_words(ours), in_words(theirs)).verdict
    assert verdict not in (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.PRECISION)
    assert whydiff.compare(in_words(ours), in_words(ours)).verdict is Verdict.IDENTICAL


def test_a_program_that_notices_the_observer_is_judged_by_what_it_gave() -> None:
    net = model()

    def shy() -> torch.Tensor:
        watched = torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        return net(GIVEN) * (1.0 if watched else 3.0)

    diagnosis = whydiff.compare(lambda: net(GIVEN) * 1.0, shy)
    assert diagnosis.sides[1].observer.unchanged is False
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert diagnosis.outputs[0][1].status == "differs"


def test_lifted_reruns_leave_the_program_as_it_was() -> None:
    net, given = model(), GIVEN.clone()
    run = for_framework("torch").run(net, (given,), {})
    wide = run.lifted("float64")
    assert wide is not None and wide[0].payload is not None and wide[0].payload.dtype == "float64"
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32} == {given.dtype}
    assert torch.get_default_dtype() is torch.float32
    narrow = for_framework("torch").run(lambda: net(GIVEN) @ torch.ones(4, 1, dtype=torch.float32), (), {})
    assert narrow.lifted("float64") is None


SILU = """
import sys, torch, whydiff
with whydiff.capture(sys.argv[1], payloads=sys.argv[2]):
    torch.nn.functional.silu((torch.arange(4096) - 2048) / 512)
"""


@pytest.mark.slow
def test_recorded_bits_decide_whatever_the_reader_computes(tmp_path: Path) -> None:
    for name, capability in (("a", "default"), ("b", "")):
        for payloads in ("all", "none"):
            settings = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
            inherited = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
            path = str(tmp_path / f"{name}-{payloads}")
            subprocess.run([sys.executable, "-c", SILU, path, payloads], env=inherited | settings, check=True)
    traces = [open_trace(tmp_path / f"{name}-all") for name in ("a", "b")]
    if traces[0].calls[-1].writes[0].fingerprint == traces[1].calls[-1].writes[0].fingerprint:
        pytest.skip("both instruction sets give the same bits here")
    for one, other in (("a", "b"), ("b", "a")):
        found = whydiff.compare(str(tmp_path / f"{one}-all"), str(tmp_path / f"{other}-all"))
        assert found.verdict is Verdict.ROUNDING and [str(o.site) for o in found.origins] == [":silu#0.output"]
        bare = whydiff.compare(str(tmp_path / f"{one}-none"), str(tmp_path / f"{other}-none"))
        assert bare.verdict not in (Verdict.IDENTICAL,) and len(bare.origins) == 1


def test_a_refactor_with_equal_outputs_is_identical_and_its_insides_are_a_note() -> None:
    net = model()
    diagnosis = whydiff.compare(lambda: net(GIVEN) * 2, lambda: net(GIVEN) + net(GIVEN))
    assert diagnosis.verdict is Verdict.IDENTICAL and not diagnosis.causes


def test_outputs_of_any_type_are_in_the_trace(tmp_path: Path) -> None:
    class Told(torch.nn.Module):
        def __init__(self, word: str) -> None:
            super().__init__()
            self.word = word

        def forward(self, x: torch.Tensor) -> Any:
            return {"x": x + 1, "word": self.word, 0: 2**70, "0": 1.5}

    paths = []
    for name, word, payloads in (("a", "yes", "all"), ("b", "no", "all"), ("c", "yes", "none")):
        with whydiff.capture(tmp_path / name, payloads=payloads):
            Told(word)(GIVEN)
        paths.append(str(tmp_path / name))
    again = whydiff.compare(paths[0], paths[2])
    assert again.verdict is Verdict.IDENTICAL and [slot for slot, _ in again.outputs] == ["x", "word", "[0]", "0"]
    other = whydiff.compare(paths[0], paths[1])
    assert other.verdict is Verdict.INCONCLUSIVE
    assert [slot for slot, comparison in other.outputs if comparison.status == "differs"] == ["word"]


def test_an_empty_trace_is_no_agreement(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with whydiff.capture(tmp_path / name):
            pass
    assert whydiff.compare(str(tmp_path / "a"), str(tmp_path / "b")).verdict is Verdict.INCONCLUSIVE


def test_a_compiled_program_in_a_trace_is_not_called_identical(tmp_path: Path) -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 2

    compiled = torch.compile(program, backend="eager")
    assert torch.equal(compiled(X), program(X))
    for name, run in (("plain", program), ("compiled", compiled), ("off", torch.compiler.disable(program))):
        with whydiff.capture(tmp_path / name):
            run(X)
    assert open_trace(tmp_path / "plain").observer.unchanged is None
    assert open_trace(tmp_path / "off").observer.unchanged is None
    assert [hole.kind for hole in open_trace(tmp_path / "compiled").holes] == ["compiled"]  # it ran as it runs alone
    found = whydiff.compare(tmp_path / "plain", tmp_path / "compiled")
    assert str(found.verdict) != "identical"
    assert any("compiled" in count.what for count in found.not_compared)
    assert whydiff.compare(program, compiled, X).verdict is Verdict.IDENTICAL
    assert torch._dynamo.eval_frame._callback_from_stance.__name__ == "_callback_from_stance"


def _script(kind: str, number: float) -> Callable[[], None]:
    """A script: a module is called, and more is made of what it returned, or of its weights."""

    def run() -> None:
        torch.manual_seed(0)
        model, x = torch.nn.Linear(8, 4), torch.linspace(0, 1, 16).view(2, 8)
        if kind == "result":
            torch.softmax(model(x) / number, -1)
        elif kind == "printed":
            loss = model(x).sum()
            loss = loss + number if number > 1 else loss
            loss.backward()
            loss.item()
        elif kind == "order of groups":
            model(x).square().sum().backward()
            groups = [{"params": [model.weight]}, {"params": [model.bias]}]
            torch.optim.AdamW(groups if number > 1 else groups[::-1]).step()
        elif kind == "weights":
            model(x).square().sum().backward()
            torch.optim.SGD(model.parameters(), lr=number).step()
        elif kind == "inside":
            model.register_forward_pre_hook(lambda module, args: (args[0] * number / number,))
            model(x)

    return run


@pytest.mark.parametrize("kind", ["result", "printed", "weights", "inside", "order of groups"])
@pytest.mark.parametrize("other", [1.0, 2.0], ids=["the same", "another"])
def test_what_a_script_makes_of_what_its_modules_returned_counts(kind: str, other: float, tmp_path: Path) -> None:
    for name, number in (("reference", 1.0), ("candidate", other)):
        with whydiff.capture(tmp_path / name):
            _script(kind, number)()
    found = whydiff.compare(str(tmp_path / "reference"), str(tmp_path / "candidate"))
    same = other == 1.0 or kind in ("inside", "order of groups")
    assert (found.verdict is Verdict.IDENTICAL) is same
    assert any(comparison.status == "differs" for _, comparison in found.outputs) is not same
    if same:
        assert answer(found).headline.endswith("what the scripts may print of it was not compared") is (
            kind != "inside"
        )
    else:
        assert found.verdict in (Verdict.SEMANTIC, Verdict.INCOMPARABLE)

"""What a stranger's trace may name: told from the schema of every operator that torch registers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters.torch.allowed import lookup, refusal
from whydiff.capturing.adapters.torch.operators import find


def registered() -> dict[str, Any]:
    """Target → overload, of every operator that the dispatcher knows."""
    found = {}
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        namespace, _, rest = name.partition("::")
        op, _, overload = rest.partition(".")
        target = f"{namespace}.{op}.{overload or 'default'}"
        found[target] = lookup(target)
    return found


EVERY = registered()


def test_every_registered_operator_is_found_and_judged() -> None:
    assert len(EVERY) > 3000
    allowed = [target for target, func in EVERY.items() if not refusal(func)]
    assert len(allowed) > 3000
    for target, func in EVERY.items():
        assert isinstance(func, torch._ops.OpOverload), target
        own = target.startswith(("aten.", "prims."))
        assert own or refusal(func), target


def test_what_is_allowed_makes_or_tells_of_tensors() -> None:
    """The property again, from the schema's text rather than from its types."""
    for target, func in EVERY.items():
        if refusal(func):
            continue
        text = str(func._schema)
        arguments, _, results = text.partition(" -> ")
        assert results != "()" or "!" in arguments, text
        assert "Tensor" in arguments or "Tensor" in results, text
        assert not re.search(r"\b(Storage|Stream|__torch__|Dict|Any|Future|QScheme|Dimname)\b", text), target


@pytest.mark.parametrize("word", ["print", "from_file", "seed", "record_stream", "plan_cache", "set_grad", "save"])
def test_effects_are_refused(word: str) -> None:
    named = [target for target in EVERY if word in target.split(".")[1]]
    assert not [target for target in named if not refusal(EVERY[target])]


@pytest.mark.parametrize(
    "target", ["aten._print.default", "aten.from_file.default", "aten.from_file.out", "aten._backward.default"]
)
def test_an_effect_says_why(target: str) -> None:
    assert find(target)
    with pytest.raises(LookupError, match=f"{re.escape(target)} is not executed from a trace: it "):
        find(target, trusted=False)


def test_no_attribute_is_an_operator() -> None:
    """Whatever hangs on torch's objects is found only where the dispatcher knows it as a schema."""
    names = {*dir(torch.ops.aten), *dir(torch.ops.aten.mul), *dir(torch.ops.aten.mul.Tensor)}
    forms = ("aten.{}.__call__", "aten.mul.{}", "aten.mul.Tensor.{}", "aten.{}.clear")
    targets = {form.format(name) for name in names for form in forms} - EVERY.keys()
    assert len(targets) > 1000
    for target in sorted(targets):
        with pytest.raises(LookupError):
            find(target)


@pytest.mark.parametrize("target", ["", ".", "aten", "aten.mul", "aten.mul.Tensor\n", "os.system.default", "a" * 10**6])
def test_no_name_at_all(target: str) -> None:
    with pytest.raises(LookupError) as caught:
        find(target)
    assert len(str(caught.value)) < 200


def test_looking_changes_nothing() -> None:
    before = torch.ops.aten.mul
    with pytest.raises(LookupError):
        find("aten.__setattr__.__call__")
    assert torch.ops.aten.mul is before and "__setattr__" not in vars(torch.ops.aten)

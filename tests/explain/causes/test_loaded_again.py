"""ST004 on models that can be loaded again: what loading leaves unwritten is named whatever it holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.adapters.torch.loading import unwritten

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
TABLE = torch.linspace(0.1, 1.7, 8)


class Loaded(torch.nn.Module):
    """A model that says where it came from and is loaded as from a file, without its table."""

    name_or_path = "a folder"
    writes_table = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.register_buffer("table", TABLE.clone(), persistent=False)

    @classmethod
    def from_pretrained(cls, place: str, **options: Any) -> Loaded:
        assert (place, options) == ("a folder", {"local_files_only": True})
        with torch.device("meta"):
            made = cls()
        made.to_empty(device="cpu")
        made.linear.load_state_dict(WEIGHTS.linear.state_dict())
        if cls.writes_table:
            made.table.copy_(TABLE)
        return made

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(x) * self.table


class Written(Loaded):
    """The same, with the table written after loading."""

    writes_table = True


class Lost(Loaded):
    """Its files are gone."""

    @classmethod
    def from_pretrained(cls, place: str, **options: Any) -> Loaded:
        raise OSError(place)


torch.manual_seed(0)
WEIGHTS = Loaded()


def holding(kind: type[Loaded], values: torch.Tensor) -> Loaded:
    model = kind()
    model.load_state_dict(copy.deepcopy(WEIGHTS.state_dict()))
    model.table = values.clone()
    return model


REFERENCE = holding(Written, TABLE)


@pytest.mark.parametrize("values", [torch.zeros(8), TABLE.flip(0), TABLE * 1.01, torch.full((8,), 1e-42)], ids=range(4))
def test_what_loading_leaves_unwritten_is_named_whatever_it_holds(values: torch.Tensor) -> None:
    for candidate in (holding(Loaded, values), torch.nn.Sequential(holding(Loaded, values))):
        found = whydiff.compare(REFERENCE, candidate, X)
        assert [(cause.code, cause.status) for cause in found.causes] == [("ST004", "located")]
        assert found.causes[0].evidence[0].data["sides"] == ("candidate",)


@pytest.mark.parametrize("kind", [Written, Lost, torch.nn.Identity], ids=lambda kind: kind.__name__)
def test_a_table_that_loading_writes_is_an_ordinary_buffer(kind: type) -> None:
    model: Any = holding(kind if issubclass(kind, Loaded) else Loaded, TABLE * 1.01)
    if kind is torch.nn.Identity:  # it does not say where it came from
        model.name_or_path = ""
    found = whydiff.compare(REFERENCE, model, X)
    assert [(cause.code, cause.status) for cause in found.causes] == [("ST002", "confirmed")]


def test_settings_and_random_numbers_are_as_before() -> None:
    model = holding(Loaded, TABLE)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert unwritten([("m", model)], ["m.table", "m.linear.weight", "other"]) == {"m.table"}
    assert torch.equal(torch.rand(2), expected)
    assert not torch.are_deterministic_algorithms_enabled()

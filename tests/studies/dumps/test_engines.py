"""Two engines that work through the same tokens in other pieces: found where they part, silent where they do not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.studies.dumps.engines import both, model

from whydiff.studies.dumps import compare_dumps

pytestmark = pytest.mark.usefixtures("put_away")
Array = np.ndarray[Any, Any]


def norm(engine: Any) -> str:
    engine.model.layers[1].input_layernorm.variance_epsilon = 1e-3
    return "model.layers.1.input_layernorm"


def stale(engine: Any) -> str:
    with torch.no_grad():
        engine.model.layers[0].mlp.up_proj.weight[5] *= 1.01
    return "model.layers.0.mlp.up_proj"


def scale(engine: Any) -> str:
    """Inside paged attention itself, which is no module."""
    engine.model.layers[1].self_attn.scaling *= 1.02
    return "model.layers.1.self_attn"


def rotation(engine: Any) -> str:
    engine.model.rotary_emb.inv_freq *= 1.001
    return "model.rotary_emb"


@pytest.mark.parametrize("plant", [norm, stale, scale, rotation])
def test_what_is_planted_in_continuous_batching_is_found(plant: Callable[[Any], str], tmp_path: Path) -> None:
    trainer = model()
    where = plant(engine := copy.deepcopy(trainer))
    found = compare_dumps(*both(tmp_path, engine, trainer))
    assert found.status == "differs" and found.start is not None
    assert found.start.place.how == "tokens" and found.start.place.scope == where
    assert found.start.inputs == "agree"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_continuous_batching_and_a_forward_pass_of_one_model_are_silent(dtype: torch.dtype, tmp_path: Path) -> None:
    found = compare_dumps(*both(tmp_path, model(dtype), model(dtype)))
    assert found.status == "within tolerance" and found.start is None and not found.not_paired
    assert {place.how for place in found.places} == {"tokens"} and len(found.places) > 60
    assert sum("lm_head" in text for text in found.unknown) == 2  # asked for the last tokens alone
    assert any("lm_head output 0 (24 tokens)" in place.reference for place in found.places)


TABLE = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)


def mixed(sequence: list[int], position: int) -> Array:
    """A vector of a token that depends on all that came before it."""
    return TABLE[sequence[: position + 1]].sum(0) @ WEIGHT  # type: ignore[no-any-return]


def dump(
    folder: Path, sequences: list[list[int]], steps: list[list[tuple[int, int]]], ends: bool = False, flat: bool = False
) -> Path:
    """Passes over (sequence, position) in one line each, as hooks write them; ``flat``: without an axis of lines."""
    folder.mkdir()
    names = ("embed.input.0", "embed.input.at", "embed.output.0", "layer.input.0", "layer.output.0")
    for number, step in enumerate(steps):
        ids = np.array([[sequences[n][p] for n, p in step]])
        made = np.stack([mixed(sequences[n], p) for n, p in step])[None]
        held: list[Array] = [ids, np.array([[p for _, p in step]]), TABLE[ids], TABLE[ids], made]
        if ends:
            last = [row for row, (n, p) in enumerate(step) if (n, p + 1) not in step]
            held += [made[:, last], made[:, last] * 2]
        for place, (name, value) in enumerate(zip((*names, "head.input.0", "head.output.0"), held, strict=False)):
            np.save(folder / f"{number:02d}{place}_{name}.npy", value[0] if flat else value)
    return folder


def whole(sequences: list[list[int]]) -> list[list[tuple[int, int]]]:
    return [[(n, p) for p in range(len(one))] for n, one in enumerate(sequences)]


SEQUENCES = [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 8, 7]]


def test_steps_of_several_requests_in_turn_are_told_apart_by_what_came_before(tmp_path: Path) -> None:
    """Of one length, with a beginning in common, in another order in every pass; with an axis of lines and without one."""
    turns = [[(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (1, 0)], [(1, 1), (0, 2)], [(0, 3), (2, 3), (1, 2)], [(1, 3)]]
    found = compare_dumps(dump(tmp_path / "a", SEQUENCES, whole(SEQUENCES)), dump(tmp_path / "b", SEQUENCES, turns))
    assert (found.status, found.not_paired) == ("identical", ())
    assert len(found.places) == 5 and all("(10 tokens)" in place.reference for place in found.places)
    flat = compare_dumps(tmp_path / "a", dump(tmp_path / "c", SEQUENCES, turns, flat=True))
    assert (flat.status, len(flat.places)) == ("identical", 5)


def test_a_token_that_could_go_on_either_of_two_sequences_is_left_out(tmp_path: Path) -> None:
    sequences = [[1, 2], [3, 2], [4, 5]]
    found = compare_dumps(
        dump(tmp_path / "a", sequences, whole(sequences)),
        dump(tmp_path / "b", sequences, [[(0, 0), (1, 0), (2, 0), (2, 1)], [(1, 1), (0, 1)]]),
    )
    assert found.status == "not compared" and [one.count for one in found.not_paired] == [2, 2]
    assert all("(4 tokens)" in place.reference and place.status == "identical" for place in found.places)


def test_tokens_of_one_side_alone_are_counted(tmp_path: Path) -> None:
    found = compare_dumps(
        dump(tmp_path / "a", SEQUENCES, whole(SEQUENCES)),
        dump(tmp_path / "b", SEQUENCES, [[(0, 0), (0, 1), (1, 0), (1, 1)], [(1, 2)]]),
    )
    assert found.status == "not compared"
    assert [(one.what, one.count) for one in found.not_paired] == [("tokens", 5)]


def test_a_head_that_is_asked_for_the_last_tokens_is_compared_on_these(tmp_path: Path) -> None:
    turns = [[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], [(0, 3), (1, 2)], [(1, 3)]]
    two = SEQUENCES[:2]
    plain = dump(tmp_path / "a", two, whole(two), ends=True)
    found = compare_dumps(plain, dump(tmp_path / "b", two, turns, ends=True))
    assert found.status == "identical"
    heads = [place for place in found.places if place.scope == "head"]
    assert len(heads) == 2 and all("(2 tokens)" in place.reference for place in heads)


def test_without_positions_nothing_is_guessed(tmp_path: Path) -> None:
    plain = dump(tmp_path / "a", SEQUENCES, whole(SEQUENCES))
    packed = dump(tmp_path / "b", SEQUENCES, [[place for one in whole(SEQUENCES) for place in one]])
    for folder in (plain, packed):
        for path in folder.glob("*input.at*"):
            path.unlink()
    found = compare_dumps(plain, packed)
    assert not any(place.how == "tokens" for place in found.places)


def test_other_tokens_in_the_same_pieces_are_what_differs_first(tmp_path: Path) -> None:
    other = [[1, 2, 3, 5], *SEQUENCES[1:]]
    found = compare_dumps(dump(tmp_path / "a", SEQUENCES, whole(SEQUENCES)), dump(tmp_path / "b", other, whole(other)))
    assert found.status == "differs" and {place.how for place in found.places} == {"name"}
    turned = compare_dumps(tmp_path / "a", dump(tmp_path / "c", SEQUENCES[::-1], whole(SEQUENCES)))
    assert turned.status == "identical" and {place.how for place in turned.places} == {"tokens"}

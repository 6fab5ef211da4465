"""Dumps in the formats of other tools, of two runs with a planted epsilon and of two equal ones: found, and silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._debug_mode import DebugMode
from typer.testing import CliRunner

from whydiff.cli import app
from whydiff.errors import TraceFormatError, UsageError
from whydiff.studies.dumps import DumpComparison, compare_dumps
from whydiff.studies.dumps.readers import read_dump

Values = dict[str, tuple[list[torch.Tensor], list[torch.Tensor], str]]


class Block(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.ln, self.up, self.down = nn.LayerNorm(16, eps=eps), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.ln(x))))  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList([Block(1e-5), Block(eps)])
        self.head = nn.Linear(16, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = 0.05 * self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


IDS = torch.arange(6)[None]
START = "layers.1.ln"


def model(eps: float) -> Model:
    torch.manual_seed(0)
    return Model(eps).eval()


def values(eps: float) -> Values:
    """Inputs and outputs of every module, in the order in which modules are entered."""
    made, found = model(eps), {}
    for name, module in made.named_modules():
        if name and name != "layers":

            def enter(module: nn.Module, args: Any, name: str = name) -> None:
                found[name] = ([value.clone() for value in args], [], type(module).__name__)

            def leave(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                found[name][1].append(out.clone())

            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    with torch.no_grad():
        made(IDS)
    return found


def msprobe(folder: Path, eps: float, tensors: bool = True) -> Path:
    """As msprobe 26.2 writes it at level L0, tasks ``tensor`` and ``statistics``."""
    place = folder / "step0" / f"proc{sum(map(ord, folder.name))}"  # the process's number: another one in every run
    (place / "dump_tensor_data").mkdir(parents=True)
    data: dict[str, Any] = {}
    for name, (inputs, outputs, kind) in values(eps).items():
        call = f"Module.{name}.{kind}.forward.0"
        record: dict[str, Any] = {"input_args": [], "input_kwargs": {}, "output": [], "parameters": {}}
        for role, some in (("input", inputs), ("output", outputs)):
            for n, value in enumerate(some):
                wide = value.float()
                one: dict[str, Any] = {"type": "torch.Tensor", "dtype": str(value.dtype), "shape": list(value.shape)}
                one |= {"Max": wide.max().item(), "Min": wide.min().item(), "Mean": wide.mean().item()}
                one |= {"Norm": wide.norm().item(), "requires_grad": False}
                if tensors:
                    one["data_name"] = f"{call}.{role}.{n}.pt"
                    torch.save(value, place / "dump_tensor_data" / one["data_name"])
                record["input_args" if role == "input" else "output"].append(one)
        data[call] = record
    head = {"task": "tensor" if tensors else "statistics", "level": "L0", "framework": "pytorch", "dump_data_dir": None}
    (place / "dump.json").write_text(json.dumps({**head, "data": data}))
    return folder


def statistics(folder: Path, eps: float) -> Path:
    return msprobe(folder, eps, tensors=False)


def sglang(folder: Path, eps: float) -> Path:
    """As SGLang's dumper writes it with ``non_intrusive_mode=all``."""
    folder.mkdir()
    index = 0
    for name, (inputs, outputs, _) in values(eps).items():
        for part, value in (*((f"inputs.{n}", v) for n, v in enumerate(inputs)), *(("output", v) for v in outputs)):
            index += 1
            tags = {"step": 0, "rank": 0, "dump_index": index, "name": f"non_intrusive__{name}.{part}"}
            file = "___".join(f"{key}={value}" for key, value in tags.items())
            torch.save({"value": value, "meta": {**tags, "world_size": 1}}, folder / f"{file}.pt")
    return folder


def plain(folder: Path, eps: float) -> Path:
    folder.mkdir()
    for name, (inputs, outputs, _) in values(eps).items():
        np.save(folder / f"{name}.input.npy", inputs[0].numpy())
        torch.save(outputs[0], folder / f"{name}.output.pt")
    return folder


def debug_mode(folder: Path, eps: float) -> Path:
    made = model(eps)
    with torch.no_grad(), DebugMode(record_nn_module=True) as mode, DebugMode.log_tensor_hashes(hash_inputs=True):
        made(IDS)
    (path := folder.with_suffix(".txt")).write_text(mode.debug_string())
    return path


def debugger(folder: Path, eps: float) -> Path:
    from transformers.model_debugging_utils import _attach_debugger_logic

    made = model(eps)
    _attach_debugger_logic(made, str(folder), do_prune_layers=False, use_repr=False)
    made(IDS)
    return folder


TOOLS: tuple[Callable[[Path, float], Path], ...] = (msprobe, statistics, sglang, plain, debug_mode, debugger)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_a_planted_epsilon_is_found_and_two_equal_runs_are_silent(tool: Callable[..., Path], tmp_path: Path) -> None:
    first, again, other = (tool(tmp_path / name, eps) for name, eps in (("a", 1e-5), ("b", 1e-5), ("c", 1e-3)))
    silent = compare_dumps(first, again)
    assert silent.status in ("identical", "same summary") and silent.start is None and not silent.not_paired
    assert {place.how for place in silent.places} == {"name"}
    assert (silent.status == "same summary") == (tool in (statistics, debug_mode))
    found = compare_dumps(first, other)
    assert found.status == "differs" and found.start is not None
    assert found.start.place.scope == START and found.start.inputs == "agree"
    done = CliRunner().invoke(app, ["dumps", str(first), str(other)])
    assert done.exit_code == 1 and START in done.stdout.splitlines()[0]
    assert CliRunner().invoke(app, ["dumps", str(first), str(again), "--json"]).exit_code == 0


def test_two_tools_are_compared_with_each_other(tmp_path: Path) -> None:
    found = compare_dumps(sglang(tmp_path / "a", 1e-5), plain(tmp_path / "b", 1e-3))
    assert found.start is not None and found.start.place.scope == START
    assert any("order of execution" in text for text in found.unknown)


def test_dumps_of_statistics_say_what_cannot_be_known(tmp_path: Path) -> None:
    found = compare_dumps(statistics(tmp_path / "a", 1e-5), statistics(tmp_path / "b", 1e-5))
    assert any("may still differ" in text for text in found.unknown) and found.status == "same summary"


def folder_of(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir()
    for number, (name, value) in enumerate(tensors.items()):
        torch.save(value, path / f"{number:03d}_{name.replace('__', '.')}.pt")
    return path


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
Q, K, V = X, X[..., :4] + 1, X[..., 4:] - 1


def test_inputs_of_another_step_say_nothing_of_this_one(tmp_path: Path) -> None:
    def dump(folder: Path, *steps: tuple[float, float]) -> Path:
        for number, norms in enumerate(steps):
            place = folder / f"step{number}"
            place.mkdir(parents=True)
            given, made = ([{"type": "torch.Tensor", "dtype": "float32", "shape": [4], "Norm": norm}] for norm in norms)
            data = {"Module.a.Linear.forward.0": {"input_args": given, "output": made}}
            (place / "dump.json").write_text(json.dumps({"data": data}))
        return folder

    found = compare_dumps(dump(tmp_path / "a", (1.0, 2.0), (1.0, 2.0)), dump(tmp_path / "b", (9.0, 8.0), (1.0, 7.0)))
    assert found.start is not None and found.start.inputs == "agree"
    assert found.start.place.call == ("Linear#0", "step1")


def test_fused_and_split_values_correspond(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "a", h=X, l__q=Q, l__k=K, l__v=V, out=X * 2)
    theirs = folder_of(tmp_path / "b", h=X, l__qkv=torch.cat([Q, K, V], -1), out=X * 2)
    for pair, how in (((ours, theirs), "fused"), ((theirs, ours), "split")):
        found = compare_dumps(*pair)
        assert {place.how for place in found.places} == {"name", how} and found.status == "identical"
    wrong = folder_of(tmp_path / "c", h=X, l__qkv=torch.cat([Q, K, V + 0.1], -1), out=X * 2)
    found = compare_dumps(ours, wrong)
    assert found.start is not None and found.start.place.how == "fused"


def test_hidden_and_residual_are_their_sum(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "a", layer__output=X, head=X * 2)
    theirs = folder_of(tmp_path / "b", layer__output_0=X * 0.25, layer__output_1=X * 0.75, head=X * 2)
    found = compare_dumps(ours, theirs)
    assert sorted(place.how for place in found.places) == ["name", "sum"]
    assert found.status in ("identical", "within tolerance") and not found.not_paired


def ranks(folder: Path, **values: list[torch.Tensor]) -> Path:
    """Values of several processes, as SGLang's dumper writes them."""
    folder.mkdir()
    for index, (name, parts) in enumerate(values.items()):
        for rank, part in enumerate(parts):
            tags = {"step": 0, "rank": rank, "dump_index": index, "name": name}
            torch.save({"value": part}, folder / ("___".join(f"{key}={value}" for key, value in tags.items()) + ".pt"))
    return folder


@pytest.mark.parametrize("count", [2, 12])
def test_parts_of_several_ranks_are_one_value(count: int, tmp_path: Path) -> None:
    """Columns, heads of attention, vocabulary: joined in the order of the ranks; what all ranks have is a copy."""
    q, heads = torch.randn(2, 5, 24), torch.randn(2, 24, 5, 4)
    whole = ranks(tmp_path / "whole", norm=[X], q=[q], scores=[heads], out=[X * 2])

    def dump(name: str, **other: list[torch.Tensor]) -> Path:
        parts = {"q": list(q.chunk(count, -1)), "scores": list(heads.chunk(count, 1))}
        return ranks(tmp_path / name, **{"norm": [X] * count, **parts, "out": [X * 2] * count, **other})

    for pair in ((whole, dump("a")), (dump("b"), whole)):
        found = compare_dumps(*pair)
        assert (found.status, found.not_paired) == ("identical", ())
        assert sorted(place.how for place in found.places) == ["name", "name", "ranks", "ranks"]
    wrong = [part + 0.1 * (rank == count - 1) for rank, part in enumerate(q.chunk(count, -1))]
    found = compare_dumps(whole, dump("c", q=wrong))
    assert found.start is not None and (found.start.place.scope, found.start.place.how) == ("q", "ranks")
    assert found.start.before.startswith("norm")
    turned = compare_dumps(whole, dump("d", q=list(q.chunk(count, -1))[::-1]))
    assert turned.status == "differs"


def test_a_rank_that_holds_something_else_is_no_copy(tmp_path: Path) -> None:
    found = compare_dumps(ranks(tmp_path / "a", x=[X]), ranks(tmp_path / "b", x=[X, X + 1]))
    assert found.status == "not compared" and found.not_paired[0].count == 1
    lost = compare_dumps(ranks(tmp_path / "c", x=[Q]), ranks(tmp_path / "d", x=list(Q.chunk(2, -1))[:1]))
    assert lost.status == "differs"


def test_other_roots_shapes_of_tokens_and_dtypes_correspond(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "a", model__layers__0=X, model__layers__1=X + 1)
    theirs = folder_of(tmp_path / "b", layers__0=X.reshape(10, 8), layers__1=(X + 1).reshape(10, 8).bfloat16())
    found = compare_dumps(ours, theirs)
    assert {place.how for place in found.places} <= {"name", "renamed", "shape"}
    assert found.places[0].status == "identical" and not found.not_paired


def test_what_only_one_dump_has_is_never_agreement(tmp_path: Path) -> None:
    found = compare_dumps(folder_of(tmp_path / "a", x=X, y=X[:1, :1] * 3), folder_of(tmp_path / "b", x=X))
    assert found.status == "not compared" and found.not_paired[0].count == 1


def test_what_is_no_dump_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_dump(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No tool"):
        read_dump(tmp_path / "empty")
    (tmp_path / "empty" / "dump.json").write_text("[1")
    with pytest.raises(TraceFormatError):
        read_dump(tmp_path / "empty")
    with pytest.raises(UsageError, match="Nothing corresponds"):
        compare_dumps(folder_of(tmp_path / "a", x=X), folder_of(tmp_path / "b", y=X[:1, :1, :3]))


def test_pickles_and_paths_outside_are_left_out(tmp_path: Path) -> None:
    import os
    import pickle

    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "it ran"),)

    dump = msprobe(tmp_path / "a", 1e-5)
    data = next(dump.rglob("dump_tensor_data"))
    names = sorted(data.iterdir())
    names[0].write_bytes(pickle.dumps(Call(), 2))
    index = next(dump.rglob("dump.json"))
    (tmp_path / "secret.pt").write_bytes(names[1].read_bytes())
    index.write_text(index.read_text().replace(names[1].name, "../../../../secret.pt"))
    found = compare_dumps(dump, msprobe(tmp_path / "b", 1e-5))
    assert not (tmp_path / "it ran").exists() and found.status == "not compared"
    assert sum(one.count for one in found.not_paired) == 2


def test_the_report_is_strict_json_and_draws_the_error(tmp_path: Path) -> None:
    found: DumpComparison = compare_dumps(msprobe(tmp_path / "a", 1e-5), msprobe(tmp_path / "b", 1e-3))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["status"] == "differs"
    found.save(str(tmp_path / "a.html"))
    assert "Relative L2 error of the outputs" in (tmp_path / "a.html").read_text()

"""Every exported model, as it is and with one thing changed in its file: what is found of it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from tests.corpus import apart
from tests.corpus.apart import Check, Planned
from tests.corpus.exports.integers import as_quantised, modules, quantised
from tests.corpus.exports.models import MODELS
from tests.corpus.exports.places import allowed, starts

from whydiff.records import Diagnosis, Origin, Verdict
from whydiff.studies.port import check_port

Change = Callable[[Any], bool]
"""Changes a model; False: it has nothing of the kind."""


@dataclass(frozen=True)
class Planted:
    """One thing that is changed in a file.

    Attributes:
        name: what.
        change: how.
        codes: causes that name it.
        says: a word that the cause's sentence has.
    """

    name: str
    change: Change
    codes: tuple[str, ...]
    says: str = ""


def attribute(op: str, name: str, value: Any) -> Change:
    """The first node of a kind gets another attribute."""

    def change(model: Any) -> bool:
        node = next((node for node in model.graph.node if node.op_type == op), None)
        if node is None:
            return False
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
        return True

    return change


def shifted_pads(model: Any) -> bool:
    """The zeros of the first padded convolution are all behind."""
    for node in model.graph.node:
        pads = next((one for one in node.attribute if one.name == "pads"), None)
        if node.op_type == "Conv" and pads is not None and any(pads.ints):
            space = len(pads.ints) // 2
            pads.ints[:] = [0] * space + [a + b for a, b in zip(pads.ints[:space], pads.ints[space:], strict=True)]
            return True
    return False


def baked(low: float, high: float, factor: float) -> Change:
    """A lone constant between two limits becomes another number."""

    def change(model: Any) -> bool:
        names = {
            n for node in model.graph.node if node.op_type in ("Add", "Mul", "Div", "Sub", "Pow") for n in node.input
        }
        tensors = [t for t in model.graph.initializer if t.name in names]
        tensors += [n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.output[0] in names]
        for tensor in tensors:
            array = onnx.numpy_helper.to_array(tensor)
            if array.size == 1 and array.dtype == np.float32 and low < abs(float(array.reshape(()))) < high:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(factor), tensor.name))
                return True
        return False

    return change


PLANTED = (
    Planted("pads behind", shifted_pads, ("FO008",), "pads"),
    Planted("layer norm's epsilon", attribute("LayerNormalization", "epsilon", 1e-2), ("FO002",), "0.01"),
    Planted("epsilon, spelt out", baked(1e-7, 1e-4, 1e4), ("FO002",), ""),
    Planted("batch norm's epsilon", attribute("BatchNormalization", "epsilon", 1e-2), ("FO002",), "0.01"),
    Planted("GELU's form", attribute("Gelu", "approximate", "tanh"), ("FO001",), "tanh"),
    Planted("softmax's axis", attribute("Softmax", "axis", 1), ("FO008",), "axis"),
    Planted(
        "resize: grid", attribute("Resize", "coordinate_transformation_mode", "align_corners"), ("FO008",), "corners"
    ),
    Planted("resize: kernel", attribute("Resize", "mode", "linear"), ("FO008",), "linear"),
    Planted("resize: coefficient", attribute("Resize", "cubic_coeff_a", -0.5), ("FO008",), "-0.5"),
    Planted("GRU: reset before", attribute("GRU", "linear_before_reset", 0), ("FO008",), "linear_before_reset"),
    Planted("leaky slope", attribute("LeakyRelu", "alpha", 0.01), ("FO003", "FO001", "FO008"), ""),
    Planted("a factor", baked(0.02, 12.0, 1.5), ("FO003", "FO008", "FO001"), ""),
)
EXPORTERS = {"torchscript": False, "dynamo": True}
CASES = {f"{model} [{by}]": (model, dynamo) for model in MODELS for by, dynamo in EXPORTERS.items()}


def exported(name: str, folder: Path, *, dynamo: bool) -> tuple[torch.nn.Module, torch.Tensor, Path]:
    model, x = MODELS[name]()
    path = folder / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(model, (x,), str(path), dynamo=dynamo, verbose=False)
    return model, x, path


def checked(model: torch.nn.Module, path: Path, x: torch.Tensor) -> Diagnosis:
    with torch.no_grad():
        return check_port(model, path, (x,), (x,))


def changes_anything(path: Path, other: Path, x: torch.Tensor) -> bool:
    """Whether a changed file runs and gives other numbers than before."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        first, second = (
            [
                one
                for s in [onnxruntime.InferenceSession(str(file), options)]
                for one in s.run(None, {s.get_inputs()[0].name: x.numpy()})
            ]
            for file in (path, other)
        )
    except Exception:  # noqa: BLE001  (the runtime's own errors)
        return False
    return all(a.shape == b.shape for a, b in zip(first, second, strict=True)) and any(
        np.abs(a - b).max() > 1e-4 * np.abs(a).max() for a, b in zip(first, second, strict=True)
    )


def case(name: str) -> Iterator[Planned | Check]:
    """One model of one exporter: as it is, and with each change that it has a place for and that changes its numbers."""
    made, dynamo = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        model, x, path = exported(made, Path(folder), dynamo=dynamo)
        good = onnx.load(path)
        files = {f"{name} {plant.name}": (plant, file) for plant, file in _changed(path, x)}
        small = {
            f"{name} int8, {'one scale per channel' if each else 'one scale'}": (each, file)
            for each, file in quantised(path)
            if changes_anything(path, file, x)
        }
        yield [(name, "right"), *((one, "planted") for one in (*files, *small))]
        yield as_it_is(name, checked(model, path, x))
        for one, (plant, file) in files.items():
            changed = onnx.load(file)
            found = checked(model, file, x)
            yield as_planted(one, plant, found, allowed(good, changed), len(starts(good, changed)))
        for one, (each, file) in small.items():
            yield as_quantised(one, checked(model, file, x), modules(good), per_channel=each)


def _changed(path: Path, x: torch.Tensor) -> Iterator[tuple[Planted, Path]]:
    for number, plant in enumerate(PLANTED):
        model, file = onnx.load(path), path.with_name(f"{number}.onnx")
        if plant.change(model):
            onnx.save(model, file)
            if changes_anything(path, file, x):
                yield plant, file


def as_it_is(name: str, found: Diagnosis) -> Check:
    """A right file is `identical` or `rounding`, and nothing is confirmed but what rounds in another order."""
    right = found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    sure = tuple(
        f"{c.code}: {c.says}" for c in found.causes if c.status == "confirmed" and c.verdict is not Verdict.ROUNDING
    )
    told = "; ".join(f"{o.site} {o.evidence[0].statement}" for o in found.origins)
    return Check(
        name=name, kind="right", placed=right, named=right, wrong=sure, told=f"{found.verdict} {found.reason} {told}"
    )


def as_planted(name: str, plant: Planted, found: Diagnosis, places: set[str], most: int) -> Check:
    """Every origin is in one of the places, at most one for each changed node; a confirmed cause names it."""
    sure = [c for c in found.causes if c.status == "confirmed"]
    told = "; ".join(f"{c.code} {c.status} {c.says}" for c in found.causes if c.code != "CP003")
    at = ", ".join(str(origin.site) for origin in found.origins)
    return Check(
        name=name,
        kind="planted",
        placed=0 < len(found.origins) <= most and all(_in(origin, places) for origin in found.origins),
        named=any(c.code in plant.codes and plant.says in c.says for c in sure),
        wrong=tuple(f"{c.code}: {c.says}" for c in sure if c.code not in plant.codes),
        told=f"{found.verdict} at [{at}], planted in {sorted(places)} {told}",
    )


def _in(origin: Origin, places: set[str]) -> bool:
    """Whether an origin is one of the places by either side's name: of a folded norm and its layer a file keeps one."""
    return bool({origin.site.scope, origin.candidate_site.scope} & places)


if __name__ == "__main__":
    sys.exit(apart.main("tests.corpus.exports.score", list(CASES), case))

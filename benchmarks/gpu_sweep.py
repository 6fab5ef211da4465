"""Batch dependence on one NVIDIA GPU: linear layers in float32, TF32, float16 and bfloat16; a 1B-shaped Llama.

    PYTHONPATH=src python benchmarks/gpu_sweep.py --out gpu_sweep.json

Needs torch with CUDA; the Llama is written out here, so that neither transformers nor a network is needed. Every
cell is checked against ``torch.equal`` on plain runs. What it prints goes into docs/explanation/shape-dependence.md.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
import torch.nn.functional as F

import whydiff


class Block(torch.nn.Module):
    """A Llama block: RMS norm, rotary attention with grouped keys, gated MLP."""

    def __init__(self, width: int, hidden: int, heads: int, groups: int, **factory: Any) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norms = torch.nn.ParameterList(torch.nn.Parameter(torch.ones(width, **factory)) for _ in range(2))
        self.q = torch.nn.Linear(width, width, bias=False, **factory)
        self.kv = torch.nn.Linear(width, 2 * groups * self.size, bias=False, **factory)
        self.o = torch.nn.Linear(width, width, bias=False, **factory)
        self.up = torch.nn.Linear(width, 2 * hidden, bias=False, **factory)
        self.down = torch.nn.Linear(hidden, width, bias=False, **factory)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        h = rms(x, self.norms[0])
        q = rotate(self.q(h).view(batch, length, self.heads, self.size).transpose(1, 2), cos, sin)
        k, v = self.kv(h).view(batch, length, 2, self.groups, self.size).permute(2, 0, 3, 1, 4)
        k = rotate(k, cos, sin).repeat_interleave(self.heads // self.groups, 1)
        v = v.repeat_interleave(self.heads // self.groups, 1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.up(rms(x, self.norms[1])).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(torch.nn.Module):
    """Random weights in the shape of Llama-3.2-1B (2048 wide, 16 layers, 32 heads, 8 groups, MLP 8192)."""

    def __init__(
        self, layers: int = 16, width: int = 2048, hidden: int = 8192, vocabulary: int = 32000, **factory: Any
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(vocabulary, width, **factory)
        self.layers = torch.nn.ModuleList(Block(width, hidden, 32, 8, **factory) for _ in range(layers))
        self.norm = torch.nn.Parameter(torch.ones(width, **factory))
        self.head = torch.nn.Linear(width, vocabulary, bias=False, **factory)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        size = self.layers[0].size
        inverse = 500000.0 ** -(torch.arange(0, size, 2, device=ids.device) / size)
        angles = torch.outer(torch.arange(ids.shape[1], device=ids.device).float(), inverse).repeat(1, 2)
        dtype = self.norm.dtype
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, angles.cos().to(dtype), angles.sin().to(dtype))
        return self.head(rms(x, self.norm))


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat([-other, one], -1) * sin


def report(name: str, study: Any, plain: dict[str, bool], seconds: float) -> dict[str, Any]:
    wrong = [str(cell.size) for cell in study.cells if cell.outputs_equal != plain[str(cell.size)]]
    kernels = {
        str(cell.size): sorted(
            {(f.op, " + ".join(f.kernels[0]), " + ".join(f.kernels[1])) for f in cell.found if f.kernels[0]}
        )
        for cell in study.cells
    }
    shares = {
        str(c.size): {slot: (m["different"], m.get("max_abs")) for slot, m in c.outputs.items()} for c in study.cells
    }
    return {
        "case": name,
        "verdict": str(study.verdict),
        "reason": study.reason,
        "causes": [c.code for c in study.causes],
        "cells that plain torch contradicts": wrong,
        "outputs (share changed, max abs)": shares,
        "classes": [[c.what, c.where, c.groups, c.sites] for c in study.classes],
        "kernels": kernels,
        "remedies": [[r.name, r.equal, r.tried, r.max_abs, round(r.cost, 2), r.failed] for r in study.remedies],
        "flips": {str(c.size): [c.flips, c.positions] for c in study.cells},
        "notes": study.notes,
        "unaccounted": sum(c.accounted is False for c in study.cells),
        "seconds": round(seconds, 1),
    }


def run(name: str, model: Any, make: Any, batches: str, length: int = 0) -> dict[str, Any]:
    began = time.perf_counter()
    study = whydiff.sweep(model, make, batch=batches, length=length or None)
    seconds = time.perf_counter() - began
    asked = {"length": length} if length else {}
    alone = model(*make(batch=1, **asked))
    plain = {
        str(cell.size): bool(torch.equal(model(*make(batch=cell.size.batch, **asked))[:1], alone))
        for cell in study.cells
    }
    found = report(name, study, plain, seconds)
    print(json.dumps(found, indent=1), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="gpu_sweep.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--widths", default="1024,2048,4096")
    parser.add_argument("--batches", default="1,2,8,16,64,256")
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    device = asked.device
    results: list[dict[str, Any]] = []
    cuda = device.startswith("cuda")
    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu"}
    print(about, flush=True)

    def keep(found: dict[str, Any]) -> None:
        results.append(found)
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({"about": about, "results": results}, file, indent=1)

    for width in map(int, asked.widths.split(",")):
        for dtype, tf32 in (("float32", False), ("float32", True), ("float16", False), ("bfloat16", False)):
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.manual_seed(0)
            linear = torch.nn.Linear(width, width, bias=False, device=device, dtype=getattr(torch, dtype))
            x = torch.randn(4096, width, device=device, dtype=getattr(torch, dtype))
            name = f"F.linear K={width} {'TF32' if tf32 else dtype}"
            keep(run(name, linear, lambda batch, x=x: (x[:batch],), asked.batches))
    torch.set_float32_matmul_precision("highest")
    ids = torch.randint(0, 32000, (64, 64), generator=torch.Generator().manual_seed(0)).to(device)
    for dtype in ("bfloat16", "float32"):
        model = Llama(asked.layers, device=device, dtype=getattr(torch, dtype)).eval()
        keep(run(f"Llama 1B-shaped {dtype}", model, lambda batch, length: (ids[:batch, :length],), "1,2,8,32", 64))
        del model


if __name__ == "__main__":
    main()

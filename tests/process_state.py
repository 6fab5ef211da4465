"""Run by `test_process_state` in a process of its own: everything that must be as before, in words that compare."""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def of_python() -> dict[str, Any]:
    return {
        "cwd": os.getcwd(),
        "variables": dict(os.environ),
        "filters": [repr(item) for item in warnings.filters],
        "showwarning": id(warnings.showwarning),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "sys.path": list(sys.path),
        "streams": (id(sys.stdout), id(sys.stderr)),
        "recursion": sys.getrecursionlimit(),
        "numpy errors": np.geterr(),
        "python random": hash(random.getstate()),
        "numpy random": repr(np.random.get_state()),
        "main module": id(sys.modules["__main__"]),
        "threads of ours": sum("whydiff" in thread.name for thread in threading.enumerate()),
        "open files": sorted(
            target
            for target in _targets()
            if not target.startswith(("/dev/", "/proc/", "pipe:", "socket:", "anon_inode"))
        ),
    }


def _targets() -> list[str]:
    folder = "/proc/self/fd"
    found = []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            found.append(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:  # the listing's own
            continue
    return found


def of_torch() -> dict[str, Any]:
    import torch
    from torch.nn.modules import module as modules
    from torch.utils import deterministic

    cuda = torch.backends.cuda
    return {
        "grad": torch.is_grad_enabled(),
        "forward grad": torch._C._is_fwd_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": [(torch.is_autocast_enabled(d), str(torch.get_autocast_dtype(d))) for d in ("cpu", "cuda")],
        "autocast cache": torch.is_autocast_cache_enabled(),
        "autocast depth": (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()),
        "random": hash(torch.get_rng_state().numpy().tobytes()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "matmul precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mkldnn": torch.backends.mkldnn.enabled,  # type: ignore[attr-defined]
        "attention": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default": (str(torch.get_default_dtype()), str(torch.get_default_device())),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "anomaly": torch.is_anomaly_enabled(),
        "global hooks": {
            n: len(v) for n, v in vars(modules).items() if n.startswith("_global_") and isinstance(v, dict)
        },
    }


def of_module(module: Any) -> dict[str, Any]:
    return {
        "training": [child.training for child in module.modules()],
        "hooks": [
            {name: len(value) for name, value in vars(child).items() if name.endswith("hooks")}
            for child in module.modules()
        ],
        "parameters": [
            (name, id(p), p.data_ptr(), p.requires_grad, None if p.grad is None else p.grad.tolist(), p.tolist())
            for name, p in module.named_parameters()
        ],
        "buffers": [(name, id(b), b.tolist()) for name, b in module.named_buffers()],
        "forward": [("forward" in vars(child), type(child).__name__) for child in module.modules()],
    }


def of_jax() -> dict[str, Any]:
    import jax

    return {name: repr(value) for name, value in jax.config.values.items()}


# --------------------------------------------------------------------------- programs


def leaks_torch() -> None:
    """What a program may leave behind, all at once."""
    import torch

    torch.set_grad_enabled(False)
    torch.autograd.forward_ad._set_fwd_grad_enabled(False)  # type: ignore[attr-defined]
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.set_autocast_cache_enabled(False)
    torch.autocast_increment_nesting()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_flash_sdp(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.autograd.set_detect_anomaly(True)
    torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    torch.manual_seed(77)


def leaks_python() -> None:
    os.chdir("/")
    os.environ["LEFT_BEHIND"] = "1"
    os.environ.pop("HOME", None)
    warnings.simplefilter("error")
    gc.disable()
    gc.set_threshold(1, 2, 3)
    sys.path.insert(0, "/left/behind")
    sys.setrecursionlimit(sys.getrecursionlimit() + 100)
    np.seterr(all="raise")
    random.seed(7)
    np.random.seed(7)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - left open
    del sys.modules["json"]


def torch_pair(leak: bool, fail: bool) -> tuple[Callable[[], Any], list[Any]]:
    import torch

    import whydiff

    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(6)) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    models[1][0].weight.data[0, 0] += 0.5
    for model in models:
        model.train()
        model(torch.ones(3, 6)).sum().backward()
        model[0].bias.requires_grad_(False)
        model[0].register_forward_hook(lambda *_: None)

    def side(model: Any) -> Callable[..., Any]:
        def run(x: Any) -> Any:
            y = model(x)
            (y.sum() if y.requires_grad else torch.ones((), requires_grad=True)).backward()
            model.eval()
            model[0].weight.requires_grad_(False)
            model[0].register_forward_hook(lambda *_: None)
            if leak:
                leaks_torch()
                leaks_python()
            if fail and model is models[1]:
                raise ValueError("on purpose")
            return y.detach()

        return run

    x = torch.randn(4, 6)
    return lambda: whydiff.compare(side(models[0]), side(models[1]), x), models


def two_steps(fail: bool) -> tuple[Callable[[], Any], list[Any]]:
    """Optimizer steps, whose ops run without gradients."""
    import torch

    import whydiff

    x, y = torch.randn(2, 16, 12), torch.arange(32).reshape(2, 16) % 4

    def train(rate: float) -> Any:
        torch.manual_seed(0)
        model = torch.nn.Linear(12, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        losses = []
        for one, other in zip(x, y, strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(one), other)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if fail and rate > 0.01:
            raise ValueError("on purpose")
        return torch.stack(losses)

    return lambda: whydiff.compare(lambda: train(0.01), lambda: train(0.02)), []


def compiled(fail: bool) -> tuple[Callable[[], Any], list[Any]]:
    import torch

    import whydiff

    @torch.compile(backend="aot_eager")
    def fast(x: Any) -> Any:
        return torch.sin(x.bfloat16() * 1.25).float()

    def plain(x: Any) -> Any:
        if fail:
            raise ValueError("on purpose")
        return torch.sin(x * 1.25)

    x = torch.randn(50)
    fast(x)
    return lambda: whydiff.compare(fast, plain, x), []


def jax_pair(leak: bool, fail: bool) -> tuple[Callable[[], Any], list[Any]]:
    import jax
    import jax.numpy as jnp

    import whydiff

    def side(scale: float) -> Callable[..., Any]:
        def run(x: Any) -> Any:
            y = jnp.tanh(x * scale) @ x
            if leak:
                jax.config.update("jax_default_matmul_precision", "bfloat16")
                jax.config.update("jax_debug_nans", True)
                leaks_python()
            if fail and scale > 1:
                raise ValueError("on purpose")
            return y

        return run

    x = jnp.arange(16.0).reshape(4, 4) / 7
    return lambda: whydiff.compare(side(1.0), side(1.5), x), []


def differences(framework: str, program: str, fail: bool) -> dict[str, Any]:
    """What a comparison changed: name → (before, after)."""
    make = {
        "leaking": lambda: torch_pair(True, fail) if framework == "torch" else jax_pair(True, fail),
        "plain": lambda: torch_pair(False, fail) if framework == "torch" else jax_pair(False, fail),
        "steps": lambda: two_steps(fail),
        "compiled": lambda: compiled(fail),
    }[program]
    work, models = make()
    states = [of_python, of_torch if framework == "torch" else of_jax, *(lambda m=m: of_module(m) for m in models)]
    before = [state() for state in states]
    outcome = "ended"
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the caller looks at it
        outcome = type(error).__name__
        if not fail:
            outcome += f": {error}"
    after = [state() for state in states]
    changed = {
        name: (old[name], new.get(name))
        for old, new in zip(before, after, strict=True)
        for name in old
        if old[name] != new.get(name)
    }
    return {"outcome": outcome, "changed": repr(changed) if changed else ""}


if __name__ == "__main__":
    answer = differences(sys.argv[1], sys.argv[2], sys.argv[3] == "fail")
    sys.__stdout__.write(json.dumps(answer))  # type: ignore[union-attr]

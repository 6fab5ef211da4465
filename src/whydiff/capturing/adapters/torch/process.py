"""What PyTorch keeps for the whole process, as it was found, and the way back."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as modules
from torch.utils import _device as devices
from torch.utils import deterministic

from whydiff.capturing.adapters.contract import Kept
from whydiff.capturing.adapters.torch.compiled import Versions
from whydiff.capturing.adapters.torch.environment import apply_flags, autocast_depth, flags_now
from whydiff.records import Payload

RandomStates = tuple[Any, ...]
_DEVICES = ("cpu", "cuda")
_HOOKS = tuple(
    value for name, value in vars(modules).items() if name.startswith("_global_") and isinstance(value, dict)
)
_COMPILERS = ("torch._dynamo.config", "torch._inductor.config", "torch._functorch.config")


def _switches() -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """(value now, how to set it) of what is not in `Flags`."""
    c: Any = torch._C
    yield torch.is_grad_enabled(), c._set_grad_enabled
    yield c._is_fwd_grad_enabled(), c._set_fwd_grad_enabled
    yield c._is_multithreading_enabled(), c._set_multithreading_enabled
    for device in _DEVICES:
        yield torch.is_autocast_enabled(device), functools.partial(torch.set_autocast_enabled, device)
        yield torch.get_autocast_dtype(device), functools.partial(torch.set_autocast_dtype, device)
    yield torch.is_autocast_cache_enabled(), torch.set_autocast_cache_enabled
    yield torch.get_default_dtype(), torch.set_default_dtype
    yield _deterministic(), lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1])
    fills: Any = deterministic
    yield fills.fill_uninitialized_memory, lambda on: setattr(fills, "fill_uninitialized_memory", on)
    yield devices.CURRENT_DEVICE, lambda device: setattr(devices, "CURRENT_DEVICE", device)
    default: Any = torch._GLOBAL_DEVICE_CONTEXT
    yield vars(default).get("device_context"), lambda context: setattr(default, "device_context", context)
    yield torch.is_warn_always_enabled(), torch.set_warn_always
    yield _anomaly(), lambda both: torch.autograd.set_detect_anomaly(both[0], check_nan=both[1])
    cuda = torch.backends.cuda
    yield cuda.flash_sdp_enabled(), cuda.enable_flash_sdp
    yield cuda.mem_efficient_sdp_enabled(), cuda.enable_mem_efficient_sdp
    yield cuda.math_sdp_enabled(), cuda.enable_math_sdp
    yield cuda.cudnn_sdp_enabled(), cuda.enable_cudnn_sdp
    yield c._get_cudnn_enabled(), c._set_cudnn_enabled


class Process(Kept):
    """Remembers on construction, puts back in `restore` what changed since.

    Grad, inference and autocast mode, default dtype and device, threads, determinism, the switches that choose
    kernels, modes that intercept functions and ops, hooks on all modules, the compiler's settings and versions, and
    PyTorch's random states.
    """

    def __init__(self) -> None:
        self._random, self._flags = _drawn_from(), flags_now()
        self._switches = [value for value, _ in _switches()]
        self._inference = torch.is_inference_mode_enabled()
        self._autocast = autocast_depth()
        self._functions, self._function_modes = torch._C._len_torch_function_stack(), _function_modes()
        self._ops = torch._C._len_torch_dispatch_stack()
        self._hooks = [dict(hooks) for hooks in _HOOKS]
        self._versions = Versions()
        self._compilers = {name: sys.modules[name].save_config() for name in _COMPILERS if name in sys.modules}

    def restore(self) -> None:
        """Put everything back that changed."""
        self._restore_modes()
        apply_flags(self._flags.as_dict())
        for before, (now, put) in zip(self._switches, _switches(), strict=True):
            if now != before:
                put(before)
        for hooks, kept in zip(_HOOKS, self._hooks, strict=True):
            if hooks != kept:
                hooks.clear()
                hooks.update(kept)
        for name, settings in self._compilers.items():
            config: Any = sys.modules[name]
            if config.save_config() != settings:
                config.load_config(settings)
        self._versions.restore()
        _draw_from(*self._random)

    def _restore_modes(self) -> None:
        while torch._C._len_torch_dispatch_stack() > self._ops:
            torch._C._pop_torch_dispatch_stack()
        if torch._C._len_torch_function_stack() != self._functions or _function_modes() != self._function_modes:
            while torch._C._len_torch_function_stack():
                torch._C._pop_torch_function_stack()
            for mode in self._function_modes:
                torch._C._push_on_torch_function_stack(mode)
        for _ in range(autocast_depth() - self._autocast):
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
        if torch.is_inference_mode_enabled() != self._inference:
            # The guard that was left open cannot be closed from outside; another one inside it says the opposite.
            _LEFT_OPEN.append(torch._C._InferenceMode(self._inference))


_LEFT_OPEN: list[Any] = []


def _function_modes() -> list[Any]:
    count = torch._C._len_torch_function_stack()
    return [torch._C._get_function_stack_at(index) for index in range(count)]


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def random_states() -> RandomStates:
    """States of torch's, Python's and numpy's global generators."""
    return *_drawn_from(), random.getstate(), np.random.get_state()


def is_found_in(state: Payload | None, states: RandomStates) -> bool:
    """Whether a state that was drawn from, as bytes, is one of torch's in `random_states`."""
    return state is not None and any(np.array_equal(state.bits, known.numpy()) for known in (states[0], *states[1]))


def set_random_states(states: RandomStates) -> None:
    """Put `random_states` back."""
    cpu, devices, python, numpy = states
    _draw_from(cpu, devices)
    random.setstate(python)
    np.random.set_state(numpy)


def _drawn_from() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """States of torch's generators: of the processor, and of every device that is in use."""
    devices = [torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())] if _cuda() else []
    return torch.get_rng_state(), devices


def _draw_from(cpu: torch.Tensor, devices: list[torch.Tensor]) -> None:
    torch.set_rng_state(cpu)
    for index, state in enumerate(devices):
        torch.cuda.set_rng_state(state, index)


def _cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()

"""The cheap pass: digests, samples, losses and settings of every step, for a small share of the step's time."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.dtypes import integer_view, not_comparable, raw
from whydiff.capturing.adapters.torch.fingerprints import row_major, spans_lanes
from whydiff.capturing.adapters.torch.optimizers import parameters_of, settings_of, state_of
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.training.following import Following
from whydiff.capturing.steps import StepRecord

_SAMPLED = 1024
"""Elements of all parameters together that are kept of every step."""
Digests = list[str]


class Watching(Following):
    """Gives a `StepRecord` of every step that runs in its block.

    Args:
        sink: receives the records, in order, at the latest while the next step runs.
    """

    def __init__(self, sink: Callable[[StepRecord], None]) -> None:
        super().__init__()
        self._sink = sink
        self._losses: list[torch.Tensor] = []
        self._batch = ""
        self._pending: Callable[[], StepRecord] | None = None
        self._of = 0
        self._looks: list[Any] = []
        self._hooked: list[int] = []
        self._began = time.perf_counter()

    def __exit__(self, *exception: Any) -> None:
        try:
            self.updated_by_hand()
            if self.roots and self._of != self.number:
                self._flush()
                self.gradients_ready(None)  # how the last update left the parameters
            self._flush()
        finally:
            for look in self._looks:
                look.remove()
            super().__exit__(*exception)

    def differentiated(self, losses: tuple[torch.Tensor, ...]) -> None:
        self._losses += [loss.detach() for loss in losses if loss.numel() == 1]

    def gradients_ready(self, optimizer: torch.optim.Optimizer | None) -> None:
        if self._of != self.number:  # a step before, whose record was still on a device
            self._flush()
        self._look_at_inputs()
        self._pending, self._of = self._record(optimizer), self.number

    def ended(self) -> None:
        self._losses, self._batch = [], ""
        if self._on_host():
            self._flush()

    def _flush(self) -> None:
        if self._pending is not None:
            record, self._pending = self._pending(), None
            self._sink(record)

    def _on_host(self) -> bool:
        return all(p.device.type == "cpu" for _, root in self.roots for p in root.parameters())

    def _look_at_inputs(self) -> None:
        for _, root in self.roots:
            if id(root) not in self._hooked:
                self._hooked.append(id(root))
                self._looks.append(root.register_forward_pre_hook(self._entered, with_kwargs=True))

    def _entered(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            given = [tensor for _, tensor in tensors_in([args, kwargs]) if tensor.device.type == "cpu"]
            self._batch = combined([self._batch, *digests(given)])

    def _record(self, optimizer: torch.optim.Optimizer | None) -> Callable[[], StepRecord]:
        """What is known now; what lies on a device is read when the record is asked for."""
        named = self.parameters()
        names, tensors = [name for name, _ in named], [tensor for _, tensor in named]
        slopes = [(i, t.grad) for i, t in enumerate(tensors) if t.is_leaf and t.grad is not None]
        state = list(state_of(optimizer)) if optimizer is not None else []
        kept = [(slot, value) for slot, value in state if isinstance(value, torch.Tensor)]
        lanes = Lanes([*tensors, *(gradient for _, gradient in slopes), *(value for _, value in kept)])
        trained = {id(p) for p in parameters_of(optimizer)} if optimizer is not None else None
        sample, share = sampled(tensors, tensors)
        gradients, _ = sampled(tensors, [t.grad if t.is_leaf else None for t in tensors])
        losses = list(self._losses)
        fixed: dict[str, Any] = {
            "number": self.number,
            "names": tuple(names),
            "trained": tuple(trained is None or id(t) in trained for t in tensors),
            "settings": settings_of(optimizer) if optimizer is not None else {},
            "random": random_digests(),
            "batch": self._batch,
            "share": share,
            "seconds": time.perf_counter() - self._began,
        }

        def read() -> StepRecord:
            found = lanes.read()
            after = len(tensors) + len(slopes)
            given = dict(zip((i for i, _ in slopes), found[len(tensors) : after], strict=True))
            by_name: dict[str, list[str]] = {}
            plain = [(slot, repr(value)) for slot, value in state if not isinstance(value, torch.Tensor)]
            for slot, digest in (*zip((s for s, _ in kept), found[after:], strict=True), *plain):
                by_name.setdefault(slot.partition(".")[2], []).append(digest)
            return StepRecord(
                weights=tuple(found[: len(tensors)]),
                gradients=tuple(given.get(i, "") for i in range(len(tensors))),
                state={name: combined(parts) for name, parts in by_name.items()},
                losses=tuple(loss.item() for loss in losses),
                sample=sample.numpy(force=True),
                slopes=gradients.numpy(force=True),
                **fixed,
            )

        return read


class Lanes:
    """Digests of many tensors: those on the host at once, those on a device when they are read.

    Args:
        tensors: of any layout.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._count = len(tensors)
        spans, self._host = [], []
        on_device, self._device = [], []
        for i, tensor in enumerate(tensors):
            if not_comparable(tensor):
                continue
            if tensor.device.type == "cpu":
                spans.append(row_major(tensor))
                self._host.append(i)
            else:
                on_device.append(integer_view(raw(tensor.detach())).sum(dtype=torch.int64))  # mod 2⁶⁴, in any order
                self._device.append(i)
        self._lanes = spans_lanes(spans)
        self._sums = torch.stack(on_device) if on_device else None

    def read(self) -> Digests:
        """A digest per tensor; empty for what cannot be looked at."""
        found = [""] * self._count
        for i, lanes in zip(self._host, self._lanes, strict=True):
            found[i] = f"{lanes[0]:016x}"
        if self._sums is not None:
            for i, total in zip(self._device, self._sums.tolist(), strict=True):
                found[i] = f"{total & 0xFFFFFFFFFFFFFFFF:016x}"
        return found


def digests(tensors: Sequence[torch.Tensor]) -> Digests:
    """A digest per tensor."""
    return Lanes(tensors).read()


def combined(parts: Iterable[str]) -> str:
    """One digest of several, in order."""
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


def sampled(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, float]:
    """Evenly spaced elements of what has the shapes of the given tensors, and how many each stands for.

    Returns:
        float32 `[k]`, with NaN where there is no value; one number.
    """
    floating = [(t, v) for t, v in zip(tensors, values, strict=True) if t.is_floating_point() and t.numel()]
    total = sum(t.numel() for t, _ in floating)
    if not total:
        return torch.empty(0), 1.0
    stride = max(1, total // _SAMPLED)
    parts = []
    for tensor, value in floating:
        kept = -(-tensor.numel() // stride)
        if value is None or value.layout is not torch.strided:
            parts.append(torch.full((kept,), float("nan"), device=tensor.device))
        else:
            parts.append(value.detach().reshape(-1)[::stride].to(torch.float32))
    device = parts[0].device
    found = torch.cat([part.to(device) for part in parts])
    return found, total / len(found)


def random_digests() -> dict[str, str]:
    """Generator → digest of its state."""
    numbers: Any = np.random.get_state()
    found = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "python": np.array(random.getstate()[1], dtype=np.uint64).tobytes(),
        "numpy": numbers[1].tobytes() + int(numbers[2]).to_bytes(4, "little"),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            found[f"cuda:{device}"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return {name: hashlib.blake2b(state, digest_size=8).hexdigest() for name, state in found.items()}


__all__ = ["Watching"]

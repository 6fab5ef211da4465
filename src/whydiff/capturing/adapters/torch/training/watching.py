"""The cheap pass: digests, samples, losses and settings of every step, for a small share of the step's time."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from whydiff.capturing.adapters.torch.device.queue import Queue, in_graph, known, usable
from whydiff.capturing.adapters.torch.dtypes import dtype_name, not_comparable, plain
from whydiff.capturing.adapters.torch.fingerprints import row_major, spans_lanes
from whydiff.capturing.adapters.torch.optimizers import parameters_of, settings_of, state_of
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.training.following import Following
from whydiff.capturing.steps import StepRecord
from whydiff.errors import collecting, guarded

_SAMPLED = 1024
"""Elements of all parameters together that are kept of every step."""
Digests = list[str]


class Watching(Following):
    """Gives a `StepRecord` of every step that runs in its block.

    Args:
        sink: receives the records, in order, at the latest while the next step runs.

    Attributes:
        lost: why a step has no record; empty: all have one. The program does not hear of it.
    """

    def __init__(self, sink: Callable[[StepRecord], None]) -> None:
        super().__init__()
        self._sink = sink
        self.lost = ""
        self._losses: list[torch.Tensor] = []
        self._batch: list[Lanes] = []
        self._pending: Callable[[], StepRecord] | None = None
        self._of = 0
        self._queue = Queue()
        self._looks: list[Any] = []
        self._hooked: list[int] = []
        self._began = time.perf_counter()

    def __exit__(self, *exception: Any) -> None:
        try:
            with self.aside():
                self.updated_by_hand()
                if self.roots and self._of != self.number:
                    self._flush()
                    self.gradients_ready(None)  # how the last update left the parameters
                self._flush()
        finally:
            for look in self._looks:
                look.remove()
            super().__exit__(*exception)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What fails here is noted in `lost`, and the program goes on."""
        with collecting(), guarded(f"look at step {self.number}") as guard:
            yield
        self.lost = guard.error or self.lost

    def differentiated(self, losses: tuple[torch.Tensor, ...]) -> None:
        pieces = [piece.detach().resolve_conj() for loss in losses if loss.numel() == 1 for piece in held(loss)]
        self._losses += [torch.view_as_real(piece) if piece.is_complex() else piece for piece in pieces]

    def gradients_ready(self, optimizer: torch.optim.Optimizer | None) -> None:
        if _in_graph():  # to wait for the device would break the recording
            self.lost = f"step {self.number} is recorded as a CUDA graph"
            return
        with self.aside():
            if self._of != self.number:  # a step before, whose record was still on a device
                self._flush()
            self._look_at_inputs()
            self._pending, self._of = self._record(optimizer), self.number

    def ended(self) -> None:
        self._losses, self._batch = [], []
        if self._on_host():
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._sink(pending())

    def _on_host(self) -> bool:
        return all(p.device.type == "cpu" for _, root in self.roots for p in root.parameters())

    def _look_at_inputs(self) -> None:
        for _, root in self.roots:
            if id(root) not in self._hooked:
                self._hooked.append(id(root))
                self._looks.append(root.register_forward_pre_hook(self._entered, with_kwargs=True))

    def _entered(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _in_graph():
            return
        with self.aside():
            self.updated_by_hand()
            self._batch.append(Lanes([held(tensor) for _, tensor in tensors_in([args, kwargs])], self._queue))

    def _record(self, optimizer: torch.optim.Optimizer | None) -> Callable[[], StepRecord]:
        """What is known now; what lies on a device is read when the record is asked for."""
        named = self.parameters()
        names, tensors = [name for name, _ in named], [tensor for _, tensor in named]
        pieces = [held(tensor) for tensor in tensors]
        slopes = {i: held(t.grad) for i, t in enumerate(tensors) if t.is_leaf and t.grad is not None}
        state = list(state_of(optimizer)) if optimizer is not None else []
        kept = [(slot, value) for slot, value in state if isinstance(value, torch.Tensor)]
        lanes = Lanes([*pieces, *slopes.values(), *(held(value) for _, value in kept)], self._queue)
        trained = {id(p) for p in parameters_of(optimizer)} if optimizer is not None else None
        sample, share = sampled(pieces, pieces)
        gradients, _ = sampled(pieces, [slopes.get(i, []) for i in range(len(tensors))])
        sent, given_to_model = Sent([sample, gradients, *self._losses]), list(self._batch)
        fixed: dict[str, Any] = {
            "number": self.number,
            "names": tuple(names),
            "forms": tuple(map(form, pieces)),
            "trained": tuple(trained is None or id(t) in trained for t in tensors),
            "settings": settings_of(optimizer) if optimizer is not None else {},
            "random": random_digests(),
            "share": share,
            "seconds": time.perf_counter() - self._began,
        }

        def read() -> StepRecord:
            found, batch = lanes.read(), ""
            for looked_at in given_to_model:
                batch = combined([batch, *looked_at.read()])
            weights, slopes_there, *losses = sent.read()
            after = len(tensors) + len(slopes)
            given = dict(zip(slopes, found[len(tensors) : after], strict=True))
            by_name: dict[str, list[str]] = {}
            words = [(slot, repr(value)) for slot, value in state if not isinstance(value, torch.Tensor)]
            for slot, digest in (*zip((s for s, _ in kept), found[after:], strict=True), *words):
                by_name.setdefault(slot.partition(".")[2], []).append(digest)
            return StepRecord(
                weights=tuple(found[: len(tensors)]),
                gradients=tuple(given.get(i, "") for i in range(len(tensors))),
                state={name: combined(parts) for name, parts in by_name.items()},
                batch=batch,
                losses=tuple(number for loss in losses for number in loss.reshape(-1).tolist()),
                sample=weights.numpy(),
                slopes=slopes_there.numpy(),
                **fixed,
            )

        return read


class Lanes:
    """Digests of many tensors: those on the host at once; what reads those on a GPU is launched, and not waited for.

    A tensor that is made of others (a shard with its placement) has the digest of what this process holds of it.

    Args:
        tensors: the plain ones of which each is `held`.
        queue: of GPUs.
    """

    def __init__(self, tensors: Sequence[Sequence[torch.Tensor]], queue: Queue) -> None:
        self._found: list[tuple[int, Any]] = []
        now: list[tuple[int, torch.Tensor]] = []
        for i, tensor in enumerate(tensors):
            for piece in tensor:
                if not piece.is_cpu and usable(piece.device):
                    self._found.append((i, queue.add(*row_major(piece))))
                else:
                    now.append((i, piece))
        queue.send()
        lanes = spans_lanes([row_major(piece) for _, piece in now])
        self._queue, self._count = queue, len(tensors)
        if now:
            self._found += [(i, one) for (i, _), one in zip(now, lanes, strict=True)]
            self._found.sort(key=lambda at: at[0])

    def read(self) -> Digests:
        """A digest per tensor; empty for what cannot be looked at."""
        self._queue.settle()
        found: list[list[str]] = [[] for _ in range(self._count)]
        for i, one in self._found:
            lanes = known(one)
            found[i].append(f"{lanes[0]:016x}" if lanes else "")
        return [one[0] if len(one) == 1 else combined(one) if one else "" for one in found]


class Sent:
    """Small tensors on their way to the host; those of a GPU are not waited for before they are read."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._copies: list[torch.Tensor] = []
        self._events: dict[torch.device, torch.cuda.Event] = {}
        for tensor in tensors:
            if tensor.device.type != "cuda":
                self._copies.append(tensor.detach().to("cpu", copy=True))
                continue
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            with torch.cuda.device(tensor.device):
                copy.copy_(tensor.detach(), non_blocking=True)
                self._events.setdefault(tensor.device, torch.cuda.Event()).record()
            self._copies.append(copy)

    def read(self) -> list[torch.Tensor]:
        """The same, on the host."""
        for event in self._events.values():
            event.synchronize()
        return self._copies


def _in_graph() -> bool:
    return torch.cuda.is_initialized() and in_graph()


def held(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors of which this process holds a tensor; none if it cannot be looked at."""
    if plain(tensor):
        return [tensor]
    wrapper: Any = tensor
    if is_traceable_wrapper_subclass(wrapper):
        names, _ = wrapper.__tensor_flatten__()
        inner = (getattr(wrapper, name) for name in names)  # a mesh may be among them
        return [piece for one in inner if isinstance(one, torch.Tensor) for piece in held(one)]
    return [] if not_comparable(tensor) else [tensor]


def form(pieces: Sequence[torch.Tensor]) -> str:
    """Dtypes and sizes of what this process holds of a tensor, e.g. ``float32[4, 8]``."""
    return " ".join(_form(piece.dtype, piece.shape) for piece in pieces)


@functools.lru_cache(maxsize=4096)
def _form(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{dtype_name(dtype)}{list(shape)}"


def combined(parts: Iterable[str]) -> str:
    """One digest of several, in order."""
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


@torch.no_grad()  # type: ignore[misc,untyped-decorator,unused-ignore]
def sampled(
    tensors: Sequence[Sequence[torch.Tensor]], values: Sequence[Sequence[torch.Tensor]]
) -> tuple[torch.Tensor, float]:
    """Evenly spaced elements of what has the shapes of the given tensors, and how many each stands for.

    Args:
        tensors: the plain ones of which each is `held`; what is made of several is left out.
        values: likewise; none where there is no value.

    Returns:
        float32 `[k]`, with NaN where there is no value; one number.
    """
    pairs = [(of[0], given) for of, given in zip(tensors, values, strict=True) if len(of) == 1]
    floating = [(of, given) for of, given in pairs if of.is_floating_point() and of.numel()]
    total = sum(t.numel() for t, _ in floating)
    if not total:
        return torch.empty(0, device="cpu"), 1.0
    stride = max(1, total // _SAMPLED)
    parts = []
    for tensor, given in floating:
        if len(given) != 1 or given[0].numel() != tensor.numel():
            dtype = tensor.dtype if tensor.element_size() > 1 else torch.float32
            parts.append(torch.full((-(-tensor.numel() // stride),), float("nan"), dtype=dtype, device=tensor.device))
        else:
            part = _every(given[0], stride)
            parts.append(part if part.element_size() > 1 else part.to(torch.float32))  # 8-bit floats: few ops take them
    alike = [list(run) for _, run in itertools.groupby(parts, lambda part: (part.device, part.dtype))]
    found = [torch.cat(run).to(torch.float32) for run in alike]  # few kernels on a GPU
    device = found[0].device
    whole = torch.cat([part.to(device) for part in found])
    return whole, total / len(whole)


def _every(tensor: torch.Tensor, stride: int) -> torch.Tensor:
    """``reshape(-1)[::stride]``, by one op where the tensor lies in row-major order: there are hundreds in every step."""
    if not tensor.is_contiguous():
        return tensor.detach().reshape(-1)[::stride]
    return tensor.as_strided((-(-tensor.numel() // stride),), (stride,), tensor.storage_offset())


def random_digests() -> dict[str, str]:
    """Generator → digest of its state."""
    numbers: Any = np.random.get_state(legacy=False)
    found = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "python": np.array(random.getstate()[1], dtype=np.uint64).tobytes(),
        "numpy": b"".join(
            part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
            for part in numbers["state"].values()
        ),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            found[f"cuda:{device}"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return {name: hashlib.blake2b(state, digest_size=8).hexdigest() for name, state in found.items()}


__all__ = ["Watching"]

"""The cheap pass: digests, samples, losses and settings of every step, for a small share of the step's time."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.device.queue import Queue, in_graph, known
from whydiff.capturing.adapters.torch.fingerprints import row_major, spans_lanes
from whydiff.capturing.adapters.torch.optimizers import parameters_of, settings_of, state_of
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.training.following import Following
from whydiff.capturing.adapters.torch.training.spots import Held, Spot, Spots, form, held
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
        self._of, self._on_host = 0, True
        self._queue, self._spots = Queue(), Spots()
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
        if self._on_host:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._sink(pending())

    def _look_at_inputs(self) -> None:
        for _, root in self.roots:
            if id(root) not in self._hooked:
                self._hooked.append(id(root))
                self._looks.append(root.register_forward_pre_hook(_Look(self._entered), with_kwargs=True))

    def _entered(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _in_graph():
            return
        with self.aside():
            self.updated_by_hand()
            given = [Spots().of(tensor) for _, tensor in tensors_in([args, kwargs])]
            self._batch.append(Lanes(given, self._queue))

    def _record(self, optimizer: torch.optim.Optimizer | None) -> Callable[[], StepRecord]:
        """What is known now; what lies on a device is read when the record is asked for."""
        self._spots.begin()
        named, where = self.parameters(), self._spots.of
        names, tensors = [name for name, _ in named], [tensor for _, tensor in named]
        pieces = [where(tensor) for tensor in tensors]
        slopes = {i: where(t.grad) for i, t in enumerate(tensors) if t.is_leaf and t.grad is not None}
        state = list(state_of(optimizer)) if optimizer is not None else []
        kept = [(slot, value) for slot, value in state if isinstance(value, torch.Tensor)]
        lanes = Lanes([*pieces, *slopes.values(), *(where(value) for _, value in kept)], self._queue)
        self._on_host = not any(one.kind[0].type != "cpu" for _, spots in pieces for one in spots)
        trained = {id(p) for p in parameters_of(optimizer)} if optimizer is not None else None
        sample, share = sampled(pieces, pieces)
        gradients, _ = sampled(pieces, [slopes.get(i) for i in range(len(tensors))])
        sent, given_to_model = Sent([sample, gradients, *self._losses]), list(self._batch)
        fixed: dict[str, Any] = {
            "number": self.number,
            "names": tuple(names),
            "forms": tuple(form(spots) for _, spots in pieces),
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


class _Look:
    """A hook that looks at what a model is given; a copy of the model, or a file of it, gets one that does nothing."""

    def __init__(self, entered: Callable[[torch.nn.Module, Any, Any], None]) -> None:
        self._entered = entered

    def __call__(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._entered(module, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


class Lanes:
    """Digests of many tensors: those on the host at once; what reads those on a GPU is launched, and not waited for.

    A tensor that is made of others (a shard with its placement) has the digest of what this process holds of it.

    Args:
        tensors: the plain ones of which each is held.
        queue: of GPUs.
    """

    def __init__(self, tensors: Sequence[Held], queue: Queue) -> None:
        self._found: list[tuple[int, Any]] = []
        now: list[tuple[int, tuple[torch.Tensor, int, int]]] = []
        for i, (pieces, spots) in enumerate(tensors):
            for piece, spot in zip(pieces, spots, strict=True):
                if spot.queued:
                    self._found.append((i, spot.queue(piece, queue)))
                else:
                    now.append((i, row_major(piece)))
        queue.send()
        self._queue, self._count = queue, len(tensors)
        if now:
            lanes = spans_lanes([span for _, span in now])
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


def combined(parts: Iterable[str]) -> str:
    """One digest of several, in order."""
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


@torch.no_grad()  # type: ignore[misc,untyped-decorator,unused-ignore]
def sampled(tensors: Sequence[Held], values: Sequence[Held | None]) -> tuple[torch.Tensor, float]:
    """Evenly spaced elements of what has the shapes of the given tensors, and how many each stands for.

    Args:
        tensors: what is made of several plain ones, or of no floating-point numbers, is left out.
        values: likewise; None where there is no value.

    Returns:
        float32 `[k]`, with NaN where there is no value; one number.
    """
    alone = [(spots[0], i) for i, (_, spots) in enumerate(tensors) if len(spots) == 1 and spots[0].numel]
    total = sum(spot.numel for spot, _ in alone)
    if not total:
        return torch.empty(0, device="cpu"), 1.0
    stride = max(1, total // _SAMPLED)
    runs: list[tuple[Any, list[torch.Tensor]]] = []
    for spot, i in alone:
        part, kind = _part(spot, values[i], stride)
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(part)
    found = [torch.cat(run).to(torch.float32) for _, run in runs]  # few kernels on a GPU
    whole = torch.cat([part.to(found[0].device) for part in found])
    return whole, total / len(whole)


def _part(spot: Spot, value: Held | None, stride: int) -> tuple[torch.Tensor, tuple[torch.device, torch.dtype]]:
    """The elements of one tensor, by one op where it lies in row-major order (there are hundreds in every step)."""
    count = -(-spot.numel // stride)
    if value is None or len(value[1]) != 1 or value[1][0].numel != spot.numel:
        device, dtype = spot.kind
        dtype = dtype if dtype.itemsize > 1 else torch.float32
        return torch.full((count,), float("nan"), dtype=dtype, device=device), (device, dtype)
    (tensor,), (given,) = value
    if given.span is None:
        part = tensor.detach().reshape(-1)[::stride]
    else:
        part = tensor.as_strided((count,), (stride,), tensor.storage_offset())
    if given.kind[1].itemsize > 1:
        return part, given.kind
    return part.to(torch.float32), (given.kind[0], torch.float32)  # 8-bit floats: few ops take them


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

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

from whydiff.capturing.adapters.torch.device.batch import Batch
from whydiff.capturing.adapters.torch.device.queue import in_graph
from whydiff.capturing.adapters.torch.dtypes import address
from whydiff.capturing.adapters.torch.fingerprints import row_major, span_lanes
from whydiff.capturing.adapters.torch.optimizers import Slots, parameters_of, settings_of
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.training.following import Following
from whydiff.capturing.adapters.torch.training.samples import Plan, Sample, Sent
from whydiff.capturing.adapters.torch.training.spots import ELSEWHERE, HOST, Look, Spots, held
from whydiff.capturing.steps import StepRecord
from whydiff.errors import collecting, guarded
from whydiff.numbers.fingerprint import fingerprint_addresses


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
        self._batch: list[Digests] = []
        self._pending: Callable[[], StepRecord] | None = None
        self._of, self._on_host = 0, True
        self._spots, self._slots = _Known(), Slots()
        self._plan: Plan | None = None
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
            given = [tensor for _, tensor in tensors_in([args, kwargs])]
            self._batch.append(Digests([self._spots.inputs.of(given)]))

    def _record(self, optimizer: torch.optim.Optimizer | None) -> Callable[[], StepRecord]:
        """What is known now; what lies on a device is read when the record is asked for, and no tensor is held until then."""
        names, tensors = self.named()
        slopes = [tensor.grad if tensor.is_leaf else None for tensor in tensors]
        having = [i for i, slope in enumerate(slopes) if slope is not None]
        kept, numbers = self._slots.of(optimizer)
        weights = self._spots.weights.of(tensors)
        given = self._spots.slopes.of([slope for slope in slopes if slope is not None])
        digests = Digests([weights, given, self._spots.kept.of(kept)])
        self._on_host = all(spot.kind[0].type == "cpu" for spot in weights.layout.spots)
        if self._plan is None or not self._plan.fits(weights.layout, given.layout, having):
            self._plan = Plan(weights.layout, given.layout, having)
        sample, losses = Sample(self._plan, weights, given), Sent(self._losses)
        trained = {id(p) for p in parameters_of(optimizer)} if optimizer is not None else None
        given_to_model, slots = list(self._batch), dict(self._slots.names)
        fixed: dict[str, Any] = {
            "number": self.number,
            "names": names,
            "forms": weights.layout.forms,
            "trained": tuple(trained is None or id(t) in trained for t in tensors),
            "settings": settings_of(optimizer) if optimizer is not None else {},
            "random": random_digests(),
            "share": self._plan.share,
            "seconds": time.perf_counter() - self._began,
        }
        words = [repr(number) for number in numbers]

        def read() -> StepRecord:
            found, batch = digests.read(), ""
            for looked_at in given_to_model:
                batch = combined([batch, *looked_at.read()])
            gradients = [""] * len(names)
            for i, digest in zip(having, found[len(names) :], strict=False):
                gradients[i] = digest
            state = found[len(names) + len(having) :]
            values, differences = sample.read()
            return StepRecord(
                weights=tuple(found[: len(names)]),
                gradients=tuple(gradients),
                state={
                    name: combined([*(state[i] for i in there), *(words[i] for i in plain)])
                    for name, (there, plain) in slots.items()
                },
                batch=batch,
                losses=tuple(number for loss in losses.read() for number in loss.reshape(-1).tolist()),
                sample=values,
                slopes=differences,
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


class _Known:
    """How tensors lie, list by list."""

    def __init__(self) -> None:
        self.inputs, self.weights, self.slopes, self.kept = Spots(), Spots(), Spots(), Spots()


def _in_graph() -> bool:
    return torch.cuda.is_initialized() and in_graph()


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


class Digests:
    """Digests of the tensors of some lists, one after the other.

    A tensor that is made of others (a shard with its placement) has the digest of what this process holds of it.

    Args:
        looks: where they lie now.
    """

    def __init__(self, looks: Sequence[Look]) -> None:
        self._counts = [look.layout.counts for look in looks]
        self._alone = all(look.layout.alone for look in looks)
        self._texts: list[str] = []
        self._batches: list[tuple[list[int], Batch]] = []
        addresses: list[int] = []
        sizes: list[int] = []
        places: dict[int, list[int]] = {}
        pieces: list[torch.Tensor] = []
        copies: list[torch.Tensor] = []  # read before they are given back
        for look in looks:
            begin = len(addresses)
            for place, at in look.layout.places.items():
                places.setdefault(place, []).extend([begin + i for i in at] if begin else at)
            addresses += look.addresses
            sizes += look.layout.sizes
            pieces += look.pieces
            for i in look.layout.crooked:
                copies.append(row_major(look.pieces[i])[0])
                addresses[begin + i] = address(copies[-1])
        self._texts = [""] * len(sizes)
        for place, at in places.items():
            if place == ELSEWHERE:
                for i in at:
                    self._texts[i] = _text(span_lanes(*row_major(pieces[i])))
                continue
            where, bytes_there = [addresses[i] for i in at], [sizes[i] for i in at]
            if place != HOST:
                self._batches.append((at, Batch(torch.device("cuda", place), where, bytes_there)))
                continue
            lanes = fingerprint_addresses(list(zip(where, bytes_there, strict=True)))
            for i, text in zip(at, map(_text, lanes), strict=True):
                self._texts[i] = text

    def read(self) -> list[str]:
        """A digest per tensor; empty for what cannot be looked at."""
        for at, batch in self._batches:
            text = batch.lanes()[:, 0].astype(">u8").tobytes().hex()
            for number, i in enumerate(at):
                self._texts[i] = text[16 * number : 16 * number + 16]
        if self._alone:
            return self._texts
        pieces = iter(self._texts)
        parts = ([next(pieces) for _ in range(count)] for counts in self._counts for count in counts)
        return [part[0] if len(part) == 1 else combined(part) if part else "" for part in parts]


def _text(lanes: tuple[int, int]) -> str:
    return f"{lanes[0]:016x}"


def combined(parts: Iterable[str]) -> str:
    """One digest of several, in order."""
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


__all__ = ["Digests", "combined"]

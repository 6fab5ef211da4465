"""Where a replay holds its tensors: on the devices that the run used, as far as this machine has them."""

from __future__ import annotations

import torch

from whydiff.records import Trace


class Places:
    """Devices of a recorded run as devices of this machine.

    A run of this process used what is here. A trace from disk may come from a rank that used the second GPU of another
    machine: what used one GPU alone is executed on the current one, and without any GPU on the CPU.

    Args:
        trace: what is replayed.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._found: dict[str, torch.device] = {}

    def of(self, device: str) -> torch.device:
        """The device to use where the run used this one, e.g. ``"cuda:1"``.

        Raises:
            RuntimeError: no device is called so.
        """
        found = self._found.get(device)
        if found is None:
            found = self._found[device] = self._here(torch.device(device))
        return found

    def _here(self, device: torch.device) -> torch.device:
        if device.type != "cuda" or self._trace.source == "live":
            return device
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if self._alone() or (device.index or 0) >= torch.cuda.device_count():
            return torch.device("cuda", torch.cuda.current_device())
        return device

    def _alone(self) -> bool:
        """Whether the run used one GPU and no other."""
        events = (event for call in self._trace.calls for event in (*call.reads, *call.writes))
        used = {event.spec.device for event in events} | {leaf.spec.device for leaf in self._trace.leaves}
        return len({device for device in used if device.startswith("cuda")}) < 2


def gpus() -> list[int]:
    """Numbers of the GPUs of this machine."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []

"""How a session stands aside while compiled code runs (`regions`), and looks at it from outside."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.capturing.adapters.torch.recorder import Recorder
from whydiff.capturing.adapters.torch.rows import Row
from whydiff.capturing.adapters.torch.scopes import Scopes, follow, stand_aside
from whydiff.capturing.adapters.torch.surroundings import put_back, take_out


class Region(NamedTuple):
    """A compiled region that is open: what it was given, and the modes above the recorder's."""

    reads: list[Row]
    above: list[TorchDispatchMode] | None


class StandsAside:
    """The part of a session that compiled regions tell of themselves."""

    level: str
    recorder: Recorder
    scopes: Scopes
    _region: Region | None = None

    def region_begins(self, name: str, exporting: bool, args: Any, kwargs: Any) -> None:
        """Compiled code begins: step aside."""
        stand_aside()
        reads = [] if exporting else self.recorder.guarded(name, lambda: self.recorder.going_in(args, kwargs))
        self._region = Region(reads or [], take_out(self.recorder) if self.level == "op" else None)

    def region_ends(self, name: str, exporting: bool, result: Any) -> None:
        """Compiled code has ended: what it gave is seen."""
        region, self._region = self._region, None
        if region is None:
            return
        recorder = self.recorder
        if exporting:
            recorder.guarded(name, lambda: recorder.holes.add("tracing", f"{name} was traced", self.scopes.scope))
        else:
            recorder.guarded(name, lambda: recorder.region(name, "compiled", region.reads, result))
        if region.above is not None:
            put_back(recorder, region.above)
        follow()

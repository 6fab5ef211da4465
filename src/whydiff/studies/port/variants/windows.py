"""Convolutions: where the zeros of the padding stand, how far the kernel reaches, and whether it is turned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.numbers.windows import Window, convolved, is_same_padding, other_dilations, other_paddings
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Rewrite

Array = np.ndarray[Any, Any]
Padding = Sequence[tuple[int, int]]


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Other paddings, the kernel turned, and both, and other dilations, of the convolution that is nearest to the point."""
    found = [_nearest(bench, side, number) for side in (0, 1)]
    teller = 0 if found[0] is not None else 1
    if found[teller] is None:
        return
    call, window = found[teller]  # type: ignore[misc]
    counterpart = found[1 - teller]
    shapes = [call.reads[0].spec.shape, call.reads[1].spec.shape, call.writes[0].spec.shape]
    paddings = list(other_paddings(window, *shapes))

    def hypothesis(padding: Padding | None, turned: bool, dilation: tuple[int, ...] = ()) -> Hypothesis:
        made = replace(
            window,
            padding=tuple(padding or window.padding),
            turned=window.turned ^ turned,
            dilation=dilation or window.dilation,
        )
        other = Rewrite()
        if counterpart is not None:
            theirs = replace(counterpart[1], padding=window.padding)
            theirs = replace(theirs, dilation=window.dilation) if dilation else theirs
            if turned:
                theirs = replace(theirs, turned=not theirs.turned)
            other = _carried_out(counterpart[0], theirs)
        if dilation:
            words = [f"dilates the kernel by {'×'.join(map(str, w.dilation))}" for w in (window, made)]
        elif padding:
            words = [_spoken(w, w.padding, shapes) for w in (window, made)]
        else:
            words = ["reads the kernel " + ("backwards" if w.turned else "forwards") for w in (window, made)]
        parts = (hypothesis(padding, False), hypothesis(None, True)) if padding and turned else ()
        return taken_for(
            "FO008" if padding else "FO004",
            teller,
            (words[0], words[1]),
            _carried_out(call, made),
            says="in the convolution the candidate {candidate}, the reference {reference}",
            fix="Let the candidate's convolution do what the reference's does: it {reference}.",
            other=other,
            parts=parts,
        )

    yield from (hypothesis(padding, False) for padding in paddings)
    yield hypothesis(None, True)
    yield from (hypothesis(padding, False, steps) for steps, padding in other_dilations(window, *shapes))
    yield from (hypothesis(padding, True) for padding in paddings)


def _nearest(bench: Bench, side: int, number: int) -> tuple[Call, Window] | None:
    adapter = for_framework(bench.traces[side].framework)
    for call in bench.region(side, number):
        window = adapter.window(call)
        if window is not None:
            return call, window
    return None


def _carried_out(call: Call, window: Window) -> Rewrite:
    return Rewrite(calls={call.index: lambda applied: [convolved(window, applied.reads)]})


def _spoken(window: Window, padding: Padding, shapes: Sequence[tuple[int, ...]]) -> str:
    pads = "×".join(f"({lo}, {hi})" for lo, hi in padding)
    same = is_same_padding(window, padding, shapes[0], shapes[1])
    return f"pads {pads} zeros" + (" (SAME)" if same else "")

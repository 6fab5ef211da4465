"""Digests of what this process holds of many tensors: host memory now, GPUs by a launch that nobody waits for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch

from whydiff.capturing.adapters.torch.device.batch import Batch
from whydiff.capturing.adapters.torch.dtypes import address
from whydiff.capturing.adapters.torch.fingerprints import row_major, span_lanes
from whydiff.capturing.adapters.torch.training.spots import ELSEWHERE, HOST, Look
from whydiff.numbers.fingerprint import fingerprint_addresses


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

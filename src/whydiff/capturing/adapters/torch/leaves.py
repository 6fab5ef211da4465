"""What existed before a run: leaves are met, named, read, and kept as they were before an op changes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whydiff.capturing.adapters.torch.dtypes import spec_of
from whydiff.capturing.adapters.torch.fingerprints import spans_lanes
from whydiff.capturing.adapters.torch.state import LiveLeaf
from whydiff.capturing.adapters.torch.storages import Lent, Storage, Storages, read_lanes, span_of

_GIVEN = ("input", "constant", "attribute")


class Leaves:
    """The leaves of one capture, in the order in which they were met, and every storage that is known.

    Args:
        fingerprints: False records structure only.
    """

    def __init__(self, fingerprints: bool) -> None:
        self.fingerprints = fingerprints
        self.storages = Storages()
        self.leaves: list[LiveLeaf] = []
        self._constants = 0
        self._expected: dict[int, LiveLeaf] = {}

    def add_leaf(self, leaf: LiveLeaf) -> Storage:
        """Begin to know something that existed before the run (state, input, constant)."""
        return self.add_leaves([leaf])[0]

    def add_leaves(self, leaves: Sequence[LiveLeaf]) -> list[Storage]:
        """Begin to know many at once: their memory is read by several threads."""
        storages = [self._place(leaf) for leaf in leaves]
        if not self.fingerprints:
            return storages
        placed = [(leaf, storage) for leaf, storage in zip(leaves, storages, strict=True) if leaf.storage >= 0]
        spans = [span_of(leaf.look) for leaf, _ in placed]
        unread: dict[tuple[int, int, int], tuple[LiveLeaf, Storage]] = {}
        for (leaf, storage), (low, high, _) in zip(placed, spans, strict=True):
            if (low, high) not in storage.spans:
                unread[storage.number, low, high] = leaf, storage
        host = {key: leaf.look for key, (leaf, _) in unread.items() if leaf.look.is_cpu}
        lanes = spans_lanes([(look, low, high) for (_, low, high), look in host.items()])
        for key, found in zip(host, lanes, strict=True):
            unread[key][1].spans[key[1:]] = found
        for (leaf, storage), span in zip(placed, spans, strict=True):
            read, nbytes, dense, _ = read_lanes(leaf.look, self.storages, storage, span)
            if not dense:
                read, nbytes = self.storages.read_content(leaf.look), leaf.look.numel() * leaf.look.element_size()
            leaf.read = read, nbytes
        return storages

    def _place(self, leaf: LiveLeaf) -> Storage:
        self.leaves.append(leaf)
        leaf.spec = spec_of(leaf.tensor)
        if leaf.skipped:
            return self.storages.nowhere
        storage = self.storages.of(leaf.look)
        if storage is None:
            storage = self.storages.add(leaf.look, -1)
            if leaf.role in _GIVEN and leaf.look.is_cpu and not leaf.look.untyped_storage().resizable():
                storage.lent = Lent(kept=True)  # numpy's or another library's memory, as far as anybody can tell
        if storage.producer != -1 and not storage.leaves:
            return storage  # an op of this run made it: it is no leaf
        leaf.storage = storage.number
        storage.leaves = (*storage.leaves, leaf)
        storage.shown = (*storage.shown, span_of(leaf.look)[:2])
        if storage.written:
            leaf.keep_as_it_was()
        return storage

    def expect(self, leaf: LiveLeaf) -> bool:
        """Know the name of something that becomes a leaf only if an op touches it; False if it is known."""
        if leaf.skipped or self.storages.of(leaf.look) is not None:
            return False
        return self._expected.setdefault(leaf.look.untyped_storage()._cdata, leaf) is leaf

    def _met(self, tensor: torch.Tensor) -> Storage:
        """A storage that no op made and that nobody named: something expected, or a constant."""
        leaf = self._expected.pop(tensor.untyped_storage()._cdata, None)
        if leaf is None:
            return self._constant(tensor)
        storage = self.add_leaf(leaf)
        if not storage.covers(*span_of(tensor)[:2]):
            self._constant(tensor)
        return storage

    def _constant(self, tensor: torch.Tensor) -> Storage:
        self._constants += 1
        return self.add_leaf(LiveLeaf(f"constant#{self._constants - 1}", "constant", tensor))

    def before_write(self, tensor: torch.Tensor) -> None:
        """Keep what a leaf was if this tensor shows one; for captures that see no reads."""
        storage = self.storages.of(tensor)
        if storage is None and tensor.untyped_storage()._cdata in self._expected:
            storage = self._met(tensor)
        if storage is not None:
            self._before_write(tensor, storage)

    def _before_write(self, tensor: torch.Tensor, storage: Storage) -> None:
        """This storage is about to change: read what waits to be read of it, and keep what its leaves were, once."""
        if storage.spans or storage.rows:
            self.storages.queue.before_write(tensor.untyped_storage()._cdata)
        if storage.leaves and not storage.written:
            storage.written = True
            for leaf in storage.leaves:
                leaf.keep_as_it_was()

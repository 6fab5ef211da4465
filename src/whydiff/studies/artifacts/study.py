"""Compare two trees: pair the files, compare their items, rank, explain changed codes."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from whydiff.capturing.adapters import Progress, silent
from whydiff.capturing.store.remote import localized
from whydiff.capturing.store.tensor_files import DAMAGE
from whydiff.errors import Interrupted, UsageError, WhydiffError
from whydiff.records import Count
from whydiff.studies.artifacts.content import Content, damaged, forget_spooled
from whydiff.studies.artifacts.foreign.reading import REFERS
from whydiff.studies.artifacts.items import Tolerances, compare_bytes, compare_tensors, compare_values, shown
from whydiff.studies.artifacts.lone import Counterpart, counterparts
from whydiff.studies.artifacts.near_ties import Both, explain_codes
from whydiff.studies.artifacts.readers import MAX_TEXT, TEXT, reader_for
from whydiff.studies.artifacts.records import ArtifactFile, CodeExplanation, Item, Status
from whydiff.studies.artifacts.relations import relation
from whydiff.studies.artifacts.report import ArtifactComparison
from whydiff.studies.artifacts.rows import by_id
from whydiff.studies.artifacts.sources import Stored
from whydiff.studies.artifacts.trees import FilePair, Tree, paired, size, walk
from whydiff.takes import BOUNDS_OF, PATH, takes

_ORDER: tuple[Status, ...] = ("identical", "within tolerance", "not compared", "differs")


@takes(reference=PATH, candidate=PATH, tolerances=BOUNDS_OF)
def compare_artifacts(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    tolerances: Tolerances | None = None,
    explain: bool = True,
    progress: Progress | None = None,
) -> ArtifactComparison:
    """Compare two trees of index or checkpoint files.

    Read: safetensors, npy, npz, PyTorch files (weights only), JSON, parquet and csv (extra ``tables``), GGUF, ONNX, HDF5,
    msgpack and faiss (extra ``formats``), Orbax checkpoints (extra ``orbax``); every other file byte by byte. Files
    larger than memory are read in small shares. A tensor that differs is asked for what was done to it.

    Args:
        reference: the trusted tree: a folder, one file, or an fsspec URL (extra ``remote``).
        candidate: the tree under suspicion.
        tolerances: float dtype → (rtol, atol), ``""`` for every other; replaces entries of
            `whydiff.numbers.tolerance.ARTIFACT_TOLERANCES`.
        explain: look for the near ties behind changed codes.
        progress: called with (stage, done, total) in bytes.

    Raises:
        UsageError: a tree is not there.
        TraceFormatError: never for one damaged file: it is counted as not compared, with the reason.
        Interrupted: Ctrl-C; ``found`` is the comparison of the files until then.
    """
    with localized(reference) as ours, localized(candidate) as theirs:
        try:
            study = _Study(walk(ours), walk(theirs), tolerances, progress or silent)
            return study.run(str(reference), str(candidate), explain)
        finally:
            forget_spooled()


class _Study:
    def __init__(self, ours: Tree, theirs: Tree, tolerances: Tolerances | None, progress: Progress) -> None:
        self.trees, self.tolerances, self.progress = (ours, theirs), tolerances, progress
        self.left_out: dict[tuple[str, str], list[str]] = {}
        self.both: list[Both] = []
        self.changed: list[tuple[Both, int]] = []
        self.bytes_read = 0

    def run(self, reference: str, candidate: str, explain: bool) -> ArtifactComparison:
        ours, theirs = self.trees
        shared, missing, extra = paired(ours, theirs)
        total = sum(size(path) for pair in shared for path in (pair.reference, pair.candidate))
        files: list[ArtifactFile] = []
        stopped: KeyboardInterrupt | None = None
        try:
            for pair in shared:
                self.progress("compare files (bytes)", self.bytes_read, total)
                files.append(self.file(pair))
            self.progress("compare files (bytes)", total, total)
            explained = tuple(self.explained()) if explain else ()
        except KeyboardInterrupt as stop:
            stopped, explained = stop, ()
            if len(files) < len(shared):
                self.left_out[("files", "the comparison was interrupted")] = [
                    pair.name for pair in shared[len(files) :]
                ]
        differing = sorted((f for f in files if f.status != "identical"), key=lambda f: f.rank, reverse=True)
        for side, tree in zip(("reference", "candidate"), self.trees, strict=True):
            for reason, paths in tree.skipped.items():
                self.left_out[("files", f"{side}: {reason}")] = paths
        status = _worst([f.status for f in files], bool(missing or extra or stopped))
        unseen = sum(len(paths) for tree in self.trees for paths in tree.skipped.values())
        if status != "differs" and (unseen or not files):
            status = "not compared"
        found = ArtifactComparison(
            reference,
            candidate,
            status,
            _reason(differing, len(files), missing, extra, unseen, "value" if self.left_out else "bit"),
            tuple(differing),
            len(files) - len(differing),
            missing,
            extra,
            explained,
            tuple(
                Count(what=what, reason=why, count=len(n), examples=tuple(n[:3]))
                for (what, why), n in self.left_out.items()
            ),
            self.bytes_read,
        )
        if stopped is not None:
            reason = f"interrupted after {len(files)} of {len(shared)} files; until then: {found.reason}"
            raise Interrupted(replace(found, reason=reason)) from stopped
        return found

    # ------------------------------------------------------------------ one file

    def file(self, both: FilePair) -> ArtifactFile:
        """Compare the content of two files, or their bytes."""
        path, pair = both.name, (both.reference, both.candidate)
        sizes = size(pair[0]), size(pair[1])
        self.bytes_read += sum(sizes)
        readers = [reader for file in pair if (reader := reader_for(file)) is not None]
        note = ""
        too_long = any(file.suffix.lower() in TEXT and size(file) > MAX_TEXT for file in pair)
        if len(readers) < len(pair) or too_long:
            why = "larger than is looked into" if too_long else "an unknown kind of file"
            note = f"compared byte by byte: {why}"
            return self.judged(path, sizes, self.by_bytes(pair), 0, note)
        try:
            contents = [reader(file) for reader, file in zip(readers, pair, strict=True)]
        except (WhydiffError, *DAMAGE) as broken:
            error = broken if isinstance(broken, WhydiffError) else damaged(pair[0], broken)
            reason = f"{error.what} {error.actual}".strip()
            same = self.by_bytes(pair)
            if not same and (isinstance(error, UsageError) or not REFERS.intersection(_suffixes(pair))):
                return self.judged(path, sizes, [], 1, f"compared byte by byte: {reason}")
            if isinstance(error, UsageError):  # a library is missing
                return self.judged(path, sizes, same, 0, f"compared byte by byte: {reason} {error.next_step}")
            self.left_out.setdefault(("files", reason), []).append(path)
            held = (same[0].reference, same[0].candidate) if same else [f"{bytes_} bytes" for bytes_ in sizes]
            item = Item("(file)", "bytes", "not compared", held[0], held[1], reason)
            return self.judged(path, sizes, [item], 0, note)
        skipped = any(content.skipped for content in contents) and not any(content.elsewhere for content in contents)
        if skipped and not self.by_bytes(pair):
            return self.judged(path, sizes, [], 1, "no byte differs; not all of it could be read")
        ours, theirs, lone, note = by_id(*contents)
        items, identical = self.items(path, ours, theirs)
        items += lone
        if note:
            self.left_out.setdefault(("the order of rows", note), []).append(path)
        if not items and self.by_bytes(pair):
            what = "bytes that hold no number and no value", "they differ: padding, headers, the order of entries"
            self.left_out.setdefault(what, []).append(path)
        return self.judged(path, sizes, items, identical, note)

    def by_bytes(self, pair: tuple[Path, ...]) -> list[Item]:
        item = compare_bytes(pair[0], pair[1])
        return [] if item is None else [item]

    def items(self, path: str, ours: Content, theirs: Content) -> tuple[list[Item], int]:
        found: list[Item] = []
        identical = 0
        for side, content in zip(("reference", "candidate"), (ours, theirs), strict=True):
            for name, why in content.skipped.items():
                self.left_out.setdefault(("tensors", f"{side}: {why}"), []).append(f"{path}: {name}")
        skipped = ours.skipped.keys() | theirs.skipped.keys()
        lone = [{n: t for n, t in own.tensors.items() if n not in other} for own, other in _sides(ours, theirs)]
        matches = list(counterparts(*lone))
        moved = {name for match in matches for name in (*match.reference, *match.candidate)}
        found += [_moved(match, *lone) for match in matches]
        for name in dict.fromkeys((*ours.tensors, *theirs.tensors, *ours.skipped, *theirs.skipped)):
            one, other = ours.tensors.get(name), theirs.tensors.get(name)
            if name in skipped:
                found.append(
                    Item(name, "float", "not compared", str(one or ""), str(other or ""), _unread(name, ours, theirs))
                )
                continue
            if one is None or other is None:
                if name not in moved:
                    found.append(_lone(name, one, other, theirs.values if one else ours.values))
                continue
            item = _related(compare_tensors(one, other, self.tolerances), one, other)
            identical += item is None
            both = Both(f"{path}: {name}", one, other)
            if one.shape == other.shape:
                self.both.append(both)
            if item is not None:
                found.append(item)
                if item.kind == "integer" and item.status == "differs" and one.shape == other.shape:
                    self.changed.append((both, round((1 - (item.equal_share or 0.0)) * item.elements)))
        for name in dict.fromkeys((*ours.values, *theirs.values)):
            if name in ours.values and name in theirs.values:
                item = compare_values(name, ours.values[name], theirs.values[name], self.tolerances)
                identical += item is None
                found += [] if item is None else [item]
            elif name not in ours.tensors and name not in theirs.tensors:
                texts = [shown(c.values[name]) if name in c.values else None for c in (ours, theirs)]
                found.append(_lone(name, texts[0], texts[1], {}))
        return found, identical

    def judged(
        self, path: str, sizes: tuple[int, int], items: Iterable[Item], identical: int, note: str
    ) -> ArtifactFile:
        ordered = tuple(sorted(items, key=_rank, reverse=True))
        rank = _rank(ordered[0]) if ordered else (0, 0.0, 0.0)
        return ArtifactFile(path, _worst([i.status for i in ordered], False), sizes, ordered, identical, rank, note)

    # ------------------------------------------------------------------ codes

    def explained(self) -> Iterable[CodeExplanation]:
        for number, (codes, differing) in enumerate(self.changed):
            self.progress("explain changed codes", number, len(self.changed))
            try:
                yield explain_codes(codes, [other for other in self.both if other is not codes], differing)
            finally:
                for other in self.both:
                    other.reference.source.release()
                    other.candidate.source.release()


def _suffixes(pair: tuple[Path, ...]) -> set[str]:
    return {file.suffix.lower() for file in pair}


def _sides(ours: Content, theirs: Content) -> tuple[tuple[Content, Container[str]], tuple[Content, Container[str]]]:
    """Each side with the names that the other one has for anything."""
    names = [{*side.tensors, *side.values, *side.skipped} for side in (ours, theirs)]
    return (ours, names[1]), (theirs, names[0])


def _related(item: Item | None, one: Stored, other: Stored) -> Item | None:
    """The item with what turns one side into the other, if anything does."""
    if item is None or item.status != "differs":
        return item
    found = relation(one, other, item.value("rel_l2"))
    return item if found is None else replace(item, relation=found, reason=f"{found.says()}; {item.reason}")


def _moved(match: Counterpart, ours: Mapping[str, Stored], theirs: Mapping[str, Stored]) -> Item:
    return Item(
        name=f"{' + '.join(match.reference)} → {' + '.join(match.candidate)}",
        kind="float",
        status="differs",
        reference=" ".join(str(ours[name]) for name in match.reference),
        candidate=" ".join(str(theirs[name]) for name in match.candidate),
        reason=f"{match.relation.says()}, no bit differs",
        structural=True,
        relation=match.relation,
    )


def _is_moved(item: Item) -> bool:
    """Whether numbers are under another name, or in another tensor, and equal."""
    return item.relation is not None and item.relation.kind in ("renamed", "fused", "split")


def _unread(name: str, ours: Content, theirs: Content) -> str:
    """Why a tensor could not be judged."""
    where = "on either side" if name in ours.skipped and name in theirs.skipped else "on a side"
    return f"could not be read {where}: {ours.skipped.get(name) or theirs.skipped.get(name)}"


def _lone(name: str, one: object, other: object, others_values: Mapping[str, object]) -> Item:
    side = "reference" if one is not None else "candidate"
    missing = name not in others_values
    return Item(
        name=name,
        kind="value",
        status="differs",
        reference=str(one or ""),
        candidate=str(other or ""),
        reason=f"only the {side} has it" if missing else "numbers on one side, another kind of value on the other",
        structural=missing,
    )


def _rank(item: Item) -> tuple[int, float, float]:
    """Materiality: structure, then integers and values, then floats outside, then inside the tolerance."""
    if item.status == "identical":
        return (0, 0.0, 0.0)
    if item.relation is not None:
        return (1, 1.0, math.inf)
    changed = 1 - (item.equal_share if item.equal_share is not None else 0.0)
    size = item.max_abs or 0.0
    if item.status == "within tolerance":
        return (1, changed, size)
    if item.status == "not compared":
        return (3, 0.0, 0.0)
    if item.kind == "float" and item.elements:
        outside = next((m.value for m in item.measurements if m.metric == "mismatched"), changed)
        return (2, outside, size)
    if item.elements:
        return (4, changed, size)
    return (5, 1.0, 0.0) if item.structural else (4, 0.0, 0.0)


def _worst(statuses: list[Status], lone_files: bool) -> Status:
    worst: Status = max(statuses, key=_ORDER.index, default="identical")
    return "differs" if lone_files or worst == "not compared" else worst


def _reason(
    differing: list[ArtifactFile], total: int, missing: tuple[str, ...], extra: tuple[str, ...], unseen: int, none: str
) -> str:
    parts = []
    moved = sum(any(_is_moved(i) for i in f.items) for f in differing)
    parts += [f"tensors have other names in {moved} of {total} files"] if moved else []
    for kind, what in (("integer", "integers"), ("float", "floats"), ("value", "values"), ("bytes", "bytes")):
        for status in ("differs", "within tolerance"):
            n = sum(any(i.kind == kind and i.status == status and not _is_moved(i) for i in f.items) for f in differing)
            if n:
                how = "differ" if status == "differs" else "are within tolerance"
                parts.append(f"{what} {how} in {n} of {total} files")
    refused = sum(any(i.status == "not compared" for i in f.items) for f in differing)
    parts += [f"{refused} files hold something that was not compared"] if refused else []
    parts += [f"{len(missing)} files are missing"] if missing else []
    parts += [f"{len(extra)} files are extra"] if extra else []
    if not parts:
        parts.append(f"no {none} differs in {total} files" if total else "there is no file to compare")
    parts += [f"{unseen} links and other entries were not looked into"] if unseen else []
    return "; ".join(parts)

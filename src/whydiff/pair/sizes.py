"""Sizes in which two runs differ: where they show, and where the smaller run's part begins, settled by values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from whydiff.pair.slices import MOST_MAPS, Axis, Shape, Value, options
from whydiff.records import Alignment, Event, Trace

Entering = tuple[tuple[int, int], Event, Event]
"""Indices of two paired calls, and what each reads."""


def axes_between(
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    sizes: Iterable[tuple[int, int]] | None = None,
    *,
    computed: bool = False,
    entering: Iterable[Entering] | None = None,
) -> tuple[Axis, ...]:
    """What two runs have different sizes of: those that differ where paired calls read from outside.

    State is left out (a weight of another shape is another model). Where the smaller part begins is not known
    from shapes, so every start is offered and the values settle it.

    Args:
        reference, candidate, alignment: the runs.
        sizes: only these pairs of sizes, alone or merged with other axes; any if omitted.
        computed: also where paired calls read what unpaired ones made, or what both runs drew at random.
        entering: look only at these; None: at all that `entering_reads` tells.
    """
    found: dict[tuple[int, int], tuple[int, str]] = {}
    seen = (_looks(reference), _looks(candidate))
    wanted = None if sizes is None else set(sizes)
    for _, event, other in entering_reads(reference, candidate, alignment) if entering is None else entering:
        if not computed and not event.producer == other.producer == -1:
            continue
        ours, theirs = event.spec.shape, other.spec.shape
        if len(ours) == len(theirs) and event.spec.numel != other.spec.numel:  # else one value, folded otherwise
            looks = seen[0].get(event.storage, ()), seen[1].get(other.storage, ())
            for dimension, pair in enumerate(zip(ours, theirs, strict=True)):
                alone = _unmerged(*looks, pair) if wanted is None else _one_of(wanted, pair)
                if pair[0] != pair[1] and min(pair) > 0 and alone is not None:
                    found.setdefault(alone, (len(ours), _name(*looks, alone, dimension)))
    return tuple(Axis(r, c, tuple(range(abs(c - r) + 1)), found[r, c][1]) for r, c in _coarsest(found))


def _looks(trace: Trace) -> dict[int, set[Shape]]:
    """Every shape in which a storage from outside was looked at, views included."""
    looks: dict[int, set[Shape]] = {}
    for leaf in trace.leaves:
        looks.setdefault(leaf.storage, set()).add(leaf.spec.shape)
    for call in trace.calls:
        for event in (*call.reads, *call.writes):
            if event.producer == -1:
                looks.setdefault(event.storage, set()).add(event.spec.shape)
    return looks


def _unmerged(ours: Iterable[Shape], theirs: Iterable[Shape], sizes: tuple[int, int]) -> tuple[int, int]:
    """The smallest sizes of which these are the same multiple, in any look at what is read: there the axis stands alone."""
    pairs = [tuple(zip(r, c, strict=True)) for r, c in itertools.product(ours, theirs) if len(r) == len(c)]
    differing = [[pair for pair in one if pair[0] != pair[1]] for one in pairs]
    alone = {one[0] for one in differing if len(one) == 1 and min(one[0]) > 0}
    return _one_of({*alone, sizes}, sizes) or sizes


def _one_of(known: Iterable[tuple[int, int]], sizes: tuple[int, int]) -> tuple[int, int] | None:
    """The smallest known sizes of which these are the same multiple; None: of none."""
    of = [(r, c) for r, c in known if min(r, c) > 0 and r * sizes[1] == c * sizes[0] and sizes[0] % r == 0]
    return min(of, default=None)


def _name(ours: Iterable[Shape], theirs: Iterable[Shape], sizes: tuple[int, int], dimension: int) -> str:
    """Batch if the sizes stand in dimension 0 of the look with the most dimensions, else length."""
    best = (0, dimension)
    for r, c in itertools.product(ours, theirs):
        if len(r) == len(c) > best[0]:
            differing = [n for n, pair in enumerate(zip(r, c, strict=True)) if pair[0] != pair[1]]
            if len(differing) == 1 and (r[differing[0]], c[differing[0]]) == sizes:
                best = (len(r), differing[0])
    return "length" if best[1] else "batch"


def same_outputs(reference: Trace, candidate: Trace, alignment: Alignment) -> bool:
    """Whether what is returned has axes, and everything that is has the same ones in both runs."""
    shapes = []
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        if ours.kind == "return":
            by_slot = {event.site.slot: event.spec.shape for event in theirs.reads}
            shapes += [(event.spec.shape, by_slot.get(event.site.slot, ())) for event in ours.reads]
    return any(len(one) for one, _ in shapes) and all(one == other for one, other in shapes)


def output_sizes(reference: Trace, candidate: Trace, alignment: Alignment) -> set[tuple[int, int]]:
    """Pairs of sizes in which returned tensors of equally many axes differ."""
    found = set()
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        if ours.kind == "return":
            by_slot = {event.site.slot: event.spec.shape for event in theirs.reads}
            for event in ours.reads:
                other = by_slot.get(event.site.slot, ())
                if len(other) == len(event.spec.shape):
                    found |= {sizes for sizes in zip(event.spec.shape, other, strict=True) if sizes[0] != sizes[1]}
    return found


def entering_reads(reference: Trace, candidate: Trace, alignment: Alignment) -> Iterator[Entering]:
    """Paired reads of tensors that no paired call made, parameters and buffers left out; with the reading calls.

    What both runs draw at random enters too: a generator is something outside.
    """
    made = tuple(
        {index for index in indices if not calls[index].rng}
        for calls, indices in (
            (reference.calls, [pair.reference for pair in alignment.pairs]),
            (candidate.calls, [pair.candidate for pair in alignment.pairs]),
        )
    )
    state = [{leaf.storage for leaf in t.leaves if leaf.is_registered} for t in (reference, candidate)]
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        for event, other in zip(ours.reads, theirs.reads, strict=False):
            entering = event.producer not in made[0] and other.producer not in made[1]
            entering = entering and event.storage >= 0 <= other.storage and ours.kind != "return"
            if entering and event.storage not in state[0] and other.storage not in state[1]:
                yield (ours.index, theirs.index), event, other


def taken_parts(reference: Trace, candidate: Trace, alignment: Alignment) -> list[Entering]:
    """Entering reads at which one run reads an input and the other one a part of it, which is all that it ever takes.

    The part was made of the input alone, by an op of its own (a slice in a framework in which this is an op).
    """
    traces, unpaired = (reference, candidate), (alignment.unpaired_reference, alignment.unpaired_candidate)
    found = []
    for calls, *events in entering_reads(reference, candidate, alignment):
        part = next((n for n in (0, 1) if events[n].producer in unpaired[n] and events[1 - n].producer == -1), None)
        if part is None or events[part].spec.numel >= events[1 - part].spec.numel:
            continue
        maker = traces[part].calls[events[part].producer]
        if len(maker.reads) != 1 or maker.reads[0].producer != -1:
            continue
        readers = [
            call
            for call in traces[part].calls
            if call.kind != "view" and any(event.storage == maker.reads[0].storage for event in call.reads)
        ]
        if readers == [maker] and _leaf(traces[part], maker.reads[0]) == _leaf(traces[1 - part], events[1 - part]):
            found.append((calls, events[0], events[1]))
    return found


def _leaf(trace: Trace, event: Event) -> tuple[str, object] | None:
    return next(((leaf.name, leaf.fingerprint) for leaf in trace.leaves if leaf.storage == event.storage), None)


def _coarsest(sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without those that are a multiple of another one (a merged dimension of the same axis)."""
    ordered = sorted(sizes)
    return [
        (r, c)
        for r, c in ordered
        if not any((x, y) != (r, c) and r % x == 0 and r // x > 1 and c == y * (r // x) for x, y in ordered)
    ]


def narrow(
    axes: Sequence[Axis], read: Iterable[tuple[Value, Value]], same: Callable[[Value, Value], bool]
) -> tuple[Axis, ...]:
    """Axes with the one start at which most of the tensors that enter both runs agree.

    Args:
        axes: with all the starts that are possible.
        read: (reference's, candidate's) tensors from outside, of differing shapes.
        same: whether two tensors of one shape agree bit for bit.

    Returns:
        The axes with the first combination of starts at which most agree; with their first starts if none
        does (the inputs then really differ).
    """
    pairs = list(read)
    best: tuple[int, tuple[Axis, ...]] = (0, tuple(replace(axis, starts=axis.starts[:1]) for axis in axes))
    for fixed in _starts(tuple(axes)):
        agreeing = sum(_agrees_somewhere(fixed, *pair, same) for pair in pairs)
        if agreeing == len(pairs):
            return fixed
        if agreeing > best[0]:
            best = agreeing, fixed
    return best[1]


def placed(
    axes: tuple[Axis, ...],
    read: Sequence[tuple[Value, Value]],
    same: Callable[[Value, Value], bool],
    apart: Callable[[Value, Value], float] | None,
) -> tuple[Axis, ...] | None:
    """`narrow`, with what it takes where the smaller tensors stand nowhere as they are; None: nothing tells where.

    Tensors that are alike all along an axis say nothing. Where the others agree at no start, the axis may be merged with
    another one, of which they are every so-manieth row; or they were changed, and are still nearer to one part, by more than
    half, than that is to any other (which by the triangle inequality no other part can be).
    """
    found = narrow(axes, read, same)
    telling = [pair for pair in read if len(_distinct(axes, *pair, same)) > 1]
    if not telling or any(_agrees_somewhere(found, *pair, same) for pair in telling):
        return found
    for finer in _finer(axes):
        chosen = narrow(finer, telling, same)
        if all_agree(chosen, telling, same):
            return chosen
    if apart is None:  # two frameworks' values
        return None
    parts = _distinct(axes, *telling[0], same, MOST_MAPS)
    distances = [apart(small, part) for _, small, part in parts]
    nearest = min(range(len(parts)), key=distances.__getitem__)
    others = (part for n, (_, _, part) in enumerate(parts) if n != nearest)
    if 2 * distances[nearest] < min(apart(parts[nearest][2], part) for part in others):
        return parts[nearest][0]
    return None


def _finer(axes: tuple[Axis, ...]) -> Iterator[tuple[Axis, ...]]:
    """One axis that others may be merged into, with smaller sizes in the same proportion."""
    for axis in axes if len(axes) == 1 else ():
        for k in range(2, axis.small + 1):
            if axis.reference % k == axis.candidate % k == 0:
                starts = tuple(range((axis.large - axis.small) // k + 1))
                yield (replace(axis, reference=axis.reference // k, candidate=axis.candidate // k, starts=starts),)


def _distinct(
    axes: tuple[Axis, ...], reference: Value, candidate: Value, same: Callable[[Value, Value], bool], most: int = 2
) -> list[tuple[tuple[Axis, ...], Value, Value]]:
    """Axes at one start each, the smaller tensor, and the part of the larger one there, as long as parts differ."""
    found: list[tuple[tuple[Axis, ...], Value, Value]] = []
    for fixed in _starts(axes):
        for one in options(tuple(reference.shape), tuple(candidate.shape), fixed, True):
            small, large = (reference, candidate) if one.whole == "candidate" else (candidate, reference)
            part = one.part(large)
            if not any(same(part, known) for _, _, known in found):
                found.append((fixed, small, part))
            if len(found) == most:
                return found
    return found


def _starts(axes: tuple[Axis, ...]) -> Iterator[tuple[Axis, ...]]:
    """The axes with one start each, in every combination of the first ones."""
    for starts in itertools.islice(itertools.product(*(axis.starts for axis in axes)), 1 << 12):
        yield tuple(replace(axis, starts=(start,)) for axis, start in zip(axes, starts, strict=True))


def all_agree(
    axes: tuple[Axis, ...], read: Iterable[tuple[Value, Value]], same: Callable[[Value, Value], bool]
) -> bool:
    """Whether every larger tensor holds the smaller one bit for bit, at the axes' starts."""
    return all(_agrees_somewhere(axes, *pair, same) for pair in read)


def _agrees_somewhere(
    axes: tuple[Axis, ...], reference: Value, candidate: Value, same: Callable[[Value, Value], bool]
) -> bool:
    for one in options(tuple(reference.shape), tuple(candidate.shape), axes, True):
        small, large = (reference, candidate) if one.whole == "candidate" else (candidate, reference)
        if same(small, one.part(large)):
            return True
    return False

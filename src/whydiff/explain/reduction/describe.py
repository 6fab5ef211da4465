"""One line for an accumulation tree: every word is checked; what fits no pattern is called irregular."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from whydiff.explain.reduction.tree import Tree

_MOST_HEAD = 8
"""Terms at either end that a kernel may treat apart (alignment, remainder)."""


def describe(tree: Tree, plain: Collection[int] = ()) -> str:
    """The order in one line, e.g. ``"blocks of 384, 384, 256 (each one after another), then …"``.

    Args:
        tree: the order.
        plain: leaves that are no products (a bias); they are left out and named at the end.
    """
    if not plain:
        return _describe(tree)
    rest = [leaf for leaf in range(tree.leaves) if leaf not in plain]
    text = _describe(tree.restricted(rest))
    last = tree.nodes[-1] if tree.nodes else ()
    if all(leaf in last for leaf in plain):
        return f"{text}, then the bias"
    first = tree.nodes[0] if tree.nodes else ()
    begins = all(leaf in first for leaf in plain)
    return f"{text}, " + ("beginning with the bias" if begins else "the bias in between")


def _describe(tree: Tree) -> str:
    wide = f"; up to {tree.widest} terms in one step" if tree.widest > 2 else ""
    for pattern in (_one_by_one, _pairwise, _blocks, _lanes, _trimmed):
        text = pattern(tree)
        if text:
            return text + wide
    return f"an irregular tree of {tree.leaves} terms, depth {tree.depth}{wide}"


def _one_by_one(tree: Tree) -> str:
    """A chain: every step adds single terms to the one partial sum."""
    if tree.leaves == 1:
        return "one term"
    order: list[int] = []
    for index, node in enumerate(tree.nodes):
        inner = [child for child in node if child >= tree.leaves]
        if inner != ([tree.leaves + index - 1] if index else []):
            return ""
        order += [child for child in node if child < tree.leaves]
    if tree.leaves <= 2 or order == list(range(tree.leaves)):
        return "one after another"
    if order[2:] == list(range(tree.leaves - 1, -1, -1))[2:]:
        return "one after another, backwards"
    even = tree.leaves // 2 * 2
    if order[2:even] == [leaf ^ 1 for leaf in range(2, even)]:
        return "one after another, the second of every pair first"
    return "one after another, in a mixed order"


def _blocks(tree: Tree) -> str:
    """Contiguous parts, themselves added in a chain or pairwise."""
    low, high = _intervals(tree)

    def splits(node: int) -> bool:
        inner = tree.children(node)
        return len(inner) > 1 and all(
            child >= tree.leaves and high[child] - low[child] + 1 == tree.sizes[child] for child in inner
        )

    parts = _split(tree, splits)
    if len(parts) < 2:
        return ""
    parts.sort(key=low.__getitem__)
    return _compose(tree, parts, "block", [f"{tree.sizes[part]}" for part in parts])


def _lanes(tree: Tree) -> str:
    """Parts that take every W-th term (or every W-th group of neighbours)."""
    width = 1
    while width * 2 <= tree.leaves // 2:
        width *= 2
    while width >= 2:
        for group in (1, 2, 4):
            parts = _residues(tree, width, group)
            if parts:
                return _compose(tree, parts, "lane", [], f" of {group} neighbours" if group > 1 else "")
        width //= 2
    return ""


def _residues(tree: Tree, width: int, group: int) -> list[int]:
    """The nodes that hold exactly the leaves of one residue each; empty if there are none such."""
    if width * group * 2 > tree.leaves:
        return []
    residue = [leaf // group % width for leaf in range(tree.leaves)]
    for node in tree.nodes:
        first = residue[node[0]]
        residue.append(first if all(residue[child] == first for child in node) else -1)
    parts = _split(tree, lambda node: residue[node] < 0)
    return sorted(parts, key=residue.__getitem__) if len(parts) == width else []


def _pairwise(tree: Tree) -> str:
    low, high = _intervals(tree)
    contiguous = all(high[i] - low[i] + 1 == tree.sizes[i] for i in range(tree.leaves, tree.root + 1))
    if contiguous and tree.depth == (tree.leaves - 1).bit_length():
        return "pairwise"
    return ""


def _trimmed(tree: Tree) -> str:
    """A pattern that a few terms at the beginning or the end do not follow."""
    for cut in range(1, min(_MOST_HEAD, tree.leaves // 4) + 1):
        for kept, where in ((range(cut, tree.leaves), "first"), (range(tree.leaves - cut), "last")):
            rest = tree.restricted(kept)
            text = _lanes(rest) or _one_by_one(rest)
            if text:
                return f"{text}; the {where} {cut} term{'s' if cut > 1 else ''} apart"
    return ""


def _compose(tree: Tree, parts: Sequence[int], word: str, sizes: Sequence[str], suffix: str = "") -> str:
    """Name equal parts and say how their sums are added."""
    inner = list(dict.fromkeys(_describe(tree.restricted(tree.leaves_of(part))) for part in parts))
    if not sizes:
        head = f"{len(parts)} {word}s{suffix}"
    elif len(sizes) > 6:
        alike = len(set(sizes[:-1])) == 1
        span = sizes[0] if alike else f"{min(sizes, key=int)} to {max(sizes, key=int)}"
        head = f"{len(parts)} {word}s of {span}"
    else:
        head = f"{word}s of {', '.join(sizes)}"
    top = _one_by_one(_contracted(tree, parts)) or f"a tree of depth {_contracted(tree, parts).depth}"
    inside = f"{len(inner)} different orders inside" if len(inner) > 2 else "each " + " or ".join(inner)
    return f"{head} ({inside}), then {top if len(parts) > 2 else 'their sum'}"


def _contracted(tree: Tree, parts: Sequence[int]) -> Tree:
    """The tree above some disjoint nodes that cover all leaves, each turned into a leaf."""
    return tree.restricted([tree.leaves_of(part)[0] for part in parts])


def _split(tree: Tree, splits: object) -> list[int]:
    """Walk down from the root through every node that ``splits``; where the walk ends."""
    assert callable(splits)
    ends, waiting = [], [tree.root]
    while waiting:
        node = waiting.pop()
        if node >= tree.leaves and splits(node):
            waiting.extend(tree.children(node))
        else:
            ends.append(node)
    return ends


def _intervals(tree: Tree) -> tuple[list[int], list[int]]:
    """Smallest and largest leaf below every id."""
    low, high = list(range(tree.leaves)), list(range(tree.leaves))
    for node in tree.nodes:
        low.append(min(low[child] for child in node))
        high.append(max(high[child] for child in node))
    return low, high

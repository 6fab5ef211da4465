"""Why two sums of the same terms differ: reveal each order, replay both, prove that nothing else differs.

See ``docs/explanation/reduction-order.md``. No framework is imported here: an adapter evaluates the sums.
"""

from whydiff.reduction.describe import describe
from whydiff.reduction.emulate import Product, Terms, emulate
from whydiff.reduction.proof import Proof, prove
from whydiff.reduction.replay import Order, Replay, replay
from whydiff.reduction.reveal import reveal
from whydiff.reduction.tree import Tree, first_difference

__all__ = [
    "Order", "Product", "Proof", "Replay", "Terms", "Tree",
    "describe", "emulate", "first_difference", "prove", "replay", "reveal",
]  # fmt: skip

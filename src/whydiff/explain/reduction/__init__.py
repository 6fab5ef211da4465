"""Why two sums of the same terms differ: reveal each order, replay both, prove that nothing else differs.

See ``docs/explanation/reduction-order.md``. No framework is imported here: an adapter evaluates the sums.
"""

from whydiff.explain.reduction.describe import describe
from whydiff.explain.reduction.emulate import Product, Terms, emulate
from whydiff.explain.reduction.proof import Proof, prove
from whydiff.explain.reduction.replay import Order, Replay, replay
from whydiff.explain.reduction.reveal import reveal
from whydiff.explain.reduction.tree import Tree

__all__ = ["Order", "Product", "Proof", "Replay", "Terms", "Tree", "describe", "emulate", "prove", "replay", "reveal"]

"""The local test: an origin's op alone, on its captured inputs, both outputs against a float64 oracle.

Explanation, thresholds and measured error rates: ``docs/explanation/local-tests.md``.
"""

from whydiff.explain.local_test.examine import Examined, examine, local_test
from whydiff.explain.local_test.hypotheses import HYPOTHESES, Explanation, Hypothesis
from whydiff.explain.local_test.joined import Joint, examine_joints
from whydiff.explain.local_test.judge import LocalResult, judge_outputs
from whydiff.explain.local_test.narrowed import GIVEN, Inside, Node, Sides, narrowed
from whydiff.explain.local_test.numbers_given import Number, Otherwise, otherwise, spelt
from whydiff.explain.local_test.operation import Operation
from whydiff.explain.local_test.replays import operation
from whydiff.explain.local_test.ties import far_apart

__all__ = [
    "GIVEN",
    "HYPOTHESES",
    "Examined",
    "Explanation",
    "Hypothesis",
    "Inside",
    "Joint",
    "LocalResult",
    "Node",
    "Number",
    "Operation",
    "Otherwise",
    "Sides",
    "examine",
    "examine_joints",
    "far_apart",
    "judge_outputs",
    "local_test",
    "narrowed",
    "operation",
    "otherwise",
    "spelt",
]

"""Log-probabilities of the same tokens from an inference engine and from a trainer: what is between them.

`compare_logprobs` pairs the tokens, asks one test after the other, and gives the statistics that training needs.
"""

from whydiff.studies.logprobs.report import LogprobComparison
from whydiff.studies.logprobs.results import Result
from whydiff.studies.logprobs.study import compare_logprobs

__all__ = ["LogprobComparison", "Result", "compare_logprobs"]

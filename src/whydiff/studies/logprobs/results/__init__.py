"""What each test found, as records: fields for code, two sentences for people."""

from whydiff.studies.logprobs.results.base import SIDES, Result, Side
from whydiff.studies.logprobs.results.layout import Missing, PaddingSide, Prompt, SpecialTokens, Tokenisation
from whydiff.studies.logprobs.results.noise import Noise, Outliers
from whydiff.studies.logprobs.results.places import Padded, Stale, Worker
from whydiff.studies.logprobs.results.values import Shift, Temperature, Truncated, Unit

__all__ = [
    "SIDES",
    "Missing",
    "Noise",
    "Outliers",
    "Padded",
    "PaddingSide",
    "Prompt",
    "Result",
    "Shift",
    "Side",
    "SpecialTokens",
    "Stale",
    "Temperature",
    "Tokenisation",
    "Truncated",
    "Unit",
    "Worker",
]

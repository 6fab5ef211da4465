"""Decoding in pieces: chunked prefill and a cache against one pass, token by token; where two models part."""

from whydiff.studies.decoding.parting import NextScores, Parting, greedy_parting
from whydiff.studies.decoding.study import compare_decoding

__all__ = ["NextScores", "Parting", "compare_decoding", "greedy_parting"]

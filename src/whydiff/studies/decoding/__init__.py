"""Decoding in pieces: chunked prefill and a cache against one pass, token by token."""

from whydiff.studies.decoding.study import compare_decoding

__all__ = ["compare_decoding"]

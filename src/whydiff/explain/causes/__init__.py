"""Causes: one file each, found by listing this folder (`whydiff.registry`).

A cause's file defines ``REGISTER``, an instance of a subclass of `CauseRule`, which says what a cause promises; other
distributions register theirs as entry points of the group ``whydiff.causes``.

File names are the codes in lower case (``st003.py``); files that begin with ``_`` are shared parts.
"""

from __future__ import annotations

from whydiff import registry
from whydiff.explain.causes._activations import activation
from whydiff.explain.causes._environment import INERT, code_of
from whydiff.explain.causes._explained import causes_of
from whydiff.explain.causes._precision import Undone, undone, whole_cast
from whydiff.explain.causes._range import widened, with_experiment
from whydiff.explain.causes._rule import CauseRule, StateView, demands, in_order
from whydiff.explain.causes._shape import in_pieces
from whydiff.explain.causes._stale import as_traced_anew
from whydiff.explain.causes._state import Difference, differences, interventions_of
from whydiff.explain.causes._stored import products_alike
from whydiff.explain.causes._telling import asked, by_code, detectors, is_general, proposed, who
from whydiff.explain.causes._view import Finding, JointView, View

CONTRACT = registry.Contract(
    base=CauseRule, demands=demands, keys=lambda part: (part.code, part.name), together=in_order
)


__all__ = [
    "INERT",
    "CauseRule",
    "Difference",
    "Finding",
    "JointView",
    "StateView",
    "Undone",
    "View",
    "activation",
    "as_traced_anew",
    "asked",
    "by_code",
    "causes_of",
    "code_of",
    "detectors",
    "differences",
    "in_pieces",
    "interventions_of",
    "is_general",
    "products_alike",
    "proposed",
    "undone",
    "who",
    "whole_cast",
    "widened",
    "with_experiment",
]

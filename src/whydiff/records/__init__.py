"""The whole vocabulary of whydiff, as inert frozen records (``docs/explanation/glossary.md``).

This room imports no framework, reads no clock and holds no rule about numbers. Every room speaks in these
records: adapters make them, the pipeline reads them, reporters render the last one, `Diagnosis`.
"""

from whydiff.records.collective import Collective
from whydiff.records.diagnosis import ByTolerance, Diagnosis, Side
from whydiff.records.environment import GENERATORS, Environment, ObserverCheck
from whydiff.records.finding import (
    Alignment,
    Cause,
    Comparison,
    Count,
    Direction,
    Evidence,
    Experiment,
    Growth,
    Intervention,
    Left,
    Measurement,
    Origin,
    OriginKind,
    Pair,
    Remedy,
    Status,
    Undoes,
    Verdict,
)
from whydiff.records.hole import LOSING, Hole, HoleKind
from whydiff.records.payload import Payload
from whydiff.records.shown import OpRow, OpState, Picture
from whydiff.records.spec import TensorSpec
from whydiff.records.trace import (
    SCHEMA_VERSION,
    Call,
    Event,
    Fingerprint,
    Kind,
    Leaf,
    LeafRole,
    Lift,
    Output,
    OutputKind,
    Phase,
    RecordedTrace,
    Site,
    Slot,
    Trace,
    has_ops,
)

__all__ = [
    "GENERATORS",
    "LOSING",
    "SCHEMA_VERSION",
    "Alignment",
    "ByTolerance",
    "Call",
    "Cause",
    "Collective",
    "Comparison",
    "Count",
    "Diagnosis",
    "Direction",
    "Environment",
    "Event",
    "Evidence",
    "Experiment",
    "Fingerprint",
    "Growth",
    "Hole",
    "HoleKind",
    "Intervention",
    "Kind",
    "Leaf",
    "LeafRole",
    "Left",
    "Lift",
    "Measurement",
    "ObserverCheck",
    "OpRow",
    "OpState",
    "Origin",
    "OriginKind",
    "Output",
    "OutputKind",
    "Pair",
    "Payload",
    "Phase",
    "Picture",
    "RecordedTrace",
    "Remedy",
    "Side",
    "Site",
    "Slot",
    "Status",
    "TensorSpec",
    "Trace",
    "Undoes",
    "Verdict",
    "has_ops",
]

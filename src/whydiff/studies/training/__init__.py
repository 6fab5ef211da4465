"""Training runs: where they part, why, and whether rounding alone would have parted them (`whydiff.compare_training`)."""

from __future__ import annotations

from whydiff.studies.training.report import TrainingReport
from whydiff.studies.training.study import TrainingOptions, compare_training

__all__ = ["TrainingOptions", "TrainingReport", "compare_training"]

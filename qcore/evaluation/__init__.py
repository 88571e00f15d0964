"""Scores of models and baselines on benchmarks: J&F, identity, mask AP, and readers of their folders."""

from __future__ import annotations

from qcore.evaluation.errors import EvaluationError
from qcore.evaluation.metrics import boundary_f, region_similarity
from qcore.evaluation.prompts import PromptKind
from qcore.evaluation.report import EvaluationReport
from qcore.evaluation.runner import DATASETS, EvaluationProgress, evaluate
from qcore.evaluation.trackers import BASELINES

__all__ = [
    "BASELINES",
    "DATASETS",
    "EvaluationError",
    "EvaluationProgress",
    "EvaluationReport",
    "PromptKind",
    "boundary_f",
    "evaluate",
    "region_similarity",
]

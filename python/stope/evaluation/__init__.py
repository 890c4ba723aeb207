"""Retrieval metrics through ir-measures, per query and mean, bootstrap intervals, and a judge."""

from stope.evaluation.bootstrap import Comparison, compare, confidence_interval
from stope.evaluation.metrics import Evaluation, evaluate
from stope.evaluation.retrieval import RetrievalEvaluation

__all__ = [
    "Comparison", "Evaluation", "RetrievalEvaluation", "compare", "confidence_interval", "evaluate",
]  # fmt: skip

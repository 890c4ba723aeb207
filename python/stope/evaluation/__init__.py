"""Retrieval metrics through ir-measures, per query and mean, and bootstrap intervals."""

from stope.evaluation.bootstrap import Comparison, compare, confidence_interval
from stope.evaluation.metrics import Evaluation, evaluate

__all__ = ["Comparison", "Evaluation", "compare", "confidence_interval", "evaluate"]

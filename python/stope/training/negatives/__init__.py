"""Hard negatives that follow the model: mined again while it trains, chosen anew in every step."""

from stope.training.negatives.live import LiveNegatives
from stope.training.negatives.refresh import NegativeRefresh, RefreshReport, RefreshRun

__all__ = ["LiveNegatives", "NegativeRefresh", "RefreshReport", "RefreshRun"]

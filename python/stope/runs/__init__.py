"""Training runs as configurations: what may stand in one, how it is read, how it is followed."""

from stope.runs.config import Config
from stope.runs.run import RunReport, run

__all__ = ["Config", "RunReport", "run"]

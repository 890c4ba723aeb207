"""Training runs as configurations: what may stand in one, how it is read, how it is followed."""

from stope.training.configuration.config import Config
from stope.training.configuration.run import RunReport, run

__all__ = ["Config", "RunReport", "run"]

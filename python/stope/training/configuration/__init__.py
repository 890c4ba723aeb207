"""Training runs as configurations: what may stand in one, how it is read, how it is followed."""

from stope.training.configuration.config import Config

__all__ = ["Config"]

"""Training runs as configurations: what may stand in one, how it is read, how it is followed."""

from stope._extras import need

need("pydantic", extra="train")  # a sentence where it is missing, before the imports below need it

from stope.runs.config import Config  # noqa: E402
from stope.runs.run import RunReport, run  # noqa: E402

__all__ = ["Config", "RunReport", "run"]

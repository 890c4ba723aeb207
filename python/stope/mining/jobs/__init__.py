"""Mining that survives: a folder, from which a killed process goes on to the same table.

`MiningJob` encodes in shards and mines in shards; `Sources` says where negatives come from.
"""

from stope.mining.jobs.job import MiningJob
from stope.mining.jobs.sources import Sources

__all__ = ["MiningJob", "Sources"]

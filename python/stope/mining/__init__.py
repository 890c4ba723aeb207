"""Hard-negative mining as a pipeline around `stope.mine_hard_negatives`: ids in, ids out.

`Pairs` names the queries, a corpus without duplicate texts, and what answers what; `mine` embeds
(through an `EmbeddingCache` where given) and mines; `Mined` counts, lists and exports.
"""

from __future__ import annotations

from stope.mining.cache import EmbeddingCache
from stope.mining.fingerprint import fingerprint_encoder
from stope.mining.mined import Mined, Summary
from stope.mining.pairs import Pairs
from stope.mining.pipeline import mine

__all__ = ["EmbeddingCache", "Mined", "Pairs", "Summary", "fingerprint_encoder", "mine"]

"""Answers of shards of a corpus, merged into the answer of the whole, bit for bit.

A shard is a range of the corpus's rows. Each is asked alone, on any process or machine
(``*_part``), and what they say is merged by pure functions on arrays (``merge_*``): in any order,
two by two or all at once. Equality is exact because scores are: the score of a query and a row has
the same bits wherever it is computed (docs/concepts/exactness.md).

Ids are row numbers of the whole corpus, int64: a shard's start plus the row in it. Equal scores are
ordered by them. Names are looked up after the merge (`named`): an order by names would depend on
where a shard cut its equal scores off.
"""

from stope.scale.shards.clusters import KMeansShard, kmeans
from stope.scale.shards.negatives import NegativeSearch, NegativesPart
from stope.scale.shards.numbering import named
from stope.scale.shards.pairs import merge_pairs, pairs_part
from stope.scale.shards.searches import (
    earlier_part,
    knn_part,
    merge_earlier,
    merge_topk,
    topk_part,
)

__all__ = [
    "KMeansShard", "NegativeSearch", "NegativesPart", "earlier_part", "kmeans", "knn_part",
    "merge_earlier", "merge_pairs", "merge_topk", "named", "pairs_part", "topk_part",
]  # fmt: skip

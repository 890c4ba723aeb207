"""Range searches read the index's panels: the same bits as pairs_above, which packs."""

import numpy as np
import pytest
from tests.support import cases

import stope


@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_range_has_the_bits_of_pairs_above(dtype, metric):
    """More rows than a block has, and no multiple of a panel's; one query and many."""
    queries, corpus = cases.make("gaussian", 40, 9_001, 33)
    if dtype == "int8":
        queries, corpus = (np.clip(20 * rows, -127, 127) for rows in (queries, corpus))
    queries, corpus = queries.astype(dtype), corpus.astype(dtype)
    index = stope.FlatIndex(corpus, metric)
    for some in (queries[:1], queries):
        least = float(np.median(index.search(some, 30).scores[:, -1]))
        wanted = stope.pairs_above(some, corpus, threshold=least, metric=metric)
        near = index.range_search(some, least)
        assert len(wanted.ids) > 10
        np.testing.assert_array_equal(near.ids, wanted.ids)
        np.testing.assert_array_equal(near.scores.view("u4"), wanted.scores.view("u4"))
        counts = np.bincount(wanted.rows, minlength=len(some))
        np.testing.assert_array_equal(np.diff(near.offsets), counts)


def test_a_range_takes_no_time_to_pack(monkeypatch):
    """The core is handed the panels that the index has, grown ones too, and none of few rows."""
    queries, corpus = cases.make("gaussian", 3, 200, 16)
    index, handed = stope.FlatIndex(corpus[:50]), []
    index.add(corpus[50:])
    real = stope._core.pairs_above

    def watched(**options):
        handed.append(options["packed"])
        return real(**options)

    monkeypatch.setattr("stope._core.pairs_above", watched)
    index.range_search(queries, 3.0)
    index.range_search(queries, 3.0, among=[3, 5, 190])
    assert handed[0].nbytes == stope._core.packed_bytes(200, 16)
    assert handed[1] is None

"""stope.topk_blocks: a corpus block by block gives the answer of the whole, ties included."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import stope


@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 300), max_size=5),
    k=st.integers(1, 320),
    metric=st.sampled_from(["dot", "cosine", "euclidean"]),
    values=st.sampled_from([2, 1000]),
)
def test_blocks_answer_as_the_whole(seed, cuts, k, metric, values):
    """With two values in a row almost every score has ties."""
    rng = np.random.default_rng(seed)
    corpus = rng.integers(-values, values, (300, 3)).astype(np.float32)
    queries = rng.integers(-values, values, (7, 3)).astype(np.float32)
    blocks = np.split(corpus, sorted(cuts))
    scores, ids = stope.topk_blocks(queries, iter(blocks), k, metric=metric)
    whole = stope.topk(queries, corpus, min(k, 300), metric=metric)
    np.testing.assert_array_equal(ids[:, :300], whole.ids)
    np.testing.assert_array_equal(scores[:, :300], whole.scores)
    assert (ids[:, 300:] == -1).all()
    assert np.isneginf(scores[:, 300:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_dtypes(dtype):
    x = (np.random.default_rng(0).standard_normal((500, 40)) * 30).astype(dtype)
    parts = stope.topk_blocks(x[:9], np.array_split(x, 7), 20)
    whole = stope.topk(x[:9], x, 20)
    np.testing.assert_array_equal(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.scores, whole.scores)


def test_little_or_nothing():
    rows = np.ones((3, 4), np.float32)
    nothing = stope.topk_blocks(rows, [], 2)
    assert nothing.ids.tolist() == [[-1, -1]] * 3
    assert stope.topk_blocks(rows[:0], [rows], 2).ids.shape == (0, 2)
    assert stope.topk_blocks(rows, [rows[:0], rows[:1]], 2).ids.tolist() == [[0, -1]] * 3


def test_errors_name_the_block():
    good, bad = np.ones((6, 4), np.float32), np.ones((5, 4), np.float32)
    bad[3] = np.nan
    with pytest.raises(ValueError, match=r"blocks\[1\], which begins at id 6: .*row 3"):
        stope.topk_blocks(good, [good, bad], 2)
    with pytest.raises(ValueError, match=r"blocks\[2\], which begins at id 12: .*dim 3"):
        stope.topk_blocks(good, [good, good, good[:, :3].copy()], 2)
    with pytest.raises(TypeError, match=r"begins at id 0: .*float64"):
        stope.topk_blocks(good, [good.astype(float)], 2)
    with pytest.raises(ValueError, match="k is 0"):
        stope.topk_blocks(good, [good], 0)
    with pytest.raises(TypeError, match="blocks is 5; give a list"):
        stope.topk_blocks(good, 5, 2)


def test_blocks_are_let_go():
    alive, most = [0], [0]

    class Block(np.ndarray):
        def __del__(self):
            alive[0] -= self.base is None

    def block(seed):
        rows = np.ndarray.__new__(Block, (50, 8), np.float32)
        rows[:] = np.random.default_rng(seed).standard_normal((50, 8))
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return rows

    stope.topk_blocks(np.ones((4, 8), np.float32), map(block, range(6)), 3)
    assert (most[0], alive[0]) == (1, 0)

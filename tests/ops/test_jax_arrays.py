"""JAX arrays cross by DLPack, without torch: the bits of NumPy's, as JAX arrays."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import stope
from stope import _arrays

Q = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((300, 16)).astype(np.float32)
CALLS = {
    "similarity": stope.similarity,
    "topk": lambda q, x: stope.topk(q, x, 4),
    "index": lambda q, x: stope.FlatIndex(x).search(q, 4),
    "mine": lambda q, x: stope.mine_hard_negatives(q, x, [[0]] * 6, 3, relative_margin=0.1)[:4],
    "pairs_above": lambda q, x: stope.pairs_above(q, x, threshold=3.0),
    "knn_graph": lambda q, x: stope.knn_graph(x, 3),
    "nearest_earlier": lambda q, x: stope.nearest_earlier(x),
    "kmeans": lambda q, x: stope.kmeans(x, 3, seed=0)[:3],
    "infonce": lambda q, x: stope.infonce_forward(q, x[:6])[:3],
}


@pytest.mark.parametrize("name", CALLS)
def test_jax_arrays_answer_as_numpys(name):
    jax = pytest.importorskip("jax", reason="a framework that stope serves without an extra")
    plain = CALLS[name](Q, X)
    ours = CALLS[name](jax.numpy.asarray(Q), jax.numpy.asarray(X))
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert isinstance(a, jax.Array)
        np.testing.assert_array_equal(np.asarray(a), b)


def test_an_index_of_jax_s_bfloat16_changes_and_is_saved(tmp_path):
    jax = pytest.importorskip("jax", reason="a framework that stope serves without an extra")
    q, x = (jax.numpy.asarray(rows, dtype=jax.numpy.bfloat16) for rows in (Q, X))
    index = stope.FlatIndex(x[:200])
    index.add(x[200:])
    index.remove([7])
    index.save(tmp_path / "index")
    whole = np.asarray(x).astype(np.float32)
    expected = stope.topk(np.asarray(q).astype(np.float32), whole, 3, exclude=[[7]] * len(Q))
    for each in (index, stope.FlatIndex.load(tmp_path / "index")):
        np.testing.assert_array_equal(each.search(q, 3).ids, expected.ids)
    rounded = stope.FlatIndex(x, storage="float32").search(Q, 3)
    np.testing.assert_array_equal(rounded.ids, stope.topk(Q, whole, 3).ids)


def test_jax_needs_no_torch(python):
    pytest.importorskip("jax", reason="a framework that stope serves without an extra")
    done = python("""
        import sys
        import jax.numpy as jnp
        import stope
        rows = jnp.eye(4, dtype=jnp.bfloat16)
        assert stope.topk(rows, rows, 1).ids.ravel().tolist() == [0, 1, 2, 3]
        assert "torch" not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("x64", [False, True])
def test_ids_that_int32_cannot_hold_are_refused(monkeypatch, x64):
    """JAX drops the upper half of int64 without a word."""
    fake = types.SimpleNamespace(config=types.SimpleNamespace(jax_enable_x64=x64), numpy=np)
    monkeypatch.setitem(sys.modules, "jax", fake)
    model = type("Array", (), {"__module__": "jaxlib._jax"})()
    small = _arrays.like(np.array([3, -1]), model)
    assert (small.tolist(), small.dtype) == ([3, -1], np.int64 if x64 else np.int32)
    if x64:
        assert _arrays.like(np.array([2**31]), model).tolist() == [2**31]
    else:
        with pytest.raises(ValueError, match="an id is 2147483648, and JAX keeps int32"):
            _arrays.like(np.array([2**31]), model)

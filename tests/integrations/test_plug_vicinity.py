"""vicinity's and txtai's backends on stope, and SemHash on vicinity's: exact."""

from __future__ import annotations

import numpy as np
import pytest

vicinity = pytest.importorskip("vicinity", reason='needs pip install "stope[vicinity]"')

from vicinity import Metric, Vicinity

from stope.integrations.vicinity import StopeBackend

X = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)
ITEMS = [f"item {i}" for i in range(400)]


def stores(metric):
    ours = Vicinity(list(ITEMS), StopeBackend.from_vectors(X, metric=metric))
    return ours, Vicinity.from_vectors_and_items(X, list(ITEMS), "basic", metric=metric)


def same(ours, theirs, *, ordered=True):
    for a, b in zip(ours, theirs, strict=True):
        if not ordered:
            b = sorted(b, key=lambda hit: hit[1])
        assert [item for item, _ in a] == [item for item, _ in b]
        np.testing.assert_allclose([d for _, d in a], [d for _, d in b], atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_it_answers_as_the_basic_backend(metric, tmp_path):
    ours, theirs = stores(metric)
    threshold = {"cosine": 0.45, "euclidean": 3.2}[metric]
    queries = X[:30] + np.float32(0.01)

    def compared(ours):
        same(ours.query(queries, k=9), theirs.query(queries, k=9))
        same(ours.query_threshold(queries, threshold=threshold, max_k=3),
             theirs.query_threshold(queries, threshold=threshold), ordered=False)  # fmt: skip

    compared(ours)
    for store in (ours, theirs):
        store.insert(["new 1", "new 2"], X[:2] * np.float32(1.5) + np.float32(0.3))
        store.delete(["item 3", "item 399", "new 1"])
    assert len(ours.backend) == 399
    compared(ours)
    assert len(ours.query(queries[:1], k=900)[0]) == 399
    _, recall = stores(metric)[0].evaluate(X, queries, k=10)
    assert recall == 1.0
    ours.save(tmp_path / "saved")
    loaded = Vicinity.load(tmp_path / "saved")  # by vicinity's own exact backend
    same(loaded.query(queries, k=9), ours.query(queries, k=9))
    again = StopeBackend.load(tmp_path / "saved")
    assert [i.tolist() for i, _ in again.query(queries, 5)] == [
        i.tolist() for i, _ in ours.backend.query(queries, 5)
    ]


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="metric is 'inner_product'; give one of 'cosine', 'euc"):
        StopeBackend.from_vectors(X, metric=Metric.INNER_PRODUCT)
    with pytest.raises(ValueError, match="k is 0"):
        StopeBackend.from_vectors(X.astype(float)).query(X, 0)


def test_semhash_finds_every_duplicate():
    """Its own backend is approximate, and cuts large groups."""
    semhash = pytest.importorskip("semhash", reason="needs pip install semhash")
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, 16))
    rows = (centres[rng.integers(40, size=900)] + 0.05 * rng.standard_normal((900, 16))).astype("f")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    records = [f"record {i}" for i in range(900)]

    def kept(on_stope, backend="basic"):
        found = semhash.SemHash.from_embeddings(rows, records, model=None, ann_backend=backend)
        if on_stope:
            found.index.backend = StopeBackend.from_vectors(found.index.vectors)
        return found.self_deduplicate(threshold=0.9).selected

    exact = kept(on_stope=False)
    assert kept(on_stope=True) == exact
    assert len(exact) < 60


def letters(texts):
    rows = np.array([[text.count(letter) for letter in "abcdeginorstvwl "] for text in texts])
    return rows.astype(np.float32)


def test_txtai_searches_by_stope(tmp_path, monkeypatch):
    monkeypatch.setenv("ALLOW_RESOLVE_TRANSFORM", "True")
    pytest.importorskip("txtai", reason="needs pip install txtai")
    from txtai import Embeddings

    texts = ["iron ore", "pine wood", "silver ore in a mine", "a vein of lead"]

    def made(backend):
        config = {"method": "external", "transform": f"{__name__}.letters", "backend": backend}
        embeddings = Embeddings(config)
        embeddings.index([(i, text, None) for i, text in enumerate(texts)])
        embeddings.upsert([(9, "tin in granite", None)])
        embeddings.delete([1])
        embeddings.ann.delete([77, 77])  # passed over
        return embeddings

    ours, theirs = made("stope.integrations.txtai.StopeANN"), made("numpy")
    for query in ("ore", "granite wind", "wood"):
        a, b = ours.search(query, 3), theirs.search(query, 3)
        assert [i for i, _ in a] == [i for i, _ in b]
        np.testing.assert_allclose([s for _, s in a], [s for _, s in b], atol=1e-6)
    assert ours.count() == theirs.count() == 4
    assert ours.batchsearch(["ore", "wood"], 2) == [ours.search("ore", 2), ours.search("wood", 2)]
    ours.save(str(tmp_path / "saved"))
    again = Embeddings({"method": "external", "transform": f"{__name__}.letters"})
    again.load(str(tmp_path / "saved"))
    assert again.search("ore", 3) == ours.search("ore", 3)

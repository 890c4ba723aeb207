"""What the benchmarks of training measure on the way and before: formulas, against plain loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from stope.data import Pairs
from stope.mining import mine

pytest.importorskip("sentence_transformers", reason="the benchmark trains encoders")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.config.rootpath / "benchmarks"))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def embedded():
    """30 queries of 12 of 20 documents, and embeddings of both."""
    rng = np.random.default_rng(0)
    texts = [f"document {row}" for row in range(20)]
    answers = rng.integers(0, 12, 30)
    answers[:12] = np.arange(12)
    queries = [f"query {row}" for row in range(30)]
    pairs = Pairs.from_texts(queries, [texts[row] for row in answers], texts)
    return pairs, unit(rng.normal(size=(30, 6))), unit(rng.normal(size=(20, 6)))


def test_alignment_and_uniformity():
    import bench_course

    rng = np.random.default_rng(1)
    left, right = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(7, 5)))
    near = np.mean([sum((a - b) ** 2) for a, b in zip(left, right, strict=True)])
    assert bench_course.alignment(left, right) == pytest.approx(near, rel=1e-6)
    apart = [
        math.exp(-2 * sum((left[i] - left[j]) ** 2)) for i in range(7) for j in range(7) if i != j
    ]
    assert bench_course.uniformity(left) == pytest.approx(math.log(np.mean(apart)), rel=1e-5)


def test_balanced_negatives_keep_to_their_share(embedded):
    import training_negatives

    pairs, queries, corpus = embedded

    def mined(model, **limits):
        return mine(pairs, query_embeddings=queries, corpus_embeddings=corpus, **limits)

    chosen = training_negatives.balanced(3)(SimpleNamespace(pairs=pairs, mined=mined), None)
    times = np.bincount(chosen[chosen >= 0], minlength=20)
    asked = np.bincount(pairs.positives.ids, minlength=20)
    assert (times <= 3 * asked).all()
    assert times.sum() >= 0.8 * 3 * 30  # hardly anything stays undistributed
    for query, row in enumerate(chosen.tolist()):
        there = [document for document in row if document >= 0]
        assert len(set(there)) == len(there)
        assert pairs.positives.ids[query] not in there  # one positive each


def test_log_weights_of_exposure(embedded):
    import training_negatives

    pairs, _, _ = embedded
    kind = SimpleNamespace(pairs=pairs)
    asked = np.bincount(pairs.positives.ids, minlength=20)
    weights = np.exp(training_negatives.by_exposure(kind, None))
    assert weights == pytest.approx((asked + 0.1) / 1.1, rel=1e-6)
    corrected = np.exp(training_negatives.log_q(kind, None)) * np.maximum(asked, 1)
    assert corrected == pytest.approx(np.full(20, (asked**2).sum() / asked.sum()), rel=1e-6)


def test_numbers_of_negatives(embedded):
    import bench_forecast

    pairs, queries, corpus = embedded
    mined = mine(pairs, query_embeddings=queries, corpus_embeddings=corpus, num_negatives=4)
    numbers = bench_forecast.numbers(mined, queries, corpus, unseen=0.5)
    asked = np.bincount(pairs.positives.ids, minlength=20)
    listed = [
        (query, document)
        for query, row in enumerate(mined.result.ids.tolist())
        for document in row
        if document >= 0
    ]
    times = [sum(document == row for _, document in listed) for row in range(20)]
    never = np.mean([asked[document] == 0 for _, document in listed])
    assert numbers["never"] == pytest.approx(never)
    assert numbers["unseen"] == pytest.approx(never / 2)
    both = zip(np.array(times) / len(listed), asked / 30, strict=True)
    assert numbers["apart"] == pytest.approx(1 - sum(min(pair) for pair in both))
    entropy = scipy.stats.entropy(times) / math.log(20)
    assert numbers["entropy"] == pytest.approx(entropy)
    right = pairs.positives.ids  # one each
    score = queries @ corpus.T
    margins = [score[query, right[query]] - score[query, document] for query, document in listed]
    assert numbers["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
    hard = np.mean([max(0, score[pair]) for pair in listed])
    safe = np.mean([max(0, margin) for margin in margins])
    assert numbers["capacity"] == pytest.approx(
        math.log(5) * scipy.stats.hmean([hard, safe]), rel=1e-4
    )
    moments = np.eye(6)
    for (query, document), margin in zip(listed, margins, strict=True):
        away = (corpus[document] - corpus[right[query]]).astype(float)
        chance = math.exp(-margin / 0.05) / (1 + math.exp(-margin / 0.05))
        moments += 6 * chance * (1 - chance) * np.outer(away, away) / len(listed)
    assert numbers["volume"] == pytest.approx(np.linalg.slogdet(moments)[1], rel=1e-3)


def test_intervals_of_a_correlation_are_of_collections():
    import bench_forecast

    def cell(collection, number, difference):
        numbers = {"number": number}
        return {"collection": collection, "numbers": numbers, "difference": difference}

    rising = [cell(f"c{place % 5}", place, place**2) for place in range(10)]
    assert bench_forecast.correlation(rising, "number") == pytest.approx((1.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    noise = [cell(f"c{place % 5}", rng.normal(), rng.normal()) for place in range(10)]
    rank, low, high = bench_forecast.correlation(noise, "number")
    assert low < rank < high
    assert high - low > 0.4


def test_a_document_of_no_weight_is_one_that_is_not_there(embedded):
    import training_negatives
    from stope.adapters import train_adapter

    pairs, queries, corpus = embedded
    asked = np.bincount(pairs.positives.ids, minlength=20)

    def trained(weights, **options):
        with training_negatives.weighed(weights):
            adapter = train_adapter(queries, corpus, pairs.positives, batch_size=10, **options)
        return adapter.weight

    plain = trained(None, among="corpus")
    zeros = np.zeros(20, dtype=np.float32)
    np.testing.assert_array_equal(trained(zeros, among="corpus"), plain)
    gone = np.where(asked > 0, 0.0, -200.0).astype(np.float32)
    positives = trained(None, among="positives")
    assert np.abs(trained(gone, among="corpus") - positives).max() < 1e-4
    assert np.abs(plain - positives).max() > 1e-3
    some = {"among": "corpus", "num_documents": 12}  # documents of a step, not their order, count
    assert np.abs(trained(gone, **some) - trained(zeros, **some)).max() > 1e-3

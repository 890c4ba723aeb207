"""Live negatives: what is published, chosen, exchanged and saved."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from refresh_cases import QUERIES, Turning, check_choice, own, some_pairs

import torch
from stope.data import Pairs
from stope.mining import SimANS, Top, mine
from stope.mining.stale import is_stale, replace_stale
from stope.training import LiveNegatives


def published(pairs, pool=12, **options):
    live = LiveNegatives(pairs, **options)
    found = mine(pairs, Turning(), num_negatives=pool).result
    live.publish(found.ids, found.scores, found.positive_scores)
    return live


@pytest.mark.parametrize("sampling", [None, Top(), SimANS()])
@pytest.mark.parametrize("n", [3, 20])
def test_choices_are_distinct_negatives_and_depend_on_the_query_alone(sampling, n):
    pairs = some_pairs()
    live = published(pairs, num_negatives=n, sampling=sampling, seed=5)
    queries = np.array([3, 0, 19, 3, 7])
    found = live.choose(torch.from_numpy(queries), step=4)
    check_choice(pairs, queries, found, n)
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_array_equal(live.choose([7], 4)[0], found[4])
    inside = [set(row[:12]) <= set(live.candidates[q]) for q, row in zip(queries, found)]  # noqa: B905
    assert all(inside)  # random documents come only after the candidates
    if n == 20 or sampling is not None:
        return
    assert (live.choose(queries, 5) != found).any()


def test_choices_before_anything_was_mined_are_random_documents():
    pairs = some_pairs()
    live = LiveNegatives(pairs, num_negatives=4)
    assert live.version == 0
    check_choice(pairs, range(QUERIES), live.choose(range(QUERIES), 0), 4)


def test_texts_are_those_of_the_ids():
    pairs = some_pairs()
    live = published(pairs, num_negatives=2)
    ids = live.choose([0, 1], 0)
    assert live.texts(ids) == [pairs.corpus_texts[row] for row in ids.ravel()]


def test_quotas():
    pairs = some_pairs()
    live = LiveNegatives(
        pairs, num_negatives=5, sampling=Top(), quotas={"dense": 2, "bm25": 2, "random": 1}
    )
    found = mine(pairs, Turning(), num_negatives=12).result
    lexical = found.ids[:, [0, 1, 8, 9, 10]]  # the first two are taken already
    live.publish(found.ids, found.scores, found.positive_scores, lexical=lexical)
    ids = live.choose(range(QUERIES), 3)
    check_choice(pairs, range(QUERIES), ids, 5)
    np.testing.assert_array_equal(ids[:, :2], found.ids[:, :2])
    assert np.isin(ids[:, 2:4], found.ids[:, 8:11]).all()
    live.publish(found.ids[:, :1], found.scores[:, :1], found.positive_scores)
    ids = live.choose(range(QUERIES), 3)  # dense is short of one, BM25 gives three
    check_choice(pairs, range(QUERIES), ids, 5)
    assert np.isin(ids[:, 1:4], lexical).all()


def test_filters_may_leave_gaps():
    pairs = some_pairs()
    live = published(pairs, num_negatives=2, sampling=Top())
    ids, scores = live.candidates.copy(), live.scores.copy()
    kept = ids[:, 1::2].copy()
    ids[:, ::2] = -1
    live.publish(ids, scores, live.positive_scores)
    np.testing.assert_array_equal(live.choose(range(QUERIES), 0), kept[:, :2])


def test_what_cannot_be_published_changes_nothing():
    pairs = some_pairs()
    live = published(pairs, num_negatives=2)
    ids, scores, positive = live.candidates, live.scores, live.positive_scores
    wrong = {"holds a positive": min(own(pairs, 2)), "twice": int(ids[2, 1]), "120": 120}
    for words, value in wrong.items():
        bad = ids.copy()
        bad[2, 0] = value
        with pytest.raises(ValueError, match=words):
            live.publish(bad, scores, positive)
    with pytest.raises(ValueError, match="one row for each of the 20 queries"):
        live.publish(ids[:3], scores[:3], positive[:3])
    with pytest.raises(ValueError, match="positive_scores"):
        live.publish(ids, scores, positive[:3])
    assert live.version == 1


def test_queries_without_enough_documents():
    pairs = Pairs.from_texts(["q"], [["a", "b"]], ["a", "b"])
    with pytest.raises(ValueError, match="Query 'q0' has too few negatives: none is"):
        LiveNegatives(pairs, num_negatives=1)
    pairs = Pairs.from_texts(["q"], [["a", "b"]], ["a", "b", "c", "q"])
    with pytest.raises(ValueError, match="only 1 of the 4 documents are"):
        LiveNegatives(pairs, num_negatives=2)
    assert LiveNegatives(pairs, num_negatives=1).choose([0], 0).tolist() == [[2]]


def test_bad_options_of_live_negatives():
    pairs = some_pairs()
    with pytest.raises(ValueError, match="num_negatives is 0"):
        LiveNegatives(pairs, num_negatives=0)
    with pytest.raises(ValueError, match="4 in all, but num_negatives is 5"):
        LiveNegatives(pairs, quotas={"dense": 4})
    with pytest.raises(ValueError, match="numbers of the 20 queries"):
        LiveNegatives(pairs).choose([20], 0)


@pytest.mark.parametrize("fixed", [False, True])
def test_saved_negatives_go_on(tmp_path, fixed):
    pairs = some_pairs()
    live = published(pairs, num_negatives=3, fixed=fixed, seed=2)
    queries = np.arange(QUERIES)
    ids = live.choose(queries, 0)
    live.observe(queries, ids, torch.full((QUERIES, 3), -0.1))
    live.save(tmp_path)
    first = set(tmp_path.iterdir())
    live.save(tmp_path)
    assert set(tmp_path.iterdir()) == first
    other = LiveNegatives(pairs, num_negatives=3, fixed=fixed, seed=2)
    other.load(tmp_path)
    assert other.version == live.version == 1
    np.testing.assert_array_equal(other.choose(queries, 9), live.choose(queries, 9))
    assert other.replace_stale() == live.replace_stale()
    np.testing.assert_array_equal(other.choose(queries, 9), live.choose(queries, 9))
    live.publish(live.candidates[:, :4], live.scores[:, :4], live.positive_scores)
    live.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(first)  # what is not named any more is gone


def test_altered_or_foreign_files_are_refused(tmp_path):
    pairs = some_pairs()
    live = published(pairs, num_negatives=3)
    with pytest.raises(ValueError, match="is missing; start without it"):
        live.load(tmp_path)
    live.save(tmp_path)
    for options in ({"num_negatives": 2}, {"num_negatives": 3, "seed": 1}):
        with pytest.raises(ValueError, match="of another run: " + next(reversed(options))):
            LiveNegatives(pairs, **options).load(tmp_path)
    with pytest.raises(ValueError, match="of another run: pairs"):
        LiveNegatives(some_pairs(seed=1), num_negatives=3).load(tmp_path)
    path = next(tmp_path.glob("*-candidates-*.npy"))
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="altered"):
            live.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        live.load(tmp_path)
    assert live.version == 1


def test_an_interrupted_save_leaves_the_one_before(tmp_path, monkeypatch):
    pairs = some_pairs()
    live = published(pairs, num_negatives=3)
    live.save(tmp_path)
    before = live.choose(range(QUERIES), 1)
    live.publish(live.candidates[:, 5:], live.scores[:, 5:], live.positive_scores)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stope._files.arrays.open_atomic", full)
    with pytest.raises(OSError, match="No space"):
        live.save(tmp_path)
    other = LiveNegatives(pairs, num_negatives=3)
    other.load(tmp_path)
    np.testing.assert_array_equal(other.choose(range(QUERIES), 1), before)


# --- the stale rule -----------------------------------------------------------------------------


def test_stale_reference():
    mined, now = np.float32([0.60, 0.60, 0.99, 0.6]), np.float32([0.50, 0.53, 0.82, np.nan])
    assert is_stale(mined, now).tolist() == [True, False, False, False]


def test_replacements_follow_the_ranks():
    n, pool = 2, 16
    candidates = np.arange(pool)[None]
    scores = np.linspace(0.9, 0.5, pool, dtype=np.float32)[None]
    places, rounds = np.array([[0, 1]]), np.array([0])
    easy, hard = np.float32([[0.1, 0.1]]), np.float32([[0.1, 0.89]])
    places, rounds, left = replace_stale(easy, candidates, scores, places, rounds)
    assert (places.tolist(), rounds.tolist(), left) == ([[10, 11]], [1], 0)
    places, rounds, left = replace_stale(hard, candidates, scores, places, rounds)
    assert (places.tolist(), rounds.tolist(), left) == ([[12, 11]], [2], 0)
    places, rounds, left = replace_stale(easy, candidates, scores, places, rounds)
    assert places.tolist() == [[14, 15]]
    places, rounds, left = replace_stale(easy, candidates, scores, places, rounds)
    assert (places.tolist(), left) == ([[14, 15]], 2)  # the ranks have ended
    assert n == places.shape[1]


def test_a_document_in_use_is_not_taken_again():
    """With n above 10 the first replacement's ranks overlap those in use."""
    n = 12
    candidates, scores = np.arange(30)[None], np.full((1, 30), 0.9, np.float32)
    observed = np.full((1, n), np.nan, np.float32)
    observed[0, 3] = 0.1
    places, _, _ = replace_stale(
        observed, candidates, scores, np.arange(n)[None], np.zeros(1, np.int64)
    )
    assert places.tolist() == [[0, 1, 2, 12, *range(4, 12)]]


def test_observing_costs_little():
    pairs = some_pairs()
    live = published(pairs, num_negatives=3, fixed=True)
    queries = np.tile(np.arange(QUERIES), 200)
    ids = live.choose(queries, 0)
    scores = np.zeros(ids.shape, np.float32)
    began = time.process_time()
    for _ in range(10):
        live.observe(queries, ids, scores)
    assert time.process_time() - began < 0.5


def test_a_choice_beside_publishing_is_of_one_version():
    pairs = some_pairs()
    first, second = published(pairs, num_negatives=3), published(pairs, num_negatives=3)
    tables = [
        (first.candidates, first.scores, first.positive_scores),
        (first.candidates[:, ::-1].copy(), first.scores[:, ::-1].copy(), first.positive_scores),
    ]
    versions, expected = range(2, 12), {1: first.choose(range(QUERIES), 5).tolist()}
    for version in versions:
        second.publish(*tables[version % 2])
        expected[version] = second.choose(range(QUERIES), 5).tolist()
    with ThreadPoolExecutor(1) as pool:
        chosen = pool.submit(lambda: [first.choose(range(QUERIES), 5).tolist() for _ in range(300)])
        for version in versions:
            first.publish(*tables[version % 2])
            time.sleep(0.005)
        assert all(ids in expected.values() for ids in chosen.result())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "1"}, "version is '1', where a whole number"),
        ({"notes": []}, r"notes is \[\], where a mapping"),
        ({"observations": None}, "observations is None, where"),
        ({"arrays": {}}, "arrays.candidates is missing"),
    ],
)
def test_edited_manifests_are_refused(tmp_path, change, said):
    live = published(some_pairs(), num_negatives=3)
    live.save(tmp_path)
    manifest = tmp_path / "negatives.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(ValueError, match=rf"negatives\.json is damaged: {said}"):
        live.load(tmp_path)

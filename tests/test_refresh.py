"""Negatives that follow the model: what is published, chosen, exchanged, saved, and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders import HashEncoder, some_texts
from stope.mining import Pairs, SimANS, Top, mine
from stope.training import (
    LiveNegatives,
    NegativeRefresh,
    NegativeRefreshCallback,
    RefreshReport,
)
from stope.training._stale import is_stale, replace_stale

HERE = Path(__file__).resolve().parent
QUERIES, SIZE = 20, 120


class Turning(HashEncoder):
    """Word vectors turn with `turn`, as if the model were trained."""

    def __init__(self, turn=0.0):
        super().__init__(16)
        self.turn = turn

    def vector(self, word):
        one = super().vector(word)
        return (1 - self.turn) * one + self.turn * np.roll(one, 1) * np.sign(one)

    def fingerprint(self):
        return f"turned {self.turn}"


def some_pairs(seed=0, size=SIZE):
    texts = list(dict.fromkeys(some_texts(size, seed)))
    random = np.random.default_rng(seed)
    answers = [
        [texts[row] for row in random.choice(len(texts), random.integers(1, 4), replace=False)]
        for _ in range(QUERIES)
    ]
    asked = [f"q{i} {one[0]}" for i, one in enumerate(answers)]
    return Pairs.from_texts(asked, answers, texts)


def own(pairs, query):
    offsets, rows = pairs.positives
    return set(rows[offsets[query] : offsets[query + 1]].tolist())


# --- LiveNegatives ------------------------------------------------------------------------------


def published(pairs, pool=12, **options):
    live = LiveNegatives(pairs, **options)
    found = mine(pairs, Turning(), num_negatives=pool).result
    live.publish(found.ids, found.scores, found.positive_scores)
    return live


def check_choice(pairs, queries, ids, n):
    assert ids.shape == (len(queries), n)
    assert ids.dtype == np.int64
    for query, row in zip(queries, ids, strict=True):
        assert len(set(row.tolist())) == n
        assert row.min() >= 0
        assert not set(row.tolist()) & own(pairs, query)


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
    with pytest.raises(ValueError, match="missing or incomplete"):
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

    monkeypatch.setattr("stope.training._array_files.open_atomic", full)
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


def test_stale_mode_exchanges_what_the_loss_saw_easy():
    pairs = some_pairs()
    run = NegativeRefresh("stale", every=10, num_negatives=3, pool=40).start(pairs, Turning())
    assert run.due(0)
    run.run(Turning(), 0)
    live, queries = run.negatives, np.arange(QUERIES)
    ids = live.choose(queries, 0)
    np.testing.assert_array_equal(ids, live.candidates[:, :3])
    np.testing.assert_array_equal(live.choose(queries, 1), ids)
    scores = live.scores[:, :3].copy()
    scores[4, 1] = 0.0
    live.observe(queries[2:7], ids[2:7], torch.from_numpy(scores[2:7]).requires_grad_())
    assert not run.due(9)
    assert run.due(10)
    report = run.run(Turning(), 10)
    assert (live.version, report.version, report.shortfalls) == (2, 2, 0)
    assert report.changed == pytest.approx(1 / 60)
    expected = ids.copy()
    expected[4, 1] = live.candidates[4, 10]
    np.testing.assert_array_equal(live.choose(queries, 11), expected)
    assert report.mean_score == pytest.approx(live.scores[4, 10])
    report = run.run(Turning(), 20)  # nothing was observed since
    assert (report.version, report.changed) == (2, 0.0)


def test_observing_costs_little():
    pairs = some_pairs()
    live = published(pairs, num_negatives=3, fixed=True)
    queries = np.tile(np.arange(QUERIES), 200)
    ids = live.choose(queries, 0)
    scores = np.zeros(ids.shape, np.float32)
    began = time.perf_counter()
    for _ in range(10):
        live.observe(queries, ids, scores)
    assert time.perf_counter() - began < 0.5


# --- NegativeRefresh ----------------------------------------------------------------------------


def test_periodic_follows_the_model(tmp_path):
    pairs, said = some_pairs(), []
    refresh = NegativeRefresh(every=5, num_negatives=3, pool=10, relative_margin=None)
    run = refresh.start(pairs, Turning(), folder=tmp_path, progress=lambda *one: said.append(one))
    first = run.run(Turning(), 0)
    assert isinstance(first, RefreshReport)
    assert {stage for stage, _, _ in said} == {"corpus", "queries", "mining"}
    assert (first.version, first.step, first.changed, first.shortfalls) == (1, 0, 1.0, 0)
    kept = set(tmp_path.rglob("embeddings.npy"))
    assert len(kept) == 2
    report = run.run(Turning(0.7), 5)
    assert (report.version, run.negatives.version) == (2, 2)
    assert 0 < report.changed < 1
    assert report.seconds_encode > 0
    assert report.rows_per_second > 0
    expected = mine(pairs, Turning(0.7), num_negatives=10).result
    np.testing.assert_array_equal(run.negatives.candidates, expected.ids)
    np.testing.assert_array_equal(run.negatives.scores, expected.scores)
    np.testing.assert_array_equal(run.negatives.positive_scores, expected.positive_scores)
    assert report.mean_score == pytest.approx(expected.scores.mean(), rel=1e-5)
    now = set(tmp_path.rglob("embeddings.npy"))
    assert len(now) == 2
    assert not now & kept  # those of the earlier weights are gone


def test_limits_reach_the_miner():
    pairs = some_pairs()
    limits = {"relative_margin": 0.2, "absolute_margin": 0.1, "max_score": 0.7, "min_score": 0.1}
    run = NegativeRefresh("static", pool=20, range_min=2, **limits).start(pairs, None)
    run.run(Turning(), 0)
    expected = mine(pairs, Turning(), num_negatives=20, range_min=2, **limits).result
    np.testing.assert_array_equal(run.negatives.candidates, expected.ids)
    short = (expected.counts < 5).sum()
    assert run.reports[0].shortfalls == short
    check_choice(pairs, range(QUERIES), run.negatives.choose(range(QUERIES), 0), 5)


def test_when_refreshes_are_due():
    pairs, model = some_pairs(), Turning()
    steps = NegativeRefresh(every=3, pool=10).start(pairs, model)
    assert steps.due(0)
    steps.run(model, 0)
    assert [step for step in range(1, 8) if steps.due(step, step == 4)] == [3, 6]
    steps.run(model, 3)
    assert not steps.due(3)
    epochs = NegativeRefresh(every_epochs=2, pool=10).start(pairs, model)
    epochs.run(model, 0)
    found = [step for step in range(1, 17) if epochs.due(step) or epochs.due(step, step % 4 == 0)]
    assert found == [8, 16]
    assert epochs.due(16, True)  # asking twice changes nothing
    usual = NegativeRefresh(pool=10).start(pairs, model)
    usual.run(model, 0)
    assert [step for step in range(1, 9) if usual.due(step, step % 4 == 0)] == [4, 8]
    static = NegativeRefresh("static", pool=10).start(pairs, model)
    static.run(model, 0)
    assert not any(static.due(step, True) for step in range(300))
    stale = NegativeRefresh("stale", pool=10).start(pairs, model)
    stale.run(model, 0)
    assert [step for step in range(1, 201) if stale.due(step, step % 4 == 0)] == [100, 200]


def test_bm25_among_the_sources():
    pytest.importorskip("bm25s")
    pairs = some_pairs()
    quotas = {"dense": 2, "bm25": 2, "random": 1}
    run = NegativeRefresh("static", pool=20, quotas=quotas).start(pairs, None)
    run.run(Turning(), 0)
    live = run.negatives
    assert live.lexical.shape == (QUERIES, 20)
    ids = live.choose(range(QUERIES), 0)
    check_choice(pairs, range(QUERIES), ids, 5)
    assert all(set(row[:2]) <= set(own) for row, own in zip(ids, live.candidates, strict=True))
    assert (np.isin(ids[:, 2:4], live.lexical)).mean() > 0.8
    only = NegativeRefresh("static", pool=20, quotas={"bm25": 5}).start(pairs, None)
    only.run(None, 0)  # no encoder is needed
    check_choice(pairs, range(QUERIES), only.negatives.choose(range(QUERIES), 0), 5)


def test_a_corpus_smaller_than_the_pool():
    pairs = some_pairs(size=12)
    run = NegativeRefresh("static", pool=200, num_negatives=4).start(pairs, None)
    run.run(Turning(), 0)
    check_choice(pairs, range(QUERIES), run.negatives.choose(range(QUERIES), 0), 4)


def test_configuration():
    refresh = NegativeRefresh(
        "periodic", every=7, sampling={"name": "simans", "a": 9.0}, quotas={"dense": 4, "bm25": 1}
    )
    assert refresh.sampling == SimANS(9.0)
    written = json.loads(json.dumps(refresh.to_dict()))
    assert NegativeRefresh.from_dict(written) == refresh
    assert NegativeRefresh.from_dict(refresh) is refresh


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "often"}, "mode is 'often'"),
        ({"every": 0}, "every is 0"),
        ({"every": 1, "every_epochs": 1}, "both given"),
        ({"mode": "static", "every": 5}, "mines once"),
        ({"mode": "query_side", "every_epochs": 5}, "mines once"),
        ({"mode": "stale", "sampling": "top"}, "takes the hardest"),
        ({"mode": "query_side", "quotas": {"dense": 5}}, "what it retrieves"),
        ({"quotas": {"dense": 4}}, "4 in all"),
        ({"quotas": {"bm25": 5}}, "has no 'dense'"),
        ({"pool": 3}, "pool is 3, less than the 5"),
        ({"range_min": -1}, "range_min is -1"),
        ({"sampling": "bests"}, "name 'bests'"),
    ],
)
def test_bad_configurations(options, words):
    with pytest.raises(ValueError, match=words):
        NegativeRefresh(**options)
    with pytest.raises(ValueError, match="no field 'modes'"):
        NegativeRefresh.from_dict({"modes": 1})
    with pytest.raises(TypeError, match="refresh is 3"):
        NegativeRefresh.from_dict(3)


def test_a_saved_run_goes_on(tmp_path):
    pairs = some_pairs()
    refresh = NegativeRefresh(every_epochs=2, num_negatives=3, pool=10)
    run = refresh.start(pairs, Turning(), seed=4)
    run.run(Turning(), 0)
    run.due(5, epoch_ended=True)
    run.save(tmp_path)
    other = refresh.start(pairs, Turning(), seed=4)
    other.load(tmp_path)
    assert not other.due(0)
    queries = np.arange(QUERIES)
    np.testing.assert_array_equal(
        other.negatives.choose(queries, 3), run.negatives.choose(queries, 3)
    )
    assert run.due(10, epoch_ended=True)
    assert other.due(10, epoch_ended=True)
    with pytest.raises(ValueError, match="of another run: every_epochs differ"):
        NegativeRefresh(every_epochs=1, num_negatives=3, pool=10).start(
            pairs, Turning(), seed=4
        ).load(tmp_path)


def test_an_interrupted_refresh_goes_on_and_other_texts_are_encoded_anew(tmp_path, monkeypatch):
    pairs = some_pairs()
    refresh = NegativeRefresh(pool=10, batch_size=8)

    class Stops(Turning):
        def encode(self, texts):
            if len(self.calls) == 5:
                raise KeyboardInterrupt
            return super().encode(texts)

    small_shards(monkeypatch)
    first = Stops()
    with pytest.raises(KeyboardInterrupt):
        refresh.start(pairs, first, folder=tmp_path).run(first, 0)
    second = Turning()
    second.__class__ = Stops  # the fingerprint has the class's name
    second.calls = []
    monkeypatch.setattr(Stops, "encode", Turning.encode)
    run = refresh.start(pairs, second, folder=tmp_path)
    run.run(second, 0)
    asked = [text for call in second.calls for text in call]
    total = len(pairs.corpus_texts) + QUERIES
    assert total - 40 - 16 <= len(asked) <= total - 32  # whole shards were not encoded again
    expected = mine(pairs, Turning(), num_negatives=10, relative_margin=0.05).result
    np.testing.assert_array_equal(run.negatives.candidates, expected.ids)
    second.calls = []
    run.run(second, 5)
    assert not second.calls  # the same weights and texts
    changed = some_pairs()
    changed.corpus_texts[0] = "w1 another text"
    again = refresh.start(changed, second, folder=tmp_path)
    again.run(second, 0)
    assert len([text for call in second.calls for text in call]) == len(pairs.corpus_texts)


def small_shards(monkeypatch):
    """Shards of 16 texts, so that a small corpus has several."""
    from stope.training import _encode_and_mine

    real = _encode_and_mine.EmbeddingCache
    monkeypatch.setattr(
        _encode_and_mine, "EmbeddingCache", lambda folder: real(folder, shard_size=16)
    )


def test_modules_are_evaluated_and_then_as_they_were(tmp_path):
    from small_transformers import WORDS, tiny  # slow to import, also for the processes below

    texts = [" ".join(WORDS[i : i + 3]) for i in range(30)]
    pairs = Pairs.from_texts(WORDS[:10], texts[:10], texts)
    model = tiny(tmp_path / "model", dropout=0.5)
    model.train()
    model[0].auto_model.embeddings.eval()  # a part that is frozen
    run = NegativeRefresh("static", pool=5, num_negatives=2).start(pairs, model)
    run.run(model, 0)
    assert model.training
    assert model[0].auto_model.encoder.training
    assert not model[0].auto_model.embeddings.training
    model.eval()
    expected = mine(pairs, model, num_negatives=5, relative_margin=0.05).result
    np.testing.assert_array_equal(run.negatives.candidates, expected.ids)


def test_callback_in_another_trainer():
    transformers = pytest.importorskip("transformers")
    pairs, model = some_pairs(), Turning()
    run = NegativeRefresh(every=2, pool=10).start(pairs, model)
    reports = []
    callback = NegativeRefreshCallback(run, report=reports.append)
    assert isinstance(callback, transformers.TrainerCallback)
    state = transformers.TrainerState(max_steps=6)
    control = transformers.TrainerControl()
    callback.on_train_begin(None, state, control, model=model)
    for step in range(1, 7):
        state.global_step = step
        callback.on_step_end(None, state, control, model=model)
        if step in (3, 6):
            callback.on_epoch_end(None, state, control, model=model)
    assert [report.step for report in reports] == [0, 2, 4]


# --- several processes --------------------------------------------------------------------------


def worker(folder, here):
    """One of two processes; it writes the table that it has."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=2
    )
    pairs = some_pairs()
    run = NegativeRefresh(every=5, num_negatives=3, pool=10).start(
        pairs, Turning(), folder=Path(folder) / "run"
    )
    model = Turning()
    run.run(model, 0)
    asked = sum(len(call) for call in model.calls)
    stale = NegativeRefresh("stale", num_negatives=3, pool=20).start(pairs, model)
    stale.run(model, 0)
    mine_only = np.arange(QUERIES)[here::2]
    ids = stale.negatives.choose(mine_only, 0)
    stale.negatives.observe(mine_only, ids, np.zeros(ids.shape))
    stale.run(model, 100)
    said = "nothing"
    try:
        run.run(Turning(0.5) if here else None, 5)
    except (RuntimeError, ValueError) as error:
        said = str(error)
    np.savez(
        f"{folder}/{here}.npz",
        ids=run.negatives.candidates,
        scores=run.negatives.scores,
        positive_scores=run.negatives.positive_scores,
        asked=asked,
        stale=stale.negatives.choose(np.arange(QUERIES), 0),
        said=said,
    )
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_work_and_have_one_table(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    code = "import sys, test_refresh; test_refresh.worker(sys.argv[1], int(sys.argv[2]))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(here)],
            cwd=HERE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for here in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    found = [np.load(tmp_path / f"{here}.npz") for here in range(2)]
    pairs = some_pairs()
    expected = mine(pairs, Turning(), num_negatives=10, relative_margin=0.05).result
    alone = NegativeRefresh("stale", num_negatives=3, pool=20).start(pairs, None)
    alone.run(Turning(), 0)
    every = np.arange(QUERIES)
    ids = alone.negatives.choose(every, 0)
    alone.negatives.observe(every, ids, np.zeros(ids.shape))
    alone.run(None, 100)
    assert alone.negatives.version == 2
    for one in found:
        np.testing.assert_array_equal(one["ids"], expected.ids)
        np.testing.assert_array_equal(one["scores"], expected.scores)
        np.testing.assert_array_equal(one["positive_scores"], expected.positive_scores)
        np.testing.assert_array_equal(one["stale"], alone.negatives.choose(every, 0))
    total = len(pairs.corpus_texts) + QUERIES
    assert sum(int(one["asked"]) for one in found) == total
    assert abs(int(found[0]["asked"]) - int(found[1]["asked"])) <= 2
    assert "NoneType" in str(found[0]["said"])
    assert "Process 0 failed" in str(found[1]["said"])

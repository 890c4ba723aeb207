"""Negatives that follow the model: mined, due, interrupted, resumed, in two processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gloo_processes import together
from refresh_cases import QUERIES, Turning, check_choice, some_pairs

import torch
from stope.data import Pairs
from stope.mining import SimANS, mine
from stope.training import NegativeRefresh, NegativeRefreshCallback, RefreshReport


@pytest.mark.parametrize("among", ["positives", "corpus"])
def test_periodic_follows_the_model(tmp_path, among):
    pairs, said = some_pairs(), []
    refresh = NegativeRefresh(every=5, num_negatives=3, pool=10, relative_margin=None, among=among)
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
    expected = mine(pairs, Turning(0.7), num_negatives=10, among=among).result
    np.testing.assert_array_equal(run.negatives.candidates, expected.ids)
    np.testing.assert_array_equal(run.negatives.scores, expected.scores)
    np.testing.assert_array_equal(run.negatives.positive_scores, expected.positive_scores)
    assert report.mean_score == pytest.approx(expected.scores.mean(), rel=1e-5)
    now = set(tmp_path.rglob("embeddings.npy"))
    assert len(now) == 2
    assert not now & kept  # those of the earlier weights are gone


@pytest.mark.parametrize("among", ["positives", "corpus"])
def test_limits_reach_the_miner(among):
    pairs = some_pairs()
    limits = {"relative_margin": 0.2, "absolute_margin": 0.1, "max_score": 0.7, "min_score": 0.1}
    run = NegativeRefresh("static", pool=20, range_min=2, among=among, **limits).start(pairs, None)
    run.run(Turning(), 0)
    limits |= {"num_negatives": 20, "range_min": 2, "among": among}
    expected = mine(pairs, Turning(), **limits).result
    np.testing.assert_array_equal(run.negatives.candidates, expected.ids)
    short = (expected.counts < 5).sum()
    assert run.reports[0].shortfalls == short
    check_choice(pairs, range(QUERIES), run.negatives.choose(range(QUERIES), 0), 5)


@pytest.mark.parametrize("mode", ["static", "periodic", "stale"])
def test_among_positives_every_negative_is_a_positive_of_some_query(mode):
    """Also what is filled up at random, where the miner finds too few."""
    pytest.importorskip("bm25s")
    pairs, quotas = some_pairs(), {"dense": 2, "bm25": 2, "random": 2}
    run = NegativeRefresh(mode, num_negatives=6, quotas=quotas, min_score=0.5).start(pairs, None)
    run.run(Turning(), 0)
    chosen = run.negatives.choose(range(QUERIES), 3)
    check_choice(pairs, range(QUERIES), chosen, 6)
    assert np.isin(chosen, pairs.positives.ids).all()
    assert 0 < (run.negatives.candidates >= 0).mean() < 1
    assert (run.negatives.lexical >= 0).any()
    other = np.setdiff1d(np.arange(len(pairs.corpus_ids)), pairs.positives.ids)[0]
    with pytest.raises(ValueError, match="not mined"):
        run.negatives.publish(np.full((QUERIES, 1), other), np.ones((QUERIES, 1)), [1] * QUERIES)


def test_too_few_positives_and_searches_of_the_corpus_are_refused():
    pairs = Pairs.from_texts(["a", "b"], ["x", "y"], ["x", "y", "z", "w"])
    with pytest.raises(ValueError, match=r"among the 2 positives of 4 documents.*among='corpus'"):
        NegativeRefresh(num_negatives=2).start(pairs, None)
    NegativeRefresh(num_negatives=2, among="corpus").start(pairs, None)
    assert NegativeRefresh("query_side").among == "corpus"
    with pytest.raises(ValueError, match="among is 'positives', but mode 'query_side' searches"):
        NegativeRefresh("query_side", among="positives")


def test_saves_of_before_were_mined_in_the_corpus(tmp_path):
    pairs = some_pairs()
    old = NegativeRefresh(num_negatives=3, pool=10, among="corpus")
    run = old.start(pairs, None)
    run.run(Turning(), 0)
    run.save(tmp_path)
    path = tmp_path / "negatives.json"
    saved = json.loads(path.read_text())
    assert saved["notes"]["refresh"].pop("among") == "corpus"
    path.write_text(json.dumps(saved))
    again = old.start(pairs, None)
    again.load(tmp_path)
    np.testing.assert_array_equal(again.negatives.candidates, run.negatives.candidates)
    with pytest.raises(ValueError, match="among"):
        NegativeRefresh(num_negatives=3, pool=10).start(pairs, None).load(tmp_path)


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
    run = NegativeRefresh("static", among="corpus", pool=20, quotas=quotas).start(pairs, None)
    run.run(Turning(), 0)
    live = run.negatives
    assert live.lexical.shape == (QUERIES, 20)
    ids = live.choose(range(QUERIES), 0)
    check_choice(pairs, range(QUERIES), ids, 5)
    assert all(set(row[:2]) <= set(own) for row, own in zip(ids, live.candidates, strict=True))
    assert (np.isin(ids[:, 2:4], live.lexical)).mean() > 0.8
    only = NegativeRefresh("static", among="corpus", pool=20, quotas={"bm25": 5}).start(pairs, None)
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
    with pytest.raises(ValueError, match='no key "modes"'):
        NegativeRefresh.from_dict({"modes": 1})
    with pytest.raises(TypeError, match="negatives is 3"):
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
    refresh = NegativeRefresh(among="corpus", pool=10, batch_size=8)

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
    from stope.training.negatives import encode_and_mine as _encode_and_mine

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
    run = NegativeRefresh("static", among="corpus", pool=5, num_negatives=2).start(pairs, model)
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


def test_stale_mode_exchanges_what_the_loss_saw_easy():
    pairs = some_pairs()
    run = NegativeRefresh("stale", among="corpus", every=10, num_negatives=3, pool=40).start(
        pairs, Turning()
    )
    assert run.due(0)
    run.run(Turning(), 0)
    live, queries = run.negatives, np.arange(QUERIES)
    ids = live.choose(queries, 0)
    np.testing.assert_array_equal(ids, live.candidates[:, :3])
    np.testing.assert_array_equal(live.choose(queries, 1), ids)
    scores = live.scores[:, :3].copy()
    scores[4, 1] = -0.5
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


# --- several processes --------------------------------------------------------------------------


def worker(here, count, folder):
    """The table that a process has."""
    pairs = some_pairs()
    run = NegativeRefresh(among="corpus", every=5, num_negatives=3, pool=10).start(
        pairs, Turning(), folder=folder / "run"
    )
    model = Turning()
    run.run(model, 0)
    asked = sum(len(call) for call in model.calls)
    stale = NegativeRefresh("stale", among="corpus", num_negatives=3, pool=20).start(pairs, model)
    stale.run(model, 0)
    mine_only = np.arange(QUERIES)[here::count]
    ids = stale.negatives.choose(mine_only, 0)
    stale.negatives.observe(mine_only, ids, np.zeros(ids.shape))
    stale.run(model, 100)
    said = "nothing"
    try:
        run.run(None if here == 2 else Turning(0.5), 5)
    except (RuntimeError, ValueError) as error:
        said = str(error)
    tensors = {
        "ids": run.negatives.candidates,
        "scores": run.negatives.scores,
        "positive_scores": run.negatives.positive_scores,
        "stale": stale.negatives.choose(np.arange(QUERIES), 0),
    }
    found = {name: torch.from_numpy(np.array(values)) for name, values in tensors.items()}
    return {**found, "asked": asked, "said": said}


def test_four_processes_share_the_work_and_have_one_table(tmp_path):
    found = together(__file__, tmp_path, 4)
    pairs = some_pairs()
    expected = mine(pairs, Turning(), num_negatives=10, relative_margin=0.05).result
    alone = NegativeRefresh("stale", among="corpus", num_negatives=3, pool=20).start(pairs, None)
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
    assert sum(one["asked"] for one in found) == total
    asked = [one["asked"] for one in found]
    assert max(asked) - min(asked) <= 2
    assert all("encoder is NoneType" in one["said"] for one in found)  # in the third alone

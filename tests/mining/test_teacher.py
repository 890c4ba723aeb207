"""A teacher's scores of mined negatives: each pair once, resumed by shards, margins of any sign."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders import HashEncoder, some_texts
from stope.data import Pairs
from stope.mining import TeacherMargin, mine, teacher_filter, teacher_scores
from stope.mining.teacher import TeacherScores


class Teacher:
    """Scores a pair by what its texts share; counts the pairs it was asked for."""

    def __init__(self, scale=1.0, stop_after=None):
        self.scale, self.stop_after = scale, stop_after
        self.batches = []

    def fingerprint(self):
        return f"shared words {self.scale}"

    def __call__(self, pairs):
        if self.stop_after is not None and len(self.asked()) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(list(pairs))
        return [self.of(*pair) for pair in pairs]

    def of(self, query, document):
        shared = set(query.split()) & set(document.split())
        return self.scale * (len(shared) - 0.01 * len(document))

    def asked(self):
        return [pair for batch in self.batches for pair in batch]


@pytest.fixture(scope="module")
def mined():
    texts = [f"{text} n{i}" for i, text in enumerate(some_texts(80, seed=2))]
    answers = [[texts[i]] if i % 3 else [texts[i], texts[i + 30]] for i in range(25)]
    pairs = Pairs.from_texts([f"{text} why" for text in texts[:25]], answers, texts)
    return mine(pairs, HashEncoder(), num_negatives=6, max_score=0.6, min_score=0.25)


def test_every_pair_has_its_own_score(mined):
    teacher = Teacher()
    found = teacher_scores(mined, teacher, batch_size=7)
    pairs = mined.pairs
    assert (mined.result.counts < 6).any()
    for query, text in enumerate(pairs.query_texts):
        for place in range(pairs.positives[0][query], pairs.positives[0][query + 1]):
            document = pairs.corpus_texts[pairs.positives[1][place]]
            assert found.positive_scores[place] == np.float32(teacher.of(text, document))
        for row, score in zip(mined.result.ids[query], found.negative_scores[query], strict=True):
            if row < 0:
                assert score == -np.inf
            else:
                assert score == np.float32(teacher.of(text, pairs.corpus_texts[row]))


def test_batches_are_full_and_longest_first(mined):
    teacher, steps = Teacher(), []
    teacher_scores(mined, teacher, batch_size=16, progress=lambda *step: steps.append(step))
    total = len(mined.pairs.positives[1]) + int(mined.result.counts.sum())
    asked = teacher.asked()
    assert len(asked) == len(set(asked)) == total
    assert [len(batch) for batch in teacher.batches[:-1]] == [16] * (len(teacher.batches) - 1)
    lengths = [len(query) + len(document) for query, document in asked]
    assert lengths == sorted(lengths, reverse=True)
    assert steps[-1] == (total, total)
    assert any(len({query for query, _ in batch}) > 3 for batch in teacher.batches)


def test_prompts_reach_the_teacher(mined):
    teacher = Teacher()
    teacher_scores(mined, teacher, query_prompt="ask: ", corpus_prompt="text: ")
    assert all(q.startswith("ask: ") and d.startswith("text: ") for q, d in teacher.asked())


# --- the folder --------------------------------------------------------------------------------


def test_scores_are_kept_and_a_stopped_run_goes_on(mined, tmp_path):
    expected = teacher_scores(mined, Teacher())
    options = {"folder": tmp_path, "shard_size": 32, "batch_size": 8}
    first = Teacher(stop_after=75)
    with pytest.raises(KeyboardInterrupt):
        teacher_scores(mined, first, **options)
    second = Teacher()
    found = teacher_scores(mined, second, **options)
    assert np.array_equal(found.positive_scores, expected.positive_scores)
    assert np.array_equal(found.negative_scores, expected.negative_scores)
    total = len(mined.pairs.positives[1]) + int(mined.result.counts.sum())
    assert len(second.asked()) == total - 64  # two whole shards were there
    third, steps = Teacher(), []
    again = teacher_scores(mined, third, progress=lambda *step: steps.append(step), **options)
    assert np.array_equal(again.negative_scores, expected.negative_scores)
    assert third.asked() == []
    assert steps == [(total, total)]


def test_another_teacher_or_text_is_scored_anew(mined, tmp_path):
    for number, (teacher, options) in enumerate(
        [(Teacher(), {}), (Teacher(scale=2.0), {}), (Teacher(), {"query_prompt": "ask: "})], 1
    ):
        teacher_scores(mined, teacher, folder=tmp_path, **options)
        assert teacher.asked()
        assert len(list(tmp_path.iterdir())) == number


def test_an_altered_file_is_refused(mined, tmp_path):
    teacher_scores(mined, Teacher(), folder=tmp_path)
    (path,) = tmp_path.glob("*/scores.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="missing, truncated or altered"):
        teacher_scores(mined, Teacher(), folder=tmp_path)
    (manifest,) = tmp_path.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["role"] == "teacher"


def test_a_full_disk_loses_no_shard(mined, tmp_path, monkeypatch):
    from stope._files import shards

    options = {"folder": tmp_path, "shard_size": 32}
    whole, writes = shards._write, []

    def full(file, data):
        writes.append(len(data))
        if len(writes) > 3:  # the header and two shards
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, data)

    monkeypatch.setattr(shards, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        teacher_scores(mined, Teacher(), **options)
    monkeypatch.setattr(shards, "_write", whole)
    teacher = Teacher()
    found = teacher_scores(mined, teacher, **options)
    assert len(teacher.asked()) == found.positive_scores.size + int(mined.result.counts.sum()) - 64


# --- the filter --------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 999), low=st.sampled_from([-8.0, 0.0, 3.0]),
    absolute=st.sampled_from([None, 0.0, 0.5]), relative=st.sampled_from([None, 0.0, 0.1]),
    most=st.sampled_from([None, 0.7]), least=st.sampled_from([None, -7.5]),
)  # fmt: skip
def test_the_filter_is_its_formula(mined, seed, low, absolute, relative, most, least):
    if (absolute, relative, most, least) == (None, None, None, None):
        return
    random = np.random.default_rng(seed)
    ids = mined.result.ids
    scores = np.where(ids >= 0, low + random.random(ids.shape), -np.inf).astype(np.float32)
    positive = (low + random.random(len(mined.pairs.positives[1]))).astype(np.float32)
    scored = TeacherScores(mined, positive, scores)
    found = teacher_filter(
        scored, absolute_margin=absolute, relative_margin=relative, max_score=most, min_score=least
    )
    offsets = mined.pairs.positives[0]
    for query in range(len(ids)):
        p = float(positive[offsets[query] : offsets[query + 1]].min())
        kept = [
            (int(row), score) for row, score in zip(ids[query], scores[query], strict=True)
            if row >= 0
            and (absolute is None or score <= p - absolute)
            and (relative is None or score <= p - abs(p) * relative)
            and (most is None or score <= most)
            and (least is None or score >= least)
        ]  # fmt: skip
        count = int(found.mined.result.counts[query])
        assert count == len(kept)
        assert found.mined.result.ids[query, :count].tolist() == [row for row, _ in kept]
        assert (found.mined.result.ids[query, count:] == -1).all()
        assert found.negative_scores[query, :count].tolist() == [score for _, score in kept]
        own = dict(zip(ids[query].tolist(), mined.result.scores[query].tolist(), strict=True))
        assert found.mined.result.scores[query, :count].tolist() == [own[row] for row, _ in kept]
        dropped = sum(
            int(counts[query])
            for name, counts in found.mined.result.rejected.items()
            if name.startswith("teacher_")
        )
        assert count + dropped == int(mined.result.counts[query])
    assert found.mined.parameters["num_negatives"] == 6
    assert found.mined.summary().num_negatives == int(found.mined.result.counts.sum())


def test_a_relative_margin_below_zero_is_a_margin(mined):
    """p - |p| m, not p (1 - m): logits below zero keep no negative above the positive."""
    shape = mined.result.ids.shape
    positive = np.full(len(mined.pairs.positives[1]), -4, dtype=np.float32)
    scores = np.where(mined.result.ids >= 0, -4.2, -np.inf).astype(np.float32)
    scored = TeacherScores(mined, positive, scores)
    assert teacher_filter(scored, relative_margin=0.1).mined.result.counts.sum() == 0
    kept = teacher_filter(scored, relative_margin=0.04).mined.result
    assert np.array_equal(kept.ids, mined.result.ids)
    assert shape == kept.ids.shape


def test_scores_go_on_to_weights_and_lists(mined):
    from stope.weighting import Teacher as TeacherWeights

    found = teacher_scores(mined, Teacher())
    confidence = found.confidence(temperature=0.5)
    ids, scores = found.lists()
    assert ids.shape == scores.shape == (len(mined.pairs.positives[1]), 7)
    shares = np.exp(scores.astype(np.float64) / 0.5)
    assert confidence == pytest.approx(shares[:, 0] / shares.sum(axis=1))
    weights = TeacherWeights()({"teacher_confidence": confidence}, 0.0)
    assert (weights > 0).all()
    assert ids[:, 0].tolist() == mined.pairs.positives[1].tolist()
    offsets = mined.pairs.positives[0]
    for query in range(len(offsets) - 1):
        for pair in range(offsets[query], offsets[query + 1]):
            assert ids[pair, 1:].tolist() == mined.result.ids[query].tolist()
    drawn = TeacherMargin().choose(
        mined.result.ids, found.negative_scores, found.lowest_positive_scores(), 2,
        np.arange(len(offsets) - 1, dtype=np.uint64),
    )  # fmt: skip
    assert drawn.shape == (len(offsets) - 1, 2)


# --- a cross-encoder ---------------------------------------------------------------------------


def test_a_cross_encoder_is_a_teacher(mined, tmp_path):
    cross_encoder = pytest.importorskip("small_transformers").cross_encoder
    model = cross_encoder(tmp_path / "model")
    found = teacher_scores(mined, model, batch_size=8, folder=tmp_path / "scores")
    pairs = mined.pairs
    listed = [
        (pairs.query_texts[query], pairs.corpus_texts[row])
        for query, rows in enumerate(mined.result.ids)
        for row in rows[rows >= 0]
    ]
    expected = model.predict(listed)
    assert np.std(expected) > 0.001
    present = mined.result.ids >= 0
    assert found.negative_scores[present] == pytest.approx(expected, abs=1e-5)
    again = teacher_scores(mined, model, batch_size=5, folder=tmp_path / "scores")
    assert np.array_equal(again.negative_scores, found.negative_scores)
    teacher_scores(mined, cross_encoder(tmp_path / "b", seed=1), folder=tmp_path / "scores")
    assert len(list((tmp_path / "scores").iterdir())) == 2


def test_a_cross_encoder_of_classes_is_refused(mined, tmp_path):
    cross_encoder = pytest.importorskip("small_transformers").cross_encoder
    model = cross_encoder(tmp_path / "model", labels=3)
    with pytest.raises(ValueError, match=r"scores of shape \(64, 3\)"):
        teacher_scores(mined, model)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "options", "kind", "sentence"),
    [
        ("no", {}, TypeError, "teacher is str; give a CrossEncoder, or a callable"),
        (lambda pairs: [0.5], {}, ValueError, r"scores of shape \(1,\) and type float64 for 64"),
        (lambda pairs: [np.nan] * len(pairs), {}, ValueError, "gave nan for the query '"),
        (lambda pairs: ["x"] * len(pairs), {}, ValueError, "type <U1 for 64 pairs"),
        (Teacher(), {"batch_size": 0}, ValueError, "batch_size is 0; it must be at least 1"),
        (Teacher(), {"shard_size": 0}, ValueError, "shard_size is 0; it must be at least 1"),
    ],
)
def test_bad_teachers_get_a_sentence(mined, teacher, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        teacher_scores(mined, teacher, **options)


def test_a_teacher_without_a_name_is_not_kept(mined, tmp_path):
    with pytest.raises(ValueError, match="teacher function has no weights that can be read"):
        teacher_scores(mined, lambda pairs: [0.0] * len(pairs), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({}, "there is no limit; give one of absolute_margin, relative_margin"),
        ({"relative_margin": -0.1}, "relative_margin is -0.1; it must be finite and at least 0"),
        ({"max_score": float("nan")}, "max_score is nan; it must be finite"),
    ],
)
def test_bad_limits_get_a_sentence(mined, limits, sentence):
    scored = teacher_scores(mined, Teacher())
    with pytest.raises(ValueError, match=sentence):
        teacher_filter(scored, **limits)

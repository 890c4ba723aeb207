"""Sources that are mined one by one: each in its own corpus, with its own prompts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from encoders import HashEncoder, some_texts
from stope.data import Pairs
from stope.encoders import TaskPrompts
from stope.training import LiveNegatives, NegativeRefresh

TEXTS = list(dict.fromkeys(some_texts(90, seed=5)))
OF = {"qa": np.arange(0, 45), "chat": np.arange(30, 70)}  # rows 30 to 44 are of both
PROMPTS = TaskPrompts({"qa": ("ask ", "answer "), "chat": ("", "say ")})
QUERIES = 16
SOURCES = ["qa" if query % 3 else "chat" for query in range(QUERIES)]


class Recording(HashEncoder):
    """Remembers every text; fingerprinted as one encoder."""

    def fingerprint(self):
        return "recording"


def overlapping():
    random = np.random.default_rng(2)
    answers = [random.choice(OF[name], 1 + query % 2, False) for query, name in enumerate(SOURCES)]
    qrels = {f"q{query}": {f"d{row}": 1 for row in rows} for query, rows in enumerate(answers)}
    # A text that is also a document, and one text that both sources ask.
    asked = [TEXTS[31], TEXTS[31], *(f"q{query} w1 w2" for query in range(2, QUERIES))]
    names = [f"d{row}" for row in range(70)]
    pairs = Pairs.from_qrels(list(qrels), asked, names, TEXTS[:70], qrels)
    return dataclasses.replace(pairs, corpus_of=OF)


def brute_force(pairs, pool, among):
    """Candidates and scores by the definition: cosines of the prompted texts of one source."""
    encoder, found = HashEncoder(), []
    offsets, rows = pairs.positives

    def units(texts):
        vectors = encoder.encode(texts).astype(np.float64)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)

    for query, name in enumerate(SOURCES):
        ask, say = PROMPTS.tasks[name]
        own = OF[name]
        scores = units([say + pairs.corpus_texts[row] for row in own])
        scores = scores @ units([ask + pairs.query_texts[query]])[0]
        positive = np.isin(own, rows[offsets[query] : offsets[query + 1]])
        lowest = scores[positive].min()
        mine = pairs.query_texts[query]
        same = np.array([pairs.corpus_texts[row] == mine for row in own])
        mined = np.isin(own, rows) | (among == "corpus")
        allowed = mined & ~positive & ~same & (scores <= lowest - abs(lowest) * 0.05)
        order = sorted(np.flatnonzero(allowed), key=lambda place: -scores[place])[:pool]
        found.append((own[order], scores[order], lowest))
    return found


@pytest.mark.parametrize("mode", ["static", "periodic", "stale"])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("among", ["positives", "corpus"])
def test_every_source_is_mined_by_itself(mode, kept, among, tmp_path):
    pairs, model = overlapping(), Recording()
    refresh = NegativeRefresh(mode, num_negatives=3, pool=12, among=among)
    run = refresh.start(
        pairs, model, folder=tmp_path if kept else None, sources=SOURCES, prompts=PROMPTS
    )
    report = run.run(model, 0)
    live = run.negatives
    for query, (ids, scores, lowest) in enumerate(brute_force(pairs, 12, among)):
        there = live.candidates[query] >= 0
        np.testing.assert_allclose(live.scores[query][there], scores, atol=1e-6)
        assert set(live.candidates[query][there]) == set(ids)
        assert live.positive_scores[query] == pytest.approx(lowest, abs=1e-6)
    asked = sorted(text for call in model.calls for text in call)
    mined = set(pairs.positives.ids.tolist()) if among == "positives" else range(len(TEXTS))
    expected = [
        PROMPTS.document(name) + TEXTS[row]
        for name, rows in OF.items()
        for row in rows
        if row in mined
    ]
    expected += [PROMPTS.query(s) + q for s, q in zip(SOURCES, pairs.query_texts, strict=True)]
    assert asked == sorted(expected)
    assert report.rows_per_second > 0
    assert report.seconds_encode > 0
    if kept:  # both sources' embeddings outlast the refresh
        model.calls = []
        if mode == "periodic":
            run.run(model, 5)
            assert not model.calls
        assert len(list(tmp_path.rglob("embeddings.npy"))) == 4


def test_what_is_filled_up_is_of_the_source():
    pairs = overlapping()
    run = NegativeRefresh("static", among="corpus", num_negatives=20, pool=20, min_score=0.9).start(
        pairs, Recording(), sources=SOURCES
    )
    run.run(Recording(), 0)
    every = np.arange(QUERIES)
    offsets, rows = pairs.positives
    seen = {name: set() for name in OF}
    for step in range(60):
        chosen = run.negatives.choose(every, step)
        for query, ids in enumerate(chosen):
            assert len(set(ids)) == 20
            assert set(ids) <= set(OF[SOURCES[query]])
            assert not set(ids) & set(rows[offsets[query] : offsets[query + 1]])
            assert pairs.query_texts[query] not in {pairs.corpus_texts[row] for row in ids}
            seen[SOURCES[query]] |= set(ids)
    assert seen == {name: set(rows) for name, rows in OF.items()}


def test_bm25_searches_the_source():
    pytest.importorskip("bm25s")
    quotas = {"dense": 2, "bm25": 2}
    run = NegativeRefresh("static", num_negatives=4, pool=60, quotas=quotas).start(
        overlapping(), Recording(), sources=SOURCES, prompts=PROMPTS
    )
    run.run(Recording(), 0)
    lexical = run.negatives.lexical
    for query, name in enumerate(SOURCES):
        found = lexical[query][lexical[query] >= 0]
        assert len(found)
        assert set(found) <= set(OF[name])


def test_own_prompts_of_refresh_and_no_sources():
    pairs = overlapping()
    one = Recording()
    refresh = NegativeRefresh(
        "static", among="corpus", pool=9, query_prompt="Q ", corpus_prompt="D "
    )
    refresh.start(pairs, one, sources=SOURCES, prompts=PROMPTS).run(one, 0)
    assert {text[:2] for call in one.calls for text in call} == {"Q ", "D "}
    whole = Recording()  # without sources there is one corpus, and the default before its texts
    run = NegativeRefresh("static", among="corpus", pool=9).start(
        pairs, whole, prompts=TaskPrompts({"qa": ("x", "y")}, default=("q ", "d "))
    )
    run.run(whole, 0)
    asked = [text for call in whole.calls for text in call]
    assert len(asked) == 70 + QUERIES
    assert {text[:2] for text in asked} == {"q ", "d "}


def test_a_saved_run_knows_its_sources_and_prompts(tmp_path):
    pairs, refresh = overlapping(), NegativeRefresh("static", among="corpus", pool=9)
    run = refresh.start(pairs, Recording(), sources=SOURCES, prompts=PROMPTS)
    run.run(Recording(), 0)
    run.save(tmp_path)
    again = refresh.start(pairs, Recording(), sources=SOURCES, prompts=PROMPTS)
    again.load(tmp_path)
    every = np.arange(QUERIES)
    np.testing.assert_array_equal(again.negatives.choose(every, 2), run.negatives.choose(every, 2))
    with pytest.raises(ValueError, match="another run: prompts differ"):
        refresh.start(pairs, Recording(), sources=SOURCES).load(tmp_path)
    with pytest.raises(ValueError, match="of another run: pairs differ"):
        refresh.start(pairs, Recording(), prompts=PROMPTS).load(tmp_path)


def test_what_is_refused():
    pairs, model = overlapping(), Recording()
    start = NegativeRefresh("static", among="corpus", pool=9).start
    with pytest.raises(ValueError, match="sources has 1 entries for 16 queries"):
        start(pairs, model, sources=["qa"])
    with pytest.raises(ValueError, match="'q3' is of the source 'web', but corpus_of has the"):
        start(pairs, model, sources=[*SOURCES[:3], "web", *SOURCES[4:]])
    with pytest.raises(ValueError, match="is a positive of the source 'qa', but corpus_of"):
        start(pairs, model, sources=["qa" if one == "chat" else "chat" for one in SOURCES])
    with pytest.raises(ValueError, match="but there are 2 sources with"):
        NegativeRefresh("query_side").start(pairs, model, sources=SOURCES)
    with pytest.raises(ValueError, match="'q0' of the source 'chat' has too few negatives: only"):
        LiveNegatives(pairs, num_negatives=39, sources=SOURCES)
    live = LiveNegatives(pairs, num_negatives=2, sources=SOURCES)
    ids = np.full((QUERIES, 1), -1)
    ids[1] = 69
    with pytest.raises(ValueError, match=r"candidates\[1\] holds a document of another source"):
        live.publish(ids, np.zeros(ids.shape), np.zeros(QUERIES))

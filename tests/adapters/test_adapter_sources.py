"""Adapters mine each query's negatives among the documents of its own source."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from adapter_cases import pairs, unit

import stope
from stope.adapters import train_adapter
from stope.adapters.step import Step
from stope.data import write_jsonl
from stope.encoders import static_encoder
from stope.encoders.models import save_encoder
from stope.runs import run

MINED = {"num_documents": 1, "epochs": 1, "refresh_every": 1, "relative_margin": None}


@pytest.fixture
def negatives(monkeypatch):
    """The negatives of every step."""
    call, seen = Step.__call__, []

    def spy(self, chosen, negatives, *rest):
        seen.append(negatives)
        return call(self, chosen, negatives, *rest)

    monkeypatch.setattr(Step, "__call__", spy)
    return seen


def hardest(scores, own, allowed, count):
    """The best allowed documents that are not the query's own, in order; -1 where there is none."""
    rows = [row for row in np.argsort(-scores, kind="stable") if row in allowed and row != own]
    return [*rows, *[-1] * count][:count]


def test_negatives_are_of_the_querys_own_source(negatives):
    queries, corpus = pairs(60)
    # Documents 20 to 29 are of both; the queries of the second come in no order.
    sources = [(range(25), range(30)), (np.arange(59, 24, -1), np.arange(20, 60))]
    train_adapter(queries, corpus, np.arange(60), sources=sources, num_negatives=3, **MINED)
    scores = unit(queries) @ unit(corpus).T
    expected = [
        hardest(scores[row], row, range(30) if row < 25 else range(20, 60), 3) for row in range(60)
    ]
    assert np.array_equal(negatives[0], expected)
    train_adapter(queries, corpus, np.arange(60), num_negatives=3, **MINED)
    assert not np.array_equal(negatives[-1], expected)


def test_a_source_of_few_documents_and_a_query_without_positives(negatives):
    queries, corpus = pairs(20)
    offsets = np.r_[np.arange(20), 19]  # the last query has none, and no source
    sources = [([0, 1], [0, 1]), (range(2, 19), range(2, 20))]
    train_adapter(
        queries, corpus, (offsets, np.arange(19)), sources=sources, num_negatives=4, **MINED
    )
    found = negatives[0]
    assert found[:2].tolist() == [[1, -1, -1, -1], [0, -1, -1, -1]]
    assert (found[2:19] >= 2).all()
    assert (found[19] == -1).all()


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ([(range(10), range(20))], "sources has query 10 0 times"),
        ([(range(20), range(20)), ([3], [3])], "sources has query 3 2 times"),
        ([(range(20), range(19))], r"sources\[0\] has query 19, but not document 19"),
        ([(range(21), range(20))], r"sources\[0\]\[0\] has the row 20; there are 20 queries"),
    ],
)
def test_sources_refused(sources, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_adapter(*pairs(20), np.arange(20), sources=sources, **MINED)


def test_sources_of_the_wrong_kind():
    with pytest.raises(TypeError, match=r"sources\[0\]\[1\] is \[0.5\]; give row numbers"):
        train_adapter(*pairs(20), np.arange(20), sources=[(range(20), [0.5])], **MINED)


def test_sources_are_for_mining():
    with pytest.raises(ValueError, match="sources is given, but nothing is mined"):
        train_adapter(*pairs(20), np.arange(20), sources=[(range(20), range(20))])


def test_a_configuration_of_several_sources(tmp_path, negatives, monkeypatch):
    pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
    monkeypatch.chdir(tmp_path)
    for source in "ab":
        rows = [
            {"query": f"{source}q{i} is q{i % 3}", "positive": f"{source}d{i} is q{i % 3}"}
            for i in range(12)
        ]
        write_jsonl(tmp_path / f"{source}.jsonl", rows)
    texts = [f"{s}{k}{i} is q{i % 3}" for s in "ab" for k in "qd" for i in range(12)]
    save_encoder(static_encoder(texts * 2, dim=8), tmp_path / "model")
    config = {
        "data": ["a.jsonl", "b.jsonl"],
        "encoder": "model",
        "adapter": {"refresh_every": 1, "num_documents": 4, "num_negatives": 6},
        "training": {"epochs": 1},
        "output": "run",
    }
    run(config)
    there = negatives[0] >= 0
    rows = np.arange(24)[:, None] // 12
    assert there.any(axis=1).all()
    assert ((negatives[0] // 12 == rows) | ~there).all()
    config["data"] = [{"path": "a.jsonl", "prompts": {"query": "ask: "}}, "b.jsonl"]
    with pytest.raises(ValueError, match="data has prompts of single sources"):
        run({**config, "output": "other"})


def test_the_miner_is_asked_once_for_each_source(monkeypatch):
    real, sizes = stope.mine_hard_negatives, []

    def spy(queries, corpus, *rest, **options):
        sizes.append((len(queries), len(corpus)))
        return real(queries, corpus, *rest, **options)

    monkeypatch.setattr(stope, "mine_hard_negatives", spy)
    sources = [(range(5), range(8)), (range(5, 20), range(4, 20))]
    train_adapter(*pairs(20), np.arange(20), sources=sources, **MINED)
    assert sizes == [(5, 8), (15, 16)]

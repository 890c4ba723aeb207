"""The sources of a configuration: what is read of them, and what judges the run."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("yaml", reason="needs the extra train")

from stope.data import Collection, Source, read_source, read_sources, write_beir, write_jsonl
from stope.runs import Config, run
from stope.runs.judging import judges

# --- sources -----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows):
    write_jsonl(path, rows)
    return str(path)


def test_columns_follow_their_pair(here):
    rows = [
        {"query": "b", "positive": "y", "weight": 2.0, "ease": 0.5},
        {"query": "a", "positive": "z", "weight": 1.0, "ease": 0.25},
        {"query": "b", "positive": "x", "weight": 4.0, "ease": 1.0},
        {"query": "b", "positive": "y", "weight": 4.0, "ease": 0.0},
    ]
    data = read_sources([Source(write("p.jsonl", rows), signals=("ease",))])
    pairs = data.pairs
    offsets, ids = pairs.positives
    found = {
        (pairs.query_texts[query], pairs.corpus_texts[row]): (
            data.columns["weight"][place],
            data.columns["ease"][place],
        )
        for query in range(len(pairs.query_texts))
        for place, row in zip(
            range(offsets[query], offsets[query + 1]),
            ids[offsets[query] : offsets[query + 1]],
            strict=True,
        )
    }
    assert found == {("b", "y"): (3.0, 0.25), ("a", "z"): (1.0, 0.25), ("b", "x"): (4.0, 1.0)}


def test_sources_are_joined(here):
    first = [
        {"query": "q1", "positive": "shared", "w": 2, "ease": 1},
        {"query": "q2", "positive": "only a", "w": 3, "ease": 1},
    ]
    second = [{"query": "q1", "positive": "only b"}, {"query": "q3", "positive": "shared"}]
    one = Source(write("a.jsonl", first), name="a", weight="w")
    other = Source(write("b.jsonl", second), name="b")
    with pytest.raises(ValueError, match='the source "b" has no signal "ease", which another has'):
        read_sources([dataclasses.replace(one, signals=("ease",)), other])
    write("c.jsonl", [{"query": "q", "positive": "p", "negative": "n"}])
    with pytest.raises(ValueError, match=r'negatives along .*"b" 0, "c\.jsonl" 1'):
        read_sources([other, Source("c.jsonl")])
    data = read_sources([one, other])
    pairs = data.pairs
    assert pairs.query_texts == ["q1", "q2", "q1", "q3"]
    assert len(set(pairs.query_ids)) == 4
    assert sorted(pairs.corpus_texts) == ["only a", "only b", "shared"]
    assert data.columns == {"source": ["a", "a", "b", "b"], "weight": [2.0, 3.0, 1.0, 1.0]}
    assert [pairs.corpus_texts[row] for row in pairs.positives[1]] == [
        "shared", "only a", "only b", "shared",
    ]  # fmt: skip
    found = {
        name: sorted(pairs.corpus_texts[row] for row in rows)
        for name, rows in pairs.corpus_of.items()
    }
    assert found == {"a": ["only a", "shared"], "b": ["only b", "shared"]}


def test_same_ids_of_other_texts_stay_apart(here):
    for name in ("a", "b"):
        write_beir(
            Collection(["d1", "d2"], [f"{name} one", "same"], ["q"], [f"{name}?"],
                       {"train": {"q": {"d1": 1, "d2": 1}}}),
            here / name,
        )  # fmt: skip
    pairs = read_sources([Source(str(here / "a")), Source(str(here / "b"))]).pairs
    assert sorted(pairs.corpus_texts) == ["a one", "b one", "same"]
    assert pairs.query_ids == ["q", "b:q"]
    assert np.diff(pairs.positives[0]).tolist() == [2, 2]


def test_negatives_come_along(here):
    rows = [{"query": f"q{n}", "positive": f"d{n}", "negative_1": f"n{n}", "negative_2": "m"}
            for n in range(5)]  # fmt: skip
    data = read_sources([Source(write("t.jsonl", rows))])
    assert data.negatives == [[f"n{n}", "m"] for n in range(5)]
    assert "n3" in data.texts()
    left = data.without(np.array([1, 3]))
    assert left.negatives == [["n0", "m"], ["n2", "m"], ["n4", "m"]]
    assert left.pairs.query_texts == ["q0", "q2", "q4"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "none.tsv"}, "data: none.tsv does not exist"),
        ({"path": "p.jsonl", "query_column": "left"}, 'query_column is "left"'),
        ({"path": "p.jsonl", "weight": "w"}, 'p.jsonl has no column "w"; its columns are "query"'),
        ({"path": "p.jsonl", "signals": ["ease"]}, 'p.jsonl has no column "ease"'),
        ({"path": "bad.jsonl"}, "bad.jsonl:2: 'heavy' stands in the column \"weight\"; give a fi"),
        ({"path": "empty.jsonl"}, "empty.jsonl holds no pairs"),
        ({"path": "hole.jsonl"}, 'hole.jsonl:2: field "positive" is empty'),
        ({"path": "p.jsonl", "positive_ids": True}, "positive_ids needs corpus"),
        ({"path": "beir", "split": "dev"}, 'has no split "dev"; the splits are "train"'),
        ({"path": "beir", "corpus": "p.jsonl"}, "is a BEIR folder, which brings its own corpus"),
        ({"path": "beir", "weight": "w"}, "which has no columns of weights; leave weight out"),
        ({"path": "t.jsonl", "corpus": "p.jsonl"}, "brings its own negatives (negative)"),
        ({"path": "p.jsonl", "pairs_from": "title"}, 'there is no text in the column "title"'),
        ({"path": "p.jsonl", "pairs_from": "title", "weight": "w"}, "pairs, which have no weights"),
    ],
    ids=str,
)
def test_wrong_sources(here, source, message):
    write("p.jsonl", [{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}])
    write("bad.jsonl", [{"query": "a", "positive": "b", "weight": 1},
                        {"query": "c", "positive": "d", "weight": "heavy"}])  # fmt: skip
    write("hole.jsonl", [{"query": "a", "positive": "b", "weight": 1},
                         {"query": "c", "positive": "", "weight": 1}])  # fmt: skip
    write("t.jsonl", [{"query": "a", "positive": "b", "negative": "c"}])
    (here / "empty.jsonl").write_text("")
    write_beir(Collection(["d"], ["x"], ["q"], ["y"], {"train": {"q": {"d": 1}}}), here / "beir")
    config = Config.from_dict({"data": source, "output": "run"})
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        read_sources(config.data)


def test_several_sources_say_which_is_wrong(here):
    write("p.jsonl", [{"query": "a", "positive": "b"}])
    with pytest.raises(FileNotFoundError, match=r"data\[1\]: none.tsv does not exist"):
        read_sources([Source("p.jsonl"), Source("none.tsv")])


def test_limit_draws_queries(here):
    rows = [{"query": f"q{n}", "positive": f"d{n}", "weight": n} for n in range(50)]
    source = Source(write("p.jsonl", rows), limit=10)
    data = read_sources([source], seed=1)
    assert len(data.pairs.query_texts) == 10
    assert len(data.pairs.corpus_texts) == 50
    assert [f"q{weight:.0f}" for weight in data.columns["weight"]] == data.pairs.query_texts
    assert read_sources([source], seed=1).pairs.query_ids == data.pairs.query_ids
    assert read_sources([source], seed=2).pairs.query_ids != data.pairs.query_ids


@pytest.mark.parametrize("kind", ["crops", "inverse_cloze", "recurring_spans", "title"])
def test_pairs_from_raw_text(here, kind):
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(80)]
    rows = [
        {
            "title": f"About {n}",
            "text": " ".join(" ".join(rng.choice(words, 9)).capitalize() + "." for _ in range(12)),
        }
        for n in range(20)
    ]
    for row in rows:
        row["text"] += " The same five words again here. " + row["text"]
    options = {"kind": kind}
    data = read_sources([Source(write("raw.jsonl", rows), pairs_from=options)])
    assert len(data.pairs.query_texts) >= 10


def test_what_is_left_out_of_raw_text_is_counted(here):
    rows = [{"text": "iron ore " * 40}, {"text": " "}, {"text": "copper wire " * 40}]
    source = Source(write("raw.jsonl", rows), pairs_from="crops", skip_empty=True)
    assert read_source(source).left_out == {"rows without text": 1}
    corpus = write("c.jsonl", [*rows, {"text": None}])
    source = dataclasses.replace(source, corpus=corpus)
    assert read_source(source).left_out == {"rows without text": 3}


# --- what judges -------------------------------------------------------------------------------


def judged(here, evaluation, rows=20):
    write("p.jsonl", [{"query": f"q{n}", "positive": f"d{n}"} for n in range(rows)])
    config = Config.from_dict({"data": "p.jsonl", "output": "x", "evaluation": evaluation})
    return judges(config, read_sources(config.data))


def test_holding_out(here):
    for holdout in (5, 0.25):
        found, left = judged(here, {"holdout": holdout})
        assert len(found.held_out.query_ids) == 5
        assert not set(found.held_out.query_texts) & set(left.pairs.query_texts)
        assert len(left.pairs.query_texts) == 15
        assert found.held_out.corpus_texts == left.pairs.corpus_texts
        for name in found.held_out.query_ids:
            (document,) = found.held_out.qrels[name]
            row = found.held_out.corpus_ids.index(document)
            assert found.held_out.corpus_texts[row] == f"d{name[1:]}"
    again, _ = judged(here, {"holdout": 5})
    assert again.held_out.query_ids == found.held_out.query_ids


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({}, "evaluation has no path, and data is not one BEIR folder"),
        ({"holdout": 19}, "evaluation.holdout is 19, which is 19 of 20 queries"),
        ({"holdout": 0.001}, "which is 0 of 20 queries"),
        ({"path": "p.jsonl", "test_split": "test"}, 'a file, which has no split "test"'),
        ({"path": "beir", "split": "dev"}, 'has no split "dev"; the splits are "none", "train"'),
        ({"path": "beir", "split": "none"}, 'the split "none" has no query with a relevant'),
        ({"path": "beir", "corpus": "p.jsonl"}, "brings its own corpus"),
    ],
    ids=str,
)
def test_nothing_to_judge_by(here, evaluation, message):
    qrels = {"train": {"q": {"d": 1}}, "none": {"q": {"d": 0}}}
    write_beir(Collection(["d"], ["x"], ["q"], ["y"], qrels), here / "beir")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        judged(here, evaluation)


def test_subset_keeps_rows():
    from stope.data import Pairs

    pairs = Pairs.from_texts(["a", "b", "c"], [["x"], ["y", "z"], ["x", "z"]])
    part = pairs.take([1, 2])
    assert part.positives[0].tolist() == [0, 2, 4]
    assert [part.corpus_texts[row] for row in part.positives[1]] == ["y", "z", "x", "z"]


# --- what does not go together -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": "t.jsonl", "negatives": "static"}, "the data brings its own"),
        (
            {"data": ["p.jsonl", "r.jsonl"], "negatives": "query_side"},
            "negatives.across_sources: true",
        ),
        (
            {
                "data": [{"path": "p.jsonl", "prompts": {"query": "a "}}, "r.jsonl"],
                "negatives": {"mode": "static", "across_sources": True},
            },
            "the same prompts for all sources, but p.jsonl has its own",
        ),
        ({"negatives": {"file": "n.jsonl"}}, "the id 'd99' is not in the data"),
        ({"negatives": {"file": "p.jsonl"}}, "p.jsonl:1: no query_id and document_id"),
        ({"adapter": {}}, "adapter needs embeddings: give encoder.model"),
        ({"adapter": {"query_embeddings": "q.npy", "corpus_embeddings": "c.npy"}},
         "q.npy, which does not exist"),
        ({"adapter": {}, "encoder": "m", "negatives": "static"}, "adapter.refresh_every mines"),
        ({"adapter": {}, "encoder": "m", "loss": {"queue": 8}}, "loss.queue is not for"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_go_together(here, sections, message):
    write("p.jsonl", [{"query": f"q {n}", "positive": f"d {n}"} for n in range(9)])
    write("r.jsonl", [{"query": f"r {n}", "positive": f"e {n}"} for n in range(9)])
    write("t.jsonl", [{"query": f"q {n}", "positive": f"d {n}", "negative": "n"} for n in range(9)])
    write("n.jsonl", [{"query_id": "q0", "document_id": "d99"}])
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        run({"data": "p.jsonl", "output": "run", **sections})

"""Documents that are no negatives because somebody looked: on every way by which one could be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from refresh_cases import QUERIES, Turning, some_pairs

import torch
from stope.data import Exclusions, Pairs, Source, join_pairs, read_exclusions, read_source
from stope.data import write_jsonl as write
from stope.integrations.sentence_transformers.row_table import RowTable
from stope.lists import Lists
from stope.mining import mine
from stope.training import NegativeRefresh, QuerySideLoss

NOBODYS = 7


def excluding(pairs, seed=3):
    """The pairs, with a document that is nobody's negative and four of each query."""
    random = np.random.default_rng(seed)
    of_queries = random.integers(0, len(pairs.corpus_ids), (len(pairs.query_ids), 4))
    excluded = Exclusions(Lists.from_sequences(of_queries).distinct(), np.array([NOBODYS]))
    return dataclasses.replace(pairs, exclusions=excluded)


def never(pairs, query):
    return {NOBODYS, *pairs.exclusions.queries.row(query).tolist()}


def test_several_files_are_one(tmp_path):
    write(tmp_path / "a.jsonl", [{"query_id": "q1", "doc_id": "d2"}, {"document_id": "d0"}])
    (tmp_path / "b.txt").write_text("d3\n\nd0\n")
    (tmp_path / "none.txt").write_text("\n")
    pairs = Pairs.from_texts(["a", "b"], ["x", "y"], ["x", "y", "z", "u"])
    excluded = read_exclusions([tmp_path / "a.jsonl", str(tmp_path / "b.txt")], pairs)
    assert excluded.documents.tolist() == [0, 3]
    assert [row.tolist() for row in excluded.queries.rows()] == [[], [2]]
    assert [row.tolist() for row in excluded.lists(2).rows()] == [[0, 3], [0, 2, 3]]
    with pytest.raises(ValueError, match=r"none.txt names no document"):
        read_exclusions([tmp_path / "a.jsonl", tmp_path / "none.txt"], pairs)


def test_they_stay_with_queries_and_documents_that_are_taken():
    pairs = excluding(some_pairs())
    want = {
        (pairs.query_ids[query], pairs.corpus_ids[row])
        for query in range(QUERIES)
        for row in never(pairs, query)
    }

    def named(part):
        lists = part.exclusions.lists(len(part.query_ids))
        owners, rows = lists.owners.tolist(), lists.ids.tolist()
        return {
            (part.query_ids[query], part.corpus_ids[row])
            for query, row in zip(owners, rows, strict=True)
        }

    assert named(pairs) == want
    part = pairs.take([4, 2])
    assert named(part) == {(q, d) for q, d in want if q in part.query_ids}
    part = pairs.narrowed(pairs.positive_rows())
    assert named(part) == {(q, d) for q, d in want if d in part.corpus_ids}
    other = Pairs.from_texts(["another"], ["text"])
    assert named(join_pairs({"a": other, "b": pairs})[0]) == {
        (q if q != "q0" else "b:q0", d if d != "d0" else "b:d0") for q, d in want
    }
    assert join_pairs({"a": other})[0].exclusions is None


@pytest.mark.parametrize("among", ["corpus", "positives"])
def test_mining_never_finds_them(among):
    pairs = excluding(some_pairs())
    whole = dataclasses.replace(pairs, exclusions=None)
    options = {"num_negatives": 30, "among": among}
    kept = mine(pairs, Turning(), **options).negatives()
    for query, (name, rows) in enumerate(mine(whole, Turning(), **options).negatives().items()):
        left = [row for row in rows if int(row[0][1:]) not in never(pairs, query)]
        assert kept[name][: len(left)] == left
        assert not never(pairs, query) & {int(row[0][1:]) for row in kept[name]}


@pytest.mark.parametrize("options", [{}, {"quotas": {"bm25": 3, "dense": 3}}, {"mode": "stale"}])
def test_training_never_draws_them(options):
    pairs = excluding(some_pairs())
    number = sum(options.get("quotas", {"dense": 6}).values())
    run = NegativeRefresh(num_negatives=number, pool=9, among="corpus", **options).start(
        pairs, Turning()
    )
    for step in range(3):
        chosen = run.negatives.choose(np.arange(QUERIES), step)  # before mining at random
        assert not any(never(pairs, q) & set(row.tolist()) for q, row in enumerate(chosen))
        run.run(Turning(), step)
    for filled in (
        NegativeRefresh(num_negatives=100, pool=100, among="corpus")
        .start(pairs, Turning())
        .negatives.choose([3], 0)
    ):
        assert not never(pairs, 3) & set(filled.tolist())


def test_negatives_saved_without_them_or_with_others_are_of_another_run(tmp_path):
    pairs = excluding(some_pairs())
    refresh = NegativeRefresh(num_negatives=3, pool=9, among="corpus")
    run = refresh.start(pairs, Turning())
    run.run(Turning(), 0)
    run.save(tmp_path)
    for others in (dataclasses.replace(pairs, exclusions=None), excluding(some_pairs(), 4)):
        with pytest.raises(ValueError, match="another run: pairs differ"):
            refresh.start(others, Turning()).load(tmp_path)
    again = refresh.start(pairs, Turning())
    again.load(tmp_path)
    np.testing.assert_array_equal(again.negatives.candidates, run.negatives.candidates)


def test_in_batch_they_are_no_negatives():
    pairs = Pairs.from_texts(["a", "b", "c"], ["x", "y", "z"])
    excluded = Exclusions(Lists.from_sequences([[2], [], []]), np.empty(0, np.int64))
    table = RowTable.of_pairs(dataclasses.replace(pairs, exclusions=excluded))
    columns = table.columns_of_positives(np.array([1, 0]), np.array([1, 0, 2, 2]))
    assert [row.tolist() for row in columns.rows()] == [[0], [1, 2, 3]]


def test_the_query_side_loss_does_not_retrieve_them():
    pairs = Pairs.from_texts(["q"], ["d0"], ["d0", "d1", "d2", "d3"])
    excluded = Exclusions(Lists.from_sequences([[1]]), np.array([3]))
    pairs = dataclasses.replace(pairs, exclusions=excluded)

    class Given(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": torch.ones(1, 1, requires_grad=True)}

    corpus = np.float32([[0], [3], [2], [1]])
    loss = QuerySideLoss(Given(), pairs, corpus, metric="dot", k=4)
    loss([{}, {}], {"rows": torch.tensor([0])})
    assert loss.observed["mrr@10"] == 0.5  # d2 alone stands before the answer


def test_a_source_brings_them(tmp_path):
    write(tmp_path / "p.jsonl", [{"query": f"q{n}", "positive": f"d{n}"} for n in range(9)])
    write(tmp_path / "t.jsonl", [{"query": "a", "positive": "b", "negative": "c"}])
    write(tmp_path / "no.jsonl", [{"query_id": "q1", "document_id": "d2"}, {"doc_id": "d0"}])
    plain = read_source(Source(tmp_path / "p.jsonl"))
    data = read_source(Source(tmp_path / "p.jsonl", exclude=tmp_path / "no.jsonl", limit=8))
    assert "excluded as negatives: 1 document of single queries, 1 document of all" in (
        data.described()
    )
    assert data.pairs.exclusions.queries.num_lists == 8
    whole = read_source(Source(tmp_path / "p.jsonl", exclude=[str(tmp_path / "no.jsonl")]))
    assert whole.fingerprint() != plain.fingerprint()
    assert not Source(tmp_path / "p.jsonl", exclude=[]).exclude
    for name, message in (("t", "exclude is for negatives that are mined"), ("p", "id 'c'")):
        (tmp_path / "bad.txt").write_text("c\n")
        with pytest.raises(ValueError, match=message):
            read_source(Source(tmp_path / f"{name}.jsonl", exclude=tmp_path / "bad.txt"))
    with pytest.raises(TypeError, match="exclude is 3; give a path"):
        Source("p.jsonl", exclude=[3])

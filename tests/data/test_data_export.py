"""stope.data: mined negatives in the formats of sentence-transformers, FlagEmbedding, Tevatron."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.data import (
    FORMATS,
    NegativeTable,
    export_negatives,
    negative_rows,
    negatives_dataset,
    read_flagembedding,
    read_tevatron,
)

INF = float("inf")
TEXTS = ["rock", "pit", "lamp", "drill", "shaft"]
ST_FORMATS = FORMATS[:4]


def a_table(**changes):
    """q1: positives rock, pit; negatives drill, lamp. q2: positive shaft; negative pit."""
    arguments = {
        "query_ids": ["q1", "q2", "q3"],
        "query_texts": ["ore", "way", "light"],
        "document_ids": ["d0", "d1", "d2", "d3", "d4"],
        "document_texts": TEXTS,
        "positives": [[0, 1], [4], [2]],
        "negatives": np.array([[3, 2], [1, -1], [-1, -1]]),
        "positive_scores": [[0.9, 0.8], [0.7], [0.6]],
        "negative_scores": np.array([[0.5, 0.25], [0.125, -INF], [-INF, -INF]], dtype=np.float32),
        **changes,
    }
    return NegativeTable(**arguments)


def test_tuple_drops_rows_short_of_negatives_and_says_how_many():
    rows = negative_rows(a_table(), "n-tuple")
    assert list(rows) == [
        {"query": "ore", "positive": "rock", "negative_1": "drill", "negative_2": "lamp"},
        {"query": "ore", "positive": "pit", "negative_1": "drill", "negative_2": "lamp"},
    ]
    assert (len(rows), rows.dropped) == (2, 2)
    assert rows.dropped_reason == "(query, positive) pairs with fewer than 2 negatives"
    first = negative_rows(a_table(), "n-tuple", num_negatives=1, scores=True)
    assert list(first) == [
        {"query": "ore", "positive": "rock", "negative_1": "drill", "scores": [0.9, 0.5]},
        {"query": "ore", "positive": "pit", "negative_1": "drill", "scores": [0.8, 0.5]},
        {"query": "way", "positive": "shaft", "negative_1": "pit", "scores": [0.7, 0.125]},
    ]
    assert (len(first), first.dropped) == (3, 1)
    none = negative_rows(a_table(), "n-tuple", num_negatives=3)
    assert (list(none), len(none), none.dropped) == ([], 0, 4)


def test_scores_stand_in_every_format():
    scored = {name: list(negative_rows(a_table(), name, scores=True)) for name in FORMATS}
    assert [row["scores"] for row in scored["triplet"]] == [
        [0.9, 0.5], [0.9, 0.25], [0.8, 0.5], [0.8, 0.25], [0.7, 0.125],
    ]  # fmt: skip
    assert [row["score"] for row in scored["labeled-pair"]] == [
        0.9, 0.8, 0.5, 0.25, 0.7, 0.125, 0.6,
    ]  # fmt: skip
    lists = [[0.9, 0.5, 0.25], [0.8, 0.5, 0.25], [0.7, 0.125]]
    assert [row["scores"] for row in scored["labeled-list"]] == lists
    assert not any({"label", "labels"} & row.keys() for row in scored["labeled-pair"])
    _, second = read_flagembedding(scored["flagembedding"])
    assert (second.positive_scores, second.negative_scores) == ([0.7], [0.125])
    first, second = read_tevatron(scored["tevatron"])
    assert (first.query_id, first.positive_ids, first.negative_ids) == (
        "q1",
        ["d0", "d1"],
        ["d3", "d2"],
    )
    assert (first.positive_scores, first.negative_scores) == ([0.9, 0.8], [0.5, 0.25])
    assert (second.query, second.positives, second.negatives) == ("way", ["shaft"], ["pit"])


def test_what_is_dropped_is_counted():
    dropped = {name: negative_rows(a_table(), name).dropped for name in FORMATS}
    assert list(dropped.values()) == [1, 2, 0, 1, 1, 1]
    reasons = {negative_rows(a_table(), name).dropped_reason for name in FORMATS[:1] + FORMATS[4:]}
    assert reasons == {
        "(query, positive) pairs without a negative",
        "queries without a negative or a positive",
    }


@given(data=st.data())
def test_every_format_agrees_with_plain_loops(data):
    number = data.draw(st.integers(1, 4))
    width = data.draw(st.integers(1, 3))
    row = st.integers(0, 4)
    positives = [data.draw(st.lists(row, max_size=3)) for _ in range(number)]
    negatives = [
        data.draw(st.lists(st.one_of(row, st.just(-1)), min_size=width, max_size=width))
        for _ in range(number)
    ]
    names = [f"q{query}" for query in range(number)]
    table = NegativeTable(names, names, [f"d{i}" for i in range(5)], TEXTS, positives, negatives)
    cut = data.draw(st.none() | st.integers(1, 3))
    wanted = {name: [] for name in FORMATS}
    for query, these, padded in zip(names, positives, negatives, strict=True):
        full = cut or width
        good = [TEXTS[n] for n in padded if n != -1][:full]
        known = [TEXTS[p] for p in these]
        wanted["triplet"] += [(query, p, n) for p in known for n in good]
        wanted["n-tuple"] += [(query, p, *good) for p in known if len(good) == full]
        wanted["labeled-pair"] += [(query, p, 1) for p in known] + [(query, n, 0) for n in good]
        wanted["labeled-list"] += [
            (query, [p, *good], [1] + [0] * len(good)) for p in known if good
        ]
        if known and good:
            wanted["flagembedding"].append((query, known, good))
            wanted["tevatron"].append((query, query, known, good))
    for name in FORMATS:
        rows = negative_rows(table, name, num_negatives=cut)
        found = [tuple(each.values()) for each in rows]
        if name == "tevatron":
            found = [
                (*each[:2], [p["text"] for p in each[2]], [n["text"] for n in each[3]])
                for each in found
            ]
        assert found == wanted[name]
        assert len(rows) == len(found)


@pytest.mark.parametrize(
    ("positives", "scores"),
    [
        ([[0], [4], [2]], [[0.9], [0.7], [0.6]]),
        (np.array([0, 4, 2]), np.array([0.9, 0.7, 0.6])),
        ((np.array([0, 1, 2, 3]), np.array([0, 4, 2])), np.array([0.9, 0.7, 0.6])),
        ([0, 4, 2], [0.9, 0.7, 0.6]),
    ],
)
def test_every_form_of_positives(positives, scores):
    table = a_table(positives=positives, positive_scores=scores)
    assert [table.positives_of(query) for query in range(3)] == [[0], [4], [2]]
    assert [table.positive_scores_of(query) for query in range(3)] == [[0.9], [0.7], [0.6]]


def test_table_from_ids_is_the_same_table():
    built = NegativeTable.from_ids(
        {"q3": "light", "q1": "ore", "q2": "way"},
        dict(zip(["d0", "d1", "d2", "d3", "d4"], TEXTS, strict=True)),
        {"q1": ["d0", "d1"], "q2": ["d4"], "q3": ["d2"]},
        {"q1": [("d3", 0.5), ("d2", 0.25)], "q2": [("d1", 0.125)]},
        {"q1": [0.9, 0.8], "q2": [0.7], "q3": [0.6]},
    )
    for name in FORMATS:
        assert list(negative_rows(built, name, scores=True)) == list(
            negative_rows(a_table(), name, scores=True)
        )
    documents = {"d0": "rock"}
    with pytest.raises(ValueError, match='query "q" names document "d9", which is not among'):
        NegativeTable.from_ids({"q": ""}, documents, {"q": ["d9"]}, {})
    with pytest.raises(ValueError, match="positives name query 'q', which is not among"):
        NegativeTable.from_ids({}, documents, {"q": ["d0"]}, {})
    with pytest.raises(ValueError, match="negatives name query 'r', which has no entry"):
        NegativeTable.from_ids({"q": ""}, documents, {"q": ["d0"]}, {"r": []})
    with pytest.raises(ValueError, match="positive_scores has no entry for query 'q'"):
        NegativeTable.from_ids({"q": ""}, documents, {"q": ["d0"]}, {}, {})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query_texts": ["a"]}, ValueError, "query_texts has 1 entries for 3 query_ids; give"),
        ({"document_texts": []}, ValueError, "document_texts has 0 entries for 5 document_ids"),
        ({"document_ids": ["d"] * 5}, ValueError, "document_ids has 'd' more than once"),
        ({"positives": [[0], [5], [1]]}, ValueError, "positive_scores.0. has 2 entries for 1 doc"),
        ({"positives": [[0, 1], [5], [1]]}, ValueError,
         "positives of query 1 has document row 5, but"),
        ({"positives": [[0, 1], [-1], [1]]}, ValueError,
         "positives of query 1 has document row -1"),
        ({"positives": [[0], [1]]}, ValueError, "positives has 2 entries for 3 queries"),
        ({"positives": [[0.5, 1], [1], [1]]}, TypeError, "must hold integers"),
        ({"positives": (np.array([0, 1]), np.array([1]))}, ValueError,
         "must be 4 offsets that rise"),
        ({"negatives": [[1]]}, ValueError, "negatives has 1 entries for 3 queries"),
        ({"negatives": [[1, 2], [9, 2], [1, 2]]}, ValueError,
         "negatives of query 1 has document row 9"),
        ({"negatives": [[1, -2], [1, 2], [1, 2]]}, ValueError,
         "negatives of query 0 has .* row -2"),
        ({"negative_scores": [[1.0], [1, 2], [1, 2]]}, ValueError,
         "negative_scores.0. has 1 entries for 2"),
        ({"negatives": [[1, 2], [1, 2], [1, 2]]}, ValueError,
         "row 2 in negatives of query 1 is -inf"),
        ({"positive_scores": np.array([0.5])}, ValueError,
         "positive_scores has 1 entries for 4 doc"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        a_table(**changes)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="format is 'tuples'; give one of 'triplet'"):
        negative_rows(a_table(), "tuples")
    with pytest.raises(ValueError, match="num_negatives is 0; it must be at least 1"):
        negative_rows(a_table(), num_negatives=0)
    for name in ("positive_scores", "negative_scores"):
        with pytest.raises(ValueError, match=f"scores=True needs {name}"):
            negative_rows(a_table(**{name: None}), scores=True)
    with pytest.raises(ValueError, match=r"must end in \.jsonl, \.jsonl\.gz or \.parquet"):
        export_negatives(tmp_path / "rows.csv", "triplet", a_table())
    assert list(tmp_path.iterdir()) == []


def test_parquet_and_dataset_hold_the_same_rows(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    for name in FORMATS:
        wanted = list(negative_rows(a_table(), name, scores=True))
        assert export_negatives(path, name, a_table(), scores=True).rows == len(wanted)
        assert parquet.read_table(path).to_pylist() == wanted
        dataset = negatives_dataset(a_table(), name, scores=True)
        assert isinstance(dataset, datasets.Dataset)
        assert dataset.to_list() == wanted
    many = NegativeTable(
        [f"q{i}" for i in range(3000)],
        ["q"] * 3000,
        ["a", "b"],
        ["x", "y"],
        [0] * 3000,
        [[1]] * 3000,
    )
    assert export_negatives(path, "tevatron", many).rows == 3000
    assert parquet.read_table(path)["query_id"].to_pylist() == list(many.query_ids)
    with pytest.raises(ValueError, match=r"no rows to write .*4 .query, positive. pairs with fewe"):
        export_negatives(path, "n-tuple", a_table(), num_negatives=3)
    with pytest.raises(ValueError, match="no rows to put into a dataset: 4 "):
        negatives_dataset(a_table(), "n-tuple", num_negatives=3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.parquet"]


class Encoder:
    """What sentence-transformers' miner asks of a model, on fixed unit vectors."""

    def __init__(self, vectors):
        from sentence_transformers.util import cos_sim, pairwise_cos_sim

        import torch

        self.vectors = vectors
        self.device = torch.device("cpu")
        self.similarity, self.similarity_pairwise = cos_sim, pairwise_cos_sim
        self.similarity_fn_name = "cosine"

    def encode(self, texts, **_):
        return np.stack([self.vectors[text] for text in texts])

    encode_query = encode_document = encode


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("name", ST_FORMATS)
def test_rows_are_those_of_sentence_transformers(name, scores):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    util = pytest.importorskip("sentence_transformers.util", reason="no sentence-transformers")
    generator = np.random.default_rng(5)
    queries = [f"query {i}" for i in range(6)]
    documents = [f"document {i}" for i in range(12)]
    vectors = {
        text: generator.standard_normal(3).astype(np.float32) for text in queries + documents
    }
    vectors = {text: vector / np.linalg.norm(vector) for text, vector in vectors.items()}
    positives = [[2 * i] if i % 2 else [2 * i, 2 * i + 1] for i in range(6)]
    pairs = [
        {"query": query, "positive": documents[row]}
        for query, rows in zip(queries, positives, strict=True)
        for row in rows
    ]
    mined = util.mine_hard_negatives(
        datasets.Dataset.from_list(pairs), Encoder(vectors), corpus=documents, num_negatives=3,
        range_max=12, relative_margin=0.3, output_format=name, output_scores=scores, verbose=False,
    )  # fmt: skip
    # The same selection in float64, handed over as the miner hands it over: padded rows.
    similarity = np.array(
        [[vectors[q] @ vectors[d] for d in documents] for q in queries], np.float64
    )
    ids = np.full((6, 3), -1, dtype=np.int64)
    padded = np.full((6, 3), -np.inf)
    for query, rows in enumerate(positives):
        lowest = similarity[query, rows].min()
        ceiling = lowest - abs(lowest) * 0.3
        order = [i for i in np.argsort(-similarity[query]) if i not in rows]
        chosen = [i for i in order if similarity[query, i] <= ceiling][:3]
        ids[query, : len(chosen)] = chosen
        padded[query, : len(chosen)] = similarity[query, chosen]
    assert (ids == -1).any(), "the case must have short rows"
    table = NegativeTable(
        queries, queries, documents, documents, positives, ids,
        [similarity[query, rows] for query, rows in enumerate(positives)], padded,
    )  # fmt: skip
    found = [tuple(row.values()) for row in negative_rows(table, name, scores=scores)]
    wanted = [tuple(row.values()) for row in mined.to_list()]
    assert len(found) == len(wanted) > 0
    for ours, theirs in zip(found, wanted, strict=True):
        split = len(ours) - 1 if scores else len(ours)
        assert ours[:split] == theirs[:split]
        if scores:
            assert ours[-1] == pytest.approx(theirs[-1], abs=1e-5)

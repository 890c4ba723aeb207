"""The mining pipeline: what answers what, which texts count as one, and what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stope
from encoders import Counting, numbered
from stope.data import Collection, Pairs, read_jsonl
from stope.mining import Limits, SimANS, TeacherMargin, consistency_filter, mine
from stope.mining.sampling import sampling_keys

# --- pairs -------------------------------------------------------------------------------------


def test_equal_queries_are_one_query_with_several_positives():
    pairs = Pairs.from_texts(["a", "b", "a", "a"], ["x", "y", "z", "x"], query_ids=list("1234"))
    assert pairs.query_ids == ["1", "2"]
    assert pairs.query_texts == ["a", "b"]
    assert pairs.query_rows.tolist() == [0, 1]
    assert [part.tolist() for part in pairs.positives] == [[0, 2, 3], [0, 2, 1]]
    assert pairs.corpus_texts == ["x", "y", "z"]
    several = Pairs.from_texts(["a", "b"], [["x", "z"], ["y"]])
    assert several.positives[0].tolist() == [0, 2, 3]


def test_equal_documents_are_one_and_missing_positives_are_added():
    corpus = ["x", "y", "x", "z", "y"]
    pairs = Pairs.from_texts(["a", "b"], ["new", "y"], corpus, corpus_ids=list("ABCDE"))
    assert pairs.corpus_texts == ["x", "y", "z", "new"]
    assert pairs.corpus_ids == ["A", "B", "D", "positive-0"]
    assert pairs.corpus_rows.tolist() == [0, 1, 3, -1]
    assert pairs.positives[1].tolist() == [3, 1]
    taken = Pairs.from_texts(["a"], ["new"], ["x"], corpus_ids=["positive-0"])
    assert taken.corpus_ids == ["positive-0", "positive-1"]


def collection():
    return Collection(
        corpus_ids=["d1", "d2", "d3", "d4"],
        corpus_texts=["ore", "sea", "ore", "sky"],
        query_ids=["q1", "q2", "q3"],
        query_texts=["rock", "water", "none"],
        qrels={"train": {"q1": {"d3": 2, "d4": 0}, "q2": {"d2": 1}}, "test": {"q3": {"d4": 1}}},
    )


def test_judgements_follow_a_document_to_its_copy():
    pairs = Pairs.from_collection(collection())
    assert pairs.query_ids == ["q1", "q2"]
    assert pairs.corpus_ids == ["d1", "d2", "d4"]
    assert [part.tolist() for part in pairs.positives] == [[0, 1, 2], [0, 1]]
    assert Pairs.from_collection(collection(), min_relevance=2).query_ids == ["q1"]
    assert Pairs.from_collection(collection(), "test").query_rows.tolist() == [2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Pairs.from_texts([], []), "queries is empty"),
        (lambda: Pairs.from_texts(["a"], ["x", "y"]), "positives has 2 entries for 1 queries"),
        (lambda: Pairs.from_texts(["a"], [[]], ["x"]), r"queries\[0\] has no positives: 'a'"),
        (lambda: Pairs.from_texts(["a"], ["x"], ["x"], corpus_ids=["1", "2"]),
         "corpus_ids has 2 entries for 1 texts"),
        (lambda: Pairs.from_texts(["a"], ["x"], ["x", "y"], corpus_ids=["1", "1"]),
         "corpus_ids has '1' more than once"),
        (lambda: Pairs.from_qrels(["q"], ["a"], ["d"], ["x"], {"q": {"e": 1}}),
         "qrels name document 'e', which the corpus lacks"),
        (lambda: Pairs.from_qrels(["q"], ["a"], ["d"], ["x"], {"q": {"d": 0}}),
         "no query has a document judged at least 1"),
    ],
)  # fmt: skip
def test_pairs_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- mining ------------------------------------------------------------------------------------

LIMITS = [
    {},
    {"relative_margin": 0.05},
    {"absolute_margin": 0.1, "max_score": 0.7, "min_score": -0.2},
    {"range_min": 2, "range_max": 30, "sampling": "random", "seed": 7},
    {"range_counts": "raw", "range_min": 1, "range_max": 20},
    {"metric": "dot", "max_score": 3.0},
    {"metric": "euclidean", "absolute_margin": 0.5},
]


def random_case(queries=20, documents=100, dim=12):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((queries, dim), dtype=np.float32)
    c = rng.standard_normal((documents, dim), dtype=np.float32)
    positives = rng.integers(0, documents, queries)
    texts = [f"d{i}" for i in range(documents)]
    pairs = Pairs.from_texts(
        [f"q{i}" for i in range(queries)], [texts[i] for i in positives], texts
    )
    return q, c, positives, pairs


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_every_limit_reaches_the_kernel(limits):
    q, c, positives, pairs = random_case()
    mined = mine(pairs, query_embeddings=q, corpus_embeddings=c, num_negatives=4, **limits)
    want = stope.mine_hard_negatives(q, c, positives, 4, **{"metric": "cosine", **limits})
    for name in ("ids", "scores", "positive_scores", "counts"):
        assert (getattr(mined.result, name) == getattr(want, name)).all(), name
    assert {k: v.tolist() for k, v in mined.result.rejected.items()} == {
        k: v.tolist() for k, v in want.rejected.items()
    }
    plain = stope.mine_hard_negatives(q, c, positives, 4)
    assert not limits or (want.ids != plain.ids).any(), "this limit changes nothing: no test"
    for name, value in limits.items():
        assert mined.parameters[name] == value


def test_a_copy_of_a_positive_is_never_a_negative():
    rows = {"ore": [1, 0], "rock": [0.9, 0.1], "sea": [0, 1]}
    corpus = ["sea", "ore", "ore", "rock", "ore"]
    embeddings = np.array([rows[text] for text in corpus], np.float32)
    mined = mine(
        Pairs.from_texts(["?"], ["ore"], corpus),
        query_embeddings=np.array([[1, 0]], np.float32),
        corpus_embeddings=embeddings,
        num_negatives=5,
    )
    assert mined.negatives() == {"q0": [("d3", pytest.approx(0.9938837)), ("d0", 0.0)]}


def test_given_query_embeddings_follow_merged_queries():
    q, c, _, _ = random_case(queries=3, documents=6)
    corpus = [f"d{i}" for i in range(6)]
    pairs = Pairs.from_texts(["a", "a", "b"], ["d0", "d1", "d2"], corpus)
    mined = mine(pairs, query_embeddings=q, corpus_embeddings=c, num_negatives=3)
    want = stope.mine_hard_negatives(q[[0, 2]], c, [[0, 1], [2]], 3)
    assert (mined.result.ids == want.ids).all()


def test_the_query_itself_is_left_out_unless_asked_for():
    corpus = ["what is ore", "ore", "sea"]
    pairs = Pairs.from_texts(["what is ore", "sea"], ["ore", "sea"], corpus)
    encoder = Counting()
    found = mine(pairs, encoder, num_negatives=2).negatives()
    assert [name for name, _ in found["q0"]] == ["d2"]
    assert {name for name, _ in found["q1"]} == {"d0", "d1"}
    kept = mine(pairs, encoder, num_negatives=2, exclude_query_text=False).negatives()
    assert {name for name, _ in kept["q0"]} == {"d0", "d2"}


def test_embeddings_may_be_of_what_the_pairs_have():
    q, c, _, _ = random_case(queries=3, documents=4)
    pairs = Pairs.from_collection(collection())  # 2 of 3 queries, 3 of 4 documents
    whole = mine(pairs, query_embeddings=q, corpus_embeddings=c)
    part = mine(pairs, query_embeddings=q[[0, 1]], corpus_embeddings=c[[0, 1, 3]])
    assert whole.negatives() == part.negatives()
    with pytest.raises(ValueError, match="has 1 rows but 3 texts were given, of which the pairs h"):
        mine(pairs, query_embeddings=q[:1], corpus_embeddings=c)
    with pytest.raises(TypeError, match=r"query_embeddings is 3; give an array"):
        mine(pairs, query_embeddings=3, corpus_embeddings=c)
    with pytest.raises(TypeError, match=r"pairs is \[\]; give a stope\.data\.Pairs"):
        mine([], query_embeddings=q, corpus_embeddings=c)


def test_taking_queries_keeps_their_embeddings():
    q, c, _, pairs = random_case()
    every = mine(pairs, query_embeddings=q, corpus_embeddings=c)
    part = mine(pairs.take([7, 3]), query_embeddings=q, corpus_embeddings=c)
    assert (part.result.ids == every.result.ids[[7, 3]]).all()
    own = mine(pairs.take([7, 3]).renumbered(), query_embeddings=q[[7, 3]], corpus_embeddings=c)
    assert (own.result.ids == part.result.ids).all()
    with pytest.raises(TypeError, match="rows holds float64; give integers"):
        pairs.take([0.5])


@pytest.mark.parametrize(
    "sampling",
    ["simans", "uniform", SimANS(a=1.0), {"name": "window", "first": 2}, TeacherMargin()],
)
def test_samplings_draw_from_the_hardest(sampling):
    q, c, positives, pairs = random_case()
    options = {"query_embeddings": q, "corpus_embeddings": c, "num_negatives": 4}
    mined = mine(pairs, **options, sampling=sampling, pool=12, seed=5)
    pool = stope.mine_hard_negatives(q, c, positives, 12)
    strategy = Limits(sampling=sampling).sampling
    keys = sampling_keys(5, 0, 0, np.arange(len(q)))
    want = strategy.choose(pool.ids, pool.scores, pool.positive_scores, 4, keys)
    assert (np.sort(mined.result.ids) == np.sort(want)).all()
    assert (np.diff(mined.result.scores) <= 0).all()  # hardest first
    for query, row in enumerate(mined.result.ids):
        places = [pool.ids[query].tolist().index(document) for document in row]
        assert (mined.result.scores[query] == pool.scores[query][places]).all()
    assert mined.result.counts.tolist() == [4] * len(q)
    assert (mine(pairs, **options, sampling="top").result.ids == pool.ids[:, :4]).all()
    assert mined.parameters["sampling"] == strategy.to_dict()
    ranged = mine(pairs, **options, sampling=sampling, range_max=7)
    drawn_from = stope.mine_hard_negatives(q, c, positives, 7).ids
    assert all(set(row) <= set(drawn_from[query]) for query, row in enumerate(ranged.result.ids))


def test_limits_are_one_value():
    q, c, _, pairs = random_case()
    options = {"query_embeddings": q, "corpus_embeddings": c}
    limits = Limits(num_negatives=3, relative_margin=0.1)
    one = mine(pairs, **options, limits=limits)
    other = mine(pairs, **options, num_negatives=3, relative_margin=0.1)
    assert (one.result.ids == other.result.ids).all()
    assert mine(pairs, **options, limits=limits, num_negatives=2).result.ids.shape[1] == 2
    for wrong, error, message in (
        (
            {"num_negative": 3},
            TypeError,
            "mine has no argument 'num_negative'; its limits are among",
        ),
        ({"sampling": "best"}, ValueError, "sampling is 'best'; give one of 'top', 'random'"),
        ({"pool": 0}, ValueError, "pool is 0; it must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            mine(pairs, **options, **wrong)


@pytest.mark.parametrize("kind", ["lists", "csr"])
def test_own_exclusions_join_the_query_text(kind):
    corpus = ["what is ore", "ore", "sea", "sky"]
    pairs = Pairs.from_texts(["what is ore", "sea"], ["ore", "sea"], corpus)
    own = [[2], [1]] if kind == "lists" else (np.array([0, 1, 2]), np.array([2, 1]))
    found = mine(pairs, Counting(), num_negatives=3, exclude=own).negatives()
    assert [name for name, _ in found["q0"]] == ["d3"]
    assert {name for name, _ in found["q1"]} == {"d0", "d3"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "no encoder and no query_embeddings"),
        ({"query_embeddings": np.ones((1, 2), np.float32)}, TypeError, "no corpus_embeddings"),
        ({"query_embeddings": np.ones((3, 2), np.float32)}, ValueError,
         "query_embeddings has 3 rows but 1 texts were given"),
        (
            {
                "query_embeddings": np.ones((1, 2), np.float32),
                "corpus_embeddings": np.ones((2, 2), np.float32),
            },
            ValueError,
            "1 positives are not in the corpus, so corpus_embeddings has no rows",
        ),
        ({"encoder": Counting(), "relative_margin": -1}, ValueError, "relative_margin is -1"),
    ],
)  # fmt: skip
def test_mine_refuses(arguments, error, message):
    pairs = Pairs.from_texts(["a"], ["new"], ["x", "y"])
    with pytest.raises(error, match=message):
        mine(pairs, **arguments)


@pytest.mark.parametrize("rows", [2, 4])
def test_given_embeddings_are_looked_at_before_anything_is_encoded(rows):
    class Never:
        def encode(self, texts, **options):
            raise AssertionError("the encoder was asked")

    pairs = Pairs.from_texts(["a"], ["b"], ["b", "c", "d"])
    with pytest.raises(ValueError, match=f"corpus_embeddings has {rows} rows but 3 texts"):
        mine(pairs, Never(), corpus_embeddings=np.eye(rows, dtype=np.float32))


@pytest.mark.parametrize("cached", [False, True])
def test_prompts_are_put_before_their_own_side(tmp_path, cached):
    encoder = Counting()
    pairs = Pairs.from_texts(["a"], ["x"], ["x", "y"])
    cache = tmp_path if cached else None
    mine(pairs, encoder, query_prompt="find ", corpus_prompt="text ", cache=cache)
    assert encoder.asked == ["find a", "text x", "text y"]


def test_progress_of_every_stage_ends_whole():
    seen = {}
    pairs = Pairs.from_texts(numbered(30, "query"), numbered(30))
    mine(pairs, Counting(), batch_size=8, progress=lambda *step: seen.update({step[0]: step[1:]}))
    assert seen["queries"] == (30, 30)
    assert seen["corpus"] == (30, 30)
    assert seen["mining"][0] == seen["mining"][1]


def test_torch_embeddings_give_numpy_results():
    torch = pytest.importorskip("torch", reason="needs the extra train")
    q, c, positives, pairs = random_case()
    mined = mine(pairs, query_embeddings=torch.from_numpy(q), corpus_embeddings=torch.from_numpy(c))
    want = stope.mine_hard_negatives(q, c, positives)
    assert isinstance(mined.result.ids, np.ndarray)
    assert (mined.result.ids == want.ids).all()


class OnDevice:
    """A result that NumPy cannot read where it is."""

    def __init__(self, rows):
        self.rows = np.asarray(rows)

    def __array__(self, *_, **__):
        raise TypeError("it lies on a device")

    def detach(self):
        return self

    def cpu(self):
        return self.rows


def test_results_on_a_device_come_back(monkeypatch):
    q, c, _, pairs = random_case()
    want = mine(pairs, query_embeddings=q, corpus_embeddings=c)
    ranked = consistency_filter(pairs, query_embeddings=q, corpus_embeddings=c)
    for name in ("mine_hard_negatives", "similarity", "topk"):
        real = getattr(stope, name)

        def there(*given, real=real, **named):
            found = real(*given, **named)
            if isinstance(found, np.ndarray):
                return OnDevice(found)
            moved = {
                field: {key: OnDevice(rows) for key, rows in value.items()}
                if isinstance(value, dict)
                else OnDevice(value)
                for field, value in found._asdict().items()
            }
            return type(found)(**moved)

        monkeypatch.setattr(stope, name, there)
    found = mine(pairs, query_embeddings=q, corpus_embeddings=c)
    assert (found.result.ids == want.result.ids).all()
    assert (found.positive_scores == want.positive_scores).all()
    assert found.summary() == want.summary()
    again = consistency_filter(pairs, query_embeddings=q, corpus_embeddings=c)
    assert (again.ranks == ranked.ranks).all()
    assert (again.scores == ranked.scores).all()


# --- what comes out ----------------------------------------------------------------------------


def mined_example(queries="ab", absolute_margin=0.3):
    """Query a has two positives and, under the margin, a single negative; b two, and c none."""
    corpus = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    q = np.array([[1, 0], [0, 1], [1, 0]], np.float32)[: len(queries)]
    answers = [["w", "x"], ["z"], ["z"]][: len(queries)]
    pairs = Pairs.from_texts(list(queries), answers, ["w", "x", "y", "z"])
    limits = {"num_negatives": 2, "absolute_margin": absolute_margin}
    return mine(pairs, query_embeddings=q, corpus_embeddings=corpus, **limits)


def test_summary_counts(tmp_path):
    mined = mined_example("abc")
    summary = mined.summary()
    assert (summary.num_pairs, summary.num_triplets) == (4, 4)
    assert mined_example().summary().num_pairs == 3
    assert mined.export(tmp_path / "rows.jsonl", "triplet").rows == summary.num_triplets
    # Ceilings .8 - .3, 1 - .3 and 0 - .3: a keeps z, b keeps x and w, c keeps none.
    assert (summary.num_queries, summary.num_corpus, summary.num_negatives) == (3, 4, 3)
    assert (summary.complete, summary.short, summary.empty) == (1, 1, 1)
    assert summary.rejected["positive"] == 4
    assert summary.rejected["absolute_margin"] == 1 + 1 + 3
    assert summary.score_quantiles == pytest.approx([0.0, 0.0, 0.0, 0.3, 0.6])
    assert summary.positive_quantiles == pytest.approx([0.0, 0.4, 0.8, 0.9, 1.0])
    assert summary.margin_quantiles == pytest.approx([0.4, 0.6, 0.8, 0.9, 1.0])
    assert (summary.above_positive, summary.hubs) == (0, {"d0": 1, "d1": 1, "d3": 1})
    free = mined_example("abc", absolute_margin=None).summary()  # y z, y x, and for c w x
    assert (free.above_positive, list(free.hubs.items())) == (2, [("d1", 2), ("d2", 2), ("d0", 1)])
    assert json.loads(summary.to_json())["complete"] == 1
    like = np.float32([[1, 0], [1, 0], [0, 1]])  # y scores as x, the positive
    pairs = Pairs.from_texts(["a"], ["x"], ["x", "y", "z"])
    tied = mine(pairs, query_embeddings=like[:1], corpus_embeddings=like, num_negatives=2)
    assert tied.summary().above_positive == 1


def test_summary_without_any_negative():
    pairs = Pairs.from_texts(["a"], ["x"], ["x"])
    one = np.ones((1, 2), np.float32)
    summary = mine(pairs, query_embeddings=one, corpus_embeddings=one).summary()
    assert (summary.empty, summary.num_negatives, summary.score_quantiles) == (1, 0, [])


def test_rows_are_ids_with_ranks():
    rows = list(mined_example().rows())
    assert [(r["query_id"], r["document_id"], r["rank"]) for r in rows] == [
        ("q0", "d3", 1),
        ("q1", "d1", 1),
        ("q1", "d0", 2),
    ]
    assert [row["positive_score"] for row in rows] == pytest.approx([0.8, 1.0, 1.0])
    assert [row["score"] for row in rows] == pytest.approx([0.0, 0.6, 0.0])


def test_scores_of_all_positives_are_canonical():
    q, c, _, _ = random_case(queries=6, documents=40)
    texts = [f"d{i}" for i in range(40)]
    answers = [texts[i : i + 1 + i % 3] for i in range(6)]
    pairs = Pairs.from_texts([f"q{i}" for i in range(6)], answers, texts)
    mined = mine(pairs, query_embeddings=q, corpus_embeddings=c)
    every = stope.similarity(q, c, metric="cosine")
    want = np.concatenate([every[i, i : i + 1 + i % 3] for i in range(6)])
    assert (mined.positive_scores.view(np.uint32) == want.view(np.uint32)).all()


@pytest.mark.parametrize(
    ("format", "want"),
    [
        (
            "triplet",
            [{"query": "a", "positive": p, "negative": "z"} for p in "wx"]
            + [{"query": "b", "positive": "z", "negative": n} for n in "xw"],
        ),
        ("n-tuple", [{"query": "b", "positive": "z", "negative_1": "x", "negative_2": "w"}]),
        (
            "labeled-list",
            [{"query": "a", "documents": [p, "z"], "labels": [1, 0]} for p in "wx"]
            + [{"query": "b", "documents": ["z", "x", "w"], "labels": [1, 0, 0]}],
        ),
        (
            "labeled-pair",
            [{"query": "a", "document": d, "label": int(d != "z")} for d in "wxz"]
            + [{"query": "b", "document": d, "label": int(d == "z")} for d in "zxw"],
        ),
    ],
)
def test_export(tmp_path, format, want):
    written = mined_example().export(tmp_path / "rows.jsonl", format)
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == want
    assert written.rows == len(want)


@pytest.mark.parametrize("format", ["flagembedding", "tevatron"])
def test_export_for_other_trainers(tmp_path, format):
    mined_example().export(tmp_path / "rows.jsonl", format, scores=True)
    text = (tmp_path / "rows.jsonl").read_text()
    assert "score" in text
    mined_example().export(tmp_path / "plain.jsonl", format)
    assert "score" not in (tmp_path / "plain.jsonl").read_text()
    assert all(json.dumps(word) in text for word in ("b", "z", "x", "w"))

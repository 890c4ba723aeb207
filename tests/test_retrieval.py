"""Retrievers against formulas in float64, fusion against its oracles, and one total order."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stope
from stope.retrieval import (
    Bm25,
    DenseRetriever,
    HnswRetriever,
    HybridRetriever,
    Ranking,
    Tokenizer,
    encode_corpus,
    encode_queries,
    fuse,
    search,
)

PLAIN = Tokenizer(stop_words=None)


class HashEncoder:
    """Embeds a text as the sum of fixed random vectors of its words."""

    def __init__(self, dim=32):
        self.dim = dim
        self.calls = []

    def vector(self, word):
        seed = int.from_bytes(word.encode(), "little") % 2**32
        return np.random.default_rng(seed).standard_normal(self.dim)

    def encode(self, texts):
        self.calls.append(list(texts))
        rows = [sum((self.vector(w) for w in t.split()), np.zeros(self.dim)) for t in texts]
        return np.array(rows, dtype=np.float32)


class TwoSided(HashEncoder):
    """Has sentence-transformers' two methods, which must be preferred."""

    def encode_query(self, texts, prompt=None, batch_size=32):
        return self.encode([f"{prompt or 'query'} {text}" for text in texts])

    def encode_document(self, texts, prompt=None, batch_size=32):
        return self.encode([f"{prompt or 'document'} {text}" for text in texts])


def some_texts(count, seed=0, words=40, length=12):
    rng = random.Random(seed)
    return [
        " ".join(f"w{rng.randrange(words)}" for _ in range(rng.randrange(1, length)))
        for _ in range(count)
    ]


def bm25_by_hand(corpus, query, method="lucene", k1=1.5, b=0.75):
    documents = [text.split() for text in corpus]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score = 0.0
        for term in query.split():
            holding = sum(term in other for other in documents)
            if not holding:
                continue
            n = len(documents)
            idf = {
                "lucene": math.log(1 + (n - holding + 0.5) / (holding + 0.5)),
                "robertson": math.log(max(1.0, (n - holding + 0.5) / (holding + 0.5))),
                "atire": math.log(n / holding),
            }[method]
            count = words.count(term)
            part = count / (count + k1 * (1 - b + b * len(words) / mean))
            score += idf * part * (k1 + 1 if method == "atire" else 1)
        scores.append(score)
    return np.array(scores)


# --- BM25 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 0.0), (1.2, 1.0)])
def test_bm25_is_its_formula(method, k1, b):
    corpus, queries = some_texts(60), ["w1 w2", "w3 w3 w7", "w39 unknown"]
    found = Bm25(corpus, method=method, k1=k1, b=b, tokenizer=PLAIN).search(queries, k=60)
    for row, query in enumerate(queries):
        want = bm25_by_hand(corpus, query, method, k1, b)
        got = np.zeros(60)
        kept = found.ids[row] >= 0
        got[found.ids[row][kept]] = found.scores[row][kept]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        assert kept.sum() == (want > 0).sum()


def test_bm25_orders_ties_by_row_and_cuts_them_there():
    corpus = [f"same{i % 2} text" for i in range(9)]
    bm25 = Bm25(corpus, tokenizer=PLAIN)
    full = bm25.search(["same1 text"], k=9).ids[0].tolist()
    assert full == [1, 3, 5, 7, 0, 2, 4, 6, 8]
    for k in range(1, 10):
        assert bm25.search(["same1 text"], k=k).ids[0].tolist() == full[:k]


def test_bm25_never_returns_a_document_without_a_word_of_the_query():
    found = Bm25(["ore rock", "sea", "rock"], tokenizer=PLAIN).search(["rock", "sky", ""], k=3)
    assert found.ids.tolist() == [[2, 0, -1], [-1] * 3, [-1] * 3]
    assert np.isneginf(found.scores[1:]).all()


@pytest.mark.parametrize("kind", ["lists", "csr"])
def test_bm25_excludes_before_it_selects(kind):
    bm25 = Bm25(["ore", "ore", "ore", "sea"], tokenizer=PLAIN)
    exclude = [[0, 2], []] if kind == "lists" else (np.array([0, 2, 2]), np.array([0, 2]))
    found = bm25.search(["ore", "ore"], k=2, exclude=exclude)
    assert found.ids.tolist() == [[1, -1], [0, 1]]


def test_stop_words_and_stemming():
    corpus = ["the miners", "a mine", "of the sea"]
    assert Bm25(corpus).search(["the"], k=1).ids.tolist() == [[-1]]
    assert Bm25(corpus).search(["mining"], k=1).ids.tolist() == [[-1]]
    stemmed = Bm25(corpus, tokenizer=Tokenizer(stemmer="english"))
    assert stemmed.search(["mining"], k=1).ids.tolist() == [[1]]
    own = Tokenizer(stop_words=["Mine"])
    assert own(["a mine of the sea"]) == [["of", "the", "sea"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snake_case_name", ["snake_case_name", "snake", "case", "name"]),
        ("camelCase", ["camelcase", "camel", "case"]),
        ("XMLHttpRequest2", ["xmlhttprequest2", "xml", "http", "request"]),
        ("__init__", ["__init__", "init"]),
        ("plain", ["plain"]),
        ("x_1", ["x_1"]),
        ("utf8 größe", ["utf8", "utf", "größe"]),
    ],
)
def test_identifiers_are_split(text, words):
    assert Tokenizer(stop_words=None, code=True)([text]) == [words]
    assert Tokenizer(stop_words=None)([text])[0] == [w.lower() for w in text.split() if len(w) > 1]


def test_code_splitting_finds_what_plain_words_miss():
    corpus = ["def read_file_name(): pass", "def writeSocket(): pass"]
    assert Bm25(corpus).search(["socket"], k=1).ids.tolist() == [[-1]]
    assert Bm25(corpus, tokenizer=Tokenizer(code=True)).search(["socket"], k=1).ids[0, 0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corpus": []}, "corpus is empty"),
        ({"corpus": ["the"]}, "holds no words"),
        ({"method": "bm25+"}, "method is 'bm25+'; choose one of lucene"),
        ({"k1": 0}, "k1 is 0"),
        ({"b": 1.5}, "b is 1.5"),
    ],
)
def test_bm25_refuses(arguments, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        Bm25(**{"corpus": ["ore"], **arguments})


def test_tokenizer_refuses_unknown_languages():
    with pytest.raises(ValueError, match="stop_words is 'klingon'; bm25s has lists for english"):
        Tokenizer(stop_words="klingon")
    with pytest.raises(ValueError, match="stemmer is 'klingon'; PyStemmer knows"):
        Tokenizer(stemmer="klingon")


@pytest.mark.parametrize(
    "build", [lambda: Bm25(["aa bb", "cc"]), lambda: DenseRetriever(HashEncoder(), ["aa bb", "cc"])]
)
@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (["aa"], 3, ValueError, "k is 3 but the corpus has 2 documents"),
        (["aa"], 0, ValueError, "k is 0; it must be at least 1"),
        (["aa"], 1.0, TypeError, "k must be an integer, not float"),
        ([], 1, ValueError, "queries is empty"),
        ("aa", 1, TypeError, "queries is one string"),
        (["aa", None], 1, TypeError, r"queries\[1\] is NoneType"),
    ],
)
def test_search_refuses(build, queries, k, error, message):
    with pytest.raises(error, match=message):
        build().search(queries, k)


# --- dense -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_dense_is_topk_of_the_embeddings(metric):
    corpus, queries, encoder = some_texts(300), some_texts(7, seed=1), HashEncoder()
    retriever = DenseRetriever(encoder, corpus, metric=metric, batch_size=64)
    found = retriever.search(queries, k=20)
    want = stope.topk(encoder.encode(queries), encoder.encode(corpus), 20, metric=metric)
    assert (found.ids == want.ids).all()
    assert (found.scores.view(np.uint32) == want.scores.view(np.uint32)).all()
    given_rows = DenseRetriever(encoder, embeddings=encoder.encode(corpus), metric=metric)
    assert (given_rows.search(queries, k=20).ids == want.ids).all()
    assert len(retriever) == len(given_rows) == 300


def test_dense_excludes():
    encoder = HashEncoder()
    retriever = DenseRetriever(encoder, ["aa", "bb", "aa bb"])
    first = retriever.search(["aa"], k=1).ids
    assert first.tolist() == [[0]]
    assert retriever.search(["aa"], k=1, exclude=[[0]]).ids.tolist() == [[2]]


def test_query_and_document_methods_and_prompts():
    encoder = TwoSided()
    encode_queries(encoder, ["aa", "bb"])
    encode_corpus(encoder, ["cc"])
    encode_queries(encoder, ["dd"], prompt="find:")
    assert encoder.calls == [["query aa", "query bb"], ["document cc"], ["find: dd"]]
    plain = HashEncoder()
    encode_corpus(plain, ["aa", "bb", "cc"], prompt="text: ", batch_size=2)
    assert plain.calls == [["text: aa", "text: bb"], ["text: cc"]]


def test_dense_uses_its_prompts():
    encoder = HashEncoder()
    retriever = DenseRetriever(encoder, ["aa"], query_prompt="find: ", corpus_prompt="text: ")
    retriever.search(["bb"], k=1)
    assert encoder.calls == [["text: aa"], ["find: bb"]]


def test_progress_of_encoding_reaches_the_end():
    seen = []
    encode_corpus(HashEncoder(), ["aa"] * 5, batch_size=2, progress=lambda *step: seen.append(step))
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda texts: np.zeros((1, 4)), r"shape \(1, 4\) and type float64 for 2 texts"),
        (lambda texts: np.zeros(2), r"shape \(2,\)"),
        (lambda texts: np.array([["a"], ["b"]]), "type <U1"),
    ],
)
def test_an_encoder_of_wrong_shape_is_refused(output, message):
    encoder = HashEncoder()
    encoder.encode = output
    with pytest.raises(ValueError, match=message):
        encode_corpus(encoder, ["aa", "bb"])


def test_an_object_that_does_not_encode_is_refused():
    with pytest.raises(TypeError, match="encoder is dict, which has no encode method"):
        encode_corpus({}, ["aa"])
    with pytest.raises(TypeError, match="Give either corpus"):
        DenseRetriever(HashEncoder())


def test_torch_output_is_taken():
    torch = pytest.importorskip("torch", reason="needs the extra train")
    encoder = HashEncoder()
    encoder.encode = lambda texts: torch.ones(len(texts), 3, dtype=torch.bfloat16).requires_grad_()
    rows = encode_corpus(encoder, ["aa", "bb"])
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_hnsw_is_close_to_exact_and_scores_alike(metric):
    rng = np.random.default_rng(3)
    corpus = rng.standard_normal((2000, 16), dtype=np.float32)
    queries = rng.standard_normal((50, 16), dtype=np.float32)
    exact = DenseRetriever(HashEncoder(), embeddings=corpus, metric=metric)
    near = HnswRetriever(HashEncoder(), embeddings=corpus, metric=metric)
    want, got = exact.search_embeddings(queries, 10), near.search_embeddings(queries, 10)
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(want.ids, got.ids, strict=True)])
    assert same > 0.9
    agree = want.ids == got.ids
    np.testing.assert_allclose(got.scores[agree], want.scores[agree], atol=1e-4)
    assert (np.diff(got.scores, axis=1) <= 0).all()
    again = HnswRetriever(HashEncoder(), embeddings=corpus, metric=metric)
    assert (again.search_embeddings(queries, 10).ids == got.ids).all()


def test_hnsw_returns_more_than_it_was_told_to_keep():
    corpus = np.random.default_rng(3).standard_normal((300, 8), dtype=np.float32)
    found = HnswRetriever(HashEncoder(), embeddings=corpus, ef_search=1)
    exact = DenseRetriever(HashEncoder(), embeddings=corpus).search_embeddings(corpus[:5], 200)
    near = found.search_embeddings(corpus[:5], 200)
    same = [len(set(a) & set(b)) for a, b in zip(exact.ids, near.ids, strict=True)]
    assert min(same) > 190


@pytest.mark.parametrize("name", ["m", "ef_construction", "ef_search", "num_threads"])
def test_hnsw_refuses(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least"):
        HnswRetriever(HashEncoder(), ["aa"], **{name: 0})


# --- fusion ------------------------------------------------------------------------------------


def ranking(*rows):
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), -1)
    scores = np.full((len(rows), width), -np.inf, np.float32)
    for place, row in enumerate(rows):
        for column, (name, score) in enumerate(row):
            ids[place, column], scores[place, column] = name, score
    return Ranking(ids, scores)


def test_reciprocal_ranks():
    one = ranking([(5, 9.0), (6, 8.0), (7, 1.0)])
    two = ranking([(9, 3.0), (8, 2.0), (5, 1.0)])
    found = fuse([one, two])
    table = dict(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))
    assert found.ids.tolist() == [[5, 9, 6]]
    assert table[5] == pytest.approx(1 / 61 + 1 / 63)
    assert table[9] == pytest.approx(1 / 61)
    assert table[6] == pytest.approx(1 / 62)  # before 8, of the same score
    weighted = fuse([one, two], weights=[0, 2], rrf_k=0, k=5)
    assert weighted.ids.tolist() == [[9, 8, 5, 6, 7]]
    np.testing.assert_allclose(weighted.scores[0], [2, 1, 2 / 3, 0, 0])


def test_minmax():
    one = ranking([(0, 10.0), (1, 5.0), (2, 0.0)])  # a b c
    two = ranking([(1, 2.0), (3, 1.0)])  # b d
    found = fuse([one, two], method="minmax", k=4)
    assert found.ids.tolist() == [[1, 0, 2, 3]]
    assert found.scores.tolist() == [[0.75, 0.5, 0.0, 0.0]]
    flat = fuse([ranking([(4, 3.0), (2, 3.0)])], method="minmax")
    assert flat.ids.tolist() == [[2, 4]]
    assert flat.scores.tolist() == [[1.0, 1.0]]


def test_a_query_may_be_missing_from_one_ranking():
    one = ranking([(0, 1.0)], [(1, 2.0), (0, 1.0)])
    two = ranking([(3, 1.0)], [])
    for method in ("rrf", "minmax"):
        found = fuse([one, two], method=method, k=3)
        assert found.ids.tolist() == [[0, 3, -1], [1, 0, -1]]
        assert np.isneginf(found.scores[found.ids < 0]).all()


lists = st.lists(st.lists(st.integers(0, 12), max_size=8, unique=True), min_size=2, max_size=4)


@given(lists, st.randoms(use_true_random=False), st.sampled_from(["rrf", "minmax"]))
def test_the_order_of_the_rankings_changes_nothing(rows, rng, method):
    rankings = [
        ranking([(name, float(len(row) - place)) for place, name in enumerate(row)]) for row in rows
    ]
    shuffled = rankings[:]
    rng.shuffle(shuffled)
    if not any(rows):
        return
    one, two = (fuse(part, method=method, k=13) for part in (rankings, shuffled))
    assert (one.ids == two.ids).all()
    assert (one.scores.view(np.uint32) == two.scores.view(np.uint32)).all()
    keys = [(-s, i) for i, s in zip(one.ids[0], one.scores[0], strict=True) if i >= 0]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rankings": []}, "rankings is empty"),
        ({"method": "sum"}, "method is 'sum'"),
        ({"weights": [1]}, "weights has 1 numbers for 2 rankings"),
        ({"weights": [1, -1]}, "at least 0, and not all 0"),
        ({"weights": [0, 0]}, "at least 0, and not all 0"),
        ({"weights": [1, math.nan]}, "must be finite"),
        ({"rrf_k": -1}, "rrf_k is -1"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_fuse_refuses(arguments, message):
    pair = [ranking([(0, 1.0)]), ranking([(1, 1.0)])]
    with pytest.raises(ValueError, match=message):
        fuse(**{"rankings": pair, **arguments})


def test_fuse_refuses_different_queries():
    with pytest.raises(ValueError, match=r"rankings have \[1, 2\] queries"):
        fuse([ranking([(0, 1.0)]), ranking([(0, 1.0)], [(0, 1.0)])])


def test_hybrid_is_the_fusion_of_its_parts():
    corpus, queries = some_texts(200), some_texts(5, seed=2)
    parts = [Bm25(corpus, tokenizer=PLAIN), DenseRetriever(HashEncoder(), corpus)]
    hybrid = HybridRetriever(parts, method="minmax", weights=[0.3, 0.7], depth=50)
    want = fuse(
        [part.search(queries, 50) for part in parts], method="minmax", weights=[0.3, 0.7], k=10
    )
    got = hybrid.search(queries, k=10)
    assert (got.ids == want.ids).all()
    assert (got.scores == want.scores).all()
    shallow = HybridRetriever(parts[1:], depth=1).search(queries, k=10)
    assert (shallow.ids >= 0).all()
    with pytest.raises(ValueError, match=r"corpora of \[2, 200\] documents"):
        HybridRetriever([parts[0], Bm25(["aa bb", "cc"])])


# --- runs --------------------------------------------------------------------------------------


def test_run_and_back():
    names, documents = ["q1", "q2"], ["a", "b", "c"]
    found = ranking([(2, 0.5), (0, 0.25)], [])
    run = found.to_run(names, documents)
    assert run == {"q1": {"c": 0.5, "a": 0.25}, "q2": {}}
    assert list(run["q1"]) == ["c", "a"]
    back = Ranking.from_run(run, names, documents)
    assert (back.ids == found.ids).all()
    assert (back.scores == found.scores).all()
    tied = Ranking.from_run({"q1": {"c": 1.0, "a": 1.0}}, names, documents)
    assert tied.ids.tolist() == [[0, 2], [-1, -1]]


def test_ranking_refuses():
    with pytest.raises(ValueError, match=r"ids has shape \(1, 2\) and scores has shape \(1, 1\)"):
        Ranking(np.zeros((1, 2)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="query_ids has 2 ids but the ranking has 1"):
        ranking([(0, 1.0)]).to_run(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="corpus_ids has 1 ids but the ranking names row 4"):
        ranking([(4, 1.0)]).to_run(["a"], ["x"])
    with pytest.raises(ValueError, match="document 'z' for query 'a'"):
        Ranking.from_run({"a": {"z": 1.0}}, ["a"], ["x"])


@pytest.mark.parametrize("batch_size", [1, 3, 1024])
def test_search_makes_the_same_run_in_any_batches(batch_size):
    corpus, queries = some_texts(50), some_texts(10, seed=5)
    ids, names = [f"d{i}" for i in range(50)], [f"q{i}" for i in range(10)]
    bm25 = Bm25(corpus, tokenizer=PLAIN)
    seen = []
    run = search(
        bm25,
        names,
        queries,
        ids,
        k=5,
        batch_size=batch_size,
        progress=lambda *step: seen.append(step),
    )
    assert run == bm25.search(queries, 5).to_run(names, ids)
    assert seen[-1] == (10, 10)


def test_search_leaves_out_the_query_itself():
    corpus = ["aa bb", "aa", "bb", "aa cc"]
    ids = ["w", "x", "y", "z"]
    bm25 = Bm25(corpus, tokenizer=PLAIN)
    run = search(bm25, ["x", "new"], ["aa", "aa"], ids, k=2, exclude_self=True)
    assert run["new"].keys() == {"x", "w"}
    assert run["x"].keys() == {"w", "z"}
    assert len(search(bm25, ["x"], ["aa"], ids, k=4, exclude_self=True)["x"]) == 2


@pytest.mark.parametrize(
    ("query_ids", "corpus_ids", "message"),
    [
        (["q"], ["a", "b"], "query_ids has 1 ids for 2 query_texts"),
        (["q", "q"], ["a", "b"], "query_ids has duplicates"),
        (["p", "q"], ["a"], "corpus_ids has 1 ids but the retriever has 2 documents"),
    ],
)
def test_search_over_names_refuses(query_ids, corpus_ids, message):
    with pytest.raises(ValueError, match=message):
        search(Bm25(["aa", "bb"]), query_ids, ["aa", "bb"], corpus_ids, k=1)


def test_a_missing_library_is_named_with_its_command(succeeds):
    text = succeeds(
        """
        import sys
        sys.modules["bm25s"] = None
        from stope.retrieval import Bm25
        try:
            Bm25(["ore"])
        except ImportError as error:
            print(error)
        """
    )
    assert text.strip() == 'bm25s is not installed. Install it with: pip install "stope[retrieval]"'


def test_import_is_light(succeeds):
    text = succeeds(
        """
        import sys
        import stope.retrieval, stope.mining, stope.doctor
        heavy = {"torch", "bm25s", "hnswlib", "transformers", "datasets", "pyarrow", "pandas"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert text.strip() == "[]"

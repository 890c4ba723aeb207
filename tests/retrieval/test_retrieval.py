"""Retrievers against formulas in float64, in one total order."""

from __future__ import annotations

import math

import numpy as np
import pytest

import stope
from encoders import HashEncoder, some_texts
from stope.encoders import encode_corpus, encode_queries
from stope.retrieval import Bm25, DenseRetriever, HnswRetriever, Tokenizer

PLAIN = Tokenizer(stop_words=None)


class TwoSided(HashEncoder):
    """Has sentence-transformers' two methods, which must be preferred."""

    def encode_query(self, texts, prompt=None, batch_size=32):
        return self.encode([f"{prompt or 'query'} {text}" for text in texts])

    def encode_document(self, texts, prompt=None, batch_size=32):
        return self.encode([f"{prompt or 'document'} {text}" for text in texts])


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
        ("utf8 größe", ["utf8", "utf", "grösse"]),
    ],
)
def test_identifiers_are_split(text, words):
    assert Tokenizer(stop_words=None, code=True)([text]) == [words]
    assert Tokenizer(stop_words=None)([text])[0] == [w.casefold() for w in text.split()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("東京都", ["東京", "京都"]),
        ("一 二三", ["一", "二三"]),
        ("ｶﾞｽ", ["ガス"]),
        ("한국어 문장", ["한국", "국어", "문장"]),
        ("ที่ดี", ["ที่ดี"]),
        ("ລາວ", ["ລາ", "າວ"]),
        ("ភាសា", ["ភាសា"]),
        ("မြန်မာ", ["မြန်", "န်မာ"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("ORE東京2024年", ["ore", "東京", "2024", "年"]),
        ("caf\u00e9 cafe\u0301 CAFÉ", ["café"] * 3),
        ("Ⅻth ﬁne Straße STRASSE", ["xiith", "fine", "strasse", "strasse"]),
        ("\u0643\u064e\u062a\u064e\u0628\u0640 \u1ecd\u0300r\u1ecd\u0300",
         ["\u0643\u062a\u0628", "\u1ecdr\u1ecd"]),
        ("soft\u00adhyphen zero\u200djoiner", ["softhyphen", "zerojoiner"]),
    ],
)  # fmt: skip
def test_words_of_every_script_and_form(text, words):
    assert Tokenizer(stop_words=None)([text]) == [words]


def test_bm25_finds_in_scripts_without_blanks():
    corpus = ["我住在東京都的一個小鎮", "鯨魚是哺乳動物", "ปลาวาฬเป็นสัตว์เลี้ยงลูกด้วยนม", "ore"]
    found = Bm25(corpus).search(["東京在哪裡", "哺乳動物", "สัตว์เลี้ยง"], k=1)
    assert found.ids.tolist() == [[0], [1], [2]]


def test_rows_that_stope_returned_can_be_excluded():
    corpus = ["ore rock", "ore", "sea"]
    bm25 = Bm25(corpus, tokenizer=PLAIN)
    first = bm25.search(["ore", "sky"], k=3)
    assert (first.ids[1] == -1).all()
    assert (bm25.search(["ore", "sky"], k=3, exclude=first.ids).ids == -1).all()
    dense = DenseRetriever(HashEncoder(), corpus)
    rest = dense.search(["ore", "sky"], k=3, exclude=first.ids)
    assert sorted(rest.ids[0].tolist()) == [-1, -1, 2]
    assert sorted(rest.ids[1].tolist()) == [0, 1, 2]


def test_code_splitting_finds_what_plain_words_miss():
    corpus = ["def read_file_name(): pass", "def writeSocket(): pass"]
    assert Bm25(corpus).search(["socket"], k=1).ids.tolist() == [[-1]]
    assert Bm25(corpus, tokenizer=Tokenizer(code=True)).search(["socket"], k=1).ids[0, 0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corpus": []}, "corpus is empty"),
        ({"corpus": ["the"]}, "holds no words"),
        ({"method": "bm25+"}, "method is 'bm25+'; give one of 'lucene'"),
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
    with pytest.raises(ValueError, match="stemmer is 'klingon'; give one of"):
        Tokenizer(stemmer="klingon")


@pytest.mark.parametrize(
    "build", [lambda: Bm25(["aa bb", "cc"]), lambda: DenseRetriever(HashEncoder(), ["aa bb", "cc"])]
)
@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (["aa"], 3, ValueError, "k is 3 but the corpus has 2 documents"),
        (["aa"], 0, ValueError, "k is 0; it must be at least 1"),
        (["aa"], 1.0, TypeError, "k is 1.0; give an integer"),
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
        (lambda texts: [[1.0], [1.0, 2.0]], "rows of different widths"),
    ],
)
def test_an_encoder_of_wrong_shape_is_refused(output, message):
    encoder = HashEncoder()
    encoder.encode = output
    with pytest.raises(ValueError, match=message):
        encode_corpus(encoder, ["aa", "bb"])


def test_an_object_that_does_not_encode_is_refused():
    encoder = HashEncoder()
    encoder.encode = lambda texts: {"dense": np.zeros((2, 4))}
    with pytest.raises(TypeError, match="gave a dict; it must give an array of shape"):
        encode_corpus(encoder, ["aa", "bb"])
    with pytest.raises(TypeError, match="encoder is dict, which has no encode method"):
        encode_corpus({}, ["aa"])
    with pytest.raises(TypeError, match="give either corpus"):
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


def test_hnsw_speaks_in_sentences():
    rows = np.random.default_rng(3).standard_normal((200, 8), dtype=np.float32)
    hnsw = HnswRetriever(HashEncoder(), embeddings=rows, m=2, ef_construction=1)
    with pytest.raises(ValueError, match="queries has 4 columns but the documents have 8"):
        hnsw.search_embeddings(rows[:, :4], 1)
    with pytest.raises(RuntimeError, match="did not reach 200 documents for every query; build it"):
        hnsw.search_embeddings(rows, 200)
    rows[3, 2] = np.nan
    with pytest.raises(ValueError, match="queries has NaN or infinity in row 3"):
        hnsw.search_embeddings(rows, 1)
    with pytest.raises(ValueError, match="embeddings has NaN or infinity in row 3"):
        HnswRetriever(HashEncoder(), embeddings=rows)


@pytest.mark.parametrize("name", ["m", "ef_construction", "ef_search", "num_threads"])
def test_hnsw_refuses(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least"):
        HnswRetriever(HashEncoder(), ["aa"], **{name: 0})


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
        import stope.retrieval, stope.mining, stope.cli.installation
        heavy = {"torch", "bm25s", "hnswlib", "transformers", "datasets", "pyarrow", "pandas"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert text.strip() == "[]"

"""The mining pipeline: what answers what, which texts count as one, and what a cache may return."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import stope
from stope.data import Collection, read_jsonl
from stope.mining import EmbeddingCache, Pairs, fingerprint_encoder, mine


class Counting:
    """Embeds a text by the bytes of its letters; counts the texts it was asked for.

    `before` is called with the number of texts there would be after each call, to fail there.
    """

    def __init__(self, dim=8, scale=1.0, before=lambda count: None):
        self.dim, self.scale, self.before = dim, scale, before
        self.asked = []

    def fingerprint(self):
        return f"{self.dim} {self.scale}"

    def encode(self, texts):
        self.before(len(self.asked) + len(texts))
        self.asked.extend(texts)
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for place, byte in enumerate(text.encode()):
                rows[row, (byte + place) % self.dim] += self.scale * byte
        return rows


def numbered(count, word="text"):
    return [f"{word} number {i} of {i * i % 97}" for i in range(count)]


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
        (
            lambda: Pairs.from_texts(["a"], ["x"], ["x"], corpus_ids=["1", "2"]),
            "corpus_ids has 2 ids for 1 texts",
        ),
        (
            lambda: Pairs.from_texts(["a"], ["x"], ["x", "y"], corpus_ids=["1", "1"]),
            "corpus_ids has '1' more than once",
        ),
        (
            lambda: Pairs.from_qrels(["q"], ["a"], ["d"], ["x"], {"q": {"e": 1}}),
            "qrels name document 'e', which the corpus lacks",
        ),
        (
            lambda: Pairs.from_qrels(["q"], ["a"], ["d"], ["x"], {"q": {"d": 0}}),
            "No query has a document judged at least 1",
        ),
    ],
)
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
        (
            {"query_embeddings": np.ones((3, 2), np.float32)},
            ValueError,
            "query_embeddings has 3 rows but 1 texts were given",
        ),
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
)
def test_mine_refuses(arguments, error, message):
    pairs = Pairs.from_texts(["a"], ["new"], ["x", "y"])
    with pytest.raises(error, match=message):
        mine(pairs, **arguments)


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


# --- what comes out ----------------------------------------------------------------------------


def mined_example():
    """Two queries; one has two positives and, under the margin, a single negative."""
    corpus = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    q = np.array([[1, 0], [0, 1]], np.float32)
    pairs = Pairs.from_texts(["a", "b"], [["w", "x"], ["z"]], ["w", "x", "y", "z"])
    limits = {"num_negatives": 2, "absolute_margin": 0.3}
    return mine(pairs, query_embeddings=q, corpus_embeddings=corpus, **limits)


def test_summary_counts():
    limits = {"num_negatives": 2, "absolute_margin": 0.3}
    corpus = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    pairs = Pairs.from_texts(["a", "b", "c"], [["w", "x"], ["z"], ["z"]], ["w", "x", "y", "z"])
    q = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    summary = mine(pairs, query_embeddings=q, corpus_embeddings=corpus, **limits).summary()
    # Ceilings .8 - .3, 1 - .3 and 0 - .3: a keeps z, b keeps x and w, c keeps none.
    assert (summary.num_queries, summary.num_corpus, summary.num_negatives) == (3, 4, 3)
    assert (summary.complete, summary.short, summary.empty) == (1, 1, 1)
    assert summary.rejected["positive"] == 4
    assert summary.rejected["absolute_margin"] == 1 + 1 + 3
    assert summary.score_quantiles == pytest.approx([0.0, 0.0, 0.0, 0.3, 0.6])
    assert summary.positive_quantiles == pytest.approx([0.0, 0.4, 0.8, 0.9, 1.0])
    assert json.loads(summary.to_json())["complete"] == 1


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


# --- fingerprints ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def static_model():
    """A small sentence-transformers model with a trained tokenizer, made anew by each call."""
    library = pytest.importorskip("sentence_transformers", reason="needs the extra train")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra train")
    torch = pytest.importorskip("torch", reason="needs the extra train")

    def build(words=("ore", "rock", "sea"), prompts=None):
        vocabulary = {word: place for place, word in enumerate(["[UNK]", *words])}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        weights = torch.arange(len(vocabulary) * 4, dtype=torch.float32).reshape(-1, 4) / 7
        try:
            from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        except ImportError:
            from sentence_transformers.models import StaticEmbedding
        module = StaticEmbedding(tokenizer, embedding_weights=weights.numpy())
        return library.SentenceTransformer(modules=[module], prompts=prompts, device="cpu")

    return build


def test_equal_models_have_equal_fingerprints(static_model):
    assert fingerprint_encoder(static_model()) == fingerprint_encoder(static_model())


def test_encoding_leaves_the_fingerprint_alone(static_model):
    model = static_model()
    before = fingerprint_encoder(model)
    model.encode(["ore and rock"] * 3)
    assert fingerprint_encoder(model) == before


def test_the_state_of_a_transformers_tokenizer_is_no_part_of_it(static_model):
    torch = pytest.importorskip("torch", reason="needs the extra train")
    transformers = pytest.importorskip("transformers", reason="needs the extra train")
    module = torch.nn.Linear(2, 2)
    module.tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=static_model().tokenizer, pad_token="[UNK]", unk_token="[UNK]"
    )
    before = fingerprint_encoder(module)
    module.tokenizer(["ore rock", "sea"], padding=True, truncation=True, max_length=1)
    assert fingerprint_encoder(module) == before
    module.tokenizer.add_tokens(["sky"])
    assert fingerprint_encoder(module) != before


def test_whatever_changes_the_output_changes_the_fingerprint(static_model):
    torch = pytest.importorskip("torch", reason="needs the extra train")
    prints = [fingerprint_encoder(static_model())]
    trained = static_model()
    with torch.no_grad():
        next(trained.parameters())[2, 1] += 1e-6
    prints.append(fingerprint_encoder(trained))
    prints.append(fingerprint_encoder(static_model(words=("rock", "ore", "sea"))))
    prints.append(fingerprint_encoder(static_model(prompts={"query": "find: "})))
    half = static_model().half()
    prints.append(fingerprint_encoder(half))
    short = static_model()
    short.truncate_dim = 2
    prints.append(fingerprint_encoder(short))
    cut = static_model()
    cut.tokenizer.enable_truncation(2)
    prints.append(fingerprint_encoder(cut))
    for dtype in (torch.float16, torch.bfloat16):  # of equal bytes
        empty = static_model().to(dtype)
        with torch.no_grad():
            next(empty.parameters()).zero_()
        prints.append(fingerprint_encoder(empty))
    assert len(set(prints)) == len(prints)


def test_a_saved_model_keeps_its_fingerprint(static_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = static_model()
    model.save_pretrained(str(tmp_path / "model"))
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert fingerprint_encoder(again) == fingerprint_encoder(model)


def test_an_encoder_that_cannot_be_read_is_refused(tmp_path):
    class Opaque:
        def encode(self, texts):
            return np.ones((len(texts), 2), np.float32)

    with pytest.raises(ValueError, match=r"Opaque has no weights .* fingerprint\(\) -> str"):
        EmbeddingCache(tmp_path).embeddings(Opaque(), ["a"], role="query")


# --- cache -------------------------------------------------------------------------------------


def ask(cache, encoder, texts, role="corpus", **options):
    before = len(encoder.asked)
    rows = cache.embeddings(encoder, texts, role=role, **options)
    return rows, len(encoder.asked) - before


def test_the_second_time_nothing_is_encoded(tmp_path):
    encoder, texts = Counting(), numbered(25)
    cache = EmbeddingCache(tmp_path / "new" / "cache", shard_size=10)
    first, asked = ask(cache, encoder, texts)
    assert asked == 25
    second, asked = ask(EmbeddingCache(tmp_path / "new" / "cache"), Counting(), texts)
    assert asked == 0
    assert (first == second).all()
    assert (first == Counting().encode(texts)).all()
    assert not second.flags.writeable
    stored = next((tmp_path / "new" / "cache").glob("corpus-*/embeddings.npy"))
    assert (np.load(stored) == first).all()


@pytest.mark.parametrize(
    "change", ["weights", "dim", "texts", "order", "role", "prompt", "joined texts"]
)
def test_any_change_is_encoded_anew(tmp_path, change):
    cache, texts = EmbeddingCache(tmp_path), ["ab", "c", "d"]
    ask(cache, Counting(), texts)
    encoder, role, prompt = Counting(), "corpus", None
    if change == "weights":
        encoder = Counting(scale=2.0)
    elif change == "dim":
        encoder = Counting(dim=9)
    elif change == "texts":
        texts = ["ab", "c", "e"]
    elif change == "order":
        texts = ["c", "ab", "d"]
    elif change == "role":
        role = "query"
    elif change == "prompt":
        prompt = "p"
    else:
        texts = ["a", "bc", "d"]
    rows, asked = ask(cache, encoder, texts, role=role, prompt=prompt)
    assert asked == 3
    assert (rows == encoder.encode([(prompt or "") + text for text in texts])).all()


def stops(after):
    """An encoder that is stopped after a number of texts, as by a machine switched off."""

    def before(count):
        if count > after:
            raise KeyboardInterrupt

    return Counting(before=before)


@pytest.mark.parametrize("after", [0, 9, 10, 15, 20, 29])
def test_a_stopped_run_goes_on_after_its_last_shard(tmp_path, after):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    with pytest.raises(KeyboardInterrupt):
        cache.embeddings(stops(after), texts, role="corpus", batch_size=5)
    assert not list(tmp_path.glob("*/embeddings.npy"))
    seen = []
    rows, asked = ask(
        EmbeddingCache(tmp_path, shard_size=7),
        Counting(),
        texts,
        progress=lambda *step: seen.append(step),
    )
    assert asked == 30 - after // 10 * 10
    assert (rows == Counting().encode(texts)).all()
    assert seen[-1] == (30, 30)
    assert not list(tmp_path.glob("*/embeddings.partial"))


def test_a_crash_between_data_and_manifest_is_repaired(tmp_path):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    with pytest.raises(KeyboardInterrupt):
        cache.embeddings(stops(20), texts, role="corpus", batch_size=10)
    partial = next(tmp_path.glob("*/embeddings.partial"))
    with partial.open("ab") as file:
        file.write(b"half a shard")
    rows, asked = ask(cache, Counting(), texts)
    assert asked == 10
    assert (rows == Counting().encode(texts)).all()


def test_a_damaged_shard_is_encoded_again(tmp_path):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    with pytest.raises(KeyboardInterrupt):
        cache.embeddings(stops(20), texts, role="corpus", batch_size=10)
    partial = next(tmp_path.glob("*/embeddings.partial"))
    data = bytearray(partial.read_bytes())
    data[-3] ^= 1
    partial.write_bytes(data)
    rows, asked = ask(cache, Counting(), texts)
    assert asked == 20
    assert (rows == Counting().encode(texts)).all()


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone", "header"])
def test_an_altered_file_is_refused(tmp_path, damage):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    ask(cache, Counting(), texts)
    stored = next(tmp_path.glob("*/embeddings.npy"))
    data = bytearray(stored.read_bytes())
    if damage == "gone":
        stored.unlink()
    else:
        if damage == "flip":
            data[-1] ^= 1
        elif damage == "header":
            data[12] ^= 1
        stored.write_bytes({"cut": data[:-8], "longer": data + b"1234"}.get(damage, data))
    with pytest.raises(ValueError, match=r"missing, truncated or altered.*remove the folder"):
        cache.embeddings(Counting(), texts, role="corpus")


@pytest.mark.parametrize("damage", ["text", "key", "version", "unknown"])
def test_an_altered_manifest_is_refused(tmp_path, damage):
    texts, cache = numbered(5), EmbeddingCache(tmp_path)
    ask(cache, Counting(), texts)
    manifest = next(tmp_path.glob("*/manifest.json"))
    content = json.loads(manifest.read_text())
    content.update(
        {"key": {"key": "0"}, "version": {"version": 2}, "unknown": {"new": 1}}.get(damage, {})
    )
    manifest.write_text("{" if damage == "text" else json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json .* remove the folder"):
        cache.embeddings(Counting(), texts, role="corpus")


@pytest.mark.parametrize(("shard_size", "left"), [(20, 60), (100, 100)])
def test_a_full_disk_keeps_what_was_saved(tmp_path, python, shard_size, left):
    code = """
        import resource, sys
        sys.path.insert(0, {tests!r})
        from test_mining import Counting, EmbeddingCache, numbered
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            cache = EmbeddingCache({folder!r}, shard_size={shard_size})
            cache.embeddings(Counting(), numbered(100), role="corpus")
        except OSError as error:
            print(error)
    """
    tests = str(Path(__file__).parent)
    done = python(code.format(tests=tests, folder=str(tmp_path), shard_size=shard_size))
    assert done.returncode == 0, done.stderr
    assert "the shards saved before are kept" in done.stdout
    assert "File too large" in done.stdout
    rows, asked = ask(EmbeddingCache(tmp_path), Counting(), numbered(100))
    assert asked == left  # 128 bytes of header and 2 shards of 640 fit into 2000
    assert (rows == Counting().encode(numbered(100))).all()


def test_two_processes_do_not_mix(tmp_path):
    texts = numbered(4)

    def another_process(_):
        with pytest.raises(RuntimeError, match="Another process is filling"):
            EmbeddingCache(tmp_path).embeddings(Counting(), texts, role="corpus")

    rows, asked = ask(EmbeddingCache(tmp_path), Counting(before=another_process), texts)
    assert asked == 4
    assert (rows == Counting().encode(texts)).all()


def test_mining_through_a_cache_changes_nothing(tmp_path):
    pairs = Pairs.from_texts(numbered(20, "query"), numbered(20))
    direct = mine(pairs, Counting())
    encoder = Counting()
    for _ in range(2):
        cached = mine(pairs, encoder, cache=tmp_path)
        assert (cached.result.ids == direct.result.ids).all()
        assert (cached.result.scores == direct.result.scores).all()
    assert len(encoder.asked) == 40


def test_a_cache_in_a_moved_folder_still_serves(tmp_path):
    ask(EmbeddingCache(tmp_path / "a"), Counting(), ["x"])
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert ask(EmbeddingCache(tmp_path / "b"), Counting(), ["x"])[1] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [], "role": "corpus"}, "texts is empty"),
        ({"texts": ["a"], "role": "document"}, "role is 'document'"),
    ],
)
def test_the_cache_refuses(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingCache(tmp_path).embeddings(Counting(), **arguments)
    with pytest.raises(ValueError, match="shard_size is 0"):
        EmbeddingCache(tmp_path, shard_size=0)

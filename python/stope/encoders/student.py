"""A static encoder that repeats its teacher: fitted in closed form, without pairs and epochs.

A text's embedding is the sum of its tokens' vectors, so the vectors W that come nearest to a
teacher's embeddings of texts are a least-squares problem. C counts tokens in texts, G n-grams of
characters in tokens. M = [diag(idf), G diag(idf of n-grams)] lets tokens that have n-grams in
common share vectors. With S, which gives the rows of S C M length one, and the teacher's unit rows
Y: W = M V, V = argmin ||S C M V - Y||^2 + ridge ||V||^2. So W = M (S C M)^T A, where A solves
(K + ridge) A = Y, K = S C M M^T C^T S. Up to 8,192 texts K is written down and solved; for more,
conjugate gradients multiply by C and M alone, which takes longer for the same result.
Tokens are words, and pieces of words for those that are new and for scripts without blanks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import flag, integer, real
from stope._checks import texts as texts_of
from stope._extras import need
from stope._kinds import a, at_least, kinds, maybe
from stope.encoders.cache import EmbeddingCache
from stope.encoders.encode import ENCODING, Encoder, encode_corpus, encode_queries, has_encode
from stope.encoders.models import UNKNOWN, idf_of, train_tokenizer
from stope.encoders.tokens import TokenIds
from stope.encoders.versions import part
from stope.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Floats = NDArray[np.float32]
_NGRAMS = (3, 4)
_LONGEST_WORD = 24
_DENSE = 8192  # texts whose K fits into 256 MiB
_ITERATIONS, _TOLERANCE = 200, 1e-3
_KINDS = {name: ENCODING[name] for name in ("batch_size", "progress")}


def _teacher(value: Any, name: str) -> None:
    if not isinstance(value, np.ndarray):
        has_encode(value, name)


def _texts(value: Any, name: str) -> None:
    texts_of(value, name, empty=True)


@kinds(
    **_KINDS,
    corpus_texts=texts_of,
    teacher=_teacher,
    query_texts=_texts,
    vocab_size=at_least(16),
    max_words=at_least(0),
    lower_case=flag,
    code=flag,
    ridge=real,
    cache=maybe(a(EmbeddingCache)),
)
def static_student(
    corpus_texts: Sequence[str],
    teacher: Encoder | Floats,
    *,
    query_texts: Sequence[str] = (),
    vocab_size: int = 8000,
    max_words: int = 50_000,
    lower_case: bool = True,
    code: bool = False,
    ridge: float = 0.1,
    batch_size: int = 64,
    cache: EmbeddingCache | None = None,
    progress: Progress | None = None,
) -> SentenceTransformer:
    """Fit a static encoder to a teacher's embeddings of texts; the module has the formula.

    It needs no pairs. What it has learned holds for texts like these: give it the whole corpus, and
    the training queries, which are the only examples of what is asked (docs/concepts/teachers.md).

    Args:
        corpus_texts: the documents.
        teacher: any encoder; queries and documents go through its ``encode_query`` and
            ``encode_document`` where it has them. Or its embeddings, float32 ``[texts, d]``: of the
            corpus, and below these of the queries.
        query_texts: training queries, without judgements; held-out ones have no place here.
        vocab_size: largest number of pieces of words.
        max_words: largest number of whole words beside the pieces: those in two texts or more, the
            most frequent first.
        lower_case: whether upper and lower case are one.
        code: split identifiers (snake_case, camelCase), for program text.
        ridge: of the formula; 0.1 was best or nearly so on all collections that were tried.
        batch_size: texts per call of the teacher.
        cache: keeps the teacher's embeddings, so that a run that was stopped goes on.
        progress: called with (texts that the teacher has embedded, texts).

    Returns:
        A `SentenceTransformer` of StaticEmbedding and Normalize, on the CPU, that loads without
        stope; unit float32 rows of the teacher's dimension, near enough to the teacher's own for
        its queries to search the teacher's documents. A text without a known token has a row of
        zeros, whose score with everything is 0. The same arguments give the same bits (on one
        machine, with the same threads).

    Raises:
        ValueError: no text holds a letter, a teacher's row is zero, NaN or infinite, embeddings do
            not fit the texts, an option is out of range.
        TypeError: an argument of a wrong kind.
        ImportError: the extra "train" is missing.

    Memory: the embeddings, and four arrays of their shape, with up to 8,192 texts 4 * texts^2 bytes
    instead; three arrays [tokens and n-grams, d].

    Example:
        >>> texts = ["ore in rock", "a deep pit", "rocks and ores"] * 3
        >>> rows = np.float32([[1, 0], [0, 1], [0.8, 0.6]] * 3)
        >>> student = static_student(texts, rows)
        >>> bool((student.encode(texts) * rows).sum(axis=1).min() > 0.9)
        True
    """
    corpus, queries = texts_of(corpus_texts, "corpus_texts"), list(query_texts)
    integer(max_words, "max_words", 0)
    real(ridge, "ridge", 0, above=True)
    models = part("models")
    from sentence_transformers import SentenceTransformer

    texts = [*corpus, *queries]
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, lower_case=lower_case, code=code)
    _add_words(tokenizer, texts, max_words)
    if isinstance(teacher, np.ndarray):
        rows = teacher
    else:
        rows = teacher_embeddings(
            teacher, corpus, queries, batch_size=batch_size, cache=cache, progress=progress
        )
    vectors = _fitted(tokenizer, texts, _unit_rows(rows, len(texts)), ridge)
    modules = [models.StaticEmbedding(tokenizer, embedding_weights=vectors), models.Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def teacher_embeddings(
    teacher: Encoder,
    corpus: Sequence[str],
    queries: Sequence[str],
    *,
    batch_size: int = 64,
    cache: EmbeddingCache | None = None,
    progress: Progress | None = None,
) -> Floats:
    """The teacher's embeddings of documents, and of queries below these.

    It is asked in order of length, so that batches are full.
    """
    rows: list[Floats] = []
    total, before = len(corpus) + len(queries), 0
    for role, texts in (("corpus", corpus), ("query", queries)):
        if not texts:
            continue
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        ordered = [texts[row] for row in order]

        def told(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        if cache is not None:
            embedded = cache.embeddings(
                teacher,
                ordered,
                role=role,  # type: ignore[arg-type]
                batch_size=batch_size,
                progress=told,
            )
        else:
            encode = encode_corpus if role == "corpus" else encode_queries
            embedded = encode(teacher, ordered, batch_size=batch_size, progress=told)
        rows.append(np.empty_like(embedded, subok=False))
        rows[-1][order] = embedded
        before += len(texts)
    if len({part.shape[1] for part in rows}) > 1:
        raise ValueError(
            f"teacher gives queries of dim {rows[1].shape[1]} and documents of dim "
            f"{rows[0].shape[1]}; a student needs one space for both"
        )
    return np.concatenate(rows)


def _unit_rows(rows: Floats, count: int) -> Floats:
    if rows.dtype != np.float32:
        raise TypeError(f"teacher is an array of {rows.dtype}; write teacher.astype(np.float32)")
    if rows.ndim != 2 or len(rows) != count or not rows.shape[1]:
        raise ValueError(
            f"teacher has shape {rows.shape} for {count} texts; give a row for every text of the "
            "corpus, and below these one for every query"
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(wrong):
        raise ValueError(
            f"teacher's embedding of text {wrong[0]} is zero, NaN or infinite; leave the text out"
        )
    return np.asarray(rows / lengths, dtype=np.float32)


def _add_words(tokenizer: Any, texts: Sequence[str], most: int) -> None:
    """Make words of two texts and more tokens, each a little likelier than its pieces together.

    Words of one text fall into pieces, which thereby learn to stand for words that are new.
    """
    tokenizers: Any = need("tokenizers", extra="train")
    pieces = [(word, score) for word, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    scores = dict(pieces)
    texts_with: Counter[str] = Counter()
    for text in texts:
        parts = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        texts_with.update({word for word, _ in parts})
    words = [
        w for w, n in texts_with.items() if n > 1 and w not in scores and len(w) <= _LONGEST_WORD
    ]
    words.sort(key=lambda word: (-texts_with[word], word))
    encodings = tokenizer.encode_batch(words[:most], add_special_tokens=False)
    whole = [
        (word, sum(scores[piece] for piece in encoding.tokens) + 1e-3)
        for word, encoding in zip(words, encodings, strict=False)
        if UNKNOWN not in encoding.tokens
    ]
    tokenizer.model = tokenizers.models.Unigram([*pieces, *whole], 0, False)


def _fitted(tokenizer: Any, texts: Sequence[str], rows: Floats, ridge: float) -> Floats:
    """The tokens' vectors W, their elements near one in size; that of the unknown token is zero."""
    sparse: Any = need("scipy.sparse", extra="train")
    counts = _counts(tokenizer, texts)
    tokens = [tokenizer.id_to_token(token) for token in range(counts.shape[1])]
    grams = _ngrams([" ".join(["", token, ""]) for token in tokens])
    in_texts = counts @ grams
    idf, idf_of_grams = (idf_of(m.getnnz(axis=0), len(texts)) for m in (counts, in_texts))
    squares = counts.power(2) @ idf**2 + in_texts.power(2) @ idf_of_grams**2
    del in_texts
    features = sparse.hstack([sparse.diags(idf), grams @ sparse.diags(idf_of_grams)]).tocsr()
    lengths = np.sqrt(squares)
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    vectors = _solved((sparse.diags(scale) @ counts).tocsr(), features, rows, ridge)
    size = np.sqrt(np.mean(np.square(vectors[1:], dtype=np.float64)))
    return np.asarray(vectors / max(size, 1e-30), dtype=np.float32)


def _solved(counts: Any, features: Any, rows: Floats, ridge: float) -> Floats:
    """W = M (S C M)^T A, where (S C M M^T C^T S + ridge) A = rows; counts holds S C."""
    back, features_back = counts.T.tocsr(), features.T.tocsr()

    def vectors(dual: Floats) -> Floats:
        return np.asarray(features @ (features_back @ (back @ dual)), dtype=np.float32)

    if len(rows) <= _DENSE:
        kernel = np.empty((len(rows), len(rows)), dtype=np.float32)
        for start in range(0, len(rows), rows.shape[1]):
            columns = np.eye(len(rows), rows.shape[1], -start, dtype=np.float32)
            width = min(rows.shape[1], len(rows) - start)
            kernel[:, start : start + width] = counts @ vectors(columns[:, :width])
        kernel[np.diag_indices(len(rows))] += ridge
        linear: Any = need("scipy.linalg", extra="train")
        return vectors(linear.solve(kernel, rows, assume_a="pos", overwrite_a=True))
    dual, rest = np.zeros_like(rows), rows.copy()
    step, size = rest.copy(), np.square(rest).sum(axis=0)
    enough = _TOLERANCE**2 * size
    for _ in range(_ITERATIONS):
        image = counts @ vectors(step) + np.float32(ridge) * step
        length = size / np.maximum((step * image).sum(axis=0), 1e-30)
        dual += length * step
        rest -= length * image
        size, before = np.square(rest).sum(axis=0), size
        if (size <= enough).all():
            break
        step = rest + size / np.maximum(before, 1e-30) * step
    return vectors(dual)


def _counts(tokenizer: Any, texts: Sequence[str]) -> Any:
    """How often each token is in each text; the unknown token, the first, in none."""
    ids = TokenIds(tokenizer).of(texts)
    return _incidence([row[row != 0] for row in ids], tokenizer.get_vocab_size())


def _ngrams(words: Sequence[str]) -> Any:
    """How often each character n-gram is in each word."""
    places: dict[str, int] = {}
    rows = [
        np.array(
            [
                places.setdefault(word[start : start + length], len(places))
                for length in _NGRAMS
                for start in range(len(word) - length + 1)
            ],
            dtype=np.int32,
        )
        for word in words
    ]
    return _incidence(rows, len(places))


def _incidence(rows: Sequence[NDArray[np.int32]], columns: int) -> Any:
    sparse: Any = need("scipy.sparse", extra="train")
    ends = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate([*rows, np.empty(0, np.int32)])
    matrix = sparse.csr_matrix(
        (np.ones(len(flat), np.float32), flat, ends), shape=(len(rows), columns)
    )
    matrix.sum_duplicates()
    return matrix

"""BM25 over bm25s, with a total order of its answers.

bm25s computes the term weights of every document once; a query adds up the columns of its words.
The selection is ours: bm25s cuts ties at k arbitrarily, here the lower corpus row wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, real, shown
from stope._checks import texts as texts_of
from stope._extras import need
from stope._kinds import callback, kinds, maybe
from stope.ops._search import exclusions
from stope.progress import Progress
from stope.retrieval.ranking import Exclusions, Ranking, check_k
from stope.retrieval.tokenizer import Tokenizer

Weighting = Literal["lucene", "robertson", "atire"]
_PROGRESS_EVERY = 64


@kinds(progress=maybe(callback))
class Bm25:
    """Rank by BM25: ``sum_t idf(t) f / (f + k1 (1 - b + b length / mean length))``.

    The method "atire" multiplies this by the constant k1 + 1. A word that occurs twice in the
    query counts twice. Documents that share no word with the query score 0 and are never returned:
    such a row is padded with id -1.

    Args:
        corpus: texts of the documents; their places are the ids that `search` returns.
        k1: saturation of the term frequency, above 0.
        b: strength of the length normalisation, 0 to 1.
        method: "lucene", "robertson" or "atire" (Kamphuis et al. 2020). A word in at least half of
            the documents weighs 0 under "robertson", and one in all of them under "atire".
        tokenizer: words of texts and queries; default ``Tokenizer()`` (English stop words, no
            stemming).
        progress: called with (documents tokenized, documents).

    Thread safety: searches may overlap where the tokenizer's calls may.

    Raises:
        ImportError: bm25s is missing; the message has the pip command.
        ValueError: a parameter out of range, an empty corpus, or one without any word.

    Memory: 8 bytes per distinct (document, word) pair, and 4 bytes per document during a query.

    Source: bm25s (Lu 2024), docs/methods.md, G1.

    Example:
        >>> texts = ["a red apple", "green apples", "the sea"]
        >>> bm25 = Bm25(texts, tokenizer=Tokenizer(stemmer="english"))
        >>> bm25.search(["apple", "boat"], k=2).ids
        array([[ 0,  1],
               [-1, -1]])
    """

    def __init__(
        self,
        corpus: Sequence[str],
        *,
        k1: float = 1.5,
        b: float = 0.75,
        method: Weighting = "lucene",
        tokenizer: Tokenizer | None = None,
        progress: Progress | None = None,
    ) -> None:
        choice(method, "method", get_args(Weighting))
        if not real(k1, "k1", 0) > 0:
            raise ValueError(f"k1 is {k1}; it must be above 0")
        real(b, "b", 0, 1)
        bm25s = need("bm25s", extra="retrieval")
        texts = texts_of(corpus, "corpus")
        self.tokenizer = tokenizer if tokenizer is not None else Tokenizer()
        if not callable(self.tokenizer):
            raise TypeError(f"tokenizer is {shown(tokenizer)}; give a Tokenizer or None")
        self._size = len(texts)
        self._vocabulary: dict[str, int] = {}
        rows: list[list[int]] = []
        for start in range(0, len(texts), 1024):
            for words in self.tokenizer(texts[start : start + 1024]):
                rows.append(
                    [self._vocabulary.setdefault(word, len(self._vocabulary)) for word in words]
                )
            if progress is not None:
                progress(len(rows), len(texts))
        if not self._vocabulary:
            raise ValueError(
                "corpus holds no words under this tokenizer; check its stop words and its texts"
            )
        self._index: Any = bm25s.BM25(k1=k1, b=b, method=method, backend="numpy")
        self._index.index((rows, self._vocabulary), create_empty_token=False, show_progress=False)

    def __len__(self) -> int:
        """Count the documents."""
        return self._size

    def search(
        self,
        queries: Sequence[str],
        k: int = 100,
        *,
        exclude: Exclusions | None = None,
        progress: Progress | None = None,
    ) -> Ranking:
        """Find the k best documents of each query, ordered by (score descending, row ascending).

        Args:
            queries: texts; one without a known word finds nothing.
            exclude: corpus rows never to return, as `stope.topk` takes them.

        Raises:
            ValueError: k below 1 or above the corpus size, no queries, exclude of another length.
        """
        k = check_k(k, self._size)
        texts = texts_of(queries, "queries")
        banned = exclusions(exclude, len(texts), self._size)
        ids = np.full((len(texts), k), -1, dtype=np.int64)
        best = np.full((len(texts), k), -np.inf, dtype=np.float32)
        for row, text in enumerate(texts):
            scores = self._scores(text)
            if banned is not None:
                scores[banned.row(row)] = 0.0
            kept = _best(scores, k)
            ids[row, : len(kept)] = kept
            best[row, : len(kept)] = scores[kept]
            if progress is not None and (row % _PROGRESS_EVERY == 0 or row + 1 == len(texts)):
                progress(row + 1, len(texts))
        return Ranking(ids, best)

    def _scores(self, text: str) -> NDArray[np.float32]:
        known = [self._vocabulary[w] for w in self.tokenizer([text])[0] if w in self._vocabulary]
        if not known:
            return np.zeros(self._size, dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores(known)
        return scores


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the k highest scores above 0, ties by the lower row."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        positive = scores[rows]
        bar = np.partition(positive, len(rows) - k)[len(rows) - k]
        above = rows[positive > bar]
        rows = np.concatenate([above, rows[positive == bar][: k - len(above)]])
    return rows[np.lexsort((rows, -scores[rows]))]

"""What to mine for: queries, a corpus without duplicate texts, and the positives of each query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stope.data import Collection


@dataclass(frozen=True)
class Pairs:
    """Queries and corpus by id, and positives as CSR; build it with one of the class methods.

    Two documents of equal text are one candidate: the first of them, under its id. So a copy of a
    positive can never become a negative. A positive that the corpus lacks is added at its end.

    Attributes:
        query_ids: ids of the queries that have a positive.
        query_texts: their texts.
        corpus_ids: ids of the documents, one per distinct text.
        corpus_texts: their texts.
        positives: CSR ``(offsets int64 [queries + 1], rows int64)``, rows ascending.
        query_rows: place of each query among the queries given, to select given embeddings.
        corpus_rows: place of each document in the corpus given; -1 for an added positive.
        num_queries_given: how many queries were given.
        num_corpus_given: how many documents were given.
        corpus_of: rows of the documents of each source by its name, ascending, where the pairs are
            of several sources that are mined one by one; a document may be of several. None is one
            corpus for all queries.

    Memory: the lists of strings (not copied) and about 40 bytes per document.
    """

    query_ids: list[str]
    query_texts: list[str]
    corpus_ids: list[str]
    corpus_texts: list[str]
    positives: tuple[NDArray[np.int64], NDArray[np.int64]]
    query_rows: NDArray[np.int64]
    corpus_rows: NDArray[np.int64]
    num_queries_given: int
    num_corpus_given: int
    corpus_of: Mapping[str | int, NDArray[np.int64]] | None = None

    @classmethod
    def from_texts(
        cls,
        queries: Sequence[str],
        positives: Sequence[str] | Sequence[Sequence[str]],
        corpus: Sequence[str] = (),
        *,
        query_ids: Sequence[str] | None = None,
        corpus_ids: Sequence[str] | None = None,
    ) -> Pairs:
        """Build from (query, positive) texts and, optionally, a larger corpus.

        Lines with the same query text become one query with several positives.

        Args:
            queries: one text per pair.
            positives: for each, its positive or a list of them.
            corpus: texts to find negatives in; without it, all the positives.
            query_ids: names of the lines; default "q0", "q1", ... A merged query has its first.
            corpus_ids: names of the documents; default "d0", "d1", ...

        Raises:
            ValueError: no queries, lengths that disagree, duplicated ids, no positives for a query.

        Example:
            >>> pairs = Pairs.from_texts(["ore?", "pit?", "ore?"], ["rock", "hole", "mineral"])
            >>> pairs.query_texts, pairs.corpus_texts, pairs.positives[0].tolist()
            (['ore?', 'pit?'], ['rock', 'hole', 'mineral'], [0, 2, 3])
        """
        if not len(queries):
            raise ValueError("queries is empty; there is nothing to mine for")
        if len(queries) != len(positives):
            raise ValueError(f"positives has {len(positives)} entries for {len(queries)} queries")
        answers = [[given] if isinstance(given, str) else list(given) for given in positives]
        flat = [text for texts in answers for text in texts]
        documents = list(corpus) if len(corpus) else flat
        table = _Corpus(documents, _names(corpus_ids, len(documents), "d", "corpus_ids"))
        names = _names(query_ids, len(queries), "q", "query_ids")
        first: dict[str, int] = {}
        rows: dict[str, set[int]] = {}
        for line, (query, texts) in enumerate(zip(queries, answers, strict=True)):
            first.setdefault(query, line)
            rows.setdefault(query, set()).update(table.row(text) for text in texts)
        lonely = next((query for query, found in rows.items() if not found), None)
        if lonely is not None:
            raise ValueError(f"queries[{first[lonely]}] has no positives: {lonely[:80]!r}")
        return cls._assemble(
            [names[line] for line in first.values()],
            list(first),
            table,
            rows.values(),
            np.fromiter(first.values(), np.int64, len(first)),
            len(queries),
        )

    @classmethod
    def from_qrels(
        cls,
        query_ids: Sequence[str],
        query_texts: Sequence[str],
        corpus_ids: Sequence[str],
        corpus_texts: Sequence[str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        min_relevance: int = 1,
    ) -> Pairs:
        """Build from judgements ``{query id: {document id: relevance}}``.

        Queries without a document of at least min_relevance are left out. A document judged below
        it may become a negative.

        Raises:
            ValueError: duplicated ids, a judged document that the corpus lacks, or no query left.
        """
        if len(query_ids) != len(query_texts):
            raise ValueError(f"query_ids has {len(query_ids)} ids for {len(query_texts)} texts")
        table = _Corpus(list(corpus_texts), _names(corpus_ids, len(corpus_texts), "", "corpus_ids"))
        kept, rows = [], []
        for place, query in enumerate(_names(query_ids, len(query_texts), "", "query_ids")):
            judged = qrels.get(query, {})
            found = {table.named(name) for name, level in judged.items() if level >= min_relevance}
            if found:
                kept.append(place)
                rows.append(found)
        if not kept:
            raise ValueError(
                f"No query has a document judged at least {min_relevance}; check that qrels use "
                "the ids of the queries and the corpus, or lower min_relevance"
            )
        return cls._assemble(
            [query_ids[place] for place in kept],
            [query_texts[place] for place in kept],
            table,
            rows,
            np.array(kept, dtype=np.int64),
            len(query_texts),
        )

    @classmethod
    def from_collection(
        cls, collection: Collection, split: str = "train", *, min_relevance: int = 1
    ) -> Pairs:
        """Build from one split of a `stope.data.Collection`, such as a BEIR folder."""
        return cls.from_qrels(
            collection.query_ids,
            collection.query_texts,
            collection.corpus_ids,
            collection.corpus_texts,
            collection.split(split).qrels,
            min_relevance=min_relevance,
        )

    @classmethod
    def _assemble(
        cls,
        query_ids: list[str],
        query_texts: list[str],
        table: _Corpus,
        rows: Iterable[set[int]],
        query_rows: NDArray[np.int64],
        num_queries_given: int,
    ) -> Pairs:
        sorted_rows = [sorted(found) for found in rows]
        offsets = np.zeros(len(sorted_rows) + 1, dtype=np.int64)
        np.cumsum([len(found) for found in sorted_rows], out=offsets[1:])
        flat = np.fromiter((row for found in sorted_rows for row in found), np.int64, offsets[-1])
        return cls(
            query_ids,
            query_texts,
            table.ids,
            table.texts,
            (offsets, flat),
            query_rows,
            np.array(table.places, dtype=np.int64),
            num_queries_given,
            table.num_given,
        )

    def same_text_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Corpus rows whose text is the query itself, as CSR (at most one per query)."""
        row_of = {text: row for row, text in enumerate(self.corpus_texts)}
        found = [row_of.get(text, -1) for text in self.query_texts]
        rows = np.array(found, dtype=np.int64)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(rows >= 0, out=offsets[1:])
        return offsets, rows[rows >= 0]


class _Corpus:
    """Documents by distinct text; the first of equal texts stands for all."""

    def __init__(self, texts: list[str], ids: list[str]) -> None:
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.places: list[int] = []
        self.num_given = len(texts)
        self._row_of_text: dict[str, int] = {}
        self._row_of_id: dict[str, int] = {}
        self._added = 0
        for place, (name, text) in enumerate(zip(ids, texts, strict=True)):
            if text not in self._row_of_text:
                self._append(name, text, place)
            self._row_of_id[name] = self._row_of_text[text]

    def row(self, text: str) -> int:
        """Row of this text, added at the end where it is missing."""
        if text not in self._row_of_text:
            while (name := f"positive-{self._added}") in self._row_of_id:
                self._added += 1
            self._append(name, text, -1)
            self._row_of_id[name] = self._row_of_text[text]
        return self._row_of_text[text]

    def named(self, name: str) -> int:
        """Row of the document of this id."""
        if name not in self._row_of_id:
            raise ValueError(f"qrels name document {name!r}, which the corpus lacks")
        return self._row_of_id[name]

    def _append(self, name: str, text: str, place: int) -> None:
        self._row_of_text[text] = len(self.texts)
        self.texts.append(text)
        self.ids.append(name)
        self.places.append(place)


def _names(ids: Sequence[str] | None, count: int, letter: str, argument: str) -> list[str]:
    if ids is None:
        return [f"{letter}{place}" for place in range(count)]
    names = list(ids)
    if len(names) != count:
        raise ValueError(f"{argument} has {len(names)} ids for {count} texts")
    if len(set(names)) != count:
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{argument} has {twice!r} more than once; ids must be unique")
    return names

"""Pairs: queries, a corpus without duplicate texts, and the positives of each query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from stope._checks import choice, one_each, shown, text_rows
from stope._checks import texts as checked
from stope._files.texts import Names, taken
from stope._kinds import a, at_least, integers, kinds, mapping, maybe, strings
from stope.data.collection import Collection
from stope.data.documents import DistinctDocuments, TextRows, ids_or_numbers, unique_ids
from stope.data.exclusions import Exclusions
from stope.data.text_identity import text_key
from stope.lists import Ids, Lists

Among: TypeAlias = Literal["positives", "corpus"]
AMONG: tuple[Among, ...] = get_args(Among)


@kinds(
    **dict.fromkeys(("query_ids", "query_texts", "corpus_ids", "corpus_texts"), strings),
    positives=a(tuple),
    **dict.fromkeys(("query_rows", "corpus_rows"), integers),
    **dict.fromkeys(("num_queries_given", "num_corpus_given"), at_least(0)),
    corpus_of=maybe(mapping),
    body_starts=maybe(integers),
    exclusions=maybe(a(Exclusions)),
)
@dataclass(frozen=True)
class Pairs:
    """Queries and corpus by id, and the positives of each query; build it by a class method.

    Two documents of the same text (`stope.data.normal_text` says when that is) are one candidate:
    the first of them, under its id. So a copy of a positive can never become a negative. A positive
    that the corpus lacks is added at its end; one that is a document's text without the title is
    that document.

    Attributes:
        query_ids: ids of the queries that have a positive.
        query_texts: their texts, verbatim.
        corpus_ids: ids of the documents, one per distinct text.
        corpus_texts: their texts, verbatim, with the title in front.
        positives: rows of the corpus for each query, ascending.
        query_rows: place of each query among the queries given, to select given embeddings.
        corpus_rows: place of each document in the corpus given; -1 for an added positive.
        num_queries_given: how many queries were given.
        num_corpus_given: how many documents were given.
        corpus_of: rows of the documents of each source by its name, ascending, where the pairs are
            of several sources that are mined one by one; a document may be of several. None is one
            corpus for all queries.
        body_starts: where the text begins behind the title, int64 ``[documents]``; None without
            titles.
        exclusions: documents that are no negatives all the same (`read_exclusions`); None for none.

    Threads may share pairs. Memory: the strings (not copied; the corpus's ids and texts may lie on
    the disk: ``folder`` of `stope.data.read_source`), and 100 bytes per document to look texts up.
    """

    query_ids: list[str]
    query_texts: list[str]
    corpus_ids: Sequence[str]
    corpus_texts: Sequence[str]
    positives: Lists
    query_rows: Ids
    corpus_rows: Ids
    num_queries_given: int
    num_corpus_given: int
    corpus_of: Mapping[str | int, Ids] | None = None
    body_starts: Ids | None = None
    exclusions: Exclusions | None = None
    _looked_up: list[TextRows] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positives", Lists(*self.positives))

    @classmethod
    def from_texts(
        cls,
        queries: Sequence[str],
        positives: Sequence[str] | Sequence[Sequence[str]],
        corpus: Sequence[str] = (),
        *,
        query_ids: Sequence[str] | None = None,
        corpus_ids: Sequence[str] | None = None,
        corpus_titles: Sequence[str] | None = None,
        positive_titles: Sequence[Sequence[str]] | None = None,
    ) -> Pairs:
        """Build from (query, positive) texts and, optionally, a larger corpus.

        Lines with the same query text become one query with several positives.

        Args:
            queries: one text per pair.
            positives: for each, its positive or a list of them.
            corpus: texts to find negatives in; without it, all the positives.
            query_ids: names of the lines; default "q0", "q1", ... A merged query has its first.
            corpus_ids: names of the documents; default "d0", "d1", ...
            corpus_titles: titles, "" where there is none; each begins its document.
            positive_titles: the same for each positive, aligned with lists of positives.

        Raises:
            ValueError: no queries, lengths that disagree, duplicated ids, no positives for a query.

        Example:
            >>> pairs = Pairs.from_texts(["ore?", "pit?", "Ore?"], ["rock", "hole", "mineral"])
            >>> pairs.query_texts, pairs.corpus_texts, pairs.positives.offsets.tolist()
            (['ore?', 'pit?'], ['rock', 'hole', 'mineral'], [0, 2, 3])
        """
        return cls.from_lines(
            queries, positives, corpus, query_ids, corpus_ids, corpus_titles, positive_titles
        )[0]

    @classmethod
    def from_lines(
        cls,
        queries: Sequence[str],
        positives: Sequence[str] | Sequence[Sequence[str]],
        corpus: Sequence[str] = (),
        query_ids: Sequence[str] | None = None,
        corpus_ids: Sequence[str] | None = None,
        corpus_titles: Sequence[str] | None = None,
        positive_titles: Sequence[Sequence[str]] | None = None,
    ) -> tuple[Pairs, Lists]:
        """`from_texts`, and the lines (places in queries) that each positive stands in.

        >>> pairs, lines = Pairs.from_lines(["ore?", "ore?"], ["rock", "Rock"])
        >>> pairs.positives.ids.tolist(), lines.row(0).tolist()
        ([0], [0, 1])
        """
        queries = checked(queries, "queries", empty=True)
        corpus = text_rows(corpus, "corpus", empty=True)
        if not queries:
            raise ValueError("queries is empty; there is nothing to mine for")
        if not hasattr(positives, "__len__"):
            raise TypeError(f"positives is {shown(positives)}; give a list of texts, or of lists")
        one_each(positives, "positives", len(queries), "queries")
        answers = [
            [answer]
            if isinstance(answer, str)
            else checked(answer, f"positives[{line}]", empty=True)
            for line, answer in enumerate(positives)
        ]
        titles = [[""] * len(answer) for answer in answers]
        if positive_titles is not None:
            titles = [list(line) for line in positive_titles]
            if [len(line) for line in titles] != [len(line) for line in answers]:
                raise ValueError("positive_titles and positives differ in length; give one each")
        documents, document_titles = corpus, corpus_titles
        if not documents:
            documents = [text for answer in answers for text in answer]
            document_titles = [title for line in titles for title in line]
        ids = unique_ids(corpus_ids, len(documents), "d", "corpus_ids")
        table = DistinctDocuments(documents, ids, document_titles)
        names = ids_or_numbers(query_ids, len(queries), "q", "query_ids")
        first: dict[bytes, int] = {}
        lines_of: dict[bytes, dict[int, list[int]]] = {}
        for line, query in enumerate(queries):
            key = text_key(query)
            first.setdefault(key, line)
            answered = lines_of.setdefault(key, {})
            for text, title in zip(answers[line], titles[line], strict=True):
                for row in table.rows_of_positive(text, title):
                    answered.setdefault(row, []).append(line)
        lonely = next((first[key] for key, answered in lines_of.items() if not answered), None)
        if lonely is not None:
            raise ValueError(
                f"queries[{lonely}] has no positives: {shown(queries[lonely])}; give one, or leave "
                "the query out"
            )
        kept = list(first.values())
        unique_ids([names[line] for line in kept], len(kept), "q", "query_ids")
        pairs = cls._of(table, names, queries, kept, lines_of.values())
        lines = [answered[row] for answered in lines_of.values() for row in sorted(answered)]
        return pairs, Lists.from_sequences(lines)

    @classmethod
    def from_qrels(
        cls,
        query_ids: Sequence[str],
        query_texts: Sequence[str],
        corpus_ids: Sequence[str],
        corpus_texts: Sequence[str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        min_relevance: float = 1,
        corpus_titles: Sequence[str] | None = None,
    ) -> Pairs:
        """Build from judgements ``{query id: {document id: relevance}}``.

        Queries without a document of at least min_relevance are left out. A document judged below
        it may become a negative.

        Raises:
            ValueError: duplicated ids, a judged document that the corpus lacks, or no query left.
        """
        names = unique_ids(query_ids, len(query_texts), "q", "query_ids")
        ids = unique_ids(corpus_ids, len(corpus_texts), "d", "corpus_ids")
        query_texts = checked(query_texts, "query_texts", empty=True)
        corpus_texts = text_rows(corpus_texts, "corpus_texts", empty=True)
        table = DistinctDocuments(corpus_texts, ids, corpus_titles)
        mapping(qrels, "qrels")
        kept, rows = [], []
        for place, query in enumerate(names):
            judged = qrels.get(query, {})
            relevant = {
                table.named(name) for name, grade in judged.items() if grade >= min_relevance
            }
            if relevant:
                kept.append(place)
                rows.append(relevant)
        if not kept:
            raise ValueError(
                f"no query has a document judged at least {min_relevance:g}; check that qrels use "
                "the ids of the queries and the corpus, or lower min_relevance"
            )
        return cls._of(table, names, query_texts, kept, rows)

    @classmethod
    def from_collection(
        cls, collection: Collection, split: str = "train", *, min_relevance: float = 1
    ) -> Pairs:
        """Build from one split of a `stope.data.Collection`, such as a BEIR folder."""
        a(Collection)(collection, "collection")
        return cls.from_qrels(
            collection.query_ids,
            collection.query_texts,
            collection.corpus_ids,
            collection.corpus_texts,
            collection.split(split).qrels,
            min_relevance=min_relevance,
            corpus_titles=collection.corpus_titles,
        )

    @classmethod
    def _of(
        cls,
        table: DistinctDocuments,
        names: Sequence[str],
        queries: Sequence[str],
        kept: Sequence[int],
        rows: Iterable[Iterable[int]],
    ) -> Pairs:
        """Pairs of the queries that are kept, and of the rows of each one's positives."""
        documents = table.table()
        return cls(
            [names[place] for place in kept],
            [queries[place] for place in kept],
            documents.ids,
            documents.texts,
            Lists.from_sequences([sorted(answered) for answered in rows]),
            np.array(kept, dtype=np.int64),
            documents.places,
            len(queries),
            table.num_given,
            body_starts=documents.starts if documents.starts.any() else None,
            _looked_up=[documents.lookup],
        )

    def take(self, queries: ArrayLike) -> Pairs:
        """The pairs of these queries, in this order, over the same corpus.

        Embeddings that were given for all queries still fit, since `query_rows` says which rows.

        >>> pairs = Pairs.from_texts(["a", "b", "c"], ["x", "y", "z"]).take([0, 2])
        >>> pairs.query_texts, pairs.positives.ids.tolist(), pairs.query_rows.tolist()
        (['a', 'c'], [0, 2], [0, 2])
        """
        positives = self.positives.take(queries)
        chosen = np.asarray(queries, dtype=np.int64)
        return replace(
            self,
            query_ids=[self.query_ids[query] for query in chosen.tolist()],
            query_texts=[self.query_texts[query] for query in chosen.tolist()],
            positives=positives,
            query_rows=self.query_rows[chosen],
            exclusions=None if self.exclusions is None else self.exclusions.take(chosen),
        )

    def renumbered(self) -> Pairs:
        """The same pairs, whose embeddings have one row per query and document that is here."""
        return replace(
            self,
            query_rows=np.arange(len(self.query_ids)),
            corpus_rows=np.arange(len(self.corpus_ids)),
            num_queries_given=len(self.query_ids),
            num_corpus_given=len(self.corpus_ids),
        )

    def positive_rows(self) -> Ids:
        """Documents that are a positive of some query, ascending rows of the corpus.

        >>> Pairs.from_texts(["ore", "pit"], ["rock", "hole"], ["sea", "hole"]).positive_rows()
        array([1, 2])
        """
        return np.unique(self.positives.ids)

    def narrowed(self, documents: Ids) -> Pairs:
        """The same queries over these documents alone, ascending rows that hold all positives.

        Embeddings that were given for all documents still fit, since `corpus_rows` says which rows.
        """
        return replace(
            self,
            corpus_ids=taken(self.corpus_ids, documents),
            corpus_texts=taken(self.corpus_texts, documents),
            positives=Lists(self.positives.offsets, np.searchsorted(documents, self.positives.ids)),
            corpus_rows=self.corpus_rows[documents],
            body_starts=None if self.body_starts is None else self.body_starts[documents],
            corpus_of=None,
            exclusions=None if self.exclusions is None else self.exclusions.among(documents),
            _looked_up=[],
        )

    def of_sources(
        self, sources: Sequence[str | int] | None = None, among: Among = "corpus"
    ) -> tuple[SourcePairs, ...]:
        """Take pairs apart by the sources of their queries, each with its own corpus.

        Args:
            sources: the source of each query.
            among: "positives" narrows each corpus to documents that are a positive of some query.

        Returns:
            The sources that have a query, in the order of ``corpus_of``; all pairs as one where
            sources is None or the pairs have no ``corpus_of``.

        Raises:
            ValueError: not one source per query, a source without documents, or a positive that its
                query's source does not have.

        Memory: lists of references to the texts of each source, and 40 bytes per document and
        source.

        Example:
            >>> one, other = (Pairs.from_texts([text], [text]) for text in ("ore", "pit"))
            >>> from stope.data import join_pairs
            >>> pairs, _ = join_pairs({"mine": one, "dig": other})
            >>> [(part.name, part.pairs.corpus_texts) for part in pairs.of_sources(["mine", "dig"])]
            [('mine', ['ore']), ('dig', ['pit'])]
        """
        count, size = len(self.query_ids), len(self.corpus_ids)
        every = choice(among, "among", AMONG) == "corpus"
        documents = np.arange(size) if every else self.positive_rows()
        if sources is None or self.corpus_of is None:
            pairs = self if len(documents) == size else self.narrowed(documents).renumbered()
            return (SourcePairs(None, pairs, np.arange(count), documents),)
        one_each(sources, "sources", count, "queries")
        queries_of: dict[str | int, list[int]] = {name: [] for name in self.corpus_of}
        for query, name in enumerate(sources):
            if name not in queries_of:
                known = ", ".join(map(repr, queries_of))
                raise ValueError(
                    f"query {shown(self.query_ids[query])} is of the source {shown(name)}, but "
                    f"corpus_of has the documents of {known} alone; add those of {shown(name)}"
                )
            queries_of[name].append(query)
        return tuple(
            self._of_source(
                name,
                np.array(queries, dtype=np.int64),
                self.corpus_of[name] if every else np.intersect1d(self.corpus_of[name], documents),
            )
            for name, queries in queries_of.items()
            if queries
        )

    def _of_source(self, name: str | int, queries: Ids, documents: Ids) -> SourcePairs:
        part = self.take(queries)
        foreign = np.flatnonzero(~np.isin(part.positives.ids, documents))
        if len(foreign):
            row = int(part.positives.ids[foreign[0]])
            raise ValueError(
                f"document {shown(self.corpus_ids[row])} is a positive of the source "
                f"{shown(name)}, but corpus_of does not have it among that source's documents; add "
                "it"
            )
        return SourcePairs(name, part.narrowed(documents).renumbered(), queries, documents)

    def rows_of(self, texts: Sequence[str]) -> Ids:
        """The document of each text, int64 ``[texts]``; -1 where the corpus does not have it.

        >>> Pairs.from_texts(["ore?"], ["Rock"]).rows_of(["rock ", "sea"]).tolist()
        [0, -1]
        """
        lookup = self._lookup()
        keys = map(text_key, checked(texts, "texts", empty=True))
        return np.array([(*lookup.rows_of(key), -1)[0] for key in keys], dtype=np.int64)

    def documents_by_id(self) -> Names:
        """Where the document of each id stands: ``pairs.documents_by_id()["d1"]`` is its row.

        >>> Pairs.from_texts(["ore?"], ["rock"]).documents_by_id()["d0"]
        0
        """
        return Names(self.corpus_ids)

    def same_text_rows(self) -> Lists:
        """Documents whose text, with the title or without it, is the query itself."""
        lookup = self._lookup()
        keys = map(text_key, self.query_texts)
        return Lists.from_sequences([sorted(lookup.rows_of(key)) for key in keys])

    def never_negatives(self) -> Lists:
        """Documents that are no negatives of each query: positives, its own text, exclusions.

        >>> pairs = Pairs.from_texts(["ore"], ["rock"], ["ore", "sea", "rock"])
        >>> pairs.never_negatives().ids
        array([0, 2])
        """
        known = self.positives.union(self.same_text_rows())
        excluded = self.exclusions
        return known if excluded is None else known.union(excluded.lists(len(self.query_ids)))

    def _lookup(self) -> TextRows:
        """Rows by the keys of their texts: made once, and shared with what `take` makes."""
        if not self._looked_up or self._looked_up[0].texts is not self.corpus_texts:
            starts = [] if self.body_starts is None else self.body_starts.tolist()
            self._looked_up[:] = [TextRows.of(self.corpus_texts, starts)]
        return self._looked_up[0]


@dataclass(frozen=True, eq=False)
class SourcePairs:
    """The pairs of one source, which count its queries and documents from 0.

    Attributes:
        name: of the source; None where all pairs are one.
        pairs: its queries, documents and positives.
        queries: int64, their rows among all queries, ascending.
        documents: int64, rows in the corpus of all of those that it mines among, ascending.
    """

    name: str | int | None
    pairs: Pairs
    queries: Ids
    documents: Ids

    def of_all(self, rows: Ids) -> Ids:
        """Rows of the source's documents as rows of the corpus of all; -1 stays."""
        return np.where(rows >= 0, self.documents[rows], np.int64(-1))

    def of_source(self, rows: Ids) -> Ids:
        """Rows of the corpus of all, each a document of the source, as its rows; -1 stays."""
        return np.where(rows >= 0, np.searchsorted(self.documents, rows), np.int64(-1))

"""What a source holds: pairs, and beside each of them numbers and negatives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stope._checks import counted, counted_all, shown
from stope.data.pairs import Pairs
from stope.data.text_identity import fingerprint_texts
from stope.lists import Ids, Lists


@dataclass(frozen=True)
class SourceData:
    """What one source holds, or several together.

    Attributes:
        pairs: all queries, documents and positives; its ``corpus_of`` has the documents of each
            source where there are several.
        columns: values per (query, positive), in the order of ``pairs.positives``: "source" where
            there are several, "weight", signals.
        negatives: texts per (query, positive) that a file brought along, any number of them; None
            where it brought none.
        fingerprints: of each source's texts and values, by name.
        left_out: how many rows or texts were left out, by reason.
    """

    pairs: Pairs
    columns: dict[str, list[Any]] = field(default_factory=dict)
    negatives: list[list[str]] | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def take(self, queries: ArrayLike) -> SourceData:
        """The same of these queries; all documents stay in the corpus."""
        places = Lists(self.pairs.positives.offsets, np.arange(len(self.pairs.positives.ids)))
        rows = places.take(queries).ids.tolist()
        return dataclasses.replace(
            self,
            pairs=self.pairs.take(queries),
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
            negatives=None if self.negatives is None else [self.negatives[row] for row in rows],
        )

    def without(self, queries: Ids) -> SourceData:
        """The same without these queries; their documents stay in the corpus."""
        return self.take(np.setdiff1d(np.arange(len(self.pairs.query_texts)), queries))

    def texts(self) -> list[str]:
        """Every text once: documents, queries, negatives that came along."""
        more = (text for row in self.negatives or [] for text in row)
        return list(dict.fromkeys([*self.pairs.corpus_texts, *self.pairs.query_texts, *more]))

    def filled_negatives(self, seed: int = 0) -> tuple[list[list[str]], int]:
        """As many negatives for every pair as the pair with the most has, and how many were added.

        What a pair lacks becomes random documents that are no positives of its query and not its
        own text, as in `stope.training.pairs_dataset`, none twice where there are enough.

        Raises:
            ValueError: a query whose positives are all documents that there are.
        """
        rows = self.negatives or []
        width = max(map(len, rows), default=0)
        random = np.random.default_rng([seed, 7])
        never, owners = self.pairs.never_negatives(), self.pairs.positives.owners
        filled, added = [], 0
        for texts, query in zip(rows, owners.tolist(), strict=True):
            if missing := width - len(texts):
                known = self.pairs.rows_of(texts)
                drawn = random_negatives(self.pairs, query, never, known, missing, random)
                texts = [*texts, *(self.pairs.corpus_texts[row] for row in drawn.tolist())]
                added += missing
            filled.append(texts)
        return filled, added

    def described(self) -> str:
        """How many queries, documents and pairs there are, what beside them, what is left out."""
        pairs = self.pairs
        removed = pairs.num_corpus_given - int((pairs.corpus_rows >= 0).sum())
        added = int((pairs.corpus_rows < 0).sum())
        sizes = len(pairs.query_texts), len(pairs.corpus_texts), len(pairs.positives.ids)
        said = ", ".join(map(counted, sizes, ("queries", "documents", "pairs")))
        if self.negatives is not None:
            counts = sorted({len(texts) for texts in self.negatives})
            fewest = f"{counts[0]} to " if len(counts) > 1 else ""
            said += f" with {fewest}{counted(counts[-1], 'negatives')} each"
        if self.columns:
            said += f", with {', '.join(self.columns)}"
        if (excluded := pairs.exclusions) is not None:
            some = 0 if excluded.queries is None else len(excluded.queries.ids)
            every = counted(len(excluded.documents), "documents")
            said += f"; excluded as negatives: {counted(some, 'documents')} of single queries"
            said += f", {every} of all" if len(excluded.documents) else ""
        if removed and len(pairs.corpus_ids) != pairs.num_corpus_given:
            said += f"; {counted(removed, 'duplicate texts')} removed"
        if added:
            said += f"; {counted(added, 'positives')} added that the corpus lacked"
        left = counted_all(self.left_out)
        return said + (f"; left out: {left}" if left else "")

    def fingerprint(self) -> str:
        """SHA-256 of all that the source brings."""
        pairs = self.pairs
        positives = [repr(part.tolist()) for part in pairs.positives]
        columns = [[name, *map(repr, values)] for name, values in self.columns.items()]
        if (excluded := pairs.exclusions) is not None:
            rows = [*(excluded.queries or ()), excluded.documents]
            columns.append(["exclusions", *(repr(part.tolist()) for part in rows)])
        more = (cell for row in (*columns, *(self.negatives or [])) for cell in row)
        every = chain(pairs.query_texts, pairs.corpus_texts, positives, more)
        return fingerprint_texts(every)


def random_negatives(
    pairs: Pairs, query: int, never: Lists, known: Ids, count: int, random: np.random.Generator
) -> Ids:
    """Documents for a query with too few negatives: none of never's, and none known or twice.

    The last only where there are enough documents. Memory: the query's lists.

    Raises:
        ValueError: all documents are never's.
    """
    size = len(pairs.corpus_texts)
    taken = np.union1d(never.row(query), known[known >= 0])
    taken = never.row(query) if len(taken) == size else taken
    if len(taken) == size:
        raise ValueError(
            f"query {shown(pairs.query_ids[query])} lacks {count} negatives, and there is no other "
            "document to fill up with; give a corpus"
        )
    drawn = random.choice(size - len(taken), count, replace=count > size - len(taken))
    for row in taken.tolist():  # a number among what is left steps over what is taken, in order
        drawn += drawn >= row
    return drawn

"""What was mined: counts, rows of ids, and export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope.data import ExportSummary, NegativeTable, export_negatives
from stope.data.pairs import Pairs

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Summary:
    """Numbers of one mining run.

    Attributes:
        num_queries: queries mined for.
        num_corpus: documents, duplicates removed.
        num_negatives_wanted: per query.
        num_negatives: found in all, of all queries.
        never_positive: how many of them are documents that no query has as a positive: training
            would only ever push those away.
        num_pairs: (query, positive) pairs.
        num_triplets: (query, positive, negative), which are more than negatives where a query has
            several positives: each of them goes with each negative.
        complete: queries that got all they wanted.
        short: queries that got some.
        empty: queries that got none.
        rejected: candidates turned away, by reason; see `stope.mine_hard_negatives`.
        score_quantiles: of the negatives, at 0, 25, 50, 75 and 100 percent; empty without any.
        positive_quantiles: of the lowest positive score of each query.
        margin_quantiles: of that less the negative's score, over the negatives.
        above_positive: how many negatives score at least as high as their query's lowest positive.
        hubs: of how many queries the three documents are a negative that are it most often, by id.
    """

    num_queries: int
    num_corpus: int
    num_negatives_wanted: int
    num_negatives: int
    never_positive: int
    num_pairs: int
    num_triplets: int
    complete: int
    short: int
    empty: int
    rejected: dict[str, int]
    score_quantiles: list[float]
    positive_quantiles: list[float]
    margin_quantiles: list[float] = field(default_factory=list)
    above_positive: int = 0
    hubs: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write as an indented JSON object."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True)
class Mined:
    """Hard negatives of `Pairs`, as rows of its corpus.

    Attributes:
        pairs: what was mined for.
        result: ids, scores, positive_scores, counts, rejected, as NumPy arrays.
        positive_scores: float32, the score of every positive, aligned with ``pairs.positives.ids``.
        parameters: the limits used.
    """

    pairs: Pairs
    result: stope.HardNegatives
    positive_scores: NDArray[np.float32]
    parameters: dict[str, Any]

    def summary(self) -> Summary:
        """Count what was found and what was turned away."""
        counts, wanted = self.result.counts, self.result.ids.shape[1]
        there = self.result.ids >= 0
        negatives, scores = self.result.ids[there], self.result.scores[there]
        margins = np.repeat(self.result.positive_scores, there.sum(axis=1)) - scores
        rows, often = np.unique(negatives, return_counts=True)
        most = np.argsort(-often, kind="stable")[:3]
        return Summary(
            num_queries=len(counts),
            num_corpus=len(self.pairs.corpus_ids),
            num_negatives_wanted=wanted,
            num_negatives=int(counts.sum()),
            never_positive=int((~np.isin(negatives, self.pairs.positives.ids)).sum()),
            num_pairs=len(self.pairs.positives.ids),
            num_triplets=int((counts * self.pairs.positives.lengths).sum()),
            complete=int((counts == wanted).sum()),
            short=int(((counts > 0) & (counts < wanted)).sum()),
            empty=int((counts == 0).sum()),
            rejected={name: int(rows.sum()) for name, rows in self.result.rejected.items()},
            score_quantiles=_quantiles(scores),
            positive_quantiles=_quantiles(self.result.positive_scores),
            margin_quantiles=_quantiles(margins),
            above_positive=int((margins <= 0).sum()),
            hubs={self.pairs.corpus_ids[rows[place]]: int(often[place]) for place in most},
        )

    def negatives(self) -> dict[str, list[tuple[str, float]]]:
        """Return ``{query id: [(document id, score), ...]}``, hardest first."""
        names, result = self.pairs.corpus_ids, self.result
        listed = zip(self.pairs.query_ids, result.ids.tolist(), result.scores.tolist(), strict=True)
        return {
            query: [(names[row], score) for row, score in zip(*lists, strict=True) if row >= 0]
            for query, *lists in listed
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row of ids per negative: query_id, document_id, rank from 1, and scores."""
        lowest = self.result.positive_scores.tolist()
        for place, (query, found) in enumerate(self.negatives().items()):
            for rank, (name, score) in enumerate(found, start=1):
                scores = {"score": score, "positive_score": lowest[place]}
                yield {"query_id": query, "document_id": name, "rank": rank, **scores}

    def table(self) -> NegativeTable:
        """Join ids with texts, for `stope.data.negative_rows` and ``negatives_dataset``."""
        pairs = self.pairs
        return NegativeTable(
            pairs.query_ids,
            pairs.query_texts,
            pairs.corpus_ids,
            pairs.corpus_texts,
            pairs.positives,
            self.result.ids,
            positive_scores=self.positive_scores,
            negative_scores=self.result.scores,
        )

    def export(
        self, path: str | PathLike[str], format: str = "triplet", *, scores: bool = False
    ) -> ExportSummary:
        """Write training rows with texts; formats as in `stope.data.export_negatives`.

        Args:
            path: ends in .jsonl, .jsonl.gz or .parquet.
            format: "triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding" or
                "tevatron".

        Raises:
            ValueError: an unknown format or ending.
            OSError: the file cannot be written; no partial file is left.
        """
        wanted = self.result.ids.shape[1]
        return export_negatives(path, format, self.table(), scores=scores, num_negatives=wanted)


def _quantiles(scores: NDArray[np.float32]) -> list[float]:
    if not scores.size:
        return []
    return [float(value) for value in np.quantile(scores.astype(np.float64), _QUANTILES)]

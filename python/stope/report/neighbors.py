"""Pages of one corpus: which of its documents go, were chosen, are near to which, are together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import KMeans
from stope._checks import counted
from stope.neighbors import Selection
from stope.report.figures import Figure, Series, histogram, worded
from stope.report.pages import Column, Page, Section, Table

_MOST_ROWS = 10_000  # of a table
_LETTERS = 1_000  # of a text
_POINTS = 2_000  # of a line
_BARS = 20
_PAIRS = 200


class Documents(NamedTuple):
    """Their ids and, where there are any, their texts."""

    ids: Sequence[str]
    texts: Sequence[str] | None = None

    def columns(self, name: str, rows: Any) -> tuple[Column, ...]:
        """The documents in these rows (-1 for none), as columns of a table."""
        places, texts = np.asarray(rows, np.int64), self.texts
        column = Column(name, places, words=self.ids)
        if texts is None:
            return (column,)
        starts = [texts[row][:_LETTERS] if row >= 0 else "" for row in places.tolist()]
        return column, Column(f"{name}: text", starts)


class Duplicates(NamedTuple):
    """What `stope.neighbors.deduplicate` says of all documents, equal ones put together before.

    Attributes:
        keepers: int64 ``[n]``, the kept document that stands for each.
        scores: float32 ``[n]``, the score for which each goes, -inf where it is a copy or stays.
        nearest: int64 ``[n]``, the most similar one before each of those with a text of their own,
            or -1.
        nearest_scores: float32 ``[n]``, how similar.
        threshold: from which a document goes.
    """

    keepers: NDArray[np.int64]
    scores: NDArray[np.float32]
    nearest: NDArray[np.int64]
    nearest_scores: NDArray[np.float32]
    threshold: float

    def least_alike(self) -> NDArray[np.int64]:
        """Documents that go by their score, the lowest first."""
        rows = np.flatnonzero(np.isfinite(self.scores))
        return rows[np.argsort(self.scores[rows], kind="stable")]

    def most_alike(self) -> NDArray[np.int64]:
        """Documents below the threshold whose nearest one before is kept, the highest first."""
        below = np.isfinite(self.nearest_scores) & (
            self.nearest_scores < np.float64(self.threshold)
        )
        rows = np.flatnonzero(below & (self.keepers[self.nearest] == self.nearest))
        return rows[np.argsort(-self.nearest_scores[rows], kind="stable")]

    def figure(self) -> Figure:
        """How similar documents are to the most similar one before them."""
        scores = np.minimum(self.nearest_scores, 1)  # rounding reaches 1.0000001
        alike = scores >= np.float64(self.threshold)
        parts = {"below": scores[~alike], "at the threshold and above": scores[alike]}
        series = histogram(parts, 60, self.threshold) or (Series("below", [0, 1], [0]),)
        return Figure(
            "scores",
            "histogram",
            "Documents by their highest cosine with one before them",
            "highest cosine with a document before it",
            "documents",
            series,
            {f"threshold {self.threshold}": self.threshold},
        )


def duplicates_page(
    about: str, documents: Documents, counts: Mapping[str, int | str], made: Duplicates
) -> Page:
    """Which documents go and for which, and the pairs below the threshold that stay."""
    rows = np.arange(len(made.keepers))
    gone = np.flatnonzero(made.keepers != rows)
    sizes = np.bincount(made.keepers, minlength=len(rows))
    gone = gone[np.lexsort((-made.scores[gone], made.keepers[gone], -sizes[made.keepers[gone]]))]
    went, groups = _several(sizes, "documents that stand for so many, themselves included")
    near_rows = made.most_alike()[:_PAIRS]
    copies = ~np.isfinite(made.scores[gone])
    return Page(
        "Duplicates",
        about,
        (
            Section("Counts", facts=_facts(counts)),
            Section(
                "Similarity",
                ["Each document with all before it; copies of a text count once."],
                figures=(made.figure(),),
            ),
            Section(
                "Groups",
                [f"{counted(len(went), 'groups')} of duplicates, the largest first."],
                figures=groups,
                table=_shown(
                    "A row for each document that goes",
                    gone,
                    lambda some: (
                        Column("group size", sizes[made.keepers[gone[some]]], "number"),
                        *documents.columns("kept", made.keepers[gone[some]]),
                        *documents.columns("left out", gone[some]),
                        Column("cosine", made.scores[gone[some]], "number"),
                        Column("why", np.where(copies[some], "same text", "cosine"), "word"),
                    ),
                    {"document_id": "left out"},
                ),
                missing=_too_many(len(gone)),
            ),
            Section(
                "Below the threshold",
                ["The most similar pairs of which both are kept: are they duplicates as well?"],
                table=_shown(
                    "A row for each pair",
                    near_rows,
                    lambda some: (
                        *documents.columns("kept", made.nearest[near_rows[some]]),
                        *documents.columns("kept as well", near_rows[some]),
                        Column("cosine", made.nearest_scores[near_rows[some]], "number"),
                    ),
                ),
            ),
        ),
    )


def selection_page(
    about: str,
    documents: Documents,
    counts: Mapping[str, int | str],
    chosen: Selection,
    examples: Documents | None,
) -> Page:
    """What was chosen, in which order, by which scores and for which reasons."""
    ranks, scores = np.arange(1, len(chosen.ids) + 1), chosen.scores + 0.0  # no -0
    few = np.unique(np.linspace(0, len(ranks) - 1, _POINTS).astype(np.int64))
    figures = [
        Figure(
            *("scores", "lines", "Scores in the order of choice", "rank", "score"),
            (Series("score", ranks[few], scores[few]),),
        )
    ]
    reason = chosen.reasons.get("target", chosen.reasons.get("few_shot"))
    if reason is not None and examples is not None:
        brought = np.bincount(reason[reason >= 0], minlength=len(examples.ids))
        most = np.argsort(-brought, kind="stable")[:_BARS]
        title = "Examples that brought most documents"
        names = [examples.ids[row] for row in most]
        bars = (Series("documents", names, brought[most]),)
        figures.append(Figure("examples", "bars", title, "example", "documents", bars))

    def columns(some: slice) -> tuple[Column, ...]:
        told = [
            Column("rank", ranks[some], "number"),
            *documents.columns("document", chosen.ids[some]),
            Column("score", scores[some], "number"),
        ]
        for name, values in chosen.reasons.items():
            if examples is not None and name in ("target", "few_shot"):
                told += examples.columns("example", values[some])
            else:
                about_it = "rank for the example" if name == "rank" else name
                told.append(Column(about_it, values[some], "number"))
        return tuple(told)

    table = _shown("A row for each chosen document", ranks, columns, {"document_id": "document"})
    sections = (
        Section("Counts", facts=_facts(counts)),
        Section("Chosen", figures=figures, table=table, missing=_too_many(len(ranks))),
    )
    return Page("Selection", about, sections)


def graph_page(
    about: str, documents: Documents, counts: Mapping[str, int | str], graph: Any, parts: Any
) -> Page:
    """How documents are joined (a CSR matrix), and in which connected parts."""
    entries = np.bincount(graph.indices, minlength=graph.shape[0])
    hubs = np.argsort(-entries, kind="stable")
    figures = (
        *_counted("weights", "Edges by weight", "weight", "edges, both ways", graph.data),
        *_counted("edges", "Documents by edges", "edges", "documents", entries),
        *_several(np.bincount(parts), "parts of so many documents")[1],
    )
    strongest = np.full(len(entries), -1)
    owners = np.repeat(np.arange(len(entries)), np.diff(graph.indptr))
    order = np.lexsort((-graph.data, owners))
    first = order[np.flatnonzero(np.diff(owners[order], prepend=-1))]
    strongest[owners[first]] = graph.indices[first]
    weights = np.full(len(entries), np.nan)
    weights[owners[first]] = graph.data[first]
    table = _shown(
        "A row for each document, those with most edges first",
        hubs,
        lambda some: (
            *documents.columns("document", hubs[some]),
            Column("edges", entries[hubs[some]], "number"),
            Column("part", parts[hubs[some]], "number"),
            *documents.columns("joined by the highest weight", strongest[hubs[some]]),
            Column("weight", weights[hubs[some]], "number"),
        ),
    )
    sections = (
        Section("Counts", facts=_facts(counts), figures=figures),
        Section("Documents", table=table, missing=_too_many(len(hubs))),
    )
    return Page("Graph of neighbours", about, sections)


def clusters_page(
    about: str, documents: Documents, counts: Mapping[str, int | str], made: KMeans
) -> Page:
    """How large clusters are, and what lies nearest to their centers and farthest from them."""
    sizes = np.bincount(made.labels, minlength=len(made.centers))
    there = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    order = np.lexsort((-made.scores, made.labels))
    ends = np.cumsum(sizes)
    nearest, farthest = order[(ends - sizes)[there]], order[ends[there] - 1]
    means = np.bincount(made.labels, made.scores, len(sizes))[there] / sizes[there]
    rounds = (Series("inertia", np.arange(len(made.inertia)), made.inertia),)
    figures = (
        *_counted("sizes", "Clusters by size", "documents", "clusters", sizes),
        *_counted(
            "scores", "Documents by score", "score with the center", "documents", made.scores
        ),
        Figure("inertia", "lines", "Inertia by round", "round", "inertia", rounds),
    )
    table = _shown(
        "A row for each cluster with documents, the largest first",
        there,
        lambda some: (
            Column("cluster", there[some], "number"),
            Column("documents", sizes[there][some], "number"),
            Column("mean score", means[some], "number"),
            *documents.columns("nearest to its center", nearest[some]),
            *documents.columns("farthest", farthest[some]),
        ),
    )
    sections = (
        Section("Counts", facts=_facts(counts), figures=figures),
        Section("Clusters", table=table, missing=_too_many(len(there))),
    )
    return Page("Clusters", about, sections)


def _facts(counts: Mapping[str, int | str]) -> dict[str, str]:
    return {name: worded(value) for name, value in counts.items()}


def _counted(name: str, title: str, x: str, y: str, values: NDArray[Any]) -> tuple[Figure, ...]:
    series = histogram({y: values})
    return (Figure(name, "histogram", title, x, y, series),) if series else ()


def _several(sizes: NDArray[Any], what: str) -> tuple[NDArray[Any], tuple[Figure, ...]]:
    """What has two and more, and a bar for each such size; the largest ones share the last."""
    several = np.flatnonzero(sizes > 1)
    if not len(several):
        return several, ()
    counts = np.bincount(np.minimum(sizes[several], _BARS + 1))
    names = [str(size) for size in range(2, _BARS + 1)] + [f"{_BARS + 1} and more"]
    places = [place for place in range(2, len(counts)) if counts[place]]
    bars = Series(what, [names[place - 2] for place in places], counts[places])
    return several, (Figure("groups", "bars", what.capitalize(), "size", "number", (bars,)),)


def _shown(
    caption: str, rows: Any, columns: Any, export: Mapping[str, str] | None = None
) -> Table | None:
    """A table to browse of as many rows as a page holds; None where there are none."""
    some = slice(0, _MOST_ROWS)
    if not len(rows):
        return None
    return Table(columns(some), caption, browse=True, export=export or {}, export_name="ids.jsonl")


def _too_many(rows: int) -> tuple[str, ...]:
    if rows <= _MOST_ROWS:
        return ()
    return (f"The table holds the first {_MOST_ROWS:,} of {rows:,} rows.",)

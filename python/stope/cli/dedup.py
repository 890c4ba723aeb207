"""`stope dedup`: a corpus without its duplicates and near-duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from stope._checks import counted
from stope.cli import corpus as corpora
from stope.cli import on_ray, options, terminal
from stope.cli.options import option

if TYPE_CHECKING:
    from stope.neighbors import Deduplicated
    from stope.report.neighbors import Duplicates

_LOOKED_AT = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7)


class Keep(str, Enum):
    """Which document of several alike is kept."""

    earliest = "earliest"
    latest = "latest"
    longest = "longest"


@corpora.of_corpus
@options.shared(on_ray.of_cluster)
def dedup(
    context: typer.Context,
    corpus: corpora.CorpusPath,
    output: Annotated[
        Path, option("Documents that are left, with all their columns: .jsonl.", "--output", "-o")
    ] = Path("kept.jsonl"),
    groups: Annotated[
        Path | None, option("Also write which documents go, and for which: .jsonl.", default="none")
    ] = None,
    threshold: Annotated[
        float, option("A cosine from which a document is a duplicate.", min=0.0, max=1.0)
    ] = 0.95,
    keep: Annotated[
        Keep, option("Which of duplicates is kept: by its place, or its letters.")
    ] = Keep.earliest,
    picture: Annotated[
        Path | None,
        option("Also draw the scores with the threshold: .png (matplotlib).", default="none"),
    ] = None,
) -> None:
    """Leave out documents that are like one that is kept.

    A document goes when its text is that of a kept one, or its cosine with a kept one is the
    threshold or more. All pairs are compared, by exact scores. No two documents that are kept are
    alike.

    [b]Example:[/b] stope dedup corpus.jsonl --threshold 0.9 -o kept.jsonl --groups groups.jsonl
    """
    lines = [(path, corpora.JSON_LINES) for path in (output, groups)]
    corpora.check_files(context, *lines, (picture, (".png",)))
    if picture is not None:
        from stope.cli.picture import need_matplotlib

        need_matplotlib()
    from stope.data import atomic_path, write_jsonl
    from stope.neighbors import deduplicate
    from stope.report.neighbors import duplicates_page

    documents = corpora.read_corpus(context)
    order = _order(documents, keep)
    first = _first_of_copies(documents, order)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    quiet = context.params["quiet"]
    here = corpora.operations(context)
    with terminal.bars(quiet) as bars, on_ray.operations(context, output, here) as operations:
        rows = documents.embeddings(bars, distinct if len(distinct) < len(first) else None)
        places = np.searchsorted(distinct, order[first[order] == order])
        left = deduplicate(rows, threshold, order=places, operations=operations, progress=bars.show)
    made = _of_all(left, distinct, first, threshold)
    kept = np.flatnonzero(made.keepers == np.arange(len(first)))
    members = _members(made.keepers)
    if groups is not None:
        write_jsonl(groups, _described(documents, members, first, made.scores))
    write_jsonl(output, documents.rows(kept))
    largest = max(members, key=lambda row: len(members[row]), default=None)
    counts: dict[str, int | str] = {
        "documents": len(first),
        "copies of an equal document": len(first) - len(distinct),
        "others at the threshold and above": len(distinct) - len(left.kept),
        "documents that go": len(first) - len(kept),
        "documents that are kept": len(kept),
        "groups of duplicates": len(members),
        "documents of the largest group": len(members[largest]) + 1 if largest is not None else 0,
    }
    if picture is not None:
        with atomic_path(picture) as temporary:
            made.figure().draw().savefig(temporary, format="png", dpi=120)
    corpora.show_results(
        context,
        "Duplicates",
        counts,
        lambda about: duplicates_page(about, documents.shown, counts, made),
        {"threshold": threshold, "keep": keep.value},
    )
    if largest is not None and documents.texts:
        text = terminal.beginning(documents.texts[largest], 80)
        terminal.tell(f"The largest group is kept as {documents.ids[largest]}: {text}")
    _show_examples(documents, made)
    _show_next(left, threshold)
    terminal.tell(f"{counted(len(kept), 'documents')} in {output}")


def _order(documents: corpora.Corpus, keep: Keep) -> NDArray[np.int64]:
    """The documents in the order of their claim to be kept."""
    rows = np.arange(len(documents.ids))
    if keep is not Keep.longest:
        return rows if keep is Keep.earliest else rows[::-1]
    if documents.texts is None:
        raise ValueError(f"--keep longest needs texts, and {documents.path} holds embeddings alone")
    return np.argsort([-len(text) for text in documents.texts], kind="stable")


def _first_of_copies(documents: corpora.Corpus, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each document that which is kept of all with its very text (or embedding)."""
    first = np.empty(len(order), dtype=np.int64)
    seen: dict[Any, int] = {}
    vectors = documents.vectors
    for row in order.tolist():
        key: Any = documents.texts[row] if documents.texts else None
        if key is None and vectors is not None:
            key = vectors[row].tobytes()
        first[row] = seen.setdefault(key, row)
    return first


def _of_all(
    left: Deduplicated, distinct: NDArray[np.int64], first: NDArray[np.int64], threshold: float
) -> Duplicates:
    """What was decided of the distinct documents, for all: a copy goes where its first one does."""
    from stope.report.neighbors import Duplicates

    of_first = np.searchsorted(distinct, first)
    nearest, scores = np.full(len(first), -1), np.full(len(first), -np.inf, np.float32)
    nearest[distinct] = np.where(left.nearest.ids >= 0, distinct[left.nearest.ids], -1)
    scores[distinct] = left.nearest.scores
    keepers = distinct[left.keepers][of_first]
    return Duplicates(keepers, left.scores[of_first], nearest, scores, threshold)


def _members(keepers: NDArray[np.int64]) -> dict[int, list[int]]:
    """The documents that go, by the one for which they go."""
    members = defaultdict(list)
    for row in np.flatnonzero(keepers != np.arange(len(keepers))).tolist():
        members[int(keepers[row])].append(row)
    return dict(sorted(members.items()))


def _described(
    documents: corpora.Corpus,
    members: dict[int, list[int]],
    first: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> Iterator[dict[str, Any]]:
    ids = documents.ids
    for keeper, others in members.items():
        dropped = []
        for row in others:
            entry: dict[str, Any] = {"document_id": ids[row]}
            if np.isfinite(scores[row]):
                entry["score"] = float(scores[row])
            if first[row] != row:
                entry["copy_of"] = ids[first[row]]
            dropped.append(entry)
        yield {"kept": ids[keeper], "dropped": dropped}


def _show_examples(documents: corpora.Corpus, made: Duplicates) -> None:
    """The pairs nearest to the threshold, on both sides of it: they tell whether it is right."""
    for title, second, rows, others, scores in (
        (
            *("Lowest cosines at the threshold and above", "left out"),
            *(made.least_alike(), made.keepers, made.scores),
        ),
        (
            *("Highest cosines below the threshold", "kept as well"),
            *(made.most_alike(), made.nearest, made.nearest_scores),
        ),
    ):
        lines = []
        for row in rows[: corpora.EXAMPLES].tolist():
            pair = int(others[row]), row
            cells = [terminal.beginning(documents.ids[each], 30) for each in pair]
            if documents.texts:
                texts = terminal.side_by_side(documents.texts[pair[0]], documents.texts[row])
                cells = [f"{name}: {text}" for name, text in zip(cells, texts, strict=True)]
            score = float(scores[row])
            if second == "kept as well":  # rounded up it would look like the threshold
                score = np.floor(score * 1e4) / 1e4
            lines.append((*cells, f"{score:.4f}"))
        if lines:
            terminal.show_table(title, ["kept", second, "cosine"], lines, words=2)


def _show_next(left: Deduplicated, threshold: float) -> None:
    """How many documents other thresholds could leave out, and which one takes the next pair in.

    At most those with one before them at the threshold, kept or not; copies are not counted.
    """
    scores = left.nearest.scores
    reached = {at: int((scores >= np.float64(at)).sum()) for at in _LOOKED_AT}
    if any(reached.values()):
        rows = [(f"{at}", f"{count:,}") for at, count in reached.items()]
        terminal.show_table("Other thresholds", ["--threshold", "documents at most"], rows)
    spared = int((scores >= np.float64(threshold)).sum()) - (len(scores) - len(left.kept))
    if spared:
        terminal.tell(
            "Documents kept although one before them is that similar, because that one goes "
            f"itself: {spared:,}."
        )
    below = float(scores[scores < np.float64(threshold)].max(initial=0))
    if below >= 1e-4:
        terminal.tell(
            f"To take in the next pair, lower --threshold to {np.floor(below * 1e4) / 1e4:.4f}."
        )

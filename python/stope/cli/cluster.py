"""`stope cluster`: the documents of a corpus in clusters."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from stope._checks import counted
from stope.cli import corpus as corpora
from stope.cli import on_ray, options, terminal
from stope.cli.options import option


class Metric(str, Enum):
    """What k-means makes small."""

    cosine = "cosine"
    euclidean = "euclidean"


class Init(str, Enum):
    """The first centers."""

    plus_plus = "k-means++"
    random = "random"


@corpora.of_corpus
@options.shared(on_ray.of_cluster)
def cluster(
    context: typer.Context,
    corpus: corpora.CorpusPath,
    k: Annotated[int, option("Clusters.", "--clusters", "-k", default=False, min=1)],
    output: Annotated[
        Path,
        option("Each document's id, cluster and score with its center: .jsonl.", "--output", "-o"),
    ] = Path("clusters.jsonl"),
    centers: Annotated[
        Path | None, option("Also write the centers: .npy, one row per cluster.", default="none")
    ] = None,
    metric: Annotated[
        Metric, option("Cosine with the center, or distance (the score is minus it).")
    ] = Metric.cosine,
    init: Annotated[
        Init, option("The first centers: spread out, or random rows.")
    ] = Init.plus_plus,
    max_iterations: Annotated[int, option("Rounds at most.", min=1)] = 25,
    seed: Annotated[int, option("Of the first centers.", min=0)] = 0,
) -> None:
    """Cluster documents by k-means: each belongs to its nearest center, exactly.

    [b]Example:[/b] stope cluster corpus.jsonl -k 100 -o clusters.jsonl
    """
    corpora.check_files(context, (output, corpora.JSON_LINES), (centers, (".npy",)))
    from stope.data import atomic_path, write_jsonl
    from stope.report.neighbors import clusters_page

    documents = corpora.read_corpus(context)
    if k > len(documents.ids):
        raise ValueError(
            f"-k is {k} but {corpus} has {counted(len(documents.ids), 'documents')}; lower it"
        )
    quiet = context.params["quiet"]
    here = corpora.operations(context)
    with terminal.bars(quiet) as bars, on_ray.operations(context, output, here) as operations:
        rows = documents.embeddings(bars)
        made = operations.kmeans(
            rows,
            k,
            metric=metric.value,
            init=init.value,
            max_iterations=max_iterations,
            seed=seed,
            progress=bars.stage("clusters"),
        )
    entries = zip(documents.ids, made.labels.tolist(), made.scores.tolist(), strict=True)
    write_jsonl(
        output,
        ({"document_id": name, "cluster": label, "score": score} for name, label, score in entries),
    )
    if centers is not None:
        with atomic_path(centers) as temporary, temporary.open("xb") as file:
            np.save(file, made.centers)
    sizes = np.bincount(made.labels, minlength=k)
    counts: dict[str, int | str] = {
        "documents": len(rows),
        "clusters": k,
        "clusters without documents": int((sizes == 0).sum()),
        "documents of the largest": int(sizes.max()),
        "documents of the smallest": int(sizes[sizes > 0].min()),
        "rounds": len(made.inertia) - 1,
    }
    told = {"inertia": float(made.inertia[-1]), "converged": made.converged}
    corpora.show_results(
        context,
        "Clusters",
        counts,
        lambda about: clusters_page(about, documents.shown, counts, made),
        {**told, "metric": metric.value, "seed": seed},
    )
    _show_largest(documents, made, sizes)
    if not made.converged:
        terminal.say(
            f"documents still changed clusters after {max_iterations} rounds; a higher "
            "--max-iterations goes on."
        )
    if (sizes == 0).any():
        terminal.say(
            "clusters without documents: k-means found fewer places than -k asks for, as it does "
            "where documents are equal; lower -k, or take duplicates out (stope dedup)."
        )
    terminal.tell(f"{counted(len(rows), 'documents')} in {output}")


def _show_largest(documents: corpora.Corpus, made: Any, sizes: Any) -> None:
    """The largest clusters, with the documents nearest to their centers."""
    rows = []
    largest = np.argsort(-sizes, kind="stable")[: min(corpora.EXAMPLES, int((sizes > 0).sum()))]
    for label in largest.tolist():
        members = np.flatnonzero(made.labels == label)
        best = members[np.argsort(-made.scores[members], kind="stable")][
            : corpora.EXAMPLES
        ].tolist()
        names = documents.texts or documents.ids
        shown = " | ".join(terminal.beginning(names[row], 28) for row in best)
        rows.append((f"{label}", shown, f"{sizes[label]:,}"))
    header = ["cluster", "nearest to its center", "documents"]
    terminal.show_table("Largest clusters", header, rows, words=2)

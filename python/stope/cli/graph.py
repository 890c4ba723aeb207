"""`stope graph`: the graph of every document's nearest neighbours."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from stope.cli import corpus as corpora
from stope.cli import on_ray, options, terminal
from stope.cli.options import option

_DEFAULT_K = 15


class Kind(str, Enum):
    """Which edges are in the graph."""

    symmetric = "symmetric"
    mutual = "mutual"
    directed = "directed"


class Weights(str, Enum):
    """What edges weigh."""

    score = "score"
    distance = "distance"
    connectivity = "connectivity"


@corpora.of_corpus
@options.shared(on_ray.of_cluster)
def graph(
    context: typer.Context,
    corpus: corpora.CorpusPath,
    k: Annotated[
        int | None,
        option(
            "Neighbours of a document.",
            "--neighbors",
            "-k",
            min=1,
            default=f"{_DEFAULT_K}, or all others where there are fewer",
        ),
    ] = None,
    output: Annotated[
        Path,
        option("File for scipy.sparse.load_npz, with an array of ids: .npz.", "--output", "-o"),
    ] = Path("graph.npz"),
    metric: Annotated[options.Metric, option("Similarity.")] = options.Metric.cosine,
    kind: Annotated[
        Kind,
        option("Edges where one is near to the other, where both are to each other, or one way."),
    ] = Kind.symmetric,
    weights: Annotated[
        Weights, option("distance is 1 - cosine, or the euclidean one; connectivity is 1.")
    ] = Weights.score,
) -> None:
    """Join every document with its nearest others, exactly; write the sparse matrix of weights.

    [b]Example:[/b] stope graph corpus.jsonl -k 15 -o graph.npz
    """
    corpora.check_files(context, (output, (".npz",)))
    if metric is options.Metric.dot and weights is Weights.distance:
        raise typer.BadParameter("dot products are no distances", param_hint="--weights")
    from stope._extras import need
    from stope.data import atomic_path
    from stope.neighbors import connected_components, neighbor_graph
    from stope.report.neighbors import graph_page

    need("scipy.sparse", extra="neighbors")
    documents = corpora.read_corpus(context)
    n = len(documents.ids)
    if n == 1:
        raise ValueError(f"{corpus} has 1 document, which has no neighbours; give more")
    if k is not None and k >= n:
        raise ValueError(f"-k is {k} but each of {n} documents has {n - 1} others; lower it")
    names = np.array(documents.ids)
    if names.tolist() != documents.ids:  # NumPy takes NUL at the end for padding
        raise ValueError(f"{corpus}: an id ends in the character NUL; rename it")
    width = min(_DEFAULT_K, n - 1) if k is None else k
    quiet = context.params["quiet"]
    here = corpora.operations(context)
    with terminal.bars(quiet) as bars, on_ray.operations(context, output, here) as operations:
        made = neighbor_graph(
            documents.embeddings(bars),
            width,
            metric=metric.value,
            kind=kind.value,
            weights=weights.value,
            operations=operations,
            progress=bars.stage("neighbours"),
        )
    # The arrays of scipy.sparse.save_npz, and the ids beside them.
    arrays = {name: getattr(made, name) for name in ("data", "indices", "indptr", "shape")}
    with atomic_path(output) as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, format=b"csr", ids=names, **arrays)
    components = connected_components(made)
    sizes = np.bincount(components.labels)
    entries = np.bincount(made.indices, minlength=n)  # how many documents name each one
    counts: dict[str, int | str] = {
        "documents": n,
        "neighbours of each": width,
        "edges" if kind is not Kind.directed else "edges, one way": made.nnz
        // (2 if kind is not Kind.directed else 1),
        "documents without an edge": int((np.diff(made.indptr) + entries == 0).sum()),
        "connected parts": components.number,
        "documents of the largest part": int(sizes.max()),
        "most edges of one document": int(entries.max()),
    }
    corpora.show_results(
        context,
        "Graph",
        counts,
        lambda about: graph_page(about, documents.shown, counts, made, components.labels),
        {"metric": metric.value, "kind": kind.value},
    )
    _show_hubs(documents, entries)
    terminal.tell(f"{made.nnz:,} weights in {output}; scipy.sparse.load_npz reads it")


def _show_hubs(documents: corpora.Corpus, entries: Any) -> None:
    """The documents that most others are joined with."""
    rows = []
    for row in np.argsort(-entries, kind="stable")[:3].tolist():
        cells = [terminal.beginning(documents.ids[row], 30)]
        if documents.texts:
            cells.append(terminal.beginning(documents.texts[row], 60))
        rows.append((*cells, f"{entries[row]:,}"))
    header = ["document", "text", "edges"] if documents.texts else ["document", "edges"]
    terminal.show_table("Most edges", header, rows, words=len(header) - 1)

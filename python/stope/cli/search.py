"""`stope search`: queries against a corpus, a run out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stope.cli import support
from stope.cli.support import reported

if TYPE_CHECKING:
    from stope.retrieval import Retriever


_DEFAULT_K = 100


class Method(str, Enum):
    """Retrievers."""

    bm25 = "bm25"
    dense = "dense"
    hybrid = "hybrid"
    hnsw = "hnsw"


class Fusion(str, Enum):
    """Ways to merge rankings."""

    rrf = "rrf"
    minmax = "minmax"


@reported
def search(
    queries: Annotated[
        Path,
        typer.Argument(
            metavar="QUERIES",
            help="Queries: .txt, .jsonl, .tsv, .csv (also .gz), .parquet, or a BEIR folder.",
        ),
    ],
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS", help="Documents, same kinds.", show_default="that of the BEIR folder"
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Run to write: .trec, .run or .txt for TREC, .jsonl for JSON."
        ),
    ] = Path("run.trec"),
    method: Annotated[
        Method,
        typer.Option(help="bm25 needs no model; dense, hybrid and hnsw need --encoder."),
    ] = Method.bm25,
    encoder: support.Encoder = None,
    corpus_embeddings: Annotated[
        Path | None, typer.Option(help=".npy with one row per document.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "--top",
            "-k",
            help="Documents per query.",
            min=1,
            show_default="100, or all where there are fewer",
        ),
    ] = None,
    metric: Annotated[
        support.Metric, typer.Option(help="Similarity of embeddings.")
    ] = support.Metric.cosine,
    fusion: Annotated[Fusion, typer.Option(help="How hybrid merges.")] = Fusion.rrf,
    dense_weight: Annotated[
        float, typer.Option(help="Share of dense in hybrid, 0 to 1.", min=0.0, max=1.0)
    ] = 0.5,
    stemmer: Annotated[
        str | None, typer.Option(help="Stemming of bm25, such as english.", show_default="none")
    ] = None,
    code: Annotated[
        bool,
        typer.Option(
            "--code", metavar="", help="bm25 also splits identifiers (snake_case, camelCase)."
        ),
    ] = False,
    exclude_self: Annotated[
        bool,
        typer.Option(
            "--exclude-self", metavar="", help="Leave out the document with the query's id."
        ),
    ] = False,
    query_prompt: Annotated[str | None, typer.Option(help="Put before every query.")] = None,
    corpus_prompt: Annotated[str | None, typer.Option(help="Put before every document.")] = None,
    split: support.Split = "test",
    query_column: support.QueryColumn = None,
    text_column: support.CorpusColumn = None,
    id_column: support.IdColumn = None,
    tag: Annotated[str, typer.Option(help="Last column of a TREC run.")] = "stope",
    batch_size: support.BatchSize = 256,
    threads: support.Threads = None,
    quiet: support.Quiet = False,
    debug: support.Debug = False,
) -> None:
    """Find the best documents for every query and write them as a run.

    [b]Example:[/b] stope search queries.tsv corpus.jsonl -o run.trec --method dense --encoder model
    """
    support.check_output(output, ".trec", ".run", ".txt", ".jsonl", ".jsonl.gz")
    needs_model = method is not Method.bm25
    if needs_model and encoder is None:
        raise typer.BadParameter(f"--method {method.value} needs --encoder", param_hint="--encoder")
    support.set_threads(threads)
    from stope.data import write_jsonl, write_run
    from stope.retrieval import search as run_all

    query_ids, query_texts, corpus_ids, corpus_texts = _read(
        queries, corpus, split, query_column, text_column, id_column
    )
    if k is not None and k > len(corpus_ids):
        raise ValueError(f"-k is {k} but the corpus has {len(corpus_ids)} documents; lower it")
    with support.bars(quiet) as bars:
        parts: list[Retriever] = []
        if method in (Method.bm25, Method.hybrid):
            from stope.retrieval import Bm25, Tokenizer

            words = Tokenizer(stemmer=stemmer, code=code)
            parts.append(Bm25(corpus_texts, tokenizer=words, progress=bars.stage("words")))
        if needs_model:
            parts.append(
                _dense(
                    support.load_encoder(str(encoder)),
                    None
                    if corpus_embeddings is None
                    else support.load_embeddings(corpus_embeddings),
                    corpus_texts,
                    approximate=method is Method.hnsw,
                    metric=metric.value,
                    batch_size=batch_size,
                    query_prompt=query_prompt,
                    corpus_prompt=corpus_prompt,
                    progress=bars.stage("corpus"),
                )
            )
        retriever = parts[0]
        if len(parts) > 1:
            from stope.retrieval import HybridRetriever

            weights = (1.0 - dense_weight, dense_weight)
            retriever = HybridRetriever(parts, method=fusion.value, weights=weights)
        run = run_all(
            retriever,
            query_ids,
            query_texts,
            corpus_ids,
            k=min(_DEFAULT_K, len(corpus_ids)) if k is None else k,
            exclude_self=exclude_self,
            progress=bars.stage("search"),
        )
    if output.name.endswith((".jsonl", ".jsonl.gz")):
        write_jsonl(output, _json_rows(run))
    else:
        write_run(run, output, tag=tag)
    found = sum(len(documents) for documents in run.values())
    Console().print(
        f"{len(run):,} queries, {found:,} documents found, in {output}",
        highlight=False,
        soft_wrap=True,
    )


def _read(
    queries: Path,
    corpus: Path | None,
    split: str,
    query_column: str | None,
    text_column: str | None,
    id_column: str | None,
) -> tuple[list[str], list[str], list[str], list[str]]:
    from stope.data import read_beir, read_texts

    if queries.is_dir():
        support.check_folder(
            queries,
            corpus,
            query_column=query_column,
            text_column=text_column,
            id_column=id_column,
        )
        collection = read_beir(queries, [split])
        judged = collection.split(split)
        ids, texts = list(judged.query_ids), list(judged.query_texts)
        return ids, texts, collection.corpus_ids, collection.corpus_texts
    if corpus is None:
        raise typer.BadParameter("name the corpus after the queries", param_hint="CORPUS")
    return (*_queries(queries, query_column), *read_texts(corpus, text_column, id_column))


def _queries(path: Path, column: str | None) -> tuple[list[str], list[str]]:
    """Read queries from a column "query" or like it, else as any texts."""
    from stope.data import read_rows, read_texts

    if column is None and not path.name.removesuffix(".gz").endswith(".txt"):
        first = next(iter(read_rows(path)), None)
        names = {} if first is None else {name.lower(): name for name in first[1]}
        column = next((names[name] for name in ("query", "question") if name in names), None)
    return read_texts(path, column)


def _dense(
    encoder: Any, embeddings: Any, texts: list[str], *, approximate: bool, **options: Any
) -> Any:
    from stope.retrieval import DenseRetriever, HnswRetriever

    if embeddings is not None and len(embeddings) != len(texts):
        raise ValueError(
            f"--corpus-embeddings has {len(embeddings)} rows "
            f"but the corpus has {len(texts)} documents"
        )
    kind = HnswRetriever if approximate else DenseRetriever
    corpus = texts if embeddings is None else None
    return kind(encoder, corpus, embeddings=embeddings, **options)


def _json_rows(run: dict[str, dict[str, float]]) -> Any:
    for query, documents in run.items():
        for rank, (name, score) in enumerate(documents.items(), start=1):
            yield {"query_id": query, "document_id": name, "rank": rank, "score": score}

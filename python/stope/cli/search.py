"""`stope search`: queries against a corpus, a run out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stope._checks import counted
from stope.cli import on_ray, options, terminal
from stope.cli.options import option, switch, without_effect
from stope.cli.terminal import reported

if TYPE_CHECKING:
    from stope.retrieval import Retriever

_DEFAULT_K = 100
_JSON_LINES = (".jsonl", ".jsonl.gz")
_MOST_NAMED = 5
_DEFAULT_TOP = f"{_DEFAULT_K}, or all where there are fewer"
_OUTPUT = "Run to write: .trec, .run or .txt for TREC; .jsonl, which also holds ids with blanks."


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
@options.shared(on_ray.of_cluster, before="as_json")
def search(
    context: typer.Context,
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
    output: Annotated[Path, option(_OUTPUT, "--output", "-o")] = Path("run.trec"),
    method: Annotated[
        Method, option("bm25 needs no model; dense, hybrid and hnsw need --encoder.")
    ] = Method.bm25,
    encoder: Annotated[
        str | None, option("Folder or name of a sentence-transformers model.", metavar="PATH")
    ] = None,
    corpus_embeddings: Annotated[Path | None, option(".npy with one row per document.")] = None,
    k: Annotated[
        int | None, option("Documents per query.", "--top", "-k", min=1, default=_DEFAULT_TOP)
    ] = None,
    metric: Annotated[options.Metric, option("Similarity of embeddings.")] = options.Metric.cosine,
    fusion: Annotated[Fusion, option("How hybrid merges.")] = Fusion.rrf,
    dense_weight: Annotated[
        float, option("Share of dense in hybrid, 0 to 1.", min=0.0, max=1.0)
    ] = 0.5,
    stemmer: Annotated[
        str | None, option("Stemming of bm25, such as english.", default="none")
    ] = None,
    code: Annotated[
        bool, switch("--code", "bm25 also splits identifiers (snake_case, camelCase).")
    ] = False,
    exclude_self: Annotated[
        bool,
        typer.Option(
            *("--exclude-self", "--ignore-identical-ids"),
            metavar="",
            help="Leave out the document with the query's id; by default it is found like others.",
        ),
    ] = False,
    query_prompt: Annotated[str | None, option("Put before every query.")] = None,
    corpus_prompt: Annotated[str | None, option("Put before every document.")] = None,
    split: options.Split = "test",
    unknown_ids: options.OfUnknownIds = options.UnknownIds.error,
    query_column: options.QueryColumn = None,
    query_id_column: options.QueryIdColumn = None,
    text_column: options.CorpusColumn = None,
    id_column: options.IdColumn = None,
    skip_empty: options.SkipEmpty = False,
    tag: Annotated[str, option("Last column of a TREC run.")] = "stope",
    batch_size: options.BatchSize = 256,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find the best documents for every query and write them as a run.

    [b]Example:[/b] stope search queries.tsv corpus.jsonl -o run.trec --method dense --encoder model
    """
    endings = (".trec", ".run", ".txt", *_JSON_LINES)
    options.check_outputs((queries, corpus, corpus_embeddings), [(output, endings)])
    needs_model = method is not Method.bm25
    if needs_model and encoder is None:
        raise typer.BadParameter(f"--method {method.value} needs --encoder", param_hint="--encoder")
    in_lines = output.name.endswith(_JSON_LINES)
    _refuse_idle(context, method, in_lines=in_lines, embedded=corpus_embeddings is not None)
    options.of_files(context, queries, corpus)
    options.set_threads(threads)
    from stope.data import read_beir, read_queries, read_texts, write_jsonl, write_run
    from stope.retrieval import search as run_all

    if queries.is_dir():
        skipped: Counter[str] = Counter()
        collection = read_beir(queries, [split], unknown_ids=unknown_ids.value, skipped=skipped)
        judged = collection.split(split)
        terminal.say_left_out(queries, skipped)
        if not judged.query_ids:
            raise ValueError(f"{queries} has no judged query in the split {split}; name another")
        query_ids, query_texts = judged.query_ids, judged.query_texts
        corpus_ids, corpus_texts = collection.corpus_ids, collection.corpus_texts
        itself = [name for name in query_ids if judged.qrels.get(name, {}).get(name, 0) > 0]
        if exclude_self and itself:
            terminal.say(
                f"{counted(len(itself), 'queries')}, such as {itself[0]}, have their own document "
                "judged relevant; --exclude-self leaves it out, so it counts as not found."
            )
    elif corpus is None:
        raise typer.BadParameter("name the corpus after the queries", param_hint="CORPUS")
    else:
        # The run joins them with judgements by ids: none may be made up beside a column of ids.
        left_out: tuple[Counter[str], ...] = (Counter(), Counter())
        more: Any = {"ids": "needed", "skip_empty": skip_empty}
        query_ids, query_texts = read_queries(
            queries, query_column, query_id_column, **more, skipped=left_out[0]
        )
        corpus_ids, corpus_texts = read_texts(
            corpus, text_column, id_column, **more, skipped=left_out[1]
        )
        for path, skipped in zip((queries, corpus), left_out, strict=True):
            terminal.say_left_out(path, skipped)
        _say_numbered(queries, query_ids, query_id_column, "queries")
        _say_numbered(corpus, corpus_ids, id_column, "documents")
    if k is not None and k > len(corpus_ids):
        raise ValueError(
            f"-k is {k} but the corpus has {counted(len(corpus_ids), 'documents')}; lower it"
        )
    if not in_lines:
        _check_ids(queries, query_ids, "query")
        _check_ids(corpus or queries, corpus_ids, "document")
        _check_ids("--tag", [tag], "tag")
    at_once = -(-1024 // batch_size) * batch_size
    if context.params["ray"] is not None:  # it shares all out; the encoder's batches are the same
        at_once = len(query_ids)
    with terminal.bars(quiet) as bars, on_ray.operations(context, output) as operations:
        retrievers: list[Retriever] = []
        if method in (Method.bm25, Method.hybrid):
            from stope.retrieval import Bm25, Tokenizer

            words = Tokenizer(stemmer=stemmer, code=code)
            retrievers.append(Bm25(corpus_texts, tokenizer=words, progress=bars.stage("words")))
        if needs_model:
            retrievers.append(
                _dense(
                    on_ray.load_encoder(context, str(encoder)),
                    corpus_embeddings,
                    corpus_texts,
                    approximate=method is Method.hnsw,
                    metric=metric.value,
                    batch_size=batch_size,
                    query_prompt=query_prompt,
                    corpus_prompt=corpus_prompt,
                    operations=operations,
                    progress=bars.stage("corpus"),
                )
            )
        retriever = retrievers[0]
        if len(retrievers) > 1:
            from stope.retrieval import HybridRetriever

            weights = (1.0 - dense_weight, dense_weight)
            retriever = HybridRetriever(retrievers, method=fusion.value, weights=weights)
        run = run_all(
            retriever,
            query_ids,
            query_texts,
            corpus_ids,
            k=min(_DEFAULT_K, len(corpus_ids)) if k is None else k,
            exclude_self=exclude_self,
            batch_size=at_once,
            progress=bars.stage("search"),
        )
    _check_empty(run)
    if in_lines:
        write_jsonl(output, _json_rows(run))
    else:
        write_run(run, output, tag=tag)
    results = sum(map(len, run.values()))
    empty = sum(not documents for documents in run.values())
    facts = {"queries": len(run), "queries_without_documents": empty, "documents_found": results}
    terminal.give({**facts, "method": method.value, "output": str(output)})
    terminal.tell(
        f"{counted(len(run), 'queries')}, {counted(results, 'documents')} found, in {output}"
    )


def _refuse_idle(context: typer.Context, method: Method, *, in_lines: bool, embedded: bool) -> None:
    """Refuse options that this search would not read."""
    why = f"it has no effect with --method {method.value}"
    if method is Method.bm25:
        of_encoders = ("encoder", "corpus_embeddings", "metric", "query_prompt", "corpus_prompt")
        without_effect(context, (*of_encoders, "batch_size"), why)
    elif method is not Method.hybrid:
        without_effect(context, ["stemmer", "code"], why)
    if method in (Method.bm25, Method.hnsw):
        without_effect(context, ["ray"], why)
    if method is not Method.hybrid:
        without_effect(context, ["fusion", "dense_weight"], why)
    if embedded:
        without_effect(context, ["corpus_prompt"], "it has no effect beside --corpus-embeddings")
    if in_lines:
        without_effect(context, ["tag"], "JSON lines have no tag")


def _say_numbered(source: Path, ids: list[str], column: str | None, what: str) -> None:
    """Say that rows go by their numbers, which judgements know only if they were made so."""
    from stope.data import read_rows
    from stope.data.readers.columns import ID_COLUMNS, QUERY_ID_COLUMNS, first_of
    from stope.data.readers.lines import plain_name

    if column is None and not plain_name(source).endswith(".txt"):
        column = first_of(next(read_rows(source))[1], (*QUERY_ID_COLUMNS, *ID_COLUMNS))
    if column is None:
        terminal.say(
            f"{source}: the {what} go by their row, {ids[0]} to {ids[-1]}; judgements need the "
            "same ids, or the file a column of ids."
        )


def _check_ids(source: object, ids: list[str], what: str) -> None:
    """Refuse, before the search, what could not be written at its end."""
    wrong = next((name for name in ids if not name or any(map(str.isspace, name))), None)
    if wrong is not None:
        raise ValueError(
            f"{source}: the {what} {wrong!r} holds a blank, which a TREC file cannot hold; write "
            "JSON lines instead: -o run.jsonl"
        )


def _check_empty(run: dict[str, dict[str, float]]) -> None:
    """Say which queries found nothing, and refuse a run in which all of them did."""
    empty = [query for query, documents in run.items() if not documents]
    if len(empty) == len(run):
        raise ValueError(
            "no query found a document, so nothing was written; do queries and corpus share words? "
            "--stemmer, --code and the other methods find more"
        )
    if empty:
        names = ", ".join(empty[:_MOST_NAMED]) + (", ..." if len(empty) > _MOST_NAMED else "")
        terminal.say(f"{len(empty):,} of {len(run):,} queries found nothing: {names}.")


def _dense(
    encoder: Any,
    embeddings: Path | None,
    texts: list[str],
    *,
    approximate: bool,
    operations: Any,
    **chosen: Any,
) -> Retriever:
    from stope.data import read_embeddings
    from stope.retrieval import DenseRetriever, HnswRetriever

    dense = functools.partial(DenseRetriever, index=operations.FlatIndex)
    kind: Callable[..., Retriever] = HnswRetriever if approximate else dense
    if embeddings is None:
        return kind(encoder, texts, **chosen)
    rows = read_embeddings(embeddings, "--corpus-embeddings", rows=len(texts))
    return kind(encoder, embeddings=rows, **chosen)


def _json_rows(run: dict[str, dict[str, float]]) -> Iterator[dict[str, Any]]:
    for query, documents in run.items():
        for rank, (name, score) in enumerate(documents.items(), start=1):
            yield {"query_id": query, "document_id": name, "rank": rank, "score": score}

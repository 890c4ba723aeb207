"""`stope mine`: hard negatives for one's own pairs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stope.cli import support
from stope.cli.support import reported

if TYPE_CHECKING:
    from stope.data import Pairs
    from stope.mining import Mined


class Format(str, Enum):
    """Formats of training rows."""

    triplet = "triplet"
    n_tuple = "n-tuple"
    labeled_pair = "labeled-pair"
    labeled_list = "labeled-list"
    flagembedding = "flagembedding"
    tevatron = "tevatron"


class Counts(str, Enum):
    """What ranks count."""

    eligible = "eligible"
    raw = "raw"


class Sampling(str, Enum):
    """How negatives are taken from the range."""

    top = "top"
    random = "random"


_LIMITS = "Which documents may be negatives"
_EMBEDDING = "Embeddings"


def _limit(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_LIMITS, show_default="no limit")


@reported
def mine(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Queries with their positives: .jsonl, .tsv, .csv (also .gz), .parquet, or a BEIR "
            "folder.",
        ),
    ],
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS",
            help="Documents to find negatives in, same kinds or .txt.",
            show_default="the positives",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .jsonl, .jsonl.gz or .parquet.")
    ] = Path("negatives.jsonl"),
    format: Annotated[Format, typer.Option(help="Format of the rows.")] = Format.triplet,
    scores: Annotated[bool, typer.Option("--scores", metavar="", help="Write scores too.")] = False,
    num_negatives: Annotated[
        int, typer.Option("--num-negatives", "-n", help="Negatives per query, at most.", min=1)
    ] = 5,
    ids: Annotated[
        Path | None,
        typer.Option(
            help="Also write the ids of the negatives, with rank and scores, as JSON lines.",
            show_default="none",
        ),
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Also write the counts as JSON.", show_default="none")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder or name of a sentence-transformers model.",
            metavar="PATH",
            rich_help_panel=_EMBEDDING,
            show_default="a static model, trained on these files first",
        ),
    ] = None,
    query_embeddings: Annotated[
        Path | None,
        typer.Option(
            help=".npy with one row per pair (or BEIR query), in order.", rich_help_panel=_EMBEDDING
        ),
    ] = None,
    corpus_embeddings: Annotated[
        Path | None,
        typer.Option(help=".npy with one row per document.", rich_help_panel=_EMBEDDING),
    ] = None,
    query_prompt: Annotated[
        str | None, typer.Option(help="Put before every query.", rich_help_panel=_EMBEDDING)
    ] = None,
    corpus_prompt: Annotated[
        str | None, typer.Option(help="Put before every document.", rich_help_panel=_EMBEDDING)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps embeddings, found again only for the same weights and texts.",
            rich_help_panel=_EMBEDDING,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(help="Texts per call of the encoder.", min=1, rich_help_panel=_EMBEDDING),
    ] = 256,
    metric: Annotated[
        support.Metric, typer.Option(help="Similarity.", rich_help_panel=_LIMITS)
    ] = support.Metric.cosine,
    relative_margin: Annotated[
        float | None, _limit("At most this share below the positive: 0.05 keeps up to 95% of it.")
    ] = None,
    absolute_margin: Annotated[
        float | None, _limit("At most the positive's score minus this.")
    ] = None,
    max_score: Annotated[float | None, _limit("Highest score.")] = None,
    min_score: Annotated[float | None, _limit("Lowest score.")] = None,
    range_min: Annotated[
        int, typer.Option(help="Ranks to skip.", min=0, rich_help_panel=_LIMITS)
    ] = 0,
    range_max: Annotated[int | None, _limit("Rank to stop at.")] = None,
    range_counts: Annotated[
        Counts,
        typer.Option(
            help="Ranks count documents that may be negatives, or all of them.",
            rich_help_panel=_LIMITS,
        ),
    ] = Counts.eligible,
    sampling: Annotated[
        Sampling,
        typer.Option(help="Hardest of the range, or a random choice.", rich_help_panel=_LIMITS),
    ] = Sampling.top,
    seed: Annotated[
        int, typer.Option(help="Of the random choice.", min=0, rich_help_panel=_LIMITS)
    ] = 0,
    keep_query_text: Annotated[
        bool,
        typer.Option(
            "--keep-query-text",
            metavar="",
            help="Let a document that is the query's own text be a negative.",
            rich_help_panel=_LIMITS,
        ),
    ] = False,
    split: support.Split = "train",
    query_column: support.QueryColumn = None,
    positive_column: support.PositiveColumn = None,
    text_column: support.CorpusColumn = None,
    id_column: support.IdColumn = None,
    positive_ids: support.PositivesAreIds = False,
    threads: support.Threads = None,
    quiet: support.Quiet = False,
    debug: support.Debug = False,
) -> None:
    """Find hard negatives: documents that score high for a query but do not answer it.

    The search is exact and limits apply inside it, so a query gets all the negatives that exist.

    [b]Example:[/b] stope mine pairs.tsv corpus.jsonl -o negatives.jsonl --relative-margin 0.05
    """
    support.check_output(output, ".jsonl", ".jsonl.gz", ".parquet")
    if ids is not None:
        support.check_output(ids, ".jsonl", ".jsonl.gz")
    if summary is not None:
        support.check_output(summary, ".json")
    support.set_threads(threads)
    from stope.cli.inputs import describe, read_inputs
    from stope.data import open_atomic, write_jsonl
    from stope.mining import mine as run

    table = read_inputs(
        pairs,
        corpus,
        split=split,
        query_column=query_column,
        positive_column=positive_column,
        text_column=text_column,
        id_column=id_column,
        positive_ids=positive_ids,
    )
    if not quiet:
        support.say(f"{describe(table)}.")
    given = {
        name: None if path is None else support.load_embeddings(path)
        for name, path in (
            ("query_embeddings", query_embeddings),
            ("corpus_embeddings", corpus_embeddings),
        )
    }
    with support.bars(quiet) as bars:
        model = None
        if encoder is not None:
            model = support.load_encoder(encoder)
        elif all(rows is None for rows in given.values()):
            model = _trained_here(table, bars)
        mined = run(
            table,
            model,
            **given,
            num_negatives=num_negatives,
            metric=metric.value,
            absolute_margin=absolute_margin,
            relative_margin=relative_margin,
            max_score=max_score,
            min_score=min_score,
            range_min=range_min,
            range_max=range_max,
            range_counts=range_counts.value,
            sampling=sampling.value,
            seed=seed,
            exclude_query_text=not keep_query_text,
            query_prompt=query_prompt,
            corpus_prompt=corpus_prompt,
            batch_size=batch_size,
            cache=cache,
            progress=bars.show,
        )
    written = mined.export(output, format.value, scores=scores)
    if ids is not None:
        write_jsonl(ids, mined.rows())
    if summary is not None:
        with open_atomic(summary) as file:
            file.write(mined.summary().to_json() + "\n")
    _show(mined, f"{written.rows:,} rows in {written.path}")


def _trained_here(pairs: Pairs, bars: support.Bars) -> Any:
    """Train the static default encoder on the pairs themselves."""
    from stope.cli.training import train_encoder
    from stope.encoders import static_encoder
    from stope.training import pairs_dataset

    model = static_encoder(pairs.corpus_texts + pairs.query_texts)
    train_encoder(model, pairs_dataset(pairs), static=True, progress=bars.stage("training"))
    return model


def _show(mined: Mined, written: str) -> None:
    counts = mined.summary()
    table = Table(title="Hard negatives", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("queries", f"{counts.num_queries:,}")
    table.add_row("documents", f"{counts.num_corpus:,}")
    table.add_row("negatives found", f"{counts.num_negatives:,}")
    table.add_row(f"queries with all {counts.num_negatives_wanted}", f"{counts.complete:,}")
    table.add_row("queries with fewer", f"{counts.short:,}")
    table.add_row("queries with none", f"{counts.empty:,}")
    for reason, number in counts.rejected.items():
        if number:
            table.add_row(f"turned away: {reason.replace('_', ' ')}", f"{number:,}")
    if counts.score_quantiles:
        table.add_row("score of negatives, median", f"{counts.score_quantiles[2]:.4f}")
    table.add_row("score of positives, median", f"{counts.positive_quantiles[2]:.4f}")
    console = Console()
    console.print(table)
    console.print(written, highlight=False, soft_wrap=True)

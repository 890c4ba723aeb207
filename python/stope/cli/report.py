"""`stope report`: a page to look at what was mined, trained or searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stope.cli import options, terminal
from stope.cli.options import option
from stope.cli.terminal import reported

if TYPE_CHECKING:
    from stope.report import Page

_OF_PAIRS = (
    *("query_column", "positive_column", "query_id_column", "positive_ids", "label_column"),
    *("ignore_labels", "skip_empty", "text_column", "id_column", "split", "unknown_ids"),
)
_TABLES = "What was mined"


@reported
def report(
    context: typer.Context,
    what: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="What stope mine wrote: the folder of --job or its negatives.parquet, the rows of "
            "--ids, or training rows in any format.",
        ),
    ],
    pairs: Annotated[
        Path | None,
        typer.Argument(
            metavar="PAIRS",
            help="Of a table by ids: the pairs that were mined, for texts; of training rows: for "
            "ids.",
            show_default="neither",
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS", help="The corpus that was mined.", show_default="the positives"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option("File to write, .html.", "--output", "-o", default="beside TABLE, as .html"),
    ] = None,
    figures: Annotated[
        Path | None,
        option("Also draw the figures into this folder, as PNG and SVG.", default="none"),
    ] = None,
    as_json: options.Json = False,
    near: Annotated[
        float,
        option(
            "A negative is suspected that is less than this share of the positive's score below "
            "it.",
            panel=_TABLES,
            min=0.0,
            max=1.0,
        ),
    ] = 0.05,
    most_rows: Annotated[
        int, option("Documents listed, the most suspicious first.", panel=_TABLES, min=1)
    ] = 50_000,
    split: options.Split = "train",
    unknown_ids: options.OfUnknownIds = options.UnknownIds.error,
    query_column: options.QueryColumn = None,
    positive_column: options.PositiveColumn = None,
    text_column: options.CorpusColumn = None,
    id_column: options.IdColumn = None,
    query_id_column: options.QueryIdColumn = None,
    positive_ids: options.PositivesAreIds = False,
    label_column: options.LabelColumn = None,
    min_relevance: options.MinRelevance = None,
    ignore_labels: options.IgnoreLabels = False,
    skip_empty: options.SkipEmpty = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write one page, to be opened in a browser, that shows what was mined and what is suspicious.

    The page is one file, which loads nothing and sends nothing: figures, and a table to search,
    filter and select in, whose ids stope mine --exclude takes.

    [b]Example:[/b] stope report mined pairs.tsv corpus.jsonl
    """
    output = _beside(what) if output is None else output
    options.check_outputs([what, pairs, corpus], [(output, (".html",))])
    if pairs is None:
        options.without_effect(context, _OF_PAIRS, "it is about PAIRS, and there is none")
    else:
        options.of_files(context, pairs, corpus)
    with terminal.one_bar(quiet) as bar:
        bar.say(f"reading {what}")
        page = _mined(context, what, pairs)
        bar.say(f"writing {output}")
        page.write(output)
        drawn = [] if figures is None else page.write_figures(figures)
    if as_json:
        facts = {"page": str(output), "figures": [str(path) for path in drawn]}
        print(json.dumps({**facts, "facts": page.facts()}))
        return
    terminal.show_table(page.title, ["", ""], page.facts().items(), named=False)
    if drawn:
        terminal.tell(f"{len(drawn)} pictures in {figures}")
    terminal.tell(f"{output}: open it in a browser.")


def _beside(what: Path) -> Path:
    """The page's file, where nobody names one.

    >>> _beside(Path("mined/negatives.jsonl.gz")).as_posix()
    'mined/negatives.html'
    """
    if what.is_dir():
        return what / "report.html"
    return what.with_name(what.name.removesuffix(".gz")).with_suffix(".html")


def _mined(context: typer.Context, what: Path, pairs: Path | None) -> Page:
    """The page of what `stope mine` wrote."""
    from stope.data import Layout, Source, read_source
    from stope.report import of_table

    chosen = context.params
    read = None
    if pairs is not None:
        read = read_source(Source(pairs, negatives="leave", **options.of_source(context))).pairs
    layout = Layout(min_relevance=chosen["min_relevance"])
    return of_table(what, read, layout=layout, near=chosen["near"], most_rows=chosen["most_rows"])

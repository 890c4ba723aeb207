"""`stope report`: a page to look at what was mined, trained or searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stope._extras import need
from stope.cli import options, terminal
from stope.cli.options import option
from stope.cli.run_page import OF_RUNS, is_run, page_of_run
from stope.cli.terminal import reported

if TYPE_CHECKING:
    from stope.report import Page

_OF_TABLES = ("near", "most_rows", "min_relevance")
_OF_PAIRS = tuple(name for name in options.OF_PAIRS if name not in _OF_TABLES)
_NOT_OF_RUNS = ("positive_column", "positive_ids", "label_column", "ignore_labels", "skip_empty")
_TABLES, _RUNS = "What was mined", "Runs"


@reported
@options.shared(options.of_pairs, before="quiet", without=("split",))
def report(
    context: typer.Context,
    what: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE|TRAINING|RUN",
            help="What stope mine wrote: the folder of --job or its negatives.parquet, the rows of "
            "--ids, or training rows in any format. The folder of a training or of its model. Or a "
            "run, as stope search writes it.",
        ),
    ],
    pairs: Annotated[
        Path | None,
        typer.Argument(
            metavar="PAIRS|QRELS",
            help="Of a table by ids: the pairs that were mined, for texts; of training rows: for "
            "ids. Of a run: its judgements, or a BEIR folder, which has texts, too.",
            show_default="neither",
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS",
            help="The corpus that was mined or searched.",
            show_default="the positives",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option("File to write, .html.", "--output", "-o", default="beside it, as .html"),
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
    baseline: Annotated[
        Path | None, option("Run to compare with, query by query.", default="none", panel=_RUNS)
    ] = None,
    metric: Annotated[
        list[str] | None,
        option(
            "As for stope evaluate; queries are compared by the first. May be repeated.",
            *("--metric", "--metrics", "-m"),
            default="nDCG@10, MRR@10, R@100",
            panel=_RUNS,
        ),
    ] = None,
    queries: Annotated[
        Path | None, option("Texts of the queries.", default="those of a BEIR folder", panel=_RUNS)
    ] = None,
    split: Annotated[
        str | None,
        option("Split of a BEIR folder.", default="train, of a run test", panel=options.FILES),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write one page, to be opened in a browser: what was mined, how it trained, what it found.

    The page is one file, which loads nothing and sends nothing: figures, and a table to search,
    filter and select in; of what was mined its ids are what stope mine --exclude takes.

    [b]Examples:[/b] stope report mined pairs.tsv corpus.jsonl · stope report model.run
    · stope report run.trec qrels/test.tsv --baseline bm25.trec
    """
    training = _training(what)
    run = training is None and is_run(what)
    output = _beside(training or what) if output is None else output
    inputs = [what, pairs, corpus, baseline, queries]
    options.check_outputs(inputs, [(output, (".html",))])
    need("vl_convert", extra="report")
    if figures is not None:
        need("matplotlib.figure", extra="report")
        options.check_new_folder(figures)
    if training is not None:
        alone = (*_OF_PAIRS, *_OF_TABLES, *OF_RUNS, "pairs", "corpus")
        options.without_effect(context, alone, f"{what} holds a training, which is read alone")
    elif run:
        idle = (*_NOT_OF_RUNS, *_OF_TABLES)
        options.without_effect(context, idle, f"{what} is a run, which has no use for it")
    else:
        options.without_effect(context, OF_RUNS, f"it is about a run, and {what} is none")
    if pairs is not None:
        options.of_files(context, pairs, corpus)
    elif training is None and not run:
        options.without_effect(context, _OF_PAIRS, "it is about PAIRS, and there is none")
    with terminal.one_bar(quiet) as bar:
        bar.say(f"reading {what}")
        if training is not None:
            from stope.report.training import of_training

            page = of_training(training)
        elif run:
            page = page_of_run(context, what, pairs, corpus)
        else:
            page = _mined(context, what, pairs)
        bar.say(f"writing {output}")
        page.write(output)
        drawn = [] if figures is None else page.write_figures(figures)
    facts = {"page": str(output), "figures": [str(path) for path in drawn]}
    terminal.give({**facts, "facts": page.facts()})
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


def _training(what: Path) -> Path | None:
    """The folder of a training, where its own or its model's is given."""
    if not what.is_dir() or (what / "job.json").exists():
        return None
    from stope.report.training import training_folder

    return training_folder(what)


def _mined(context: typer.Context, what: Path, pairs: Path | None) -> Page:
    """The page of what `stope mine` wrote."""
    from stope.data import Layout, Source, read_source
    from stope.report import of_table

    chosen = context.params
    read = None
    if pairs is not None:
        chosen_source = {"split": "train", **options.of_source(context)}
        source = read_source(Source(pairs, negatives="leave", **chosen_source))
        terminal.say_left_out(pairs, source.left_out)
        read = source.pairs
    layout = Layout(min_relevance=chosen["min_relevance"])
    return of_table(what, read, layout=layout, near=chosen["near"], most_rows=chosen["most_rows"])

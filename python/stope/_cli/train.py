"""`stope train`: a retriever from one's own pairs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stope._cli import support
from stope._cli.support import reported

if TYPE_CHECKING:
    from stope.mining import Pairs


class Precision(str, Enum):
    """Precisions of the loss."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@reported
def train(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Queries with their positives, or what [b]stope mine[/b] wrote as triplet or "
            "n-tuple: .jsonl, .tsv, .csv (also .gz), .parquet; or a BEIR folder.",
        ),
    ],
    corpus: Annotated[
        Path | None,
        typer.Argument(
            metavar="CORPUS",
            help="Documents to mine negatives in, same kinds or .txt.",
            show_default="the positives",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the model, new or empty.")
    ] = Path("model"),
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder or name of the sentence-transformers model to start from.",
            metavar="PATH",
            show_default="a static model, from scratch",
        ),
    ] = None,
    num_negatives: Annotated[
        int,
        typer.Option(
            "--num-negatives",
            "-n",
            help="Mine this many hard negatives per query with the model trained so far, then "
            "train on with them.",
            min=0,
        ),
    ] = 0,
    relative_margin: Annotated[
        float, typer.Option(help="Of the mining; see [b]stope mine[/b].", min=0.0)
    ] = 0.05,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the pairs.", show_default="chosen", min=1)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pairs per batch.", show_default="chosen", min=2)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="chosen")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the contrastive loss.")] = 0.05,
    precision: Annotated[
        Precision, typer.Option(help="Of the contrastive loss; bfloat16 is faster with AMX.")
    ] = Precision.float32,
    seed: Annotated[int, typer.Option(help="Of weights and order.", min=0)] = 0,
    code: Annotated[
        bool, typer.Option("--code", metavar="", help="Split identifiers (snake_case, camelCase).")
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
    """Train a retriever on pairs, with hard negatives where wanted, and save it.

    The folder written is a sentence-transformers model: give it to --encoder of the other commands.

    [b]Example:[/b] stope train pairs.tsv corpus.jsonl -o model --num-negatives 5
    """
    _check_folder(output)
    support.set_threads(threads)
    from stope._cli.inputs import describe, read_inputs
    from stope._cli.training import train_encoder
    from stope.training import pairs_dataset, save_encoder, static_encoder, training_dataset

    options: dict[str, Any] = {"static": encoder is None, "temperature": temperature, "seed": seed}
    options["precision"] = precision.value
    chosen = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    options |= {name: value for name, value in chosen.items() if value is not None}
    columns = _negative_columns(pairs)
    table: Pairs | None = None
    if columns:
        if num_negatives or corpus is not None:
            raise typer.BadParameter(
                f"{pairs} brings its own negatives ({', '.join(columns)}); leave CORPUS and "
                "--num-negatives away",
                param_hint="PAIRS",
            )
        queries, positives, negatives = _read_tuples(pairs, query_column, positive_column, columns)
        texts = [*queries, *positives, *(text for row in negatives for text in row)]
        examples = training_dataset(queries, positives, negatives)
        said = f"{len(queries):,} pairs with {len(columns)} negatives each"
    else:
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
        texts = [*table.corpus_texts, *table.query_texts]
        examples = pairs_dataset(table)
        said = describe(table)
    if not quiet:
        support.say(f"{said}.")
    with support.bars(quiet) as bars:
        if encoder is None:
            model = static_encoder(list(dict.fromkeys(texts)), code=code, seed=seed)
        else:
            model = support.load_encoder(encoder)
        report = train_encoder(model, examples, progress=bars.stage("training"), **options)
        steps, seconds = report.steps, report.seconds
        if num_negatives and table is not None:
            from stope.mining import mine

            mined = mine(
                table,
                model,
                num_negatives=num_negatives,
                relative_margin=relative_margin,
                progress=bars.show,
            )
            rows = pairs_dataset(table, mined.result.ids)
            if encoder is None:  # gentler, as in the demo: the model is already close
                options = {"epochs": 3, "learning_rate": 0.02, **options}
            report = train_encoder(model, rows, progress=bars.stage("training on"), **options)
            steps, seconds = steps + report.steps, seconds + report.seconds
    save_encoder(model, output)
    Console().print(
        f"{steps:,} steps in {seconds:.1f} s, last loss {report.losses[-1]:.4f}, in {output}",
        highlight=False,
        soft_wrap=True,
    )


def _check_folder(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"cannot write {path}: it exists and is not an empty folder; name another")
    if not path.absolute().parent.is_dir():
        raise ValueError(
            f"cannot write {path}: the folder {path.absolute().parent} does not exist; "
            "create it first"
        )


def _negative_columns(path: Path) -> list[str]:
    """Names of the columns negative, or negative_1, negative_2, ... of the first row."""
    if path.is_dir():
        return []
    from stope.data import read_rows

    first = next(iter(read_rows(path)), None)
    names = [] if first is None else list(first[1])
    return [
        name
        for name in names
        if name == "negative" or (name.startswith("negative_") and name[9:].isdigit())
    ]


def _read_tuples(
    path: Path, query_column: str | None, positive_column: str | None, columns: list[str]
) -> tuple[list[str], list[str], list[list[str]]]:
    from stope.data import read_rows

    wanted = [query_column or "query", positive_column or "positive", *columns]
    found: list[list[str]] = []
    for where, row in read_rows(path):
        wrong = next((name for name in wanted if not isinstance(row.get(name), str)), None)
        if wrong is not None:
            raise ValueError(
                f'{where}: there is no text in column "{wrong}"; name the columns with '
                "--query-column and --positive-column"
            )
        found.append([row[name] for name in wanted])
    return (
        [row[0] for row in found],
        [row[1] for row in found],
        [row[2:] for row in found],
    )

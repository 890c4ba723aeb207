"""`stope train`: a retriever from one's own pairs, or as a configuration says."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stope.cli import support
from stope.cli.support import reported

if TYPE_CHECKING:
    from stope.runs import RunReport

_YAML = (".yaml", ".yml")
_HOLDOUT = 0.1
_FEWEST_TO_HOLD_OUT = 100


class Precision(str, Enum):
    """Precisions of the loss."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def _print_example(wanted: bool) -> None:
    if wanted:
        from stope.runs.example import EXAMPLE

        typer.echo(EXAMPLE, nl=False)
        raise typer.Exit


@reported
def train(
    context: typer.Context,
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS|CONFIG",
            help="Queries with their positives, or what [b]stope mine[/b] wrote as triplet or "
            "n-tuple: .jsonl, .tsv, .csv (also .gz), .parquet; or a BEIR folder. Or a "
            "configuration: .yaml.",
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
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the model, new or empty; the run is kept in OUTPUT.run.",
        ),
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
            help="Train with this many hard negatives per query, mined with the model before "
            "training and after every epoch.",
            min=0,
        ),
    ] = 0,
    relative_margin: Annotated[
        float, typer.Option(help="Of the mining; see [b]stope mine[/b].", min=0.0)
    ] = 0.05,
    weighting: Annotated[
        str | None,
        typer.Option(help="Which pairs count more, such as progressive.", show_default="none"),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Share or number of the queries to hold out and judge by; 0: none.",
            show_default="the split dev of a BEIR folder, else 0.1 of 100 queries or more",
            min=0.0,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the pairs.", show_default="chosen", min=1)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pairs per batch.", show_default="chosen", min=2)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="chosen")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Cut texts after so many tokens.", show_default="the model's own", min=1),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the contrastive loss.")] = 0.05,
    precision: Annotated[
        Precision, typer.Option(help="Of the contrastive loss; bfloat16 is faster with AMX.")
    ] = Precision.float32,
    seed: Annotated[int, typer.Option(help="Of weights and order.", min=0)] = 0,
    code: Annotated[
        bool, typer.Option("--code", metavar="", help="Split identifiers (snake_case, camelCase).")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replace a value of the configuration; may be repeated.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", metavar="", help="Go on with a run that was interrupted."),
    ] = False,
    example: Annotated[
        bool,
        typer.Option(
            "--example",
            metavar="",
            help="Print a configuration with comments, to begin with.",
            callback=_print_example,
            is_eager=True,
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
    """Train a retriever on pairs or as a configuration says, judge it, and save it.

    The model written is a sentence-transformers folder: give it to --encoder of other commands.

    [b]Examples:[/b] stope train pairs.tsv corpus.jsonl -o model --num-negatives 5
    · stope train --example > config.yaml · stope train config.yaml
    """
    from stope.cli.training import go_on_with, reporting
    from stope.runs import Config, run

    if pairs.suffix.lower() in _YAML:
        _only_for_files(context)
        config = Config.from_yaml(pairs, changes or [])
        if threads is not None:
            config = Config.from_dict(
                {
                    **config.to_dict(),
                    "training": {**config.to_dict()["training"], "threads": threads},
                }
            )
        command = f"stope train {pairs}" + "".join(f" --set {one}" for one in changes or [])
    else:
        if changes:
            raise typer.BadParameter(
                "it changes a configuration; these files have options of their own",
                param_hint="--set",
            )
        given = {
            "path": str(pairs),
            "corpus": corpus and str(corpus),
            "split": split,
            "query_column": query_column,
            "positive_column": positive_column,
            "text_column": text_column,
            "id_column": id_column,
            "positive_ids": positive_ids,
        }
        _check_files(pairs, corpus, num_negatives, output, resume)
        sections: dict[str, Any] = {
            "data": {name: value for name, value in given.items() if value is not None},
            "encoder": _encoder(encoder, code, max_tokens),
            "loss": {"temperature": temperature, "precision": precision.value},
            "weighting": weighting,
            "training": {
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "seed": seed,
                "threads": threads,
            },
            "evaluation": _evaluation(pairs, holdout),
            "output": {"folder": f"{output}.run", "model": str(output)},
        }
        if num_negatives:
            sections["negatives"] = {
                "mode": "periodic",
                "every_epochs": 1,
                "num_negatives": num_negatives,
                "relative_margin": relative_margin,
            }
        config = Config.from_dict(sections)
        command = "the same command"
    import transformers

    quiet_libraries: Any = transformers.utils.logging
    quiet_libraries.disable_progress_bar()  # of reading and writing weights
    with reporting(quiet) as bar:
        try:
            report = run(config, resume=resume, progress=bar.progress, say=bar.say)
        except KeyboardInterrupt:
            bar.close()
            go_on_with(command)
            raise typer.Exit(130) from None
    _show(report)


def _encoder(name: str | None, code: bool, max_tokens: int | None) -> dict[str, Any]:
    if name is None:
        return {"static": {"code": code, "max_tokens": max_tokens}}
    if code:
        raise typer.BadParameter("it is for a static encoder; leave it away", param_hint="--code")
    return {"model": support.model_path(name), "max_tokens": max_tokens}


def _evaluation(pairs: Path, holdout: float | None) -> dict[str, Any] | None:
    """The split dev where there is one, else some queries held out, if there are enough."""
    metrics = ["nDCG@10", "MRR@10", "R@100"]
    if holdout == 0:
        return None
    if holdout is not None:
        return {"holdout": holdout, "metrics": metrics}
    if pairs.is_dir():
        found = any((pairs / "qrels" / f"dev{ending}").exists() for ending in (".tsv", ".tsv.gz"))
        return {"split": "dev", "metrics": metrics} if found else None
    return {"holdout": _HOLDOUT, "metrics": metrics} if _has_enough(pairs) else None


def _has_enough(pairs: Path) -> bool:
    from stope.data import read_rows

    rows = enumerate(read_rows(pairs), start=1)
    return any(number >= _FEWEST_TO_HOLD_OUT for number, _ in rows)


def _only_for_files(context: typer.Context) -> None:
    """Refuse options that say what a configuration says."""
    allowed = {"pairs", "changes", "resume", "threads", "quiet", "debug", "example"}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                "a configuration says this itself; change it there or with --set",
                param_hint=parameter.opts[-1]
                if parameter.param_type_name == "option"
                else "CORPUS",
            )


def _check_files(
    pairs: Path, corpus: Path | None, num_negatives: int, output: Path, resume: bool
) -> None:
    """Refuse, before any work, what cannot be trained on and where nothing can be written."""
    if not resume and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"cannot write {output}: it exists and is not an empty folder; name another"
        )
    if not output.absolute().parent.is_dir():
        raise ValueError(
            f"cannot write {output}: the folder {output.absolute().parent} does not exist; "
            "create it first"
        )
    if pairs.is_dir():
        support.check_folder(pairs, corpus)
    if not pairs.is_dir() and (num_negatives or corpus is not None):
        from stope.runs.source import negative_columns

        columns = negative_columns(pairs)
        if columns:
            raise typer.BadParameter(
                f"{pairs} brings its own negatives ({', '.join(columns)}); leave CORPUS and "
                "--num-negatives away",
                param_hint="PAIRS",
            )


def _show(report: RunReport) -> None:
    from stope.cli.training import metrics_table

    done = report.training
    console = Console()
    console.print(
        f"{done.steps:,} steps in {done.seconds:.1f} s, last loss {done.losses[-1]:.4f}, in "
        f"{report.model}",
        highlight=False,
        soft_wrap=True,
    )
    wide = Console(width=None if console.is_terminal else 120)
    for title, before, after in (
        ("held-out queries", report.before, report.after),
        ("test queries", report.test_before, report.test_after),
    ):
        if before:
            wide.print(metrics_table(title, before, after))
            first = next(iter(before))
            if after[first] < before[first]:
                console.print(
                    f"Training made {first} worse; try a lower learning rate, fewer epochs, a "
                    "larger relative margin of the negatives, or more pairs.",
                    highlight=False,
                    soft_wrap=True,
                )
    console.print(
        f"The model is {report.model}; try it: stope search queries.tsv corpus.jsonl --encoder "
        f"{report.model}",
        highlight=False,
        soft_wrap=True,
    )

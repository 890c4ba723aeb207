"""`stope train`: a retriever from one's own pairs, or as a configuration says."""

from __future__ import annotations

import json
import signal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from stope._extras import need
from stope.cli import options, student, terminal
from stope.cli.options import option, switch, without_effect
from stope.cli.terminal import reported
from stope.cli.trained import show_report
from stope.scale.processes import launched, meet, processes

_YAML = (".yaml", ".yml")
_HOLDOUT = 0.1
_FEWEST_TO_HOLD_OUT = 100


class Preset(str, Enum):
    """Kinds of models."""

    static = "static"
    transformer = "transformer"
    base = "base"


class Precision(str, Enum):
    """Precisions of the loss."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def _print_example(wanted: bool) -> None:
    if wanted:
        from stope.runs import Config
        from stope.runs.yaml_text import example

        typer.echo(example(Config))
        raise typer.Exit


def _print_schema(wanted: bool) -> None:
    if wanted:
        from stope.runs import Config

        typer.echo(json.dumps(Config.json_schema(), indent=1))
        raise typer.Exit


@reported
@options.shared(options.of_pairs, before="threads", without=("query_id_column",))
def train(
    context: typer.Context,
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS|CONFIG|CORPUS",
            help="Queries with their positives, or what [b]stope mine[/b] wrote as triplet or "
            "n-tuple: .jsonl, .tsv, .csv (also .gz), .parquet; or a BEIR folder. Or a "
            "configuration: .yaml. With --teacher also documents alone.",
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
        option(
            "Folder for the model, new or empty; the run is kept in OUTPUT.run.", "--output", "-o"
        ),
    ] = Path("model"),
    encoder: Annotated[
        str | None,
        option(
            "Folder or name of the sentence-transformers model to start from.",
            default="a static model, from scratch",
            metavar="PATH",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        option(
            "Folder or name of a sentence-transformers model that a static model learns from, "
            "before it is trained on the pairs or without any. A cross-encoder, a late-interaction "
            "model, a file of scores, and any teacher of an --encoder teach by their scores of "
            "--num-negatives.",
            default=False,
            metavar="PATH",
        ),
    ] = None,
    num_negatives: Annotated[
        int,
        option(
            "After in-batch training go on with so many hard negatives per query, mined with "
            "the model; they stay only if held-out queries gain by more than chance.",
            "--num-negatives",
            "-n",
            min=0,
        ),
    ] = 0,
    guard: Annotated[
        bool,
        option(
            "Without it negatives and weights are there from the first step, and stay.",
            "--guard/--no-guard",
            default="with --num-negatives or --weighting",
        ),
    ] = True,
    relative_margin: Annotated[
        float, option("Of the mining; see [b]stope mine[/b].", min=0.0)
    ] = 0.05,
    among: Annotated[
        options.Among, option("Mine only documents that are a positive of some query, or all.")
    ] = options.Among.positives,
    weighting: Annotated[
        str | None, option("Which pairs count more, such as progressive.", default="none")
    ] = None,
    holdout: Annotated[
        float | None,
        option(
            "Share or number of the queries to hold out and judge by, half of them with all that "
            "share their positives; 0: none.",
            default="the split dev of a BEIR folder, else 0.1 of 100 queries or more",
            min=0.0,
        ),
    ] = None,
    exclude: options.Exclude = None,
    preset: Annotated[
        Preset | None,
        option(
            "Whose batch size, epochs and learning rate are chosen: a static encoder's, those of a "
            "transformer that retrieves already, or of a base one that never did (better for both "
            "where there are some hundred pairs).",
            default="by the model",
        ),
    ] = None,
    epochs: Annotated[int | None, option("Passes over the pairs.", default="chosen", min=1)] = None,
    batch_size: Annotated[int | None, option("Pairs per batch.", default="chosen", min=2)] = None,
    learning_rate: Annotated[float | None, option("Peak learning rate.", default="chosen")] = None,
    max_tokens: Annotated[
        int | None, option("Cut texts after so many tokens.", default="the model's own", min=1)
    ] = None,
    temperature: Annotated[float, option("Of the contrastive loss.")] = 0.05,
    precision: Annotated[
        Precision,
        option("Of the contrastive loss; bfloat16 is faster on AVX-512 with BF16, and with AMX."),
    ] = Precision.float32,
    seed: Annotated[int, option("Of weights and order.", min=0)] = 0,
    code: Annotated[bool, switch("--code", "Split identifiers (snake_case, camelCase).")] = False,
    changes: Annotated[
        list[str] | None,
        option(
            "Replace a value of the configuration; may be repeated.",
            "--set",
            default=False,
            metavar="SECTION.KEY=VALUE",
        ),
    ] = None,
    resume: Annotated[bool, switch("--resume", "Go on with a run that was interrupted.")] = False,
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
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            metavar="",
            help="Print the JSON schema of a configuration, for editors that check YAML.",
            callback=_print_schema,
            is_eager=True,
        ),
    ] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a retriever on pairs or as a configuration says, judge it, and save it.

    The model written is a sentence-transformers folder: give it to --encoder of other commands.

    [b]Examples:[/b] stope train pairs.tsv corpus.jsonl -o model --num-negatives 5
    · stope train corpus.txt --teacher all-MiniLM-L6-v2 -o model
    · stope train --example > config.yaml · stope train config.yaml
    """
    import transformers

    from stope.runs import Config, run

    quiet_libraries: Any = transformers.utils.logging
    quiet_libraries.disable_progress_bar()  # of reading and writing weights
    if pairs.suffix.lower() in _YAML:
        context.meta[terminal.NAMES_KEYS] = True
        says = {"pairs", "changes", "resume", "threads", "as_json", "quiet", "debug"}
        says |= {"example", "schema"}
        without_effect(
            context,
            {parameter.name or "" for parameter in context.command.params} - says,
            "a configuration says this itself; change it there or with --set",
        )
        config = Config.from_yaml(pairs, changes or [])
        if threads is not None:
            config = Config.from_dict(
                {
                    **config.to_dict(),
                    "schedule": {**config.to_dict()["schedule"], "threads": threads},
                }
            )
        command = f"stope train {pairs}" + "".join(f" --set {change}" for change in changes or [])
    else:
        without_effect(
            context,
            ["changes"],
            "it changes a configuration; these files have options of their own",
        )
        options.set_threads(threads)
        if teacher is not None and student.documents_alone(
            pairs, corpus, context.params["text_column"]
        ):
            if launched() > 1:
                raise typer.BadParameter(
                    "one process fits a student; start it without torchrun", param_hint="--teacher"
                )
            student.distil(context, pairs, teacher, code, output, quiet)
            return
        if pairs.name.endswith((".txt", ".txt.gz")):
            raise typer.BadParameter(
                f"{pairs} holds documents and no queries; give pairs first, or documents alone "
                "with --teacher",
                param_hint="PAIRS",
            )
        options.of_files(context, pairs, corpus)
        if not num_negatives:
            idle = ["relative_margin", "among", *([] if weighting else ["guard"])]
            without_effect(context, idle, "it has no effect without --num-negatives")
        source = {**options.of_source(context), "path": str(pairs)}
        if not pairs.is_dir():
            del source["unknown_ids"]
        _check_files(pairs, corpus, num_negatives, output, resume)
        guarded = guard and bool(num_negatives or weighting)
        distils = teacher is not None and _distils(teacher, encoder, num_negatives)
        sections: dict[str, Any] = {
            "data": source,
            "encoder": _encoder(encoder, None if distils else teacher, code, max_tokens),
            "loss": {"temperature": temperature, "precision": precision.value},
            "weighting": weighting,
            "schedule": {
                "preset": preset and preset.value,
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "seed": seed,
                "threads": threads,
            },
            "evaluation": _evaluation(pairs, holdout, guarded),
            "guard": guarded,
            "output": {"folder": f"{output}.run", "model": str(output)},
        }
        if num_negatives:
            sections["negatives"] = {
                "mode": "periodic",
                "every_epochs": 1,
                "among": among.value,
                "num_negatives": num_negatives,
                "relative_margin": relative_margin,
            }
        if distils:
            sections |= {"teacher": teacher, "distillation": "listwise"}
        config = Config.from_dict(sections)
        command = "the same command"
    if launched() > 1:
        command = "the same command"
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # torchrun's, if another one ends
    meet(need("torch", extra="train"))
    here, _ = processes()
    if here == 0:
        _say_afresh(Path(config.output.folder), resume)
    with terminal.one_bar(quiet or here > 0) as bar:

        def say(sentence: str) -> None:
            if quiet and "; left out: " in sentence:  # of a source: as other commands do
                terminal.say(f"{sentence}.")
            bar.say(sentence)

        try:
            report = run(config, resume=resume, progress=bar.show, say=say)
        except BaseException as error:
            if launched() > 1:  # torchrun asks to end, perhaps again; first it is said why
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            if not isinstance(error, KeyboardInterrupt):
                raise
            bar.close()
            terminal.say_once(
                f"interrupted; nothing is lost: {command} --resume goes on from the last "
                "checkpoint."
            )
            raise typer.Exit(130) from None
    if here > 0:
        return
    terminal.give({**report.to_dict(), "folder": str(report.folder), "model": str(report.model)})
    show_report(report, config.data, keys=bool(context.meta.get(terminal.NAMES_KEYS)))


def _distils(teacher: str, encoder: str | None, num_negatives: int) -> bool:
    """Whether a teacher is one of mined negatives, not of a static student's embeddings."""
    from stope.mining.teachers import kind_of_model

    try:
        scores = Path(teacher).is_file() or kind_of_model(teacher) != "SentenceTransformer"
    except ValueError:  # which loading it explains
        scores = False
    if not scores and encoder is None:
        return False
    if not num_negatives:
        kinds = "a cross-encoder, a late-interaction model or a file of scores"
        what = kinds if encoder is None else "beside --encoder"
        raise typer.BadParameter(
            f"a teacher ({what}) teaches by its scores of mined negatives; give --num-negatives, "
            "such as 5",
            param_hint="--teacher",
        )
    return True


def _encoder(
    name: str | None, teacher: str | None, code: bool, max_tokens: int | None
) -> dict[str, Any]:
    if teacher is not None:
        if max_tokens is not None:
            raise typer.BadParameter(
                "a student of --teacher does without it; leave it out", param_hint="--max-tokens"
            )
        return {"student": {"teacher": options.model_path(teacher, "--teacher"), "code": code}}
    if name is None:
        return {"static": {"code": code, "max_tokens": max_tokens}}
    if code:
        raise typer.BadParameter("it is for a static encoder; leave it out", param_hint="--code")
    return {"model": options.model_path(name), "max_tokens": max_tokens}


def _evaluation(pairs: Path, holdout: float | None, guarded: bool) -> dict[str, Any] | None:
    """The split dev where there is one, else some queries held out, if there are enough.

    A guard needs some in any case.
    """
    metrics = ["nDCG@10", "MRR@10", "R@100"]
    if holdout == 0:
        if guarded:
            raise ValueError(
                "--holdout is 0, but negatives and weights stay only where held-out queries gain; "
                "leave --holdout out, or keep them unjudged with --no-guard"
            )
        return None
    if holdout is not None:
        return {"holdout": holdout, "metrics": metrics}
    if pairs.is_dir():
        files = (pairs / "qrels" / f"dev{ending}" for ending in (".tsv", ".tsv.gz"))
        if any(map(Path.exists, files)):
            return {"split": "dev", "metrics": metrics}
    if guarded or (not pairs.is_dir() and _has_enough(pairs)):
        return {"holdout": _HOLDOUT, "metrics": metrics}
    return None


def _has_enough(pairs: Path) -> bool:
    from stope.data import read_rows

    rows = enumerate(read_rows(pairs), start=1)
    return any(number >= _FEWEST_TO_HOLD_OUT for number, _ in rows)


def _check_files(
    pairs: Path, corpus: Path | None, num_negatives: int, output: Path, resume: bool
) -> None:
    """Refuse, before any work, what cannot be trained on and where nothing can be written."""
    options.check_model_folder(output, resume)
    if not pairs.is_dir() and (num_negatives or corpus is not None):
        from stope.data import read_rows
        from stope.data.readers.columns import negative_columns_of

        columns = negative_columns_of(next((row for _, row in read_rows(pairs)), {}))
        if columns:
            raise typer.BadParameter(
                f"{pairs} brings its own negatives ({', '.join(columns)}); leave CORPUS and "
                "--num-negatives out",
                param_hint="PAIRS",
            )


def _say_afresh(folder: Path, resume: bool) -> None:
    """Say that there is nothing to resume, which a wrong folder would have hidden."""
    from stope.runs.folder import STATE

    if resume and not (folder / STATE).exists():
        terminal.say(f"{folder} holds no run to go on with; this one starts afresh.")

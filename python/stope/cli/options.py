"""Options that several subcommands have, and the checks of what was given to them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import stope

FILES = "Columns and files"
# What is read in a BEIR folder, and what a mining job keeps: no output of a command is one of them.
_FILES_OF_FOLDERS = (
    *(f"{name}.jsonl{ending}" for name in ("corpus", "queries") for ending in ("", ".gz")),
    *("negatives.parquet", "counts.parquet", "job.json"),
)


def option(
    text: str, *names: str, default: Any = True, panel: str | None = None, **more: Any
) -> Any:
    """An option: its help, its names, what its help gives as the default, and its limits."""
    return typer.Option(*names, help=text, show_default=default, rich_help_panel=panel, **more)


def switch(name: str, text: str, panel: str | None = None) -> Any:
    """An option that is given or not."""
    return typer.Option(name, metavar="", help=text, rich_help_panel=panel)


def _column(text: str) -> Any:
    return option(text, default="found by name", panel=FILES)


class Metric(str, Enum):
    """Similarities."""

    cosine = "cosine"
    dot = "dot"
    euclidean = "euclidean"


class Among(str, Enum):
    """Which documents may be negatives."""

    positives = "positives"
    corpus = "corpus"


class UnknownIds(str, Enum):
    """What becomes of judgements whose query or document is not there."""

    error = "error"
    drop = "drop"
    keep = "keep"


Debug = Annotated[bool, switch("--debug", "Show the traceback of a failure.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No progress bars.")]
Json = Annotated[bool, switch("--json", "Print one JSON object in place of lines and tables.")]
Threads = Annotated[
    int | None, option("Threads of the search.", default="all cores", min=1, max=1024)
]
BatchSize = Annotated[int, option("Texts per call of the encoder.", min=1)]
Split = Annotated[str, option("Split of a BEIR folder.", panel=FILES)]
CorpusColumn = Annotated[str | None, _column("Column of the texts in CORPUS.")]
IdColumn = Annotated[str | None, _column("Column of the ids in CORPUS.")]
QueryColumn = Annotated[str | None, _column("Column of the queries.")]
PositiveColumn = Annotated[str | None, _column("Column of the positives.")]
QueryIdColumn = Annotated[str | None, _column("Column of the queries' ids.")]
LabelColumn = Annotated[str | None, _column("Column that says whether a row's document answers.")]
PositivesAreIds = Annotated[
    bool, switch("--positive-ids", "The positives in PAIRS are ids of CORPUS, not texts.", FILES)
]
MinRelevance = Annotated[
    float | None, option("Least label, score or judgement of an answer.", default="1", panel=FILES)
]
IgnoreLabels = Annotated[
    bool,
    switch("--ignore-labels", "Every row is an answer, whatever its label or score.", FILES),
]
SkipEmpty = Annotated[
    bool, switch("--skip-empty", "Leave out rows without text, and count them.", FILES)
]
Exclude = Annotated[
    list[Path] | None,
    option(
        "Documents that are no negatives, by ids: rows of document_id, with query_id where it is "
        "so for one query, as [b]stope report[/b] exports them; or .txt, an id a line. May be "
        "repeated.",
        default="none",
        panel="Which documents may be negatives",
    ),
]
OfUnknownIds = Annotated[
    UnknownIds,
    option("Judgements of a BEIR folder whose query or document is missing there.", panel=FILES),
]


def shared(
    declared: Callable[..., None], *, before: str | None = None, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give commands the options that a function declares, which are read from their context.

    Args:
        before: the command's parameter that they stand before; default, they are last.
        without: those that the command does not have, or declares in its own words.
    """
    all_have = inspect.signature(declared, eval_str=True).parameters
    more = [each for name, each in all_have.items() if name not in without]

    def join(command: Callable[..., None]) -> Callable[..., None]:
        mine = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def run(**chosen: Any) -> None:
            command(**{name: chosen[name] for name in mine.parameters})

        parameters = [*mine.parameters.values()]
        place = len(parameters) if before is None else [*mine.parameters].index(before)
        parameters[place:place] = more
        made: Any = run
        made.__signature__ = mine.replace(
            parameters=[each.replace(kind=each.KEYWORD_ONLY) for each in parameters]
        )
        made.__annotations__ = {each.name: each.annotation for each in parameters}
        return made  # type: ignore[no-any-return]

    return join


def of_pairs(
    *,
    split: Split = "train",
    unknown_ids: OfUnknownIds = UnknownIds.error,
    query_column: QueryColumn = None,
    positive_column: PositiveColumn = None,
    text_column: CorpusColumn = None,
    id_column: IdColumn = None,
    query_id_column: QueryIdColumn = None,
    positive_ids: PositivesAreIds = False,
    label_column: LabelColumn = None,
    min_relevance: MinRelevance = None,
    ignore_labels: IgnoreLabels = False,
    skip_empty: SkipEmpty = False,
) -> None:
    """The options of how pairs are read: fields of a `stope.data.Source`, for `shared`."""


OF_PAIRS = tuple(inspect.signature(of_pairs).parameters)


def without_effect(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that were given and would change nothing, with the reason."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in set(names) and source is not None and source.name == "COMMANDLINE":
            is_option = parameter.param_type_name == "option"
            said = max(parameter.opts, key=len) if is_option else str(parameter.metavar)
            raise typer.BadParameter(why, ctx=context, param_hint=said)


def of_files(context: typer.Context, path: Path, corpus: Path | None) -> None:
    """Refuse, beside files, what is for BEIR folders, and beside a folder what is for files."""
    of_folders = {"split", "unknown_ids"}
    if path.is_dir():
        if corpus is not None:
            raise ValueError(f"{path} is a folder, which brings its own corpus; leave {corpus} out")
        columns = {*OF_PAIRS} - of_folders - {"min_relevance", "positive_ids"}
        without_effect(context, columns, f"{path} is a BEIR folder, which has no columns")
        without_effect(context, ["positive_ids"], f"{path} is a BEIR folder, with ids in its qrels")
        return
    why = f"{path} is a file; this is for BEIR folders"
    without_effect(context, of_folders, why)
    if corpus is None:
        without_effect(
            context, ["text_column", "id_column"], "it is about CORPUS, and there is none"
        )


def of_source(context: typer.Context) -> dict[str, Any]:
    """What the command's options say of a `stope.data.Source`, by the names of its fields."""
    from stope.data import Source

    known = {field.name for field in dataclasses.fields(Source)}
    plain = {n: getattr(value, "value", value) for n, value in context.params.items() if n in known}
    return {name: value for name, value in plain.items() if value is not None}


def set_threads(count: int | None) -> None:
    """Size the thread pool of the core, where the option was given."""
    if count is not None:
        stope.set_num_threads(count)


def check_outputs(
    inputs: Iterable[Path | None], outputs: Iterable[tuple[Path | None, tuple[str, ...]]]
) -> None:
    """Refuse, before any work, files that could not be written, or that would replace an input."""
    known = [path.resolve() for path in inputs if path is not None]
    known += [(folder / name).resolve() for folder in known for name in _FILES_OF_FOLDERS]
    for path, endings in outputs:
        if path is None:
            continue
        if not path.name.endswith(endings):
            raise ValueError(f"cannot write {path}: its name must end in {', '.join(endings)}")
        if path.is_dir():
            raise ValueError(f"cannot write {path}: it is a folder; name a file")
        file = path.resolve()  # what a link leads to is written
        _check_folder(file if path.is_symlink() else path)
        if file in known:
            raise ValueError(f"cannot write {path}: it is read or written already; name another")
        known.append(file)


def _check_folder(path: Path) -> None:
    """Refuse a path whose folder is not there, or takes no file."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"cannot write {path}: the folder {path.parent} may not be written to; name another"
        )


def check_new_folder(folder: Path) -> None:
    """Refuse a file where a folder is made, unless it is there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot write {folder}: it is a file; name a folder")


def check_model_folder(output: Path, resume: bool = False) -> None:
    """Refuse, before any work, a folder that a model could not be written to."""
    if not resume and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"cannot write {output}: it exists and is not an empty folder; name another"
        )
    _check_folder(output)


def model_path(name: str, option: str = "--encoder") -> str:
    """Folder or name of a model, as an option has it; a path that is no folder is refused.

    Otherwise the hub would be asked for a model of that name.
    """
    is_path = name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name
    if not is_path:
        return name
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{option} {name}: there is no such folder; check the name")
    return str(folder)


def load_encoder(name: str) -> Any:
    """Load the sentence-transformers model that --encoder names."""
    from stope.encoders import load_encoder as load

    return load(model_path(name))

"""What all subcommands share: errors as sentences, progress bars, options of the same meaning."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import stope

P = ParamSpec("P")
R = TypeVar("R")

_FILES = "Columns and files"

Debug = Annotated[
    bool, typer.Option("--debug", metavar="", help="Show the traceback of a failure.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="No progress bars.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the search.", show_default="all cores", min=1)
]
Encoder = Annotated[
    str | None,
    typer.Option(help="Folder or name of a sentence-transformers model.", metavar="PATH"),
]
BatchSize = Annotated[int, typer.Option(help="Texts per call of the encoder.", min=1)]


class Metric(str, Enum):
    """Similarities."""

    cosine = "cosine"
    dot = "dot"
    euclidean = "euclidean"


def _column(text: str) -> Any:
    return typer.Option(help=text, show_default="found by name", rich_help_panel=_FILES)


Split = Annotated[str, typer.Option(help="Split of a BEIR folder.", rich_help_panel=_FILES)]
CorpusColumn = Annotated[str | None, _column("Column of the texts in CORPUS.")]
IdColumn = Annotated[str | None, _column("Column of the ids in CORPUS.")]
QueryColumn = Annotated[str | None, _column("Column of the queries.")]
PositiveColumn = Annotated[str | None, _column("Column of the positives.")]
PositivesAreIds = Annotated[
    bool,
    typer.Option(
        "--positive-ids",
        metavar="",
        help="The positives in PAIRS are ids of CORPUS, not texts.",
        rich_help_panel=_FILES,
    ),
]


def reported(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a failure into one sentence on stderr and exit code 1, Ctrl-C into 130."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted; no half-written file was left.")
            raise typer.Exit(130) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.BadParameter | typer.Abort):
                raise
            if kwargs.get("debug"):
                traceback.print_exc()
            else:
                say(_sentence(error))
            raise typer.Exit(1) from None

    return wrapper


def say(message: str) -> None:
    """Print one line to stderr."""
    print(f"stope: {message}", file=sys.stderr)


def _sentence(error: Exception) -> str:
    expected = isinstance(error, ValueError | TypeError | OSError | ImportError)
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        text = error.strerror
    elif isinstance(error, OSError) and error.strerror:
        text = f"cannot open {error.filename}: {error.strerror}"
    else:
        text = str(error)
    text = " ".join(text.split()) or type(error).__name__
    if not expected and not isinstance(error, RuntimeError):
        text = f"{type(error).__name__}: {text}"
    hint = "" if expected else " (--debug shows the traceback)"
    return text.rstrip(".") + hint + "."


def stderr_progress(quiet: bool) -> Progress:
    """Rich's bars with counts and times; silent where stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )


class Bars:
    """Progress bars on stderr, one per stage; silent where stderr is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """Move the bar of this stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """Return a callback (done, total) for one stage."""
        return functools.partial(self.show, name)


@contextmanager
def bars(quiet: bool) -> Iterator[Bars]:
    """Show progress bars while the block runs."""
    with stderr_progress(quiet) as progress:
        yield Bars(progress)


def set_threads(count: int | None) -> None:
    """Size the thread pool of the core, where the option was given."""
    if count is not None:
        stope.set_num_threads(count)


def check_output(path: Path, *endings: str) -> None:
    """Refuse, before any work, a path that could not be written at the end."""
    if not path.name.endswith(endings):
        raise ValueError(f"cannot write {path}: its name must end in {', '.join(endings)}")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; name a file")
    if not path.parent.is_dir():
        raise ValueError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        )


def check_folder(folder: Path, corpus: Path | None, **columns: str | None) -> None:
    """Refuse, beside a BEIR folder, another corpus and the names of columns."""
    if corpus is not None:
        raise ValueError(f"{folder} is a folder, which brings its own corpus; leave {corpus} away")
    for name, given in columns.items():
        if given is not None:
            option = name.replace("_", "-")
            raise ValueError(
                f"{folder} is a BEIR folder, which has no columns; leave --{option} away"
            )


def model_path(name: str) -> str:
    """Folder or name of a model, as --encoder has it; a path that is no folder is refused.

    Otherwise the hub would be asked for a model of that name.
    """
    is_path = name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name
    if not is_path:
        return name
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--encoder {name}: there is no such folder")
    return str(folder)


def load_encoder(name: str) -> Any:
    """Load the sentence-transformers model that --encoder names."""
    from stope.encoders import load_encoder as load

    return load(model_path(name))


def load_embeddings(path: Path) -> Any:
    """Map a .npy array of two dimensions."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise ValueError(f"{path} must hold one array of two dimensions (texts, dim)")
    return array

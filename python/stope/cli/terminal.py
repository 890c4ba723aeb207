"""What a person sees of a command: sentences, tables, bars and errors, on stdout and stderr.

All text goes through `clean` here and is given to rich as `Text`, so that control characters of ids
and square brackets in paths are shown, and do nothing.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from stope._checks import counted_all
from stope.scale.processes import first_to_say

P = ParamSpec("P")
R = TypeVar("R")

_COUNTS = re.compile(r"[\d,]+ of [\d,]+$")
_PAUSE = 10.0  # seconds between two lines about the same
_PATIENCE = 2.0  # before the first
_WIDTH = 120  # where stdout is no terminal
_SECTION = r"(?:(?:data|encoder|loss|negatives|training|schedule|evaluation|output)(?:\[\d+\])?\.)"
_JSON = ContextVar("json", default=False)  # whether stdout gets one JSON object and nothing else
NAMES_KEYS = "stope.names_keys"  # in a context's meta: what went wrong is named as in a YAML file


def clean(text: object) -> str:
    r"""The text on one line, with what a terminal would obey or could not show written out.

    >>> clean("a\x1b[31mb\nc")
    'a\\x1b[31mb c'
    """
    words = " ".join(re.split(r"[ \t\r\n]+", str(text)))
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words
    ).strip(" ")


def say(message: str) -> None:
    """Print one line to stderr."""
    print(f"stope: {clean(message)}", file=sys.stderr)


def say_left_out(path: object, skipped: Mapping[str, int]) -> None:
    """Say what of a file was left out, by reason, if anything was."""
    if told := counted_all(skipped):
        say(f"{path}: left out: {told}.")


def say_once(message: str) -> None:
    """`say`, unless another of the processes that torchrun started has said the same."""
    if first_to_say(message):
        say(message)


def tell(message: str) -> None:
    """Print one line to stdout."""
    if _JSON.get():
        return
    Console().print(Text(clean(message)), soft_wrap=True)


def show_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    named: bool = True,
    words: int = 1,
) -> None:
    """Print a table to stdout: the first columns, of words, to the left, numbers to the right."""
    if _JSON.get():
        return
    table = Table(title=Text(clean(title)), title_justify="left", show_header=named)
    for place, name in enumerate(header):
        table.add_column(Text(clean(name)), justify="left" if place < words else "right")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    console.print(table)


def show_counts(title: str, counts: Mapping[str, int | str]) -> None:
    """Print a table of what was counted."""
    rows = [(k, f"{v:,}" if isinstance(v, int) else v) for k, v in counts.items()]
    show_table(title, ["", ""], rows, named=False)


def give(facts: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout where --json asks for it, in place of lines and tables."""
    if _JSON.get():
        print(json.dumps(facts))  # in ASCII, whatever stdout takes


def beginning(text: str, width: int = 40) -> str:
    r"""The beginning of a text, on one line of at most so many characters.

    >>> beginning("the ore of\nthe mine", 12)
    'the ore of …'
    """
    line = clean(text[: 4 * width])
    return line if len(line) <= width else line[: width - 1] + "…"


def side_by_side(first: str, second: str, width: int = 50) -> tuple[str, str]:
    """Two texts on one line each, from shortly before the place where they begin to differ.

    >>> side_by_side("a " * 40 + "pit", "a " * 40 + "mine", 20)
    ('…a a a pit', '…a a a mine')
    """
    lines = clean(first), clean(second)
    unlike = (place for place, (a, b) in enumerate(zip(*lines, strict=False)) if a != b)
    same = next(unlike, min(map(len, lines)))
    start = max(0, same - width // 3) if same > width // 2 else 0
    shown = [("…" if start else "") + line[start:].lstrip() for line in lines]
    return beginning(shown[0], width), beginning(shown[1], width)


def reported(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a failure into one sentence on stderr and exit code 1, Ctrl-C into 130."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _JSON.set(bool(kwargs.get("as_json")))
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            on = "; the same command goes on from what --cache keeps" if kwargs.get("cache") else ""
            say_once(f"interrupted; no half-written file was left{on}.")
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort):
            raise
        except typer.BadParameter as error:
            error.message = clean(error.message)
            raise
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            else:
                say_once(_with_options(_sentence(error), kwargs.get("context")))
            raise typer.Exit(1) from None
        finally:
            _JSON.reset(token)

    return wrapper


def _sentence(error: Exception) -> str:
    expected = isinstance(error, ValueError | TypeError | OSError | ImportError)
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        text = error.strerror
    elif isinstance(error, OSError) and error.strerror:
        text = f"cannot open {error.filename}: {error.strerror}"
    else:
        text = str(error)
    text = text.strip() or type(error).__name__
    if not expected and not isinstance(error, RuntimeError):
        text = f"{type(error).__name__}: {text}"
    hint = "" if expected else " (--debug shows the traceback)"
    return text.rstrip(".") + hint + "."


def _with_options(message: str, context: Any) -> str:
    """Name options where the library names arguments, which no one at a terminal can pass."""
    if context is None:
        return message
    if context.meta.get(NAMES_KEYS):
        return _renamed(message, "resume", "--resume")
    for parameter in context.command.params:
        if parameter.param_type_name == "option" and parameter.name is not None:
            message = _renamed(message, parameter.name, max(parameter.opts, key=len))
    return message


def _renamed(message: str, name: str, option: str) -> str:
    """The message with an argument's name as an option's.

    >>> _renamed('x.tsv:1: unknown; pass unknown_ids="drop" to go on', "unknown_ids", "--unknown")
    'x.tsv:1: unknown; pass --unknown drop to go on'
    >>> _renamed("training.epochs is 0; epochs are counted", "epochs", "--epochs")
    '--epochs is 0; epochs are counted'
    """
    before, after = r"(?<![\w.\-/])", r"(?![\w\-/]|\.\w)"
    message = re.sub(rf"(?:pass|give) {name}=None\b", f"leave {option} out", message)
    message = re.sub(rf"{before}{name}=True\b", option, message)
    message = re.sub(rf"{before}{name}=([\"']?)([\w.]+)\1", rf"{option} \2", message)
    message = re.sub(rf"{before}{_SECTION}(?:\w+\.)?{name}{after}", option, message)
    place = before if "_" in name else r"^(?:data: )?"  # a plain word may be a word of the sentence
    verb = after if "_" in name else r"(?=: | (?:is|has|holds|must|names|asks)\b)"
    return re.sub(rf"{place}{name}{verb}", option, message)


class _Description(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(clean(task.description))


def _progress(quiet: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        _Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )


class _Lines:
    """Lines now and then about what takes longer than two seconds, where there are no bars."""

    def __init__(self, progress: Progress, quiet: bool) -> None:
        self._wanted = not quiet and not progress.console.is_terminal
        self._began = time.monotonic()
        self._next: dict[str, float] = {}

    def show(self, what: str, done: int, total: int) -> None:
        """Say how far it is, if it is time."""
        now = time.monotonic()
        if self._wanted and now >= self._next.setdefault(what, now + _PATIENCE):
            self._next[what] = now + max(_PAUSE, 0.1 * (now - self._began))
            say(f"{what}: {done:,} of {total:,}.")


class Bars:
    """Progress bars on stderr, one per stage; lines where stderr is no terminal."""

    def __init__(self, progress: Progress, quiet: bool) -> None:
        self._progress = progress
        self._lines = _Lines(progress, quiet)
        self._tasks: dict[str, TaskID] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """Move the bar of this stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)
        self._lines.show(stage, done, total)

    def stage(self, name: str) -> Callable[[int, int], None]:
        """Return a callback (done, total) for one stage."""
        return functools.partial(self.show, name)


class Bar:
    """One bar on stderr that says what is being done; lines where stderr is no terminal."""

    def __init__(self, progress: Progress, quiet: bool) -> None:
        self._progress = progress
        self._quiet = quiet
        self._lines = _Lines(progress, quiet)
        self._live = progress.console.is_terminal and not quiet
        self._task = progress.add_task("starting", total=None)
        self._about, self._next = "", 0.0

    def say(self, sentence: str) -> None:
        """What is done next; how far it is only now and then where lines are printed."""
        if self._live:
            self._progress.update(self._task, description=sentence)
            return
        counts = _COUNTS.search(sentence)
        about = sentence[: counts.start()] if counts else sentence
        if about == self._about and time.monotonic() < self._next:
            return
        self._about, self._next = about, time.monotonic() + _PAUSE
        if not self._quiet:
            say(f"{sentence}.")

    def show(self, done: int, total: int) -> None:
        """How much is done of what was said last."""
        self._progress.update(self._task, completed=done, total=total)
        self._lines.show("done", done, total)

    def close(self) -> None:
        """Leave the terminal to what is printed next."""
        self._progress.stop()


@contextmanager
def bars(quiet: bool) -> Iterator[Bars]:
    """Show a bar for each stage while the block runs."""
    with _progress(quiet) as progress:
        yield Bars(progress, quiet)


@contextmanager
def one_bar(quiet: bool) -> Iterator[Bar]:
    """Show a `Bar` while the block runs."""
    with _progress(quiet) as progress:
        yield Bar(progress, quiet)

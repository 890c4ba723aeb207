"""The `stope` command: one thin subcommand per pipeline; each lives in a file of `stope.cli`.

Exit codes: 0 done, 1 failure (one sentence on stderr), 2 wrong usage, 130 Ctrl-C, 141 where nobody
reads what is printed. Results go to files and stdout, progress and messages to stderr.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import stope
from stope.cli.bench import bench
from stope.cli.cluster import cluster
from stope.cli.dedup import dedup
from stope.cli.demo import demo
from stope.cli.doctor import doctor
from stope.cli.evaluate import evaluate
from stope.cli.graph import graph
from stope.cli.mine import mine
from stope.cli.on_ray import Command
from stope.cli.plan import plan
from stope.cli.report import report
from stope.cli.search import search
from stope.cli.select import select
from stope.cli.train import train
from stope.scale.processes import first_to_say

_WrongUsage: Any = typer.BadParameter.__base__  # typer keeps it elsewhere in each version


@contextmanager
def _said_once() -> Iterator[None]:
    """Of the processes that torchrun started, let one alone say what is wrong with the words."""
    try:
        yield
    except _WrongUsage as error:
        if not first_to_say(error.format_message()):
            raise typer.Exit(error.exit_code) from None
        raise


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _said_once():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _said_once():
            return super().invoke(ctx)


app = typer.Typer(
    name="stope",
    cls=_Commands,
    help="Exact retrieval and hard-negative mining, and retrievers trained with them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stope {stope.build_info()['version']}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            help="Print the version.",
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass


for command in (
    demo,
    mine,
    train,
    search,
    evaluate,
    dedup,
    select,
    graph,
    cluster,
    plan,
    report,
    bench,
    doctor,
):
    app.command(cls=Command)(command)

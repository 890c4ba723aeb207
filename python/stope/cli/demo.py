"""`stope demo`: the whole loop on real text that lies on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stope.cli import support
from stope.cli.support import reported


@reported
def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="BEIR folder to use.", show_default="the Python installation itself"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder or name of a sentence-transformers model.",
            metavar="PATH",
            show_default="a static model, trained from scratch",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for results, runs and encoder.", show_default="none"
        ),
    ] = None,
    max_documents: Annotated[
        int, typer.Option(help="Documents taken from the Python installation.", min=100)
    ] = 12_000,
    seed: Annotated[int, typer.Option(help="Of training.", min=0)] = 0,
    threads: support.Threads = None,
    debug: support.Debug = False,
) -> None:
    """Read a corpus, train a retriever, mine its hard negatives, train on, search, and compare.

    Nothing is downloaded: the text is the docstrings and sources of the installed Python packages.
    Under five minutes on two cores.
    """
    support.set_threads(threads)
    from stope.demo import run

    run(
        data,
        encoder,
        output=output,
        seed=seed,
        max_documents=max_documents,
        console=Console(),
    )

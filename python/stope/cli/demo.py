"""`stope demo`: the whole loop on real text that lies on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stope.cli import options, terminal
from stope.cli.options import option
from stope.cli.terminal import reported


@reported
def demo(
    context: typer.Context,
    data: Annotated[
        Path | None, option("BEIR folder to use.", default="the Python installation itself")
    ] = None,
    encoder: Annotated[
        str | None,
        option(
            "Folder or name of a sentence-transformers model.",
            metavar="PATH",
            default="a static model, trained from scratch",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option("Folder for results, runs and encoder.", "--output", "-o", default="none"),
    ] = None,
    max_documents: Annotated[
        int, option("Documents taken from the Python installation.", min=100)
    ] = 12_000,
    seed: Annotated[int, option("Of training.", min=0)] = 0,
    unknown_ids: options.OfUnknownIds = options.UnknownIds.error,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Read a corpus, train a retriever, mine its hard negatives, train on, search, and compare.

    Nothing is downloaded: the text is the docstrings and sources of the installed Python packages.
    Under five minutes on two cores.
    """
    if data is not None:
        options.without_effect(context, ["max_documents"], "it has no effect beside --data")
    else:
        options.without_effect(context, ["unknown_ids"], "it is for the BEIR folder of --data")
    if output is not None:
        options.check_new_folder(output)
    options.set_threads(threads)
    from stope.demo import run

    result = run(
        data,
        encoder,
        output=output,
        seed=seed,
        max_documents=max_documents,
        unknown_ids=unknown_ids.value,
        console=Console(stderr=as_json, force_terminal=False if quiet else None),
    )
    terminal.give(result.to_dict())

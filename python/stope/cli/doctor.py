"""`stope doctor`: what this installation is and what it lacks."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stope.cli import options
from stope.cli.terminal import reported


@reported
def doctor(
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Show the version, compiler, instruction sets, threads and optional packages."""
    from stope.cli.installation import describe, plain_text

    report = describe()
    typer.echo(json.dumps(report, indent=1) if as_json else plain_text(report))

"""`stope doctor`: what this installation is and what it lacks."""

from __future__ import annotations

import typer

from stope.cli import options, terminal
from stope.cli.terminal import reported


@reported
def doctor(
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the version, compiler, instruction sets, threads and optional packages."""
    from stope.cli.installation import describe, plain_text

    report = describe()
    terminal.give(report)
    if not as_json:
        typer.echo(plain_text(report))

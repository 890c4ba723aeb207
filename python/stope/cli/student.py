"""`stope train CORPUS --teacher MODEL`: a student of documents alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from stope.cli import options, terminal
from stope.cli.options import without_effect
from stope.cli.trained import show_model, show_remarks


def documents_alone(pairs: Path, corpus: Path | None, text_column: str | None) -> bool:
    """Whether a file holds texts and no queries."""
    if corpus is not None or pairs.is_dir():
        return False
    if text_column is not None or pairs.name.removesuffix(".gz").endswith(".txt"):
        return True
    from stope.data import read_rows
    from stope.data.readers.columns import QUERY_COLUMNS, TEXT_COLUMNS

    row = {name.lower() for name in next((row for _, row in read_rows(pairs)), {})}
    return row.isdisjoint(QUERY_COLUMNS) and not row.isdisjoint(TEXT_COLUMNS)


_OF_DOCUMENTS = ("pairs", "teacher", "output", "code", "text_column", "id_column", "skip_empty")


def distil(
    context: typer.Context, path: Path, teacher: str, code: bool, output: Path, quiet: bool
) -> None:
    """Write a student of documents alone."""
    says = {*_OF_DOCUMENTS, "threads", "as_json", "quiet", "debug"}
    without_effect(
        context,
        {parameter.name or "" for parameter in context.command.params} - says,
        f"{path} holds documents and no pairs, and a student of them has no training",
    )
    from stope.data import Source, read_texts
    from stope.runs import teaching
    from stope.runs.sections import Student

    options.check_model_folder(output)
    columns = {n: context.params[n] for n in ("text_column", "id_column", "skip_empty")}
    skipped: Counter[str] = Counter()
    _, texts = read_texts(path, **columns, skipped=skipped)
    terminal.say_left_out(path, skipped)
    section = Student(teacher=options.model_path(teacher, "--teacher"), code=code)
    with terminal.one_bar(quiet) as bar:
        try:
            taught = teaching.distil(section, texts, output, progress=bar.show, say=bar.say)
        except KeyboardInterrupt:
            bar.close()
            terminal.say(
                "interrupted; nothing is lost: the same command goes on with the texts that the "
                "teacher has not embedded yet."
            )
            raise typer.Exit(130) from None
    terminal.give({"documents": len(texts), "remarks": taught.remarks, "model": str(output)})
    show_remarks(taught.remarks)
    show_model(output, [Source(path, pairs_from={}, **columns)])

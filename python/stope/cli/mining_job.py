"""`stope mine --job FOLDER`: what its options say of a `stope.mining.MiningJob`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stope._checks import counted
from stope.cli import options, terminal
from stope.cli.options import without_effect

if TYPE_CHECKING:
    from stope.data import Pairs
    from stope.mining import Limits, MiningJob

OF_JOBS = ("quotas", "run", "groups", "teacher", "teacher_margin", "near_positive")


def check(context: typer.Context, folder: Path | None) -> None:
    """Refuse options that are for jobs alone, or not for jobs."""
    chosen = context.params
    if folder is None:
        without_effect(context, OF_JOBS, "it is of a job; name its folder with --job")
        return
    if chosen["teacher"] is not None:
        why = "a teacher scores in this process, and keeps the scores of pairs in the job's folder"
        without_effect(context, ["ray"], why)
    without_effect(context, ["keep_query_text"], "a job never takes a query's own text")
    if chosen["quotas"] is not None:
        without_effect(context, ["num_negatives"], "--quotas says how many negatives there are")
    quotas = {} if chosen["quotas"] is None else quotas_of(chosen["quotas"])
    for source, name in (("run", "run"), ("siblings", "groups")):
        if (chosen[name] is None) is bool(quotas.get(source)):
            raise typer.BadParameter(
                f"the source {source} of --quotas and --{name} go together; give both, or none",
                param_hint="--quotas" if chosen[name] is None else f"--{name}",
            )
    known = chosen["query_embeddings"] is not None and chosen["corpus_embeddings"] is not None
    if chosen["encoder"] is None and not known:
        raise typer.BadParameter(
            "a job needs an --encoder, or embeddings of both sides: a model that is trained here "
            "and now would be another after a kill; train one first (stope train PAIRS -o model)",
            param_hint="--job",
        )


def quotas_of(text: str) -> dict[str, int]:
    """What --quotas says.

    >>> quotas_of("dense=4, bm25=1")
    {'dense': 4, 'bm25': 1}
    """
    quotas: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if not number.isascii() or not number.isdigit() or name in quotas:
            raise typer.BadParameter(
                f"{part.strip()!r} is no source and its number, or names one twice; write it as "
                "dense=4,bm25=1,random=1",
                param_hint="--quotas",
            )
        quotas[name] = int(number)
    return quotas


def make(
    context: typer.Context,
    pairs: Pairs,
    model: Any,
    embeddings: dict[str, Any],
    limits: Limits,
) -> MiningJob:
    """The job of the command's options."""
    from stope.data import read_run
    from stope.mining import MiningJob, Sources, load_teacher

    chosen = context.params
    teacher = chosen["teacher"]
    if teacher is not None:
        teacher = load_teacher(options.model_path(teacher, "--teacher"))
    sources = Sources(
        None if chosen["quotas"] is None else quotas_of(chosen["quotas"]),
        None if chosen["run"] is None else read_run(chosen["run"]),
        None if chosen["groups"] is None else read_groups(chosen["groups"]),
    )
    plain = ("query_prompt", "corpus_prompt", "batch_size", "cache")
    return MiningJob(
        chosen["job"],
        pairs,
        model,
        **embeddings,
        **{name: chosen[name] for name in (*plain, "teacher_margin", "near_positive")},
        limits=limits,
        sources=sources,
        teacher=teacher,
    )


def say_unknown(job: MiningJob) -> None:
    """What of a run or of groups could not be used."""
    for name, count in job.unknown.items():
        if count:
            terminal.say(
                f"--{name}: {counted(count, 'documents')} left out, which the data do not have by "
                "that id (of equal texts the first stands for all)."
            )


def read_groups(path: Path) -> dict[str, str]:
    """The group of each document in a file with ids and a column group or category."""
    from stope.data import read_rows
    from stope.data.readers.columns import ID_COLUMNS, first_of
    from stope.data.readers.fields import id_of, names

    groups: dict[str, str] = {}
    for where, row in read_rows(path):
        document, group = first_of(row, ID_COLUMNS), first_of(row, ("group", "category"))
        if document is None or group is None:
            raise ValueError(
                f"--groups: {where}: an id of a document and its group or category are needed, but "
                f"the columns are {names(row)}; name them document_id and group"
            )
        if row[group] in (None, ""):
            continue
        name, label = id_of(row[document], document, where), id_of(row[group], group, where)
        if groups.setdefault(name, label) != label:
            raise ValueError(
                f"--groups: {where}: the document {name!r} is in two groups, {groups[name]!r} and "
                f"{label!r}; leave it in one"
            )
    return groups

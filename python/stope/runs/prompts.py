"""The prompts of a run: those of the configuration, of single sources, and the model's own."""

from __future__ import annotations

from collections.abc import Mapping

from stope.encoders.prompts import TaskPrompts
from stope.runs.config import Config
from stope.training.negatives.refresh import NegativeRefresh

_DOCUMENT_NAMES = ("document", "passage", "corpus")  # where encode_document looks, in this order


def default_prompts(config: Config) -> dict[str, str]:
    """The prompts that are given for all sources, or for the only one, by role."""
    section = config.prompts
    if len(config.data) == 1 and config.data[0].prompts is not None:
        section = config.data[0].prompts
    return {} if section is None else section.to_dict()


def task_prompts(config: Config, known: Mapping[str, str | None]) -> TaskPrompts | None:
    """The prompts of every source, or None where there are none.

    A model that has prompts of its own is trained with them, since it is used with them, unless the
    configuration has others.

    Args:
        config: of the run.
        known: the model's prompts by name, those of the configuration put in.

    Raises:
        ValueError: sources have prompts of their own while negatives are mined across them.
    """
    default = (
        known.get("query") or "",
        next((text for name in _DOCUMENT_NAMES if (text := known.get(name)) is not None), ""),
    )
    tasks: dict[str | int, tuple[str, str]] = {}
    for source in config.data if len(config.data) > 1 else ():
        if source.prompts is not None:
            query, document = source.prompts.query, source.prompts.document
            tasks[source.title] = (
                default[0] if query is None else query,
                default[1] if document is None else document,
            )
    refresh = config.negatives
    across = isinstance(refresh, NegativeRefresh) and refresh.across_sources
    if across and set(tasks.values()) - {default}:
        raise ValueError(
            "negatives.across_sources mines with the same prompts for all sources, but "
            f"{', '.join(map(str, tasks))} has its own; give all sources the same prompts, or "
            "leave across_sources out"
        )
    return TaskPrompts(tasks, default=default) if tasks or any(default) else None

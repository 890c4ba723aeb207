"""The sections of a configuration that other parts of the library define: checked by them.

Each check keeps the section as a plain mapping, so that it can be written as YAML, after the part
itself has taken it; what the part says against it gets the path of the section in front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from stope.data import Pairs
from stope.runs.options import flag, mapping, plain, unknown, word


def check_weighting(given: Any, path: str) -> dict[str, Any]:
    """A weighting of `stope.weighting`, by name and fields, or by its name alone."""
    from stope.weighting import Weighting

    return dict(_said(path, lambda: Weighting.from_dict(given).to_dict()))


def check_lora(given: Any, path: str) -> dict[str, Any]:
    """The fields of `stope.encoders.Lora`."""
    build_lora(given, path)
    return dict(plain(given))


def build_lora(given: Any, path: str = "encoder.lora") -> Any:
    """The `Lora` of the section."""
    from stope.encoders.lora import Lora

    return from_fields(Lora, given, path)


def check_refresh(given: Any, path: str) -> dict[str, Any]:
    """The fields of `NegativeRefresh`; or the file of mined negatives; and across_sources."""
    if isinstance(given, Mapping) and "file" in given:
        kept = mapping(given, path, ["file"])
        return {"file": word(kept["file"], f"{path}.file")}
    kept = dict(given) if isinstance(given, Mapping) else given
    across = isinstance(kept, dict) and flag(kept.pop(_ACROSS, False), f"{path}.{_ACROSS}")
    found = build_refresh(kept, path).to_dict()
    return dict(plain({**found, _ACROSS: True} if across else found))


_ACROSS = "across_sources"


def build_refresh(given: Any, path: str = "negatives") -> Any:
    """The `NegativeRefresh` of the section."""
    from stope.training.negatives.refresh import NegativeRefresh

    if isinstance(given, str):
        given = {"mode": given}
    if isinstance(given, Mapping):
        given = {name: value for name, value in given.items() if name != _ACROSS}
    return from_fields(NegativeRefresh, given, path)


def to_mine(given: Mapping[str, Any], pairs: Pairs) -> Pairs:
    """The pairs of several sources as they are mined: one by one, or all as one if that is asked.

    Raises:
        ValueError: the mode query_side, unless all as one is asked for.
    """
    if given.get(_ACROSS):
        return dataclasses.replace(pairs, corpus_of=None)
    if given["mode"] == "query_side":
        raise ValueError(
            "negatives.mode is query_side, which searches the documents of all sources together, "
            f"so that a row would get negatives of other sources; allow it with negatives.{_ACROSS}"
            ": true, or choose another mode"
        )
    return pairs


def check_batches(given: Any, path: str) -> dict[str, Any]:
    """How batches are made, by name and fields, or by its name alone."""
    return dict(plain(build_batches(given, path).to_dict()))


def build_batches(given: Any, path: str = "batches") -> Any:
    """The specification of batches of the section."""
    from stope.training.batches import BatchSpec

    return _said(path, lambda: BatchSpec.from_dict(given))


def from_fields(kind: Any, given: Any, path: str) -> Any:
    """Build the dataclass from a mapping of its fields; its own complaints get the path."""
    if isinstance(given, kind):
        return given
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    if not isinstance(given, Mapping):
        raise ValueError(f"{path} is {given!r}; give a mapping with keys of: {', '.join(names)}")
    for key in given:
        if key not in names:
            raise ValueError(unknown(str(key), path, names))
    return _said(path, lambda: kind(**given))


def _said(path: str, build: Callable[[], Any]) -> Any:
    """What build returns; its error with the path in front, where it does not begin so itself."""
    try:
        return build()
    except (TypeError, ValueError) as error:
        text = str(error)
        raise ValueError(text if text.startswith(path) else f"{path}: {text}") from error


_DOCUMENT_NAMES = ("document", "passage", "corpus")  # where encode_document looks, in this order


def default_prompts(config: Any) -> dict[str, str]:
    """The prompts that are given for all sources, or for the only one, by role."""
    section = config.prompts
    if len(config.data) == 1 and config.data[0].prompts is not None:
        section = config.data[0].prompts
    given = {} if section is None else {role: getattr(section, role) for role in _ROLES}
    return {role: prompt for role, prompt in given.items() if prompt is not None}


_ROLES = ("query", "document")


def build_prompts(config: Any, model: Any) -> Any:
    """The prompts of every source, or None where there are none.

    A model that has prompts of its own is trained with them, since it is used with them, unless the
    configuration has others.

    Raises:
        ValueError: sources have prompts of their own while negatives are mined across them.
    """
    known = model.prompts
    default = (
        known.get("query") or "",
        next((known[name] for name in _DOCUMENT_NAMES if known.get(name) is not None), ""),
    )
    own: dict[str | int, tuple[str, str]] = {}
    if len(config.data) > 1:
        for source in config.data:
            if source.prompts is not None:
                given = (source.prompts.query, source.prompts.document)
                own[source.source().title] = (
                    default[0] if given[0] is None else given[0],
                    default[1] if given[1] is None else given[1],
                )
    if (config.negatives or {}).get(_ACROSS) and set(own.values()) - {default}:
        raise ValueError(
            f"negatives.{_ACROSS} mines with the same prompts for all sources, but "
            f"{', '.join(map(str, own))} has its own; give all sources the same prompts, or leave "
            f"{_ACROSS} away"
        )
    if not own and not any(default):
        return None
    from stope.encoders.prompts import TaskPrompts

    return TaskPrompts(own, default=default)

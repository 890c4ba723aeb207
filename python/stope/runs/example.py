"""A configuration with every option explained, which works as it is on one's own two files."""

from __future__ import annotations

import json
import textwrap
from typing import Any, get_args

from stope.runs.config import Config
from stope.runs.sections import SourceSection, Static
from stope.training.negatives.refresh import NegativeRefresh
from stope.training.options import FieldsOf, Part

_HEAD = """\
# A training run of stope: stope train config.yaml
# Killed or interrupted, it goes on with: stope train config.yaml --resume
# One value for once: stope train config.yaml --set schedule.epochs=3
# Paths count from the folder in which the command runs.
# What is commented out has its default; where that is chosen to suit, no value is shown.
"""
# What the example sets; all else is commented out.
_SET: dict[str, dict[str, Any]] = {
    "data": {"path": "pairs.tsv", "corpus": "corpus.jsonl"},
    "encoder": {"static": {"dim": 512}},
    "loss": {"temperature": 0.05},
    "schedule": {"epochs": 5, "seed": 0},
    "evaluation": {"holdout": 0.1, "metrics": ["nDCG@10", "R@100"], "keep": "best"},
    "output": {"folder": "run"},
}
_COLUMN, _WIDTH = 36, 100


def example() -> str:
    """The file, made from the descriptions of all options.

    >>> for line in example().splitlines()[6:8]:
    ...     print(line[:59])
    data:                               # one source of pairs,
      path: pairs.tsv                   # BEIR folder; or pairs
    """
    lines = [_HEAD]
    for name, field in Config.model_fields.items():
        chosen = _SET.get(name)
        lines.append(_line(f"{name}:" if chosen else f"# {name}:", field.description))
        part = _part_of(name, field.annotation)
        if part is not None:
            lines += _options(part, chosen, "  " if chosen else "#   ")
        lines.append("")
    return "\n".join(lines)


def _options(part: type[Part], chosen: dict[str, Any] | None, indent: str) -> list[str]:
    lines = []
    for name, field in part.model_fields.items():
        if name == "static" and chosen is not None:
            lines.append(_line(f"{indent}static:", field.description))
            lines += _options(Static, chosen[name], f"{indent}  ")
            continue
        set_here = chosen is not None and name in chosen
        value = chosen[name] if chosen is not None and set_here else field.get_default()
        mark = "" if set_here or chosen is None else "# "
        lines.append(_line(f"{indent}{mark}{name}:{_yaml(value)}", field.description))
    return lines


def _part_of(name: str, annotation: Any) -> type[Part] | None:
    """The part that a section holds, where it is one."""
    if name == "data":
        return FieldsOf(SourceSection).model
    if name == "negatives":
        return NegativeRefresh
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part)), None)


def _yaml(value: Any) -> str:
    if value is None or type(value).__name__ == "PydanticUndefinedType":
        return ""
    if isinstance(value, list | tuple):
        return f" [{', '.join(map(str, value))}]"
    return " " + (value if isinstance(value, str) else json.dumps(value))


def _line(option: str, description: str | None) -> str:
    """An option and its description beside it, as comments in a column of their own."""
    width = _WIDTH - _COLUMN - 2
    told = textwrap.wrap(description or "", width)
    if not told:
        return option
    beside = [option] if len(option) < _COLUMN else [option, ""]
    beside += [""] * (len(told) - 1)
    first = len(beside) - len(told)
    lines = beside[:first]
    for left, text in zip(beside[first:], told, strict=True):
        lines.append(f"{left:<{_COLUMN}}# {text}")
    return "\n".join(lines)

"""A configuration as YAML: read, changed from the command line, shown with all options explained.

Nothing but plain YAML is read: no tags, no code, no key twice. Numbers are decimal: 2e-5 is one
(YAML 1.1 would read a text); 010, 0x10, 1_0 and 1:30 are texts (it would read 8, 16, 10 and 90).
What is too large or too deep for a configuration is refused before anything is built of it: aliases
let a few lines stand for millions of values.
"""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any, get_args

from stope._checks import shown
from stope._extras import need
from stope.integrations.sentence_transformers.distillation import Distillation
from stope.runs.sections import SourceSection, Static, Student
from stope.training.negatives.refresh import NegativeRefresh
from stope.training.options import FieldsOf, Part

_MOST_PARTS, _MOST_DEEP = 20_000, 50
_NUMBERS = {  # by PyYAML's names of their kinds
    "tag:yaml.org,2002:int": r"^[-+]?(0|[1-9][0-9]*)$",
    "tag:yaml.org,2002:float": r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$",
}


def parse_yaml(written: str, where: str) -> Any:
    """Read plain YAML.

    Raises:
        ValueError: no plain YAML, or more of it than a configuration has; with the line.
    """
    yaml = need("yaml", extra="train")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            known = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _error(where, key, "a key is a list or a mapping; give a word")
                if key.value in known:
                    raise _error(where, key, f"the key {shown(key.value)} appears twice; keep one")
                known.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        letter: [each for each in known if each[0] not in _NUMBERS]
        for letter, known in Loader.yaml_implicit_resolvers.items()
    }
    _tell_numbers(Loader)
    try:
        _check_events(yaml.parse(written, Loader), where)
        loader = Loader(written)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_expanded(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{where}{line}: not plain YAML ({shown(problem)[1:-1]})") from error
    except (ValueError, OverflowError) as error:  # of a number or a date that Python refuses
        said = str(error)
        raise ValueError(
            said if said.startswith(where) else f"{where}: not plain YAML ({shown(said)[1:-1]})"
        ) from error


def yaml_of(value: Any) -> str:
    """Plain YAML that `parse_yaml` reads as this, and so do readers of YAML 1.1.

    A text that either would take for a number stands in quotes.
    """
    yaml = need("yaml", extra="train")

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        pass

    _tell_numbers(Dumper)
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _tell_numbers(reader_or_writer: Any) -> None:
    for tag, number in _NUMBERS.items():
        reader_or_writer.add_implicit_resolver(tag, re.compile(number), list("-+.0123456789"))


def _check_events(events: Any, where: str) -> None:
    """Refuse depth and length before a node is made of them."""
    depth = 0
    for number, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _error(where, event, f"not plain YAML (the tag {shown(tag)}); leave it out")
        if depth > _MOST_DEEP:
            raise _error(where, event, f"more than {_MOST_DEEP} levels; a configuration has few")
        if number > _MOST_PARTS:
            raise _error(where, event, f"more than {_MOST_PARTS:,} values; a configuration has few")


def _check_expanded(node: Any, where: str) -> None:
    """Refuse what aliases would make larger than that."""
    sizes: dict[int, int] = {}

    def size(inner: Any, above: frozenset[int]) -> int:
        if id(inner) in above:
            raise _error(where, inner, "an alias stands for what it is in; write the value out")
        if id(inner) not in sizes:
            parts = inner.value if isinstance(inner.value, list) else []
            flat = [node for part in parts for node in (part if type(part) is tuple else (part,))]
            within = above | {id(inner)}
            sizes[id(inner)] = 1 + sum(size(part, within) for part in flat)
        return sizes[id(inner)]

    if size(node, frozenset()) > _MOST_PARTS:
        raise _error(where, node, f"its aliases stand for more than {_MOST_PARTS:,} values")


def _error(where: str, place: Any, problem: str) -> ValueError:
    return ValueError(f"{where}:{place.start_mark.line + 1}: {problem}")


def change(sections: dict[str, Any], wanted: str) -> None:
    """Follow a change such as schedule.epochs=3 or data.0.path=other.tsv."""
    path, sign, written = wanted.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise ValueError(f"{shown(wanted)} is no change; write it as section.key=value")
    place: Any = sections
    for key in keys[:-1]:
        inner = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, list):
            inner = place[_position(key, place, wanted)]
        elif inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict | list):
            raise ValueError(f"{shown(wanted)}: {key} is {shown(inner)}, which has no keys")
        place = inner
    value = parse_yaml(written, wanted)
    if isinstance(place, list):
        place[_position(keys[-1], place, wanted)] = value
    else:
        place[keys[-1]] = value


def _position(key: str, values: list[Any], wanted: str) -> int:
    if not key.isdecimal() or int(key) >= len(values):
        raise ValueError(f"{shown(wanted)}: there is no {key} in a list of {len(values)}")
    return int(key)


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


def example(config: type[Part]) -> str:
    """A file with every option explained, which works as it is on one's own two files.

    >>> from stope.runs import Config
    >>> for line in example(Config).splitlines()[6:8]:
    ...     print(line[:59])
    data:                               # one source of pairs,
      path: pairs.tsv                   # BEIR folder; or pairs
    """
    lines = [_HEAD]
    for name, field in config.model_fields.items():
        chosen = _SET.get(name)
        lines.append(_line(f"{name}:" if chosen else f"# {name}:", field.description))
        part = _part_of(name, field.annotation)
        if part is not None:
            lines += _options(part, chosen, "  " if chosen else "#   ")
        lines.append("")
    return "\n".join(lines)


_INNER: dict[str, type[Part]] = {"static": Static, "student": Student}


def _options(part: type[Part], chosen: dict[str, Any] | None, indent: str) -> list[str]:
    lines = []
    for name, field in part.model_fields.items():
        inner = _INNER.get(name)
        if inner is not None and chosen is not None:
            mark, deeper = ("", "  ") if name in chosen else ("# ", "#   ")
            lines.append(_line(f"{indent}{mark}{name}:", field.description))
            lines += _options(inner, chosen.get(name), indent + deeper)
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
    if name == "distillation":
        return FieldsOf(Distillation).model
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

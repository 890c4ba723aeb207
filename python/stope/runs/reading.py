"""Read plain YAML, and changes to it from the command line."""

from __future__ import annotations

import re
from typing import Any

from stope._extras import need


def parse_yaml(written: str, where: str) -> Any:
    """Read plain YAML: no tags, no key twice, 2e-5 a number."""
    yaml = need("yaml", extra="train")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for place, key in enumerate(keys):
                if key in keys[:place]:
                    line = node.value[place][0].start_mark.line + 1
                    raise ValueError(f"{where}:{line}: the key {key!r} appears twice; keep one")
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    try:
        return yaml.load(written, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{where}{line}: not plain YAML ({problem})") from error


def change(sections: dict[str, Any], wanted: str) -> None:
    """Follow a change such as training.epochs=3 or data.0.path=other.tsv."""
    path, sign, written = wanted.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise ValueError(f"{wanted!r} is no change; write it as section.key=value")
    place: Any = sections
    for key in keys[:-1]:
        inner = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise ValueError(f"{wanted!r}: there is no {key} in a list of {len(place)}")
            inner = place[int(key)]
        if inner is None and isinstance(place, dict):
            inner = place[key] = {}
        if not isinstance(inner, (dict, list)):
            raise ValueError(f"{wanted!r}: {key} is {inner!r}, which has no keys")
        place = inner
    value = parse_yaml(written, wanted)
    if isinstance(place, list):
        if not keys[-1].isdigit() or int(keys[-1]) >= len(place):
            raise ValueError(f"{wanted!r}: there is no {keys[-1]} in a list of {len(place)}")
        place[int(keys[-1])] = value
    else:
        place[keys[-1]] = value

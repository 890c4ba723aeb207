"""Frozen groups of options, read from mappings: defined, checked and explained in one place.

A part is a pydantic model. The descriptions of its fields are its documentation, the text of a JSON
schema, and the comments of the example that `stope train --example` prints. What pydantic has
against a value becomes one sentence with path, value and remedy, of bounded length.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import core_schema

from stope._checks import did_you_mean, shown

AnyPart = TypeVar("AnyPart", bound="Part")
AnyParts = TypeVar("AnyParts", bound="Parts")
Schema = Mapping[str, Any]


Whole = Annotated[int, Strict()]
Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Word = Annotated[str, Strict(), Field(pattern=r"\S")]
Count = Annotated[Whole, Field(ge=1)]
Positive = Annotated[Real, Field(gt=0)]


class Part(BaseModel):
    """Base of the parts: frozen, without unknown fields; errors are TypeError or ValueError.

    A part is made from its fields by name. `read` makes one from a mapping whose path is part of
    every message, `changed` one that differs in some fields.

    >>> class Drill(Part):
    ...     SECTION = "drill"
    ...     speed: Annotated[Count, Field(description="turns per minute")] = 9
    >>> Drill(speed=3).to_dict(), Drill.read({"speed": 4}, "drill").speed
    ({'speed': 3}, 4)
    >>> Drill(sped=3)
    Traceback (most recent call last):
        ...
    ValueError: drill has no key "sped" (did you mean "speed"?); its keys are speed
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    SECTION: ClassVar[str] = ""  # where a file has it, which messages begin with
    WHOLE: ClassVar[str] = "the recipe"  # what a part without a section is

    def __init__(self, /, **options: Any) -> None:
        with _sentences(type(self), self.SECTION):
            super().__init__(**options)

    # Pydantic then builds inner parts without the method above: the outermost knows the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        lines = [
            textwrap.fill(f"{name}: {field.description}", 96, subsequent_indent="    ")
            for name, field in cls.model_fields.items()
            if field.description
        ]
        if lines:
            told = textwrap.indent("\n".join(lines), "    ")
            cls.__doc__ = f"{textwrap.dedent(cls.__doc__ or '').strip()}\n\nAttributes:\n{told}\n"

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for key in given:
            if key not in cls.model_fields:
                raise _UnknownKeyError(key, list(cls.model_fields))
        return {key: _python(value) for key, value in given.items()}

    @classmethod
    def read(cls: type[AnyPart], given: Any, path: str | None = None) -> AnyPart:
        """The part that a mapping describes; one that is given is returned.

        Raises:
            TypeError: no mapping, or a value of the wrong kind.
            ValueError: an unknown key, a key that is missing, or a value out of range. The message
                begins with the path of what is wrong.
        """
        with _sentences(cls, cls.SECTION if path is None else path):
            return cls.model_validate(given)

    def changed(self: AnyPart, **options: Any) -> AnyPart:
        """The same with other values of these fields, checked."""
        return type(self)(**{**dict(self), **options})

    def changes(self) -> dict[str, Any]:
        """The fields that have not their default."""
        fields = type(self).model_fields
        return {name: value for name, value in self if value != fields[name].default}

    def to_dict(self) -> dict[str, Any]:
        """All fields that are not None, in what JSON and YAML can write."""
        return cast(dict[str, Any], plain(self))


class Parts(Part):
    """A part whose fields are parts, each option of which is found by its name alone."""

    # What an option may also be called: its part and its field there, "" for the whole part.
    WORDS: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def with_options(self: AnyParts, **options: Any) -> AnyParts:
        """The same with other values of these options, whichever part they are of.

        Whole parts go by their own name.

        Raises:
            TypeError: an option that no part has, or a value of the wrong kind.
            ValueError: a value out of range, or options that exclude each other.
        """
        changes: dict[str, dict[str, Any]] = {}
        whole: dict[str, Any] = {}
        for name, value in options.items():
            part, field = self._owner(name, value)
            if field:
                changes.setdefault(part, {})[field] = value
            else:
                whole[part] = value
        parts = dict(type(self)(**{**dict(self), **whole}))
        for name, named in changes.items():
            # Options go by their own name, without the section.
            parts[name] = type(parts[name]).read({**dict(parts[name]), **named}, "")
        return type(self)(**parts)

    @classmethod
    def _owner(cls, name: str, value: Any) -> tuple[str, str]:
        """The part that an option belongs to and its field there, "" where it is the whole part."""
        if name in cls.model_fields and (
            name not in cls.WORDS or isinstance(value, Mapping | Part)
        ):
            return name, ""
        if name in cls.WORDS:
            return cls.WORDS[name]
        owners: dict[str, str] = {}
        for part, described in cls.model_fields.items():
            if isinstance(described.annotation, type) and issubclass(described.annotation, Part):
                for field in described.annotation.model_fields:
                    owners.setdefault(field, part)
        if name in owners:
            return owners[name], name
        hint = did_you_mean(name, [*owners, *cls.WORDS, *cls.model_fields])
        raise TypeError(f'there is no option "{name}"{hint}')


def _python(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, whole numbers without a fraction, paths as text."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_python(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _UnknownKeyError(ValueError):
    """A key that a part does not have."""

    def __init__(self, key: object, known: list[str]) -> None:
        super().__init__(key, known)
        self.key, self.known = key, known


class FieldsOf:
    """Lets a field hold a dataclass, given as one or as a mapping of its fields.

    Its docstring explains the fields, its type hints check them: `Annotated[Kind, FieldsOf(Kind)]`.
    """

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        hints, told = get_type_hints(kind), _attributes(kind)
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            text = Field(description=told.get(field.name))
            needed = field.default is dataclasses.MISSING
            default = ... if needed else field.default
            fields[field.name] = (Annotated[_strict(hints[field.name]), text], default)
        self.model = create_model(kind.__name__, __base__=Part, **fields)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        inner = handler.generate_schema(self.model)
        packed = core_schema.no_info_after_validator_function(self._pack, inner)
        return core_schema.no_info_before_validator_function(self._unpack, packed)

    def _pack(self, part: Part) -> Any:
        return self.kind(**dict(part))

    def _unpack(self, given: Any) -> Any:
        if isinstance(given, self.kind):
            return {name: getattr(given, name) for name in self.model.model_fields}
        return given


def _strict(hint: Any) -> Any:
    """A type hint that takes nothing for something else, such as "3" for 3."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [_strict(kind) for kind in get_args(hint) if get_origin(kind) is not PathLike]
        return Union[tuple(kinds)]  # noqa: UP007 - made at run time
    simple = {int: Whole, float: Real, bool: Flag, str: Word}
    return simple.get(hint, hint)


def _attributes(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its attributes."""
    told: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        text = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
        for entry in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8,}\S.*)*)", text, flags=re.M):
            described = " ".join(entry[1].split()).rstrip(".")
            told |= dict.fromkeys(entry[0].split(", "), described)
    return told


def unknown_key(key: object, path: str, known: Iterable[str]) -> str:
    """The sentence about a key that something does not have.

    >>> unknown_key("epoch", "schedule", ["batch_size", "epochs"])
    'schedule has no key "epoch" (did you mean "epochs"?); its keys are batch_size, epochs'
    """
    names = list(known)
    word, hint = shown(str(key))[1:-1], did_you_mean(str(key), names)
    return f'{path} has no key "{word}"{hint}; its keys are {", ".join(names)}'


@contextmanager
def _sentences(kind: type[Part], path: str) -> Iterator[None]:
    """Turn pydantic's error into a sentence about the first thing that is wrong."""
    try:
        yield
    except ValidationError as error:
        raise _sentence(error, kind, path) from None


def _sentence(error: ValidationError, kind: type[Part], path: str) -> Exception:
    told = error.errors(include_url=False)
    # A key that is misspelt is missing as well: the first of the two explains both.
    first = next((e for e in told if isinstance(_cause(e), _UnknownKeyError)), told[0])
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    where = f"{path}{where}".lstrip(".")
    cause = _cause(first)
    if isinstance(cause, _UnknownKeyError):
        return ValueError(unknown_key(cause.key, where or kind.WHOLE, cause.known))
    if cause is not None:
        text = str(cause)
        told_already = not where or text.startswith(where)
        return type(cause)(text if told_already else f"{where}: {text}")
    if first["type"] == "missing":
        return ValueError(f"{where} is missing; give it")
    schema = kind.model_json_schema()
    wanted = _wanted(_at(schema, first["loc"]), schema)
    value = first["input"]
    wrong_kind = first["type"].endswith("_type") or (
        first["type"] == "literal_error" and not isinstance(value, str)
    )
    said = f"{where or kind.WHOLE} is {shown(value)}; give {wanted}"
    return TypeError(said) if wrong_kind else ValueError(said)


def _cause(told: Mapping[str, Any]) -> Exception | None:
    """What a validator of ours raised."""
    return cast("Exception | None", told.get("ctx", {}).get("error"))


def _at(schema: Schema, path: Iterable[int | str]) -> Schema:
    """The schema of what lies at this path."""
    here = _resolved(schema, schema)
    for step in path:
        kinds = [here, *here.get("anyOf", [])]
        named = (kind.get("properties", {}).get(step) for kind in kinds)
        inner = here.get("items") if isinstance(step, int) else next(filter(None, named), None)
        here = _resolved(inner or {}, schema)
    return here


def _resolved(here: Schema, whole: Schema) -> Schema:
    """Follow references, and leave out that a value may also be null."""
    while True:
        if "$ref" in here:
            here = whole["$defs"][here["$ref"].rpartition("/")[2]]
        elif "anyOf" in here:
            others = [one for one in here["anyOf"] if one.get("type") != "null"]
            if len(others) != 1:
                return here
            here = others[0]
        else:
            return here


def _wanted(here: Schema, whole: Schema) -> str:
    """What a schema asks for, in words."""
    here = _resolved(here, whole)
    if "anyOf" in here:
        kinds = [one for one in here["anyOf"] if one.get("type") != "null"]
        return " or ".join(_wanted(one, whole) for one in kinds)
    if "enum" in here or "const" in here:
        names = here.get("enum") or [here["const"]]
        return ("one of " if len(names) > 1 else "") + ", ".join(map(str, names))
    kind = here.get("type")
    if kind in ("integer", "number"):
        return _wanted_number(here)
    if kind == "array":
        return f"a list, each {_wanted(here.get('items', {}), whole)}"
    if kind == "object":
        return f"a mapping with keys of: {', '.join(here.get('properties', {}))}"
    return {"boolean": "true or false", "string": "a text"}.get(str(kind), "another value")


def _wanted_number(here: Schema) -> str:
    said = "a whole number" if here["type"] == "integer" else "a number"
    limits = (
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    told = [f"{words} {_short(here[name])}" for name, words in limits if name in here]
    return " and ".join([f"{said} {told[0]}", *told[1:]]) if told else said


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def plain(value: Any) -> Any:
    """Options as JSON and YAML write them: mappings, lists, words and numbers; None left out.

    >>> plain({"dims": (64, 32), "weights": None})
    {'dims': [64, 32]}
    """
    if isinstance(value, Part):
        value = dict(value)
    elif callable(getattr(value, "to_dict", None)):
        value = value.to_dict()
    elif hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items() if one is not None}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value

"""The options of infonce: one field an option, with its default and its check.

A new option is a line here, a line in ``InfonceOptions`` of ``cpp/include/stope/infonce.h``, a line
in ``python/bindings/infonce.cpp``, its formula in ``cpp/shared`` and its words in the docstring of
:func:`stope.infonce_forward`. torch's functions and modules read the fields from here.
"""

# ruff: noqa: RUF009 - _word and _number return dataclasses.field

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from stope import _core
from stope._checks import choice, flag, number, shown
from stope.ops._objectives import Objective, objective_of

Metric = Literal["cosine", "dot"]
Direction = Literal[
    "query_to_document", "query_to_query", "document_to_query", "document_to_document"
]
Partition = Literal["joint", "per_direction"]
Hardness = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]
Precision = Literal["float32", "bfloat16"]

_SOFTMAX = ("out", "in", "excl", "decoupled")
_MOST = 1e37  # of a number that float32 holds with room for sums, and of 1 / temperature


def _option(default: Any, check: Callable[[Any, str], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def _word(default: Any, *words: Any) -> Any:
    return _option(default, lambda value, name: choice(value, name, words))


def _number(default: float | None, least: float | None = None) -> Any:
    def check(value: Any, name: str) -> float | None:
        if value is None and default is None:
            return None
        checked = number(value, name)
        if least is not None and checked < least:
            raise ValueError(f"{name} is {checked}; give a number of {least} or more")
        if abs(checked) > _MOST:
            raise ValueError(f"{name} is {checked}; give a number from {-_MOST} to {_MOST}")
        return checked

    return _option(default, check)


def _temperature(value: Any, name: str) -> float:
    temperature = number(value, name, "give a number above 0")
    if temperature <= 0:
        raise ValueError(f"{name} is {temperature}; give a number above 0")
    if temperature < 1 / _MOST:
        raise ValueError(f"{name} is {temperature}; give {1 / _MOST} or more")
    return temperature


def _probability(value: Any, name: str) -> float:
    checked = number(value, name)
    if not 0 <= checked < 1:
        raise ValueError(f"{name} is {checked}; give a probability of at least 0 and below 1")
    return checked


def _objective(value: Any, name: str) -> Objective:
    return choice(objective_of(value), name, get_args(Objective))


def _directions(value: Any, name: str) -> tuple[Direction, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {shown(value)}; give a sequence of names")
    for direction in value:
        if direction not in get_args(Direction):
            words = ", ".join(map(repr, get_args(Direction)))
            raise ValueError(f"{name} has {shown(direction)}; give some of {words}")
    if len(set(value)) != len(value):
        raise ValueError(f"{name} is {tuple(value)!r}; name each direction once")
    if "query_to_document" not in value:
        raise ValueError(f"{name} must hold 'query_to_document': no other has the positive pair")
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a loss is told in words and numbers, checked; :func:`stope.infonce_forward` explains.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: a value outside its range, or options that exclude each other.
    """

    temperature: float = _option(0.05, _temperature)
    metric: Metric = _word("cosine", *get_args(Metric))
    objective: Objective = _option("out", _objective)
    bias: float = _number(0.0)
    beta: float = _number(0.0, 0)
    positive_prior: float = _option(0.0, _probability)
    detach_hardness: bool = _option(False, flag)
    focal_margin: float | None = _number(None)
    directions: tuple[Direction, ...] = _option(("query_to_document",), _directions)
    partition: Partition = _word("joint", *get_args(Partition))
    hard_negative_log_weight: float = _number(0.0)
    foreign_hard_negatives: bool = _option(True, flag)
    documents_see_hard_negatives: bool = _option(True, flag)
    hardness: Hardness | None = _word(None, None, *get_args(Hardness))
    hardness_strength: float = _number(0.0, 0)
    absolute_margin: float | None = _number(None)
    relative_margin: float | None = _number(None)
    precision: Precision = _word("float32", *get_args(Precision))
    drop: float = _option(0.0, _probability)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            checked = field.metadata["check"](getattr(self, field.name), field.name)
            object.__setattr__(self, field.name, checked)
        if self.partition == "per_direction" and not set(self.directions) <= {
            "query_to_document",
            "document_to_query",
        }:
            raise ValueError(
                "partition 'per_direction' is for 'query_to_document' and 'document_to_query'; the "
                "other directions never hold the positive pair, use partition 'joint'"
            )
        if (self.beta or self.positive_prior) and self.objective != "hardness":
            raise ValueError("beta and positive_prior are for objective 'hardness' only")
        if self.bias and self.objective != "sigmoid":
            raise ValueError(f"bias is {self.bias}, but only objective 'sigmoid' has one")
        if self.drop and (self.objective not in _SOFTMAX or self.focal_margin is not None):
            what = "focal_margin" if self.objective in _SOFTMAX else f"objective {self.objective!r}"
            raise ValueError(
                f"drop is {self.drop}, a share of a softmax over plain logits, but {what} has "
                "none; leave drop at 0, or use one of the objectives "
                f"{', '.join(map(repr, _SOFTMAX))}"
            )
        bonus = self.hardness_strength if self.hardness else 0.0
        if self.focal_margin is not None and (
            self.objective == "sigmoid" or bonus or self.hard_negative_log_weight
        ):
            raise ValueError(
                "focal_margin changes the logits themselves; it goes with no hardness, no "
                "hard_negative_log_weight and not with objective 'sigmoid'"
            )

    @functools.cached_property
    def core(self) -> _core.InfonceOptions:
        """The options as the core takes them, word for word."""
        words = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del words["partition"]  # of the directions, which are problems of their own then
        return _core.InfonceOptions(scale=1.0 / words.pop("temperature"), **words)


class Arrays(NamedTuple):
    """What comes with a batch beside queries and documents, as it was given."""

    positives: Any = None
    positive_weights: Any = None
    hard_negatives: Any = None
    exclude: Any = None
    log_weights: Any = None
    document_ids: Any = None
    max_score: Any = None
    min_score: Any = None
    guide_queries: Any = None
    guide_documents: Any = None
    queue: Any = None
    queue_ids: Any = None
    guide_queue: Any = None


OPTION_NAMES = tuple(field.name for field in dataclasses.fields(Options))
ARRAY_NAMES = Arrays._fields


_PLAIN = (bool, int, float, str, type(None))


def _is_plain(value: Any) -> bool:
    """Whether a value hashes by what it is, and stays so."""
    if type(value) is tuple:
        return all(type(word) is str for word in value)
    return type(value) in _PLAIN


@functools.lru_cache(maxsize=256, typed=True)
def _checked(**words: Any) -> Options:
    return Options(**words)


def read(keywords: Mapping[str, Any]) -> tuple[Options, Arrays]:
    """Keyword arguments as options and arrays; a name of neither is a TypeError."""
    for name in keywords:
        if name not in OPTION_NAMES and name not in ARRAY_NAMES:
            raise TypeError(
                f"infonce has no option {name!r}; it has {', '.join(OPTION_NAMES + ARRAY_NAMES)}"
            )
    words = {name: value for name, value in keywords.items() if name in OPTION_NAMES}
    plain = all(map(_is_plain, words.values()))
    return (
        _checked(**words) if plain else Options(**words),
        Arrays(**{name: value for name, value in keywords.items() if name in ARRAY_NAMES}),
    )

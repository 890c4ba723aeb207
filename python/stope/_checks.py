"""Checks of arguments: the value itself, or a sentence that names argument, value and remedy.

A wrong kind is a TypeError, a wrong value a ValueError. Messages have no full stop at the end. A
value stands in a message as `shown` writes it, which is never long, a count as `counted` does.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
import re
import reprlib
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set, Sized
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stope._files.texts import KeyRows, StoredTexts, digest

T = TypeVar("T")
LARGEST = 2**64 - 1  # of a seed
LONGEST = 2**31 - 1  # of an array


def integer(value: Any, name: str, least: int, most: int = LARGEST) -> int:
    """The value as an int of at least `least`, and at most `most` (what 64 bits hold).

    Raises:
        TypeError: no integer; True and False are none.
        ValueError: a smaller one, or a larger one.

    >>> integer(3, "top", 1)
    3
    >>> integer(0, "top", 1)
    Traceback (most recent call last):
        ...
    ValueError: top is 0; it must be at least 1
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}; give an integer") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} is {shown(value)}; give an integer")
    if not least <= number <= most:
        small = number < least and most >= LONGEST
        limits = f"at least {least}" if small else f"from {least} to {most}"
        raise ValueError(f"{name} is {shown(number)}; it must be {limits}")
    return number


def size(value: Any, name: str, least: int = 1) -> int:
    """An integer that an array is as long as: from `least` to 2^31 - 1."""
    return integer(value, name, least, LONGEST)


def real(
    value: Any,
    name: str,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: bool = False,
) -> float:
    """The value as a finite float from `least` to `most`; above `least` where `above` says so.

    Raises:
        TypeError: no number; True and False are none.
        ValueError: NaN, infinity, or a number beyond the limits.

    >>> real(1, "temperature", 0, 1)
    1.0
    >>> real(2, "temperature", 0, 1)
    Traceback (most recent call last):
        ...
    ValueError: temperature is 2; it must be from 0 to 1
    >>> real(0, "temperature", 0, above=True)
    Traceback (most recent call last):
        ...
    ValueError: temperature is 0; it must be finite and above 0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {shown(value)}; give a number")
    number = as_float(value)
    if math.isfinite(number) and (least < number if above else least <= number) and number <= most:
        return number
    lower = f"above {least:g}" if above else f"at least {least:g}"
    if least > -math.inf and most < math.inf:
        limits = f"{lower} and at most {most:g}" if above else f"from {least:g} to {most:g}"
    else:
        limits = "finite" + (f" and {lower}" if least > -math.inf else "")
        limits += f" and at most {most:g}" if most < math.inf else ""
    raise ValueError(
        f"{name} is {shown(value) if math.isinf(number) else value}; it must be {limits}"
    )


def number(value: Any, name: str, remedy: str = "give a number") -> float:
    """A finite float, from a scalar of any library or an array or tensor of one element."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {shown(value)}; {remedy}")
    result = as_float(value)
    if not math.isfinite(result):
        raise ValueError(f"{name} is {shown(value)}; {remedy}")
    return result


def as_float(value: Any) -> float:
    """The number as a float, infinity where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def choice(value: Any, name: str, choices: Iterable[T]) -> T:
    """The value, which is one of the choices.

    Raises:
        TypeError: no string, where the choices are strings.
        ValueError: none of them.

    >>> choice("cosine", "metric", ("cosine", "dot"))
    'cosine'
    >>> choice("cos", "metric", ("cosine", "dot"))
    Traceback (most recent call last):
        ...
    ValueError: metric is 'cos'; give one of 'cosine', 'dot'
    """
    known = list(choices)
    if any(value is one or (type(value) is type(one) and value == one) for one in known):
        return value  # type: ignore[no-any-return]
    kind = TypeError if not isinstance(value, tuple({type(one) for one in known})) else ValueError
    raise kind(f"{name} is {shown(value)}; give one of {', '.join(map(repr, known))}")


def flag(value: Any, name: str) -> bool:
    """The value, which is True or False (NumPy's too)."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise TypeError(f"{name} is {shown(value)}; give True or False")


def text(value: Any, name: str, remedy: str = "give a text", *, blank: bool = False) -> str:
    """The value, which is a string, and one that is not empty or blank unless it may be."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}; {remedy}")
    if not blank and not value.strip():
        raise ValueError(f"{name} is {shown(value)}; {remedy}")
    return value


def texts(values: Any, name: str, *, empty: bool = False) -> list[str]:
    """The texts as a list; a bare string, what is no string and an empty list are refused.

    A mapping and a set are refused too: they would give keys, or no certain order.
    """
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} is one string; give a list of strings, [{name}]")
    if isinstance(values, Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {shown(values)}; give a list of strings")
    listed = list(values)
    wrong = next((row for row, text in enumerate(listed) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(
            f"{name}[{wrong}] is {type(listed[wrong]).__name__}, not a string; give strings alone"
        )
    if not listed and not empty:
        raise ValueError(f"{name} is empty; give at least one text")
    return listed


def text_rows(values: Any, name: str, *, empty: bool = False) -> Sequence[str]:
    """The same, but texts that lie on the disk stay there."""
    stored = isinstance(values, StoredTexts) and (len(values) > 0 or empty)
    return values if stored else texts(values, name, empty=empty)


def one_each(values: Sized, name: str, count: int, what: str) -> None:
    """Refuse another number of values than there are of something.

    >>> one_each(["q1"], "query_ids", 2, "query_texts")
    Traceback (most recent call last):
        ...
    ValueError: query_ids has 1 entries for 2 query_texts; give one for each
    """
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} {what}; give one for each")


def first_twice(values: Iterable[Hashable]) -> Any:
    """The first value that was there before, or None.

    >>> first_twice("ore"), first_twice("roof")
    (None, 'o')
    """
    seen: set[Hashable] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]


def unique(names: Sequence[str], name: str) -> None:
    """Refuse ids of which one is there twice."""
    if isinstance(names, StoredTexts):
        places = KeyRows(map(digest, names)).distinct()[2]  # a row that is not new repeats one
        again = np.flatnonzero(np.maximum.accumulate(places)[:-1] >= places[1:])[:1]
        names = [names[row + 1] for row in (*again.tolist(), *again.tolist())]
    if len(set(names)) != len(names):
        raise ValueError(
            f"{name} has {shown(first_twice(names))} more than once; ids must be unique"
        )


def path(value: Any, name: str) -> Path:
    """The value as a path: a string or a path that a file can have.

    >>> path("ore.npy", "output").name
    'ore.npy'
    >>> path(None, "output")
    Traceback (most recent call last):
        ...
    TypeError: output is None; give a path, a string or a pathlib.Path
    """
    if not isinstance(value, str | PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name} is {shown(value)}; give a path, a string or a pathlib.Path")
    if "\0" in os.fspath(value):
        raise ValueError(f"{name} is {shown(value)}; give a path without a zero byte")
    return Path(value)


def shown(value: Any) -> str:
    """A value as a message shows it: its repr on one line, cut in the middle where it is long.

    Nested values are cut at each level, so that a value that contains itself many times over (as
    YAML's aliases make) costs nothing.

    >>> shown("ore"), len(shown("ore" * 1000)) < 100, shown([[[[[1]]]]])
    ("'ore'", True, '[[[[...]]]]')
    """
    text = _SHORT.repr(value)
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest of the known words, or nothing.

    >>> did_you_mean("epoch", ["epochs", "steps"]), did_you_mean("sieve", ["epochs"])
    (' (did you mean "epochs"?)', '')
    """
    by_letters = {name.lower(): name for name in reversed(list(known))}
    near = difflib.get_close_matches(word[:60].lower(), by_letters, n=1)
    return f' (did you mean "{by_letters[near[0]]}"?)' if near else ""


def counted(count: int, nouns: str) -> str:
    """A count and what it counts, in the plural; where there is one, the noun becomes singular.

    >>> counted(1, "queries without a positive"), counted(1200, "held-out queries")
    ('1 query without a positive', '1,200 held-out queries')
    """
    if count == 1:
        nouns = re.sub(r"ies\b|s\b", lambda end: "y" if end[0] == "ies" else "", nouns, count=1)
    return f"{count:,} {nouns}"


def counted_all(counts: Mapping[str, int]) -> str:
    """All counts that are not 0, by what they count.

    >>> counted_all({"rows without text": 1, "rows labelled as no answer": 0, "negatives": 2})
    '1 row without text, 2 negatives'
    """
    return ", ".join(counted(count, nouns) for nouns, count in counts.items() if count)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 4, 6, 6, 6

"""Wrong kinds for every parameter of every public function: a sentence, and nothing else.

Each function starts from its valid call (support/valid_calls.py). Each parameter in turn gets
values of other kinds: TypeError, ValueError or an error of the file system, whose message names the
parameter (or the file) and has no full stop; and no value of a wrong kind is taken in silence.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("bm25s", reason="needs the extra retrieval")
pytest.importorskip("hnswlib", reason="needs the extra retrieval")

import frameworks
import valid_calls
import valid_torch_calls

import stope

KINDS = (TypeError, ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
LONGEST_MESSAGE = 700
WRONG = {
    "None": lambda: None,
    "an integer": lambda: 3,
    "a float": lambda: 1.5,
    "a text": lambda: "x",
    "bytes": lambda: b"x",
    "an object": object,
    "an empty list": list,
    "a nested list": lambda: [[1], [[2]]],
    "a mapping": dict,
    "a set": lambda: {1},
    "a NaN array": lambda: np.full((2, 2), np.nan, np.float32),
    "an array of three dimensions": lambda: np.zeros((2, 2, 2), np.float32),
}
HUGE = {"a huge integer": lambda: 10**30, "a size beyond memory": lambda: 2**62}
# Which other parameter says that a number is too large for it.
TOLD_BY = {
    "stope.data.independent_crops.min_tokens": "max_tokens",
    "stope.data.recurring_spans.min_span": "max_span",
    "stope.data.recurring_spans.min_query": "max_query",
    "stope.training.NegativeRefresh.num_negatives": "pool",
}


class NothingWritten(Exception):
    """Ends the block of a file that would be written."""


def public():
    """{qualified name: function or class} of every ``__all__``, each thing at its first place."""
    places = {}
    modules = [stope]
    names = frameworks.module_names()
    modules += [frameworks.load(name) for name in names if not name.startswith("stope.demo")]
    for module in modules:
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if callable(thing) and inspect.getmodule(thing) is not None:
                places.setdefault(id(thing), (f"{module.__name__}.{name}", thing))
    return dict(places.values())


PUBLIC = public()
CALLED = sorted(set(PUBLIC) - valid_calls.RESULTS - valid_calls.NO_CALLS)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    return {**valid_calls.calls(folder), **valid_torch_calls.calls(folder)}


def test_every_public_function_has_a_valid_call(calls):
    assert sorted(set(CALLED) - set(calls)) == [], "add a call to support/valid_calls.py"
    listed = set(calls) | valid_calls.RESULTS | valid_calls.NO_CALLS
    assert sorted(listed - set(PUBLIC)) == [], "support/valid_calls.py names what is not public"


def taken(place, parameter, valid):
    """Names of WRONG that the parameter may take: of its own kind, or empty."""
    if place in valid_calls.ANY:
        return set(WRONG)
    return valid_calls.TAKEN.get(place, set()) | _taken(parameter, valid)


def _taken(parameter, valid):
    harmless = {"an empty list"}
    if parameter.default is None or valid is None:
        harmless.add("None")
    if parameter.default is None and valid is None:  # its kind is not known
        return harmless | set(WRONG) - {"an object"}
    if isinstance(valid, bool):
        return set()
    if isinstance(valid, int):
        return {"an integer", *HUGE} | harmless & {"None"}
    if isinstance(valid, float):
        return {"an integer", "a float"} | harmless & {"None"}
    if isinstance(valid, str | pathlib.Path):
        return {"a text"} | harmless & {"None"}
    if isinstance(valid, Mapping):
        return harmless | {"a mapping"}
    if isinstance(valid, np.ndarray | list | tuple) or hasattr(valid, "detach"):
        return harmless
    return harmless & {"None"}


def parameters_of(function):
    """The parameters by name; of a class whose ``__new__`` takes any, those of ``__init__``."""
    named = _named(inspect.signature(function).parameters)
    if not named and inspect.isclass(function) and "__init__" in vars(function):
        named = _named(inspect.signature(function.__init__).parameters)
        del named["self"]
    return named


def _named(parameters):
    anything = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: each for name, each in parameters.items() if each.kind not in anything}


def call(function, arguments):
    result = function(**arguments)
    if isinstance(result, Iterator | valid_calls.data.RawPairs):
        list(itertools.islice(result, 3))
    elif hasattr(result, "__enter__") and not hasattr(result, "search"):
        with result:
            raise NothingWritten


def complaint(function, name, arguments, label, called):
    """What is wrong with the answer to one wrong value; None where nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(function, arguments)
    except NothingWritten:
        return f"{name}, {label}: taken in silence"
    except KINDS as error:
        text = str(error.args[-1]) if isinstance(error, OSError) and error.strerror else str(error)
        said = f"{name}, {label}: {type(error).__name__}: {text[:160]}"
        value = arguments[name]
        # A file is named by its path, a row by its number.
        named = isinstance(value, str) and re.search(rf"\b{value}\b", text)
        if (
            not {name, called} & set(re.findall(r"\w+", text))
            and not named
            and not re.search(r"\brow \d", text)
        ):
            return f"{said} -- does not name it"
        if text.endswith(".") or "\n" in text or len(text) > LONGEST_MESSAGE:
            return f"{said} -- is no sentence of the house's style"
    except Exception as error:
        return f"{name}, {label}: {type(error).__name__}: {str(error)[:160]}"
    else:
        return f"{name}, {label}: taken in silence"
    return None


@pytest.mark.parametrize("qualified", CALLED)
def test_wrong_kinds(qualified, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = PUBLIC[qualified]
    arguments = calls[qualified]
    with contextlib.suppress(NothingWritten):
        call(function, arguments)
    complaints = []
    for name, parameter in parameters_of(function).items():
        default = None if parameter.default is parameter.empty else parameter.default
        valid = arguments.get(name, default)
        place = f"{qualified}.{name}"
        called = valid_calls.CALLED.get(place, TOLD_BY.get(place, name))
        huge = HUGE if type(valid) is int else {}
        for label, make in {**WRONG, **huge}.items():
            may_be_taken = label in taken(place, parameter, valid)
            said = complaint(function, name, {**arguments, name: make()}, label, called)
            if said is not None and not (may_be_taken and said.endswith("taken in silence")):
                complaints.append(said)
    assert not complaints, "\n" + "\n".join(complaints)

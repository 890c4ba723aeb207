"""Names that have moved, found at their old places for one release, with a warning that says where.

Modules are found by `sys.meta_path`, names of packages by the ``__getattr__`` that `moved_names`
makes. Both tables are emptied in the release after the one that filled them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

MODULES = {
    **{
        f"stope.data.{name}": "stope.data"
        for name in ("beir", "export", "jsonl", "tables", "texts", "training_rows", "trec")
    },
    "stope.doctor": "stope.cli.installation",
    "stope.mining.cache": "stope.encoders.cache",
    "stope.mining.fingerprint": "stope.encoders.cache",
    "stope.mining.pairs": "stope.data.pairs",
    "stope.mining.sources": "stope.mining.quotas",
    "stope.ops.flat_index": "stope.indexes.flat",
    "stope.retrieval.encoding": "stope.encoders.encode",
    "stope.torch.list_losses": "stope.torch.ranking",
    "stope.torch.list_losses.pairs": "stope.torch.ranking.margins",
    "stope.torch.list_losses.ranking": "stope.torch.ranking.lambda_mrr",
    "stope.training.adapters": "stope.adapters",
    "stope.training.configuration": "stope.runs",
    "stope.training.evaluation": "stope.evaluation.retrieval",
    "stope.training.folder": "stope.encoders.models",
    "stope.training.log": "stope.training.callbacks.log",
    "stope.training.lora": "stope.encoders.lora",
    "stope.training.prompts": "stope.encoders.prompts",
    "stope.training.report": "stope.training.trainer",
    "stope.training.query_side": "stope.training.negatives.query_side",
    "stope.training.refresh": "stope.training.negatives.refresh",
    "stope.training.static": "stope.encoders.models",
}


def moved_names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names have moved to other packages.

    >>> moved_names("stope.mining", {"Pairs": "stope.data"})("Pear")
    Traceback (most recent call last):
        ...
    AttributeError: module 'stope.mining' has no attribute 'Pear'
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warn_moved(f"{package}.{name}", f"{places[name]}.{name}", stacklevel=3)
        return getattr(importlib.import_module(places[name]), name)

    return find


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the module at its new place when the old one is asked for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for old names alone, and those of their submodules."""
        place = _new_place(name)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if place else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with the names of the one at the new place."""
        place = _new_place(module.__name__)
        assert place is not None
        warn_moved(module.__name__, place, stacklevel=2)
        found = vars(importlib.import_module(place))
        kept = ("__doc__", "__all__", "__getattr__")
        module.__dict__.update(
            {name: found[name] for name in found if name in kept or not name.startswith("__")}
        )


def find_moved_modules() -> None:
    """Let old names be imported, from now on."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())


def _new_place(name: str) -> str | None:
    known = [old for old in MODULES if name == old or name.startswith(f"{old}.")]
    old = max(known, key=len, default=None)
    return None if old is None else MODULES[old] + name[len(old) :]


def warn_moved(old: str, new: str, stacklevel: int) -> None:
    """Say where an old name is now."""
    warnings.warn(
        f"{old} is {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=stacklevel + 1,
    )


def renamed_argument(old: str, new: str) -> Callable[[AnyFunction], AnyFunction]:
    """Let a function be called with an argument by its old name, with a warning."""

    def decorate(function: AnyFunction) -> AnyFunction:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if old in named:
                warn_moved(f"{function.__qualname__}'s {old}", new, stacklevel=2)
                named[new] = named.pop(old)
            return function(*arguments, **named)

        return cast(AnyFunction, call)

    return decorate

"""Which of stope's modules can be imported here: one that plugs stope into another framework needs
that framework, and nothing else may be missing."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import warnings

import stope

# The frameworks that a developer may do without; CI has all of them.
OPTIONAL = {
    "stope.integrations.haystack": "haystack",
    "stope.integrations.langchain": "langchain_core",
    "stope.integrations.llama_index": "llama_index",
    "stope.integrations.txtai": "txtai",
    "stope.integrations.vicinity": "vicinity",
    "stope.scale.ray": "ray",
}
# Pages whose examples need a framework.
PAGES = {
    "mteb": "mteb",
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "scale": "ray",
}


def is_here(framework):
    """Whether a framework is installed; None is always."""
    return framework is None or importlib.util.find_spec(framework) is not None


def module_names():
    """The names of all modules whose framework is here, without those that start a command."""
    names = (module.name for module in pkgutil.walk_packages(stope.__path__, "stope."))
    return sorted(
        name
        for name in names
        if not name.rpartition(".")[2].startswith("__main")
        and is_here(OPTIONAL.get(".".join(name.split(".")[:3])))
    )


def load(name):
    """The module, with other people's warnings at import kept quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)

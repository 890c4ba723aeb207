"""mteb's searches by stope: a search in the place of mteb's own, and a backend for mteb's own."""

from stope.integrations.mteb.backend import StopeSearchIndex
from stope.integrations.mteb.search import StopeSearch

__all__ = ["StopeSearch", "StopeSearchIndex"]

"""A stope index over a column of a data set: ``get_nearest_examples_batch`` and its sisters."""

from stope.integrations.datasets.columns import index_column
from stope.integrations.datasets.index import StopeIndex, add_stope_index

__all__ = ["StopeIndex", "add_stope_index", "index_column"]

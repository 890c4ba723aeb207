"""Adapters on frozen embeddings: linear, low-rank or a small residual MLP, trained in seconds."""

from stope._extras import need

need("pydantic", extra="train")  # a sentence where it is missing, before the imports below need it

from stope.adapters.adapter import Adapter  # noqa: E402
from stope.adapters.maps import Linear, LowRank, ResidualMLP  # noqa: E402
from stope.adapters.recipe import AdapterRecipe  # noqa: E402
from stope.adapters.train import train_adapter  # noqa: E402

__all__ = ["Adapter", "AdapterRecipe", "Linear", "LowRank", "ResidualMLP", "train_adapter"]

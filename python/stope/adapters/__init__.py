"""Adapters on frozen embeddings: linear, low-rank or a small residual MLP, trained in seconds."""

from stope.adapters.adapter import Adapter
from stope.adapters.maps import Linear, LowRank, ResidualMLP
from stope.adapters.recipe import AdapterRecipe
from stope.adapters.train import train_adapter

__all__ = ["Adapter", "AdapterRecipe", "Linear", "LowRank", "ResidualMLP", "train_adapter"]

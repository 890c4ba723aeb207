"""Adapters on frozen embeddings: linear, low-rank or a small residual MLP, trained in seconds."""

from stope.training.adapters.adapter import Adapter
from stope.training.adapters.maps import Linear, LowRank, ResidualMLP
from stope.training.adapters.train import train_adapter

__all__ = ["Adapter", "Linear", "LowRank", "ResidualMLP", "train_adapter"]

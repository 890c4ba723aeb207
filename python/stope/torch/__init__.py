"""Losses and operators for torch."""

"""Train a few low-rank matrices in place of a transformer's weights (LoRA), through peft."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stope._checks import flag, integer, real, shown, texts
from stope._extras import need
from stope.encoders.versions import is_static


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of a transformer: W + (alpha / rank) B A instead of W, only A, B trained.

    B starts at zero, so training starts at the model as it is.

    Attributes:
        rank: rows of A and columns of B.
        alpha: see above; the update's size relative to its rank.
        dropout: share of A's inputs that are dropped in training.
        target_modules: names, or ends of names, of the linear layers that get an update; None for
            all of them.
        merge: add the updates to the weights after training, so that the model saves, loads and
            runs as any other and needs no peft. False leaves the adapter in the model.

    Raises:
        ValueError: a number out of range.

    Source: Hu et al. 2021 (LoRA).

    Example:
        >>> Lora(rank=8).alpha
        32
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None
    merge: bool = True

    def __post_init__(self) -> None:
        integer(self.rank, "lora.rank", 1)
        real(self.alpha, "lora.alpha", 0, above=True)
        if real(self.dropout, "lora.dropout", 0, 1) == 1:
            raise ValueError("lora.dropout is 1, which drops everything; give less")
        flag(self.merge, "lora.merge")
        if self.target_modules is not None:
            names = texts(self.target_modules, "lora.target_modules")
            object.__setattr__(self, "target_modules", tuple(names))


@contextlib.contextmanager
def low_rank(model: Any, lora: Lora | None, seed: int) -> Iterator[None]:
    """Let the model's transformer have updates meanwhile, the rest frozen; at the end merge them.

    Without lora nothing happens. Where the block raises, the model has its own layers back.

    Raises:
        ValueError: the model has no transformer, has an adapter already, or has no layer of the
            names given.
        ImportError: peft is missing; the message has the pip command.
    """
    if lora is None:
        yield
        return
    if is_static(model):
        raise ValueError(
            "lora was given but the model is a static encoder, which is one table of vectors and "
            "has no layers for it; leave lora out"
        )
    transformer = next(
        (inner for module in model.children() if (inner := transformer_of(module)) is not None),
        None,
    )
    if transformer is None:
        raise ValueError("lora was given but the model has no transformer; leave lora out")
    peft: Any = need("peft", extra="lora")
    import torch

    if getattr(transformer, "_hf_peft_config_loaded", False):
        raise ValueError("lora was given but the model has an adapter already; merge it first")
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules or ()) or "all-linear",
    )
    added = _Updates(transformer)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                transformer.add_adapter(config)
            except ValueError as error:
                raise ValueError(
                    f"lora.target_modules is {shown(lora.target_modules)}, which names no layer of "
                    f"the model ({str(error).splitlines()[0][:200]})"
                ) from error
        yield
    except BaseException:
        added.remove(merge=False)
        raise
    else:
        if lora.merge:
            added.remove(merge=True)
    finally:
        for parameter in model.parameters():
            if id(parameter) in trained:
                parameter.requires_grad_(True)


@dataclass
class _Updates:
    """Updates that are in a transformer."""

    transformer: Any

    def remove(self, merge: bool) -> None:
        """Put the layers back that were there, with the updates added to their weights or not."""
        layers: Any = need("peft.tuners.lora", extra="lora").LoraLayer
        for name, module in list(self.transformer.named_modules()):
            if not isinstance(module, layers):
                continue
            if merge:
                module.merge()
            parent, _, own = name.rpartition(".")
            setattr(self.transformer.get_submodule(parent), own, module.get_base_layer())
        self.transformer._hf_peft_config_loaded = False
        self.transformer.__dict__.pop("peft_config", None)


def transformer_of(module: Any) -> Any:
    """The Hugging Face model inside a module of sentence-transformers, or None.

    Example:
        >>> transformer_of(object()) is None
        True
    """
    for name in ("auto_model", "model"):
        network = getattr(module, name, None)
        if network is not None and hasattr(network, "add_adapter"):
            return network
    return None

"""Negatives that follow the model: mined once, again and again, only where they became easy.

static      mined once by the first model; each step draws from the pool (STAR, methods.md B1)
periodic    mined anew every so many steps or epochs; each step draws (ANCE, B3)
stale       mined once; negatives that became easy are exchanged (Conan-embedding, C4)
query_side  documents encoded once; each step searches them all (ADORE, B2)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from stope.data import Pairs
from stope.encoders.prompts import TaskPrompts
from stope.mining.quotas import check_quotas
from stope.mining.sampling import Sampling
from stope.training.negatives.encode_and_mine import Progress
from stope.training.negatives.refresh_run import RefreshReport, RefreshRun

__all__ = ["MODES", "NegativeRefresh", "RefreshReport", "RefreshRun"]

MODES = ("periodic", "static", "stale", "query_side")


@dataclass(frozen=True)
class NegativeRefresh:
    """How hard negatives are mined while a model trains; `start` sets it going.

    Attributes:
        mode: "periodic", "static", "stale" or "query_side"; see the module.
        every: steps between refreshes (periodic), or between checks (stale; default 100).
        every_epochs: the same in epochs; periodic without either is every epoch.
        num_negatives: per query and step.
        pool: candidates that are mined per query; for query_side documents retrieved in each step.
        range_min: ranks to skip from the top.
        relative_margin: a candidate's score is at most p - abs(p) * relative_margin, with p the
            lowest score of a positive; None is no limit. Likely false negatives lie above it.
        absolute_margin: a candidate's score is at most p - absolute_margin.
        max_score, min_score: limits of a candidate's score, a cosine.
        sampling: which of the pool a step takes, such as `stope.mining.SimANS`, its dictionary or
            its name; default `Uniform`, as in ANCE and STAR. Not for stale and query_side.
        quotas: negatives by source, such as ``{"dense": 4, "bm25": 1}``, adding up to
            num_negatives; None is all from the pool.
        query_prompt, corpus_prompt: put before texts; None leaves the model's own in force.
        batch_size: texts per call of the model.

    Raises:
        ValueError: numbers out of range, or options that the mode does not have.

    Example:
        >>> refresh = NegativeRefresh(every_epochs=1, sampling="top")
        >>> NegativeRefresh.from_dict(refresh.to_dict()) == refresh
        True
    """

    mode: str = "periodic"
    every: int | None = None
    every_epochs: int | None = None
    num_negatives: int = 5
    pool: int = 200
    range_min: int = 0
    relative_margin: float | None = 0.05
    absolute_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    sampling: Any = None
    quotas: Mapping[str, int] | None = None
    query_prompt: str | None = None
    corpus_prompt: str | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; choose one of {', '.join(MODES)}")
        for name in ("every", "every_epochs", "num_negatives", "pool", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}; give an integer of at least 1")
        if self.every is not None and self.every_epochs is not None:
            raise ValueError("every and every_epochs are both given; give one of them")
        timed = self.every is not None or self.every_epochs is not None
        if timed and self.mode in ("static", "query_side"):
            raise ValueError(
                f"every or every_epochs is given, but mode {self.mode!r} mines once; leave them "
                "out, or take mode 'periodic'"
            )
        if not isinstance(self.range_min, int) or self.range_min < 0:
            raise ValueError(f"range_min is {self.range_min!r}; give an integer of at least 0")
        if self.sampling is not None:
            if self.mode in ("stale", "query_side"):
                raise ValueError(f"sampling is given, but mode {self.mode!r} takes the hardest")
            object.__setattr__(self, "sampling", Sampling.from_dict(self.sampling))
        if self.quotas is not None:
            if self.mode == "query_side":
                raise ValueError("quotas is given, but mode 'query_side' takes what it retrieves")
            object.__setattr__(self, "quotas", check_quotas(self.quotas))
            total = sum(self.quotas.values())
            if total != self.num_negatives:
                raise ValueError(
                    f"quotas is {dict(self.quotas)}, {total} in all, but num_negatives is "
                    f"{self.num_negatives}; make them agree"
                )
        dense = self.num_negatives if self.quotas is None else self.quotas.get("dense", 0)
        if not dense and self.mode != "static":
            raise ValueError(f"quotas has no 'dense', so that mode {self.mode!r} has nothing to do")
        if dense > self.pool:
            raise ValueError(f"pool is {self.pool}, less than the {dense} taken from it; raise it")

    def to_dict(self) -> dict[str, Any]:
        """All fields, in what JSON and YAML can write."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        named["sampling"] = None if self.sampling is None else self.sampling.to_dict()
        named["quotas"] = None if self.quotas is None else dict(self.quotas)
        return named

    @staticmethod
    def from_dict(config: Any) -> NegativeRefresh:
        """What a dictionary from `to_dict` describes; one that is given is returned.

        Raises:
            ValueError: an unknown field, or what the fields refuse.
            TypeError: no mapping.
        """
        if isinstance(config, NegativeRefresh):
            return config
        if not isinstance(config, Mapping):
            raise TypeError(f"refresh is {config!r}; give a NegativeRefresh or its fields")
        names = [field.name for field in dataclasses.fields(NegativeRefresh)]
        if unknown := [name for name in config if name not in names]:
            raise ValueError(f"refresh has no field {unknown[0]!r}; it has {', '.join(names)}")
        return NegativeRefresh(**config)

    def start(
        self,
        pairs: Pairs,
        model: Any,
        folder: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        *,
        sources: Sequence[str | int] | None = None,
        prompts: TaskPrompts | None = None,
    ) -> RefreshRun:
        """Make what a training run calls; nothing is mined before its first `run`.

        Args:
            pairs: queries, corpus and positives.
            model: as training starts with it; query_side encodes the documents with it now.
            folder: its subfolder ``embeddings`` keeps what is being encoded, so that a stopped
                refresh goes on; None keeps nothing.
            seed: of all draws.
            progress: called with (stage, done, total); stages "corpus", "queries", "mining"
                and "bm25".
            sources: the source of each query. Where ``pairs.corpus_of`` has the documents of each
                source, every source is mined by itself, and all negatives of a query are its own
                source's.
            prompts: put before queries and documents: each source's, where sources are mined by
                themselves, else the default. query_prompt and corpus_prompt go before them.

        Raises:
            ValueError: a query with fewer than num_negatives documents that can be negatives;
                sources that `stope.data.Pairs.of_sources` refuses, or several of them
                for query_side, which searches one corpus.
        """
        return RefreshRun(self, pairs, model, folder, seed, progress, sources, prompts)

    @property
    def limits(self) -> dict[str, Any]:
        """What `stope.mining.mine` is told."""
        names = ("range_min", "relative_margin", "absolute_margin", "max_score", "min_score")
        return {"num_negatives": self.pool, **{name: getattr(self, name) for name in names}}

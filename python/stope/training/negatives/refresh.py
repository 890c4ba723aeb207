"""Negatives that follow the model: mined once, again and again, only where they became easy.

static      mined once by the first model; each step draws from the pool (STAR, docs/methods.md, B1)
periodic    mined anew every so many steps or epochs; each step draws (ANCE, B3)
stale       mined once; negatives that became easy are exchanged (Conan-embedding, C4)
query_side  documents encoded once; each step searches them all (ADORE, B2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from stope._checks import shown
from stope._named import names_of
from stope.data import Pairs
from stope.data.pairs import Among
from stope.encoders.prompts import TaskPrompts
from stope.mining.pair_scores import PairScores
from stope.mining.quotas import check_quotas
from stope.mining.sampling import Sampling
from stope.progress import StageProgress
from stope.training.negatives.refresh_run import RefreshReport, RefreshRun
from stope.training.options import Count, Flag, Part, Real, Text, Whole

__all__ = ["MODES", "NegativeRefresh", "RefreshReport", "RefreshRun"]

Mode = Literal["periodic", "static", "stale", "query_side"]
MODES: tuple[Mode, ...] = ("periodic", "static", "stale", "query_side")
_USUAL_MARGIN = 0.05


def _sampling(given: Any) -> Sampling | None:
    return None if given is None else Sampling.from_dict(given)


class NegativeRefresh(Part):
    """How hard negatives are mined while a model trains; `start` sets it going.

    Raises:
        TypeError, ValueError: values out of range, or options that the mode does not have.

    Example:
        >>> refresh = NegativeRefresh(every_epochs=1, sampling="top")
        >>> NegativeRefresh.from_dict(refresh.to_dict()) == refresh
        True
        >>> NegativeRefresh().relative_margin, refresh.relative_margin
        (0.05, None)
    """

    SECTION: ClassVar[str] = "negatives"

    mode: Annotated[
        Mode,
        Field(
            description="static: mined once, each step draws from the pool (STAR); periodic: mined "
            "anew again and again (ANCE); stale: mined once, those that became easy are exchanged "
            "(Conan-embedding); query_side: documents encoded once, each step searches them (ADORE)"
        ),
    ] = "periodic"
    every: Annotated[
        Count | None,
        Field(
            description="steps between refreshes (periodic), or between checks (stale; default 100)"
        ),
    ] = None
    every_epochs: Annotated[
        Count | None,
        Field(description="the same in epochs; periodic without either is every epoch"),
    ] = None
    among: Annotated[
        Among,
        Field(
            description="positives: only documents that are a positive of some training query are "
            "negatives, the random ones too, since others would only ever be pushed away; corpus: "
            "any document. query_side searches the corpus"
        ),
    ] = "positives"
    num_negatives: Annotated[Count, Field(description="per query and step")] = 5
    pool: Annotated[
        Count,
        Field(
            description="candidates mined per query; for query_side documents retrieved in a step"
        ),
    ] = 200
    range_min: Annotated[Whole, Field(ge=0, description="ranks to skip from the top")] = 0
    relative_margin: Annotated[
        Real | None,
        Field(
            description="a candidate scores at most p - abs(p) x this, p the lowest score of a "
            "positive: likely false negatives lie above; none is no limit. Default 0.05, and none "
            "where a sampling is named, for the papers of SimANS, ANCE and STAR have no margin"
        ),
    ] = _USUAL_MARGIN
    absolute_margin: Annotated[
        Real | None, Field(description="a candidate scores at most p - this")
    ] = None
    teacher_margin: Annotated[
        Real | None,
        Field(
            ge=0,
            description="with a teacher: by its scores a candidate has at most p - abs(p) x this, "
            "p the lowest of a positive; what has more is taken for an answer",
        ),
    ] = None
    max_score: Annotated[
        Real | None, Field(description="highest score of a candidate, a cosine")
    ] = None
    min_score: Annotated[Real | None, Field(description="lowest score of a candidate")] = None
    sampling: Annotated[
        Sampling | None,
        BeforeValidator(_sampling),
        WithJsonSchema({"enum": list(names_of(Sampling))}),
        Field(
            description="which of the pool a step takes, of stope.mining, by name or with fields; "
            "default uniform; not for stale and query_side"
        ),
    ] = None
    quotas: Annotated[
        dict[str, int] | None,
        Field(
            description="negatives by where they are from, such as {dense: 4, bm25: 1}, adding up "
            "to num_negatives; default all from the pool"
        ),
    ] = None
    across_sources: Annotated[
        Flag,
        Field(description="mine in the documents of all sources, not of the query's own alone"),
    ] = False
    query_prompt: Annotated[
        Text | None, Field(description="put before queries; default the model's own")
    ] = None
    corpus_prompt: Annotated[
        Text | None, Field(description="put before documents; default the model's own")
    ] = None
    batch_size: Annotated[Count, Field(description="texts per call of the model")] = 256

    def __init__(self, mode: Any = "periodic", /, **options: Any) -> None:
        super().__init__(**{"mode": mode, **options})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # as in Part

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_follow(cls, given: Any) -> Any:
        """Where a sampling is named, there is no margin; query_side searches the corpus."""
        if isinstance(given, Mapping) and given.get("sampling") is not None:
            given = {"relative_margin": None, **given}
        if isinstance(given, Mapping) and str(given.get("mode")) == "query_side":
            given = {"among": "corpus", **given}
        return given

    @model_validator(mode="after")
    def _together(self) -> NegativeRefresh:
        if self.every is not None and self.every_epochs is not None:
            raise ValueError("every and every_epochs are both given; give one of them")
        if self.mode in ("static", "query_side") and (self.every or self.every_epochs):
            raise ValueError(
                f"every or every_epochs is given, but mode {self.mode!r} mines once; leave them "
                "out, or take mode 'periodic'"
            )
        if self.mode == "query_side" and self.teacher_margin is not None:
            raise ValueError(
                f"teacher_margin is {self.teacher_margin}, but mode 'query_side' searches in every "
                "step, which no teacher can follow; leave it out, or choose another mode"
            )
        if self.mode == "query_side" and self.among != "corpus":
            raise ValueError(
                f"among is {self.among!r}, but mode 'query_side' searches the corpus, whose "
                "embeddings stay as they are; leave among out"
            )
        if self.sampling is not None and self.mode in ("stale", "query_side"):
            raise ValueError(f"sampling is given, but mode {self.mode!r} takes the hardest")
        if self.quotas is not None:
            if self.mode == "query_side":
                raise ValueError("quotas is given, but mode 'query_side' takes what it retrieves")
            total = sum(check_quotas(self.quotas).values())
            if total != self.num_negatives:
                raise ValueError(
                    f"quotas is {shown(self.quotas)}, {total} in all, but num_negatives is "
                    f"{self.num_negatives}; make them agree"
                )
        dense = self.num_negatives if self.quotas is None else self.quotas.get("dense", 0)
        if not dense and self.mode != "static":
            raise ValueError(f"quotas has no 'dense', so that mode {self.mode!r} has nothing to do")
        if dense > self.pool:
            raise ValueError(f"pool is {self.pool}, less than the {dense} taken from it; raise it")
        return self

    def to_dict(self) -> dict[str, Any]:
        """All fields, in what JSON and YAML can write."""
        fields = dict(self)
        fields["sampling"] = None if self.sampling is None else self.sampling.to_dict()
        if not self.across_sources:  # which earlier saves do not have
            del fields["across_sources"]
        if self.teacher_margin is None:
            del fields["teacher_margin"]
        return fields

    @classmethod
    def from_dict(cls, config: Any) -> NegativeRefresh:
        """What a dictionary from `to_dict` or a mode describes; one that is given is returned.

        Raises:
            ValueError: an unknown field, or what the fields refuse.
            TypeError: no mapping.
        """
        return cls.read({"mode": config} if isinstance(config, str) else config)

    def start(
        self,
        pairs: Pairs,
        model: Any,
        folder: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: StageProgress | None = None,
        *,
        sources: Sequence[str | int] | None = None,
        prompts: TaskPrompts | None = None,
        teacher: PairScores | None = None,
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
                source's, unless across_sources is True.
            prompts: put before queries and documents: each source's, where sources are mined by
                themselves, else the default. query_prompt and corpus_prompt go before them.
            teacher: scores what is mined and the positives; what it scored before is not scored
                again.

        Raises:
            ValueError: a query with fewer than num_negatives documents that can be negatives;
                sources that `stope.data.Pairs.of_sources` refuses, or several of them
                for query_side, which searches one corpus.
        """
        return RefreshRun(self, pairs, model, folder, seed, progress, sources, prompts, teacher)

    @property
    def limits(self) -> dict[str, Any]:
        """What `stope.mining.mine` is told."""
        names = ("range_min", "relative_margin", "absolute_margin", "max_score", "min_score")
        return {"num_negatives": self.pool, **{name: getattr(self, name) for name in names}}

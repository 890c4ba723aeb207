"""Embed, mine, and name what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, integer, real
from stope._host import on_host
from stope._kinds import a, at_least, kinds, maybe, offering, string
from stope._named import own_name
from stope.data.exclusions import Exclusions
from stope.data.pairs import AMONG, Among, Pairs
from stope.encoders.cache import EmbeddingCache
from stope.encoders.encode import Encoder
from stope.lists import Lists
from stope.mining.embedded import OF_EMBEDDING, embeddings_of, mined_among
from stope.mining.known_answers import copies_of_positives, without_text
from stope.mining.mined import Mined
from stope.mining.sampling import Keys, Sampling, Top, sampling_keys, sampling_names
from stope.ops._search import Metric, exclusions, pair_scores
from stope.progress import Progress, StageProgress, of_stage, silent


@kinds(
    **dict.fromkeys(("absolute_margin", "relative_margin", "max_score", "min_score"), maybe(real)),
    num_negatives=at_least(1),
    **dict.fromkeys(("among", "metric", "range_counts"), string),
    range_max=maybe(at_least(0)),
    **dict.fromkeys(("range_min", "seed"), at_least(0)),
    pool=at_least(1),
)
@dataclass(frozen=True)
class Limits:
    """Which documents may be negatives, and which of them are taken.

    Eligibility is decided before selection, so a query gets all the negatives that exist. What is
    not explained here is as in `stope.mine_hard_negatives`, which checks the numbers.

    Attributes:
        among: "corpus": all documents; "positives": those that are a positive of some query. A
            document that answers no query is only ever pushed away where it is a negative.
        num_negatives, metric, absolute_margin, relative_margin, max_score, min_score, range_min,
            range_max, range_counts: as for that function.
        sampling: "top" (the hardest), "random" within the range; or a way to draw from a pool of
            the hardest: the name of a `Sampling` (`stope.mining.sampling_names`) or its paper's,
            one such as ``SimANS(a=0.5)``, or its dictionary.
        pool: how many of the hardest a `Sampling` draws from.
        seed: of what is drawn.
    """

    among: Among = "corpus"
    num_negatives: int = 5
    metric: Metric = "cosine"
    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    range_min: int = 0
    range_max: int | None = None
    range_counts: Literal["eligible", "window", "raw"] = "eligible"
    sampling: str | Sampling | Mapping[str, Any] = "top"
    pool: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        choice(self.among, "among", AMONG)
        sampling: str | Sampling
        if isinstance(self.sampling, Mapping):
            sampling = Sampling.from_dict(self.sampling)
        elif isinstance(self.sampling, Sampling):
            sampling = self.sampling
        else:
            names = dict.fromkeys(("top", "random", *sampling_names()))
            sampling = choice(own_name(Sampling, self.sampling), "sampling", names)
            if sampling not in ("top", "random"):
                sampling = Sampling.from_dict({"name": sampling})
        object.__setattr__(self, "sampling", "top" if isinstance(sampling, Top) else sampling)

    def with_changes(self, **changes: Any) -> Limits:
        """The same with other values of some attributes.

        >>> Limits().with_changes(num_negative=3)
        Traceback (most recent call last):
            ...
        TypeError: mine has no argument 'num_negative'; its limits are among, num_negatives, \
metric, absolute_margin, relative_margin, max_score, min_score, range_min, range_max, \
range_counts, sampling, pool, seed
        """
        known = [field.name for field in dataclasses.fields(self)]
        wrong = next((name for name in changes if name not in known), None)
        if wrong is not None:
            raise TypeError(f"mine has no argument {wrong!r}; its limits are {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; pool only where it is drawn from."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if isinstance(self.sampling, Sampling):
            return {**values, "sampling": self.sampling.to_dict()}
        del values["pool"]
        return values


@kinds(**OF_EMBEDDING, limits=maybe(a(Limits)), operations=offering("mine_hard_negatives"))
def mine(
    pairs: Pairs,
    encoder: Encoder | None = None,
    *,
    query_embeddings: Any = None,
    corpus_embeddings: Any = None,
    limits: Limits | None = None,
    exclude: Any = None,
    exclude_query_text: bool = True,
    query_prompt: str | None = None,
    corpus_prompt: str | None = None,
    batch_size: int = 256,
    cache: EmbeddingCache | str | PathLike[str] | None = None,
    operations: Any = stope,
    progress: StageProgress | None = None,
    **changes: Any,
) -> Mined:
    """Find hard negatives for every query of the pairs, exactly.

    Copies of a positive are no negatives of its query (`copies_of_positives`), documents without
    text are nobody's; both count as excluded.

    Args:
        encoder: object with ``encode(list of strings) -> array``; not needed where both embeddings
            are given.
        query_embeddings: array with one row per query that was given to `Pairs`, in that order, or
            per query that the pairs have (those without a positive are left out).
        corpus_embeddings: the same of documents.
        limits: which documents may be negatives, and how many are taken; default ``Limits()``.
        exclude: corpus rows of ``pairs`` never to choose, CSR or one array per query; -1 is none.
            ``pairs.exclusions`` are not chosen either.
        exclude_query_text: never choose the document whose text is the query itself.
        query_prompt, corpus_prompt: put before every query or document; None leaves the encoder's
            own prompt in force.
        batch_size: texts per call of the encoder.
        cache: folder, or `EmbeddingCache`, that keeps what the encoder computes.
        operations: who searches: this process, or `stope.scale.ray.Operations`; the negatives are
            the same.
        progress: called with (stage, done, total); stages "queries", "corpus", "mining".
        **changes: attributes of `Limits`, in place of those of limits.

    Raises:
        TypeError: embeddings missing and no encoder, or no such limit.
        ValueError: embeddings whose rows do not match; what `stope.mine_hard_negatives` refuses.

    Memory: both embedding arrays (memory-mapped with a cache) and O(queries x num_negatives), or
    O(queries x pool) with a `Sampling`. Given corpus embeddings are copied only where duplicate
    texts were removed.

    Source: NV-Retriever for the relative margin, SimANS (docs/methods.md, C1 and C3).

    Example:
        >>> import numpy as np
        >>> pairs = Pairs.from_texts(["ore?"], ["rock"], ["rock", "stone", "sea", "rock"])
        >>> corpus = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], np.float32)
        >>> query = np.array([[1, 0.1]], np.float32)
        >>> mined = mine(pairs, query_embeddings=query, corpus_embeddings=corpus, num_negatives=1)
        >>> [(row["document_id"], row["rank"]) for row in mined.rows()]
        [('d1', 1)]
    """
    wanted = (limits or Limits()).with_changes(**changes)
    step = progress or silent
    prompts = query_prompt, corpus_prompt
    whole, never = pairs, exclusions(exclude, len(pairs.query_ids), len(pairs.corpus_ids))
    pairs, documents, corpus_embeddings = mined_among(pairs, wanted.among, corpus_embeddings)
    if documents is not None and never is not None:
        never = never.among(documents)
    known = query_embeddings, corpus_embeddings
    queries, corpus = embeddings_of(pairs, encoder, known, prompts, batch_size, cache, step)
    parameters = {**wanted.to_dict(), "exclude_query_text": exclude_query_text}
    answers = copies_of_positives(pairs)
    answers = answers.union(pairs.same_text_rows()) if exclude_query_text else answers
    never = answers if never is None else answers.union(never)
    hidden = Exclusions(never, without_text(pairs)).union(pairs.exclusions)
    never = hidden.lists(len(pairs.query_ids))
    mining = of_stage(step, "mining")
    result, scores = hardest(
        pairs, queries, corpus, wanted, never, operations=operations, progress=mining
    )
    if documents is not None:
        result = result._replace(ids=np.where(result.ids >= 0, documents[result.ids], -1))
    return Mined(whole, result, scores, parameters)


def hardest(
    pairs: Pairs,
    queries: Any,
    corpus: Any,
    limits: Limits,
    never: Lists,
    *,
    first_query: int = 0,
    operations: Any = stope,
    progress: Progress | None = None,
) -> tuple[stope.HardNegatives, NDArray[np.float32]]:
    """What is mined among all documents, on the host, and the scores of the positives.

    Draws are by the numbers of the queries, the first of which is first_query.
    """
    options, sampling = limits.to_dict(), limits.sampling
    del options["among"]
    if isinstance(sampling, Sampling):
        least = integer(limits.num_negatives, "num_negatives", 1)
        most = len(pairs.corpus_ids)
        if limits.range_max is not None:
            most = min(most, limits.range_max - limits.range_min)
        del options["pool"]
        options |= {"sampling": "top", "num_negatives": max(least, min(limits.pool, most))}
    result = _all_on_host(
        operations.mine_hard_negatives(
            queries, corpus, pairs.positives, exclude=never, progress=progress, **options
        )
    )
    if isinstance(sampling, Sampling):
        numbers = first_query + np.arange(len(result.ids))
        keys = sampling_keys(limits.seed, 0, 0, numbers)
        result = _drawn(result, sampling, limits.num_negatives, keys)
    return result, pair_scores(queries, corpus, pairs.positives, metric=limits.metric)


def _all_on_host(result: stope.HardNegatives) -> stope.HardNegatives:
    """The same result as NumPy arrays, whatever kind the embeddings were."""
    rejected = {reason: on_host(rows) for reason, rows in result.rejected.items()}
    return stope.HardNegatives._make([*map(on_host, result[:4]), rejected])


def _drawn(
    result: stope.HardNegatives, sampling: Sampling, count: int, keys: Keys
) -> stope.HardNegatives:
    """What the sampling draws of each query's pool, hardest first."""
    pool = result.ids.shape[1]
    ids = sampling.choose(result.ids, result.scores, result.positive_scores, count, keys)
    places = np.full(ids.shape, pool, dtype=np.int64)
    for column in range(count):
        wanted = ids[:, column]
        place = (result.ids == wanted[:, None]).argmax(axis=1)
        places[:, column] = np.where(wanted >= 0, place, pool)
    places.sort(axis=1)
    there = places < pool
    places = np.where(there, places, 0)
    scores = np.where(there, np.take_along_axis(result.scores, places, 1), np.float32(-np.inf))
    ids = np.where(there, np.take_along_axis(result.ids, places, 1), -1)
    return result._replace(ids=ids, scores=scores, counts=there.sum(axis=1))

"""Where a job's candidates come from, and how many each source gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stope._kinds import at_least, kinds, mapping, mapping_of_mappings, maybe
from stope.data.pairs import Pairs
from stope.lists import Ids, Lists
from stope.mining.quotas import check_quotas, fill_at_random
from stope.mining.sampling import sampling_keys
from stope.ops._search import search
from stope.ops.hard_negatives import REASONS as LIMITS
from stope.ops.hard_negatives import ScoreLimits
from stope.progress import Progress

NAMES = ("dense", "bm25", "run", "siblings", "random")
_NEEDS = {"run": "run", "siblings": "groups"}


@kinds(
    quotas=maybe(mapping), run=maybe(mapping_of_mappings), groups=maybe(mapping), spare=at_least(1)
)
@dataclass(frozen=True)
class Sources:
    """Where the negatives of a `MiningJob` come from.

    Sources are asked in the order of quotas, "random" last; a document that one gives, no later one
    gives again. What a source cannot give, the next gives in its place, and after the last one the
    first. The limits of the job hold for the documents of all. "dense" and "siblings" search within
    them; "bm25" and "random" look at ten times as many documents as a query gets, and no more.

    Attributes:
        quotas: negatives per query by source, such as ``{"dense": 4, "bm25": 1, "random": 1}``;
            None is the limits' num_negatives from "dense". "dense": the hardest by the encoder;
            "bm25": by BM25; "run": in the order of a run; "siblings": the hardest by the encoder
            among the documents of the positives' groups; "random": any document.
        run: ``{query id: {document id: score}}``, as `stope.data.read_run` reads it.
        groups: ``{document id: group}``, such as its category in a taxonomy. Documents without a
            group are nobody's siblings.
        spare: with a teacher_margin, how many candidates it scores per negative that is wanted.

    Raises:
        ValueError, TypeError: quotas that name an unknown source, or one without its run or groups;
            a run or groups that no quota asks for.

    >>> Sources({"random": 1, "dense": 2}).asked(5)
    {'dense': 2, 'random': 1}
    >>> Sources({"run": 2})
    Traceback (most recent call last):
        ...
    ValueError: quotas asks for 2 of 'run', but run is None; give it
    """

    quotas: Mapping[str, int] | None = None
    run: Mapping[str, Mapping[str, float]] | None = None
    groups: Mapping[str, Any] | None = None
    spare: int = 3

    def __post_init__(self) -> None:
        asked = self.asked(1)
        for source, name in _NEEDS.items():
            if source in asked and getattr(self, name) is None:
                raise ValueError(
                    f"quotas asks for {asked[source]} of {source!r}, but {name} is None; give it"
                )
            if source not in asked and getattr(self, name) is not None:
                raise ValueError(f"{name} is given, but quotas asks for nothing of {source!r}")

    def asked(self, num_negatives: int) -> dict[str, int]:
        """Negatives per query by source, in the order in which they are asked."""
        if self.quotas is None:
            return {"dense": num_negatives}
        asked = {name: n for name, n in check_quotas(self.quotas, NAMES).items() if n}
        return dict(sorted(asked.items(), key=lambda entry: entry[0] == "random"))


@dataclass(frozen=True, eq=False)
class Shard:
    """Queries that are mined together, and what holds for their negatives.

    Attributes:
        first: number of the first among all queries of the job.
        pairs: of these queries alone, over all documents.
        queries, corpus: embeddings.
        metric: of their scores.
        never: rows that are no negatives, by query.
        rules: limits on the scores.
    """

    first: int
    pairs: Pairs
    queries: Any
    corpus: Any
    metric: str
    never: Lists
    rules: ScoreLimits

    @property
    def every(self) -> Ids:
        """The numbers of its queries."""
        return np.arange(len(self.pairs.query_ids))


@dataclass(eq=False)
class Candidates:
    """The sources of some pairs other than "dense", read once.

    Attributes:
        unknown: documents of the run, or of the groups, that the corpus does not have by that id.
    """

    pairs: Pairs
    sources: Sources
    seed: int
    progress: Progress | None = None
    unknown: dict[str, int] = field(default_factory=dict)
    _bm25: Any = None
    _run: Lists | None = None
    _groups: Ids | None = None

    def __post_init__(self) -> None:
        if self.sources.run is not None or self.sources.groups is not None:
            row_of = self.pairs.documents_by_id()
        if self.sources.run is not None:
            listed = [self.sources.run.get(query, {}) for query in self.pairs.query_ids]
            best = [
                sorted(scores.items(), key=lambda entry: (-entry[1], entry[0])) for scores in listed
            ]
            known = [[row_of[name] for name, _ in row if name in row_of] for row in best]
            self._run = Lists.from_sequences(known)
            # Where it has none of the queries, all of it is unknown.
            count = sum(map(len, listed)) or sum(map(len, self.sources.run.values()))
            self._count_unknown("run", count, len(self._run.ids))
        if self.sources.groups is not None:
            numbers: dict[Any, int] = {}
            self._groups = np.full(len(self.pairs.corpus_ids), -1, dtype=np.int64)
            for name, group in self.sources.groups.items():
                if name in row_of:
                    self._groups[row_of[name]] = numbers.setdefault(group, len(numbers))
            self._count_unknown("groups", len(self.sources.groups), int((self._groups >= 0).sum()))
        if "bm25" in self.sources.asked(1):
            from stope.retrieval import Bm25

            self._bm25 = Bm25(self.pairs.corpus_texts, progress=self.progress)

    def of(self, source: str, shard: Shard, width: int) -> tuple[Ids, dict[str, Ids]]:
        """Documents that the source names, the best first, and how many limits turned away unseen.

        The first are int64 ``[queries, any]``, rows of the corpus, -1 for none.
        """
        if source == "siblings":
            return self._siblings(shard, width)
        size = len(self.pairs.corpus_ids)
        never, width = shard.never.union(shard.pairs.positives), min(width, size)
        if source == "run":
            assert self._run is not None
            return self._run.take(shard.first + shard.every).without(never).padded(), {}
        if source == "bm25":
            texts, exclude = shard.pairs.query_texts, list(never.rows())
            return self._bm25.search(texts, width, exclude=exclude).ids, {}
        keys = sampling_keys(self.seed, 1, 0, shard.first + shard.every)
        nothing = np.full((len(shard.every), width), -1, dtype=np.int64)
        return fill_at_random(nothing, shard.every, never, size, keys), {}

    def _siblings(self, shard: Shard, width: int) -> tuple[Ids, dict[str, Ids]]:
        """The hardest within the limits among the documents of the positives' groups."""
        assert self._groups is not None
        groups, never = self._groups, shard.never.union(shard.pairs.positives)
        together: dict[tuple[int, ...], list[int]] = {}
        for query, rows in enumerate(shard.pairs.positives.rows()):
            named = np.unique(groups[rows])
            together.setdefault(tuple(named[named >= 0].tolist()), []).append(query)
        siblings = np.full((len(shard.every), width), -1, dtype=np.int64)
        above = np.zeros(len(shard.every), dtype=np.int64)
        for labels, members in together.items():
            documents = np.flatnonzero(np.isin(groups, labels))
            queries, rules = np.array(members), shard.rules.take(np.array(members))
            if len(documents):
                over = np.zeros(len(queries), dtype=np.int64)
                hardest = search(
                    np.ascontiguousarray(shard.queries[queries]),
                    shard.corpus[documents],
                    min(width, len(documents)),
                    metric=shard.metric,
                    exclude=never.take(queries).among(documents),
                    ceiling=rules.ceiling,
                    floor=rules.floor,
                    above_ceiling=over,
                ).ids
                rows = np.where(hardest >= 0, documents[hardest], -1)
                siblings[queries, : rows.shape[1]] = rows
                above[queries] = over
        binding = shard.rules.binding
        counts = {LIMITS[n]: np.where(binding == n, above, 0) for n in set(binding.tolist()) - {-1}}
        return siblings, counts

    def _count_unknown(self, name: str, given_count: int, known: int) -> None:
        if given_count and not known:
            raise ValueError(
                f"{name} names no document of the corpus for any query; give one of these data, by "
                "their ids"
            )
        self.unknown[name] = given_count - known

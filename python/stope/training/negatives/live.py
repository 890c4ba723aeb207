"""Hard negatives that may change while training runs: a table of candidates, and draws from it.

What a step takes depends on (seed, version of the table, step, query) alone, so a resumed run takes
what the first would have taken. A new version replaces the old one in one assignment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, flag
from stope._checks import path as checked_path
from stope._files.arrays import digest, read_arrays, write_arrays
from stope._host import on_host
from stope._kinds import a, at_least, kinds, mapping, maybe
from stope.data.pairs import AMONG, Among, Pairs
from stope.data.text_identity import fingerprint_texts
from stope.lists import Ids
from stope.mining.quotas import check_quotas, fill_at_random, merge_sources
from stope.mining.sampling import Sampling, Uniform, sampling_keys
from stope.mining.stale import replace_stale

Scores = NDArray[np.float32]

_FORMAT = "stope.live_negatives"
_MANIFEST = "negatives.json"
_LEXICAL_KEY = np.uint64(0xD1B54A32D192ED03)  # its draws are others than the table's


@dataclass(frozen=True)
class _Table:
    """One version: what is read together is replaced together."""

    version: int
    candidates: Ids
    scores: Scores
    positive_scores: Scores
    lexical: Ids
    places: Ids  # columns of candidates in use; no columns where each step samples
    rounds: Ids  # how often a query's negatives were replaced


@kinds(pairs=a(Pairs), num_negatives=at_least(1), quotas=maybe(mapping), seed=at_least(0))
class LiveNegatives:
    """A table of candidate negatives for every query of `Pairs`, and what each step takes of it.

    Args:
        pairs: queries, corpus and positives.
        num_negatives: per query and step (n).
        sampling: how a step takes them from the table; default `stope.mining.Uniform`.
        quotas: negatives by source, in the order in which they are asked, such as ``{"dense": 4,
            "bm25": 1}``; they add up to num_negatives. "dense" is the table. What a source lacks
            the next one gives, and random documents at last. None is all "dense".
        seed: of all draws, 0 to 2^64 - 1.
        fixed: the first n candidates are taken in every step, until `replace_stale` exchanges some
            (Conan); sampling is not used.
        sources: the source of each query; where ``pairs.corpus_of`` has the documents of each
            source, a query's negatives, the random ones too, are of its own source. None is one
            corpus for all.
        among: "corpus", or "positives": documents that are a positive of some query alone.

    Attributes:
        pairs, num_negatives, sampling, quotas, seed, fixed, among: as given.

    Thread safety: `choose`, `texts` and the properties may be used while another thread publishes;
    each call reads one version of the table whole. Whatever changes something (`publish`,
    `observe`, `replace_stale`, `load`) and `save` are called by one thread at a time.

    Raises:
        ValueError: quotas that do not add up, sources that `Pairs.of_sources` refuses, or a query
            with fewer than n documents that are not its positives and not its own text.

    Memory: 12 bytes per candidate, and O(positives).

    Source: docs/methods.md, B1 (static), B3 (periodic), C4 (stale).

    Example:
        >>> pairs = Pairs.from_texts(["ore", "pit"], ["rock", "hole"], ["rock", "hole", "sea"])
        >>> live = LiveNegatives(pairs, num_negatives=1)
        >>> live.publish([[2], [0]], [[0.5], [0.25]], [0.9, 0.8])
        >>> live.version, live.texts(live.choose([1, 0, 1], step=7))
        (1, ['rock', 'sea', 'rock'])
    """

    def __init__(
        self,
        pairs: Pairs,
        *,
        num_negatives: int = 5,
        sampling: Sampling | None = None,
        quotas: Mapping[str, int] | None = None,
        seed: int = 0,
        fixed: bool = False,
        sources: Sequence[str | int] | None = None,
        among: Among = "corpus",
    ) -> None:
        self.pairs, self.num_negatives, self.seed = pairs, num_negatives, seed
        self.fixed = flag(fixed, "fixed")
        self.among: Among = choice(among, "among", AMONG)
        self.sampling: Sampling = Uniform() if sampling is None else sampling
        self.quotas = check_quotas({"dense": num_negatives} if quotas is None else quotas)
        total = sum(self.quotas.values())
        if total != num_negatives:
            raise ValueError(
                f"quotas is {self.quotas}, {total} in all, but num_negatives is {num_negatives}; "
                "make them agree"
            )
        self._sources = pairs.of_sources(sources, among)
        self._never = [source.pairs.never_negatives() for source in self._sources]
        self._check_sizes()
        self._fingerprint: str | None = None
        rows, dense = len(pairs.query_ids), self.quotas.get("dense", 0)
        self._observed = np.full((rows, dense), np.nan, dtype=np.float32)
        self._observed_at = np.zeros(self._observed.shape, dtype=np.int64)
        self._observations = 0
        no_ids = np.empty((rows, 0), dtype=np.int64)
        unknown = np.full(rows, np.nan, dtype=np.float32)
        none_yet = np.zeros(rows, dtype=np.int64)
        self._table = _Table(
            0, no_ids, no_ids.astype(np.float32), unknown, no_ids, no_ids, none_yet
        )

    @property
    def version(self) -> int:
        """How often the table was replaced; 0 while it is empty."""
        return self._table.version

    @property
    def candidates(self) -> Ids:
        """Corpus rows, int64 ``[queries, pool]``, best first, -1 at the end of short rows."""
        return self._table.candidates

    @property
    def scores(self) -> Scores:
        """Their scores when they were mined, float32 ``[queries, pool]``."""
        return self._table.scores

    @property
    def positive_scores(self) -> Scores:
        """The lowest score among each query's positives then, float32 ``[queries]``."""
        return self._table.positive_scores

    @property
    def lexical(self) -> Ids:
        """BM25's candidates, int64 ``[queries, any]``; no columns without a quota."""
        return self._table.lexical

    def choose(self, rows: Any, step: int) -> Ids:
        """Take the negatives of a step.

        Args:
            rows: queries of the pairs, integers ``[B]``; one may occur several times.
            step: optimiser steps done.

        Returns:
            int64 ``[B, num_negatives]``, rows of the corpus: distinct in each row, and never a
            positive of the query nor its own text.

        Raises:
            ValueError: a query that does not exist.

        Memory: O(B num_negatives), and chunks of the table.
        """
        table = self._table
        queries = _as_ids(rows)
        if queries.ndim != 1 or ((queries < 0) | (queries >= len(table.candidates))).any():
            raise ValueError(
                f"rows has shape {queries.shape} and goes from {queries.min(initial=0)} to "
                f"{queries.max(initial=0)}; give numbers of the {len(table.candidates)} queries"
            )
        keys = sampling_keys(self.seed, table.version, step, queries)
        lists, shares, wanted = [], [], 0
        for source, share in self.quotas.items():
            if source == "random" or not share:
                continue
            wanted += share  # as many as the sources so far may take, lest repeats leave a gap
            lists.append(self._drawn(table, source, queries, keys, wanted))
            shares.append(share)
        chosen = np.full((len(queries), self.num_negatives), -1, dtype=np.int64)
        if len(lists) == 1:
            chosen[:, :wanted] = lists[0]
        elif lists:
            chosen[:, :wanted] = merge_sources(lists, shares)
        if (chosen < 0).any():
            self._fill(chosen, queries, keys)
        return chosen

    def texts(self, ids: Any) -> list[str]:
        """The documents' texts, in the order of the ids' elements."""
        texts = self.pairs.corpus_texts
        return [texts[row] for row in _as_ids(ids).ravel().tolist()]

    def publish(
        self, candidates: Any, scores: Any, positive_scores: Any, *, lexical: Any = None
    ) -> None:
        """Replace the table; the next `choose` reads the new one.

        Args:
            candidates: integers ``[queries, pool]``, best first, -1 where there is none.
            scores: ``[queries, pool]``, theirs.
            positive_scores: ``[queries]``, the lowest among each query's positives.
            lexical: integers ``[queries, any]``, BM25's candidates; None keeps what there is.

        Raises:
            ValueError: shapes that disagree, ids that do not exist or repeat, or candidates that
                are positives of their query, documents of another source, or not mined. The
                table is then as it was.
        """
        ids, values = self._checked(candidates, scores, "candidates")
        positive = np.asarray(positive_scores, dtype=np.float32)
        if positive.shape != (len(ids),):
            raise ValueError(f"positive_scores has shape {positive.shape}; give [{len(ids)}]")
        old = self._table
        others = old.lexical
        if lexical is not None:
            others, _ = self._checked(lexical, np.zeros(np.shape(lexical)), "lexical")
        places = np.empty((len(ids), 0), dtype=np.int64)
        if self.fixed:
            width = self.quotas.get("dense", 0)
            places = np.full((len(ids), width), -1, dtype=np.int64)
            first = np.arange(min(width, ids.shape[1]))
            places[:, : len(first)] = np.where(ids[:, : len(first)] >= 0, first, -1)
        self._observed[:] = np.nan
        rounds = np.zeros(len(ids), dtype=np.int64)
        self._table = _Table(old.version + 1, ids, values, positive, others, places, rounds)

    def observe(self, queries: Any, ids: Any, scores: Any) -> None:
        """Note the scores that the loss has just computed; they cost nothing more.

        Does nothing unless the negatives are fixed.

        Args:
            queries: integers ``[B]``, as given to `choose`.
            ids: integers ``[B, n]``, what it returned.
            scores: ``[B, n]`` cosines as they are, not divided by the temperature; their gradient
                is not followed.
        """
        if not self.fixed:
            return
        rows, chosen = _as_ids(queries), _as_ids(ids)
        values = on_host(scores).astype(np.float32, copy=False)
        table = self._table
        places = table.places[rows]
        width = places.shape[1]
        in_use = np.take_along_axis(table.candidates[rows], places.clip(0), 1)
        row, column = np.nonzero((places >= 0) & (in_use == chosen[:, :width]))
        self._observations += 1
        self._observed[rows[row], column] = values[row, column]
        self._observed_at[rows[row], column] = self._observations

    def observed(self) -> tuple[Scores, Ids]:
        """What `observe` noted last: scores (NaN where nothing), and when, both [queries, n]."""
        return self._observed, self._observed_at

    def replace_stale(self) -> tuple[float, float, int]:
        """Exchange fixed negatives that became easy; the version rises if there are any.

        Returns:
            Share of all negatives in use that were exchanged; the mean score of the new ones when
            they were mined, 0 without any; and how many became easy but stay, since the table has
            no further candidates for them.

        Source: Conan-embedding (docs/methods.md, C4); the rule is `stope.mining.stale`.
        """
        table = self._table
        places, rounds, missing = replace_stale(
            self._observed, table.candidates, table.scores, table.places, table.rounds
        )
        changed = places != table.places
        if not changed.any():
            return 0.0, 0.0, missing
        self._observed[changed] = np.nan
        self._table = replace(table, version=table.version + 1, places=places, rounds=rounds)
        new = np.take_along_axis(table.scores, places.clip(0), 1)[changed]
        return float(changed.sum() / (places >= 0).sum()), float(new.mean()), missing

    def save(self, folder: str | PathLike[str], *, notes: Mapping[str, Any] | None = None) -> None:
        """Write the table and what was observed; an interrupted save leaves the one before whole.

        Arrays go to .npy files named after their SHA-256, then ``negatives.json`` names them.

        Args:
            folder: made where missing.
            notes: what JSON can write, for `load` to return.

        Raises:
            OSError: the disk is full; what was saved before is still there.
        """
        described = {
            "format": _FORMAT,
            "format_version": 1,
            **self._identity(),
            "version": self.version,
            "observations": self._observations,
            "notes": dict(notes or {}),
        }
        write_arrays(checked_path(folder, "folder") / _MANIFEST, described, self._arrays())

    def load(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Read what `save` wrote; choices go on as they would have. Returns the notes.

        Raises:
            ValueError: files that are missing, altered, or of other pairs or options. The table is
                then as it was.
        """
        path = checked_path(folder, "folder") / _MANIFEST
        identity = {"format": _FORMAT, "format_version": 1, **self._identity()}
        kind = dict.fromkeys(identity, object) | {
            "version": int,
            "observations": int,
            "notes": {str: object},
        }
        described, arrays = read_arrays(path, kind, self._arrays())
        other = [name for name, value in identity.items() if described[name] != value]
        if other:
            raise ValueError(
                f"{path} holds the negatives of another run: {', '.join(other)} differ; "
                "use the same data and options, or another folder"
            )
        for name, array in self._arrays().items():
            rows, width = arrays[name].shape[:1], arrays[name].shape[1:]
            if arrays[name].dtype != array.dtype or rows != array.shape[:1] or len(width) > 1:
                raise ValueError(
                    f"{path} has {name} of type {arrays[name].dtype} and shape "
                    f"{arrays[name].shape}; start without it, or from another checkpoint"
                )
        observed, at = arrays.pop("observed"), arrays.pop("observed_at")
        table = _Table(described["version"], **arrays)
        self._observed, self._observed_at = observed.copy(), at.copy()
        self._observations, self._table = described["observations"], table
        return dict(described["notes"])

    def _drawn(
        self, table: _Table, source: str, queries: Ids, keys: NDArray[np.uint64], wanted: int
    ) -> Ids:
        """Up to so many candidates of one source, in the order in which they are to be taken."""
        if source == "dense" and self.fixed:
            places = table.places[queries]
            if not places.shape[1] or not table.candidates.shape[1]:
                return np.full((len(queries), wanted), -1, dtype=np.int64)
            in_use = np.take_along_axis(table.candidates[queries], places.clip(0), 1)
            return np.where(places >= 0, in_use, -1)[:, :wanted]
        strategy, positive = self.sampling, table.positive_scores
        ids, scores = table.candidates, table.scores
        if source != "dense":  # BM25's scores compare with no embedding's, so rank is all there is
            strategy, keys, ids = Uniform(), keys ^ _LEXICAL_KEY, table.lexical
            scores = np.broadcast_to(np.float32(0), ids.shape)
        drawn = np.empty((len(queries), wanted), dtype=np.int64)
        for start in range(0, len(queries), 1024):  # the chosen rows of the table are a copy
            part = slice(start, start + 1024)
            rows, seeds = queries[part], keys[part]
            drawn[part] = strategy.choose(ids[rows], scores[rows], positive[rows], wanted, seeds)
        return drawn

    def _fill(self, chosen: Ids, queries: Ids, keys: NDArray[np.uint64]) -> None:
        """Put random documents of each query's source in place of -1."""
        for source, never in zip(self._sources, self._never, strict=True):
            here = np.flatnonzero(np.isin(queries, source.queries))
            rows = np.searchsorted(source.queries, queries[here])
            ids, size = source.of_source(chosen[here]), len(source.documents)
            chosen[here] = source.of_all(fill_at_random(ids, rows, never, size, keys[here]))

    def _check_sizes(self) -> None:
        for source, never in zip(self._sources, self._never, strict=True):
            size, every = len(source.documents), len(self.pairs.corpus_ids)
            left = size - never.lengths
            query = int(left.argmin())
            if left[query] < self.num_negatives:
                what = (
                    f"only {left[query]} of the {size} documents are" if left[query] else "none is"
                )
                where = "" if source.name is None else f" of the source {source.name!r}"
                more = "add documents to the corpus"
                if self.among == "positives" and size < every:
                    where += f" among the {size} positives of {every} documents"
                    more = "mine in all of them with among='corpus'"
                raise ValueError(
                    f"Query {source.pairs.query_ids[query]!r}{where} has too few negatives: {what} "
                    "not its positive or its own text, but num_negatives is "
                    f"{self.num_negatives}; lower it, {more}, or leave the query out"
                )

    def _checked(self, candidates: Any, scores: Any, name: str) -> tuple[Ids, Scores]:
        """Ids and scores without gaps, if the ids can be negatives of their queries."""
        ids, size = np.array(_as_ids(candidates)), len(self.pairs.corpus_ids)
        values = np.array(on_host(scores), dtype=np.float32)
        rows = len(self.pairs.query_ids)
        if ids.ndim != 2 or len(ids) != rows or values.shape != ids.shape:
            raise ValueError(
                f"{name} has shape {ids.shape} and its scores {values.shape}; give one row for "
                f"each of the {rows} queries"
            )
        if ids.size and not -1 <= ids.min() <= ids.max() < size:
            raise ValueError(f"{name} goes from {ids.min()} to {ids.max()}; give -1 to {size - 1}")
        pair = np.arange(rows)[:, None] * size + ids
        ordered = np.sort(np.where(ids >= 0, pair, -1), axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        bad, foreign = np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=bool)
        for source, never in zip(self._sources, self._never, strict=True):
            pairs = source.queries[never.owners] * size + source.documents[never.ids]
            bad[source.queries] = np.isin(pair[source.queries], pairs)
            if len(source.documents) < size:
                foreign[source.queries] = ~np.isin(ids[source.queries], source.documents)
        for wrong, what in (
            (bad & (ids >= 0), "a positive, its own text or what is excluded"),
            (foreign & (ids >= 0), "a document of another source, or one that is not mined"),
            (twice, "a document twice"),
        ):
            if wrong.any():
                query = int(np.flatnonzero(wrong.any(1))[0])
                raise ValueError(f"{name}[{query}] holds {what}; leave that out")
        if ((ids[:, 1:] >= 0) & (ids[:, :-1] < 0)).any():  # a filter has left gaps
            order = np.argsort(ids < 0, axis=1, kind="stable")
            ids, values = np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)
        values[ids < 0] = -np.inf
        return ids, values

    def _arrays(self) -> dict[str, Any]:
        arrays = {name: value for name, value in vars(self._table).items() if name != "version"}
        return {**arrays, "observed": self._observed, "observed_at": self._observed_at}

    def _identity(self) -> dict[str, Any]:
        """What must be the same for saved negatives to be these."""
        if self._fingerprint is None:
            pairs = self.pairs
            texts = [fingerprint_texts(pairs.query_texts), fingerprint_texts(pairs.corpus_texts)]
            known = [pairs.positives, *(self._never if pairs.exclusions is not None else ())]
            rows = [digest(array) for lists in known for array in lists]
            for source in self._sources if len(self._sources) > 1 else ():
                rows += [digest(source.queries), digest(source.documents)]
            self._fingerprint = hashlib.sha256(" ".join(texts + rows).encode()).hexdigest()
        return {
            "pairs": self._fingerprint,
            "num_negatives": self.num_negatives,
            "sampling": self.sampling.to_dict(),
            "quotas": self.quotas,
            "seed": self.seed,
            "fixed": self.fixed,
        }


def _as_ids(values: Any) -> Ids:
    return np.asarray(on_host(values), dtype=np.int64)

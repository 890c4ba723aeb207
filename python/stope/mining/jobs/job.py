"""A mining job: a folder in which embeddings, negatives and tables grow, whatever ends the process.

job.json            arguments, versions, fingerprints; at the end counts and checksums
embeddings/         of `stope.encoders.EmbeddingCache`
teacher/            scores of pairs (`stope.mining.pair_scores`)
mined/              what was mined, query by query, in shards (`stope._files.shards`)
negatives.parquet   the table, and counts.parquet (`stope.mining.jobs.tables`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import path as path_kind
from stope._checks import real
from stope._extras import need
from stope._files.arrays import digest
from stope._files.shards import Manifest, kept_array
from stope._host import on_host
from stope._kinds import a, kinds, maybe
from stope.data import Exclusions, Pairs
from stope.data.text_identity import fingerprint_texts
from stope.encoders.cache import EmbeddingCache, fingerprint_encoder
from stope.encoders.encode import Encoder
from stope.mining.embedded import (
    OF_EMBEDDING,
    check_embeddings,
    embeddings_of,
    mined_among,
    selected,
)
from stope.mining.jobs.folder import JobFolder
from stope.mining.jobs.miner import REASONS, Miner
from stope.mining.jobs.sources import Candidates, Sources
from stope.mining.jobs.tables import positive_rows, write_counts, write_documents
from stope.mining.known_answers import copies_of_positives, without_text
from stope.mining.mined import Mined
from stope.mining.pair_scores import PairScores
from stope.mining.pipeline import Limits
from stope.ops._search import exclusions, pair_scores
from stope.progress import StageProgress, of_stage, silent

DOCUMENTS, COUNTS = "negatives.parquet", "counts.parquet"
Spread = Callable[[Miner, Sequence[tuple[int, int]]], Iterable[NDArray[np.float32]]]
SHARD_SIZE = 1024  # queries that are mined between two saves
_OF_EMBEDDING = {
    name: check
    for name, check in OF_EMBEDDING.items()
    if name not in ("exclude_query_text", "progress")
}


@kinds(
    folder=path_kind,
    **_OF_EMBEDDING,
    limits=maybe(a(Limits)),
    sources=maybe(a(Sources)),
    teacher_margin=maybe(real),
    near_positive=maybe(real),
)
class MiningJob:
    """Mine hard negatives into a folder, from which a run that was killed goes on.

    Texts are encoded in shards of 2,048, queries are mined in shards of 1,024; what is done is on
    the disk, and `run` goes on after it to the very bytes that it would have written without the
    kill (with the same batch_size: batches can move an encoder's last bits). Embeddings stay on the
    disk and are mapped.

    The table ``negatives.parquet`` has a row per document of interest, by ids: query_id,
    document_id, score (of limits.metric, by the embeddings), rank, source, reason, teacher_score.
    The reason is "positive", or "kept" for negatives, the only ones with a rank; and for up to five
    documents per query, those of the highest scores, why they were turned away: "copy"
    (`copies_of_positives`), "near_positive", "absolute_margin", "relative_margin", "max_score" (the
    limit that was the strictest), or "teacher_margin". They are suspected of being answers.
    ``counts.parquet`` counts all that was kept and turned away, by query, source and reason.
    ``job.json`` has versions, arguments, fingerprints, counts and checksums.

    Args:
        folder: new or empty, or that of this very job.
        pairs: queries, documents and positives.
        encoder, query_embeddings, corpus_embeddings, query_prompt, corpus_prompt, batch_size: as in
            `stope.mining.mine`; an encoder must have a fingerprint
            (`stope.encoders.fingerprint_encoder`).
        cache: keeps embeddings; default, a folder inside the job's.
        limits: which documents may be negatives, from whatever source; ``sampling`` and ranges are
            of the source "dense". num_negatives is not read where sources has quotas.
        sources: where negatives come from; default, "dense" alone.
        teacher: scores candidates and positives, see `stope.mining.teacher_scores`; its scores are
            kept by pair.
        teacher_margin: at most this share below the lowest positive by the teacher's score, as
            relative_margin.
        near_positive: a document whose cosine with a positive is at least this is no negative
            (`near_positives`); None for any.
        exclude: rows of the corpus never to choose, as in `stope.mining.mine`; or what
            `stope.data.read_exclusions` reads. Documents without text are never chosen, nor are
            ``pairs.exclusions``.

    Attributes:
        folder, pairs, limits, sources: as given.
        counts: after `run`, documents by source and reason.
        unknown: after `run`, documents of the run and of the groups that the corpus has not, or not
            by that id.

    Raises:
        TypeError, ValueError: arguments of a wrong kind or value; a teacher_margin without a
            teacher; sampling "random" (take "uniform", which draws by the query).

    Memory: the pairs, whose corpus may lie on the disk (``folder`` of `stope.data.read_source`),
    one shard of embeddings, and `stope.topk`'s workspace with the candidates of a shard of queries.
    Embeddings and records of the whole job are mapped from the disk; but "bm25" holds its index, a
    teacher 20 bytes per pair, and the `Mined` that is returned all negatives.

    Example:
        >>> import pathlib, tempfile
        >>> pairs = Pairs.from_texts(["ore?"], ["rock"], ["rock", "stone", "sea"])
        >>> corpus = np.float32([[1, 0], [0.8, 0.6], [0, 1]])
        >>> job = MiningJob(pathlib.Path(tempfile.mkdtemp()), pairs,
        ...                 query_embeddings=np.float32([[1, 0.1]]), corpus_embeddings=corpus)
        >>> job.run().negatives()
        {'q0': [('d1', 0.8557...), ('d2', 0.0995...)]}
        >>> sorted(path.name for path in job.folder.iterdir())
        ['counts.parquet', 'job.json', 'mined', 'negatives.parquet']
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        pairs: Pairs,
        encoder: Encoder | None = None,
        *,
        query_embeddings: Any = None,
        corpus_embeddings: Any = None,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        batch_size: int = 256,
        cache: EmbeddingCache | str | PathLike[str] | None = None,
        limits: Limits | None = None,
        sources: Sources | None = None,
        teacher: Any = None,
        teacher_margin: float | None = None,
        near_positive: float | None = None,
        exclude: Any = None,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.limits, self.sources = limits or Limits(), sources or Sources()
        if self.limits.sampling == "random":
            raise ValueError(
                "sampling is 'random', which a job does not have; give 'uniform', and as pool how "
                "many documents to draw from"
            )
        if teacher_margin is not None and teacher is None:
            raise ValueError(
                f"teacher_margin is {teacher_margin}, but there is no teacher; give one"
            )
        self._margin = None if teacher_margin is None else real(teacher_margin, "teacher_margin", 0)
        self._near = None if near_positive is None else real(near_positive, "near_positive", 0, 1)
        if self._near == 0:
            raise ValueError(f"near_positive is {near_positive}; give a cosine above 0, or None")
        kept = self.folder / "teacher"
        self._teacher = None if teacher is None else PairScores(teacher, folder=kept)
        self._cache = cache
        if not isinstance(exclude, Exclusions):
            lists = exclusions(exclude, len(pairs.query_ids), len(pairs.corpus_ids))
            exclude = Exclusions(lists, np.empty(0, np.int64))
        self.pairs = pairs
        self._mined, self._documents, corpus = mined_among(
            pairs, self.limits.among, corpus_embeddings
        )
        among = self._documents
        exclude, mined = exclude if among is None else exclude.among(among), self._mined
        blank = without_text(mined)
        self._exclude = exclude.union(mined.exclusions).union(Exclusions(None, blank))
        queries = selected(
            query_embeddings, mined.query_rows, mined.num_queries_given, "query_embeddings"
        )
        corpus = selected(corpus, mined.corpus_rows, mined.num_corpus_given, "corpus_embeddings")
        check_embeddings(encoder, queries, corpus)
        self._encoder, self._embeddings = encoder, (queries, corpus)
        self.counts: dict[str, dict[str, int]] = {}
        self.unknown: dict[str, int] = {}
        self._prompts, self._batch_size = (query_prompt, corpus_prompt), batch_size

    def run(self, progress: StageProgress | None = None, *, spread: Spread | None = None) -> Mined:
        """Do what is left to do, and return the negatives of all queries.

        Args:
            progress: called with (stage, done, total); stages "queries", "corpus", "bm25" and
                "mining".
            spread: who mines, such as ``stope.scale.ray.Operations.mined``: called with what mines
                and (first, end) of each shard of queries that is missing, it gives what these
                come to, in their order. None for this process.

        Raises:
            ValueError: the folder holds a job of other arguments, texts, weights or versions; a
                spread beside a teacher, which scores in this process; what `stope.mining.mine` and
                `stope.mining.teacher_scores` raise.
            FileExistsError: the folder holds other files.
            OSError: the disk is full; what is saved is used by the next run.
            RuntimeError: another process is at this job.
        """
        need("pyarrow", extra="train")
        if spread is not None and self._teacher is not None:
            raise ValueError(
                "spread is given, but a teacher scores in this process: its scores are kept pair "
                "by pair in the job's folder; leave out either"
            )
        step = progress or silent
        arguments, inputs = self._arguments(), self._inputs()
        folder = JobFolder(self.folder, arguments, inputs)
        pairs, cache = self._mined, self._cache
        if cache is None and self._encoder is not None:
            cache = self.folder / "embeddings"
        queries, corpus = embeddings_of(
            pairs, self._encoder, self._embeddings, self._prompts, self._batch_size, cache, step
        )
        miner = Miner(
            pairs.renumbered(),
            queries,
            corpus,
            self.limits.with_changes(among="corpus"),
            self.sources.asked(self.limits.num_negatives),
            Candidates(pairs, self.sources, self.limits.seed, of_stage(step, "bm25")),
            self._known(),
            self._exclude.documents,
            self._near,
            self._teacher,
            self._margin,
            self.sources.spare,
        )
        records = self._records(miner, spread or _mined_here, arguments, inputs, step)
        scores = pair_scores(queries, corpus, pairs.positives, metric=self.limits.metric)
        self._write(folder, miner, records, scores)
        self.counts, self.unknown = folder.state["counts"], folder.state["unknown"]
        return self._result(miner, records, scores, arguments)

    def _records(
        self, miner: Miner, spread: Spread, arguments: Any, inputs: Any, step: StageProgress
    ) -> NDArray[Any]:
        """What was mined, a record for each query, from the folder or now."""
        count = len(miner.pairs.query_ids)
        named = json.dumps([arguments, inputs], sort_keys=True)
        key = hashlib.sha256(named.encode()).hexdigest()
        wanted = Manifest(key, key, "mined", None, key, count, SHARD_SIZE)

        following: Iterator[NDArray[np.float32]] | None = None

        def mined(start: int, stop: int) -> NDArray[np.float32]:
            nonlocal following  # shards are asked for in their order, from the first missing one on
            if following is None:
                size = stop - start  # of the shards in the folder, perhaps of an older version
                starts = range(start, count, size)
                spans = [(first, min(first + size, count)) for first in starts]
                following = iter(spread(miner, spans))
            made = next(following)
            step("mining", stop, count)
            return made

        bits = kept_array(self.folder / "mined", "records", wanted, mined, of_stage(step, "mining"))
        return bits.view(miner.record).reshape(-1)

    def _write(
        self, folder: JobFolder, miner: Miner, records: NDArray[Any], scores: NDArray[np.float32]
    ) -> None:
        """The tables, where they are not there already, and job.json."""
        names, pairs, told = (DOCUMENTS, COUNTS), miner.pairs, np.float32(np.nan)
        if folder.whole(names):
            return
        if miner.teacher is not None:
            told = miner.teacher.of(pairs, pairs.positives.owners, pairs.positives.ids)
        rows = {
            DOCUMENTS: write_documents(
                self.folder / DOCUMENTS, pairs, records, positive_rows(pairs, scores, told)
            ),
            COUNTS: write_counts(self.folder / COUNTS, pairs, records, miner.counted),
        }
        totals: dict[str, dict[str, int]] = {}
        for place, (source, reason) in enumerate(miner.counted):
            totals.setdefault(source, {})[reason] = int(records["counts"][:, place].sum())
        folder.finish(names, counts=totals, unknown=miner.candidates.unknown, rows=rows)

    def _result(
        self, miner: Miner, records: NDArray[Any], scores: NDArray[np.float32], arguments: Any
    ) -> Mined:
        negatives = records["rows"][:, : miner.total]
        ids = negatives["document"].copy()
        there = ids >= 0
        if self._documents is not None:
            ids = np.where(there, self._documents[ids], -1)
        rejected = {reason: np.zeros(len(ids), np.int64) for reason in REASONS[1:]}
        for place, (_, reason) in enumerate(miner.counted):
            if reason != "kept":
                rejected[reason] += records["counts"][:, place]
        result = stope.HardNegatives(
            ids=ids,
            scores=np.where(there, negatives["score"], np.float32(-np.inf)),
            positive_scores=np.minimum.reduceat(scores, miner.pairs.positives.offsets[:-1]),
            counts=there.sum(axis=1),
            rejected=rejected,
        )
        return Mined(self.pairs, result, scores, arguments)

    def _known(self) -> dict[str, Any]:
        """Rows of documents that are no negatives, by reason."""
        known = {
            "query_text": self._mined.same_text_rows(),
            "copy": copies_of_positives(self._mined),
        }
        if self._exclude.queries is not None:
            known["excluded"] = self._exclude.queries
        return known

    def _arguments(self) -> dict[str, Any]:
        return {
            **self.limits.to_dict(),
            "quotas": self.sources.asked(self.limits.num_negatives),
            "spare": self.sources.spare,
            "teacher_margin": self._margin,
            "near_positive": self._near,
            "query_prompt": self._prompts[0],
            "corpus_prompt": self._prompts[1],
        }

    def _inputs(self) -> dict[str, Any]:
        """Fingerprints of texts, ids, weights, embeddings and files."""
        pairs, exclude = self._mined, self._exclude
        positives = [repr(rows.tolist()) for rows in pairs.positives.rows()]
        positives += [] if pairs.body_starts is None else map(str, pairs.body_starts.tolist())
        texts = (pairs.query_ids, pairs.query_texts, pairs.corpus_ids, pairs.corpus_texts)
        prints = {
            "texts": fingerprint_texts(text for part in (*texts, positives) for text in part),
            "run": _of_json(self.sources.run),
            "groups": _of_json(self.sources.groups),
            "exclude": digest(np.concatenate([*(exclude.queries or ()), exclude.documents])),
            "encoder": None,
            "teacher": None if self._teacher is None else self._teacher.fingerprint(),
        }
        for side, rows in zip(("query", "corpus"), self._embeddings, strict=True):
            prints[f"{side}_embeddings"] = None if rows is None else digest(on_host(rows))
        if None in (prints["query_embeddings"], prints["corpus_embeddings"]):
            prints["encoder"] = fingerprint_encoder(self._encoder)
        return {name: {"sha256": value} for name, value in prints.items()}


def _mined_here(miner: Miner, spans: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.float32]]:
    return (miner.records(*span) for span in spans)


def _of_json(value: Any) -> str | None:
    if value is None:
        return None
    named = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()

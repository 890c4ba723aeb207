"""A teacher's scores of (query, document) pairs, each of which is scored once.

Pairs of texts are one list, sorted by length, so that batches are full and padding is small. Scores
go to a folder in shards, under a fingerprint of teacher and texts, and a run that was stopped goes
on after its last whole shard, as embeddings do (`stope.encoders.cache`). Beside each score stands
the digest of its texts, so that another list asks the teacher for what it has not scored alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import integer
from stope._files.shards import Manifest, complete_array, kept_array
from stope._host import on_host
from stope.data import Pairs
from stope.data.text_identity import fingerprint_texts
from stope.encoders import EmbeddingCache, encode_corpus, encode_queries
from stope.encoders.cache import fingerprint_encoder
from stope.lists import Ids, Lists
from stope.mining.late_interaction import pairwise_teacher
from stope.ops._search import pair_scores
from stope.progress import Progress
from stope.scale.processes import computed_in_first

Floats = NDArray[np.float32]
Digests = NDArray[np.uint64]
_FORMAT = "stope.teacher"
_NAME = "scores"
_WIDTH = 5  # columns of the file: the score, and the bits of 16 bytes of digest


class PairScores:
    """What a teacher says of pairs of texts; it is asked once for each.

    Args:
        teacher: see `stope.mining.teacher_scores`.
        query_prompt, corpus_prompt, batch_size, folder, shard_size: likewise.

    Memory: 20 bytes per pair that was scored; with an encoder the embeddings of all texts.
    """

    def __init__(
        self,
        teacher: Any,
        *,
        query_prompt: str = "",
        corpus_prompt: str = "",
        batch_size: int = 64,
        folder: str | PathLike[str] | None = None,
        shard_size: int = 16_384,
    ) -> None:
        integer(batch_size, "batch_size", 1)
        integer(shard_size, "shard_size", 1)
        self.teacher = teacher = pairwise_teacher(teacher)
        self._prompts = query_prompt, corpus_prompt
        self._batch_size, self._shard_size = batch_size, shard_size
        self._folder = None if folder is None else Path(folder)
        self._digests = np.empty((0, 2), np.uint64)  # in the order of their first halves
        self._scores = np.empty(0, np.float32)
        self._embedded: tuple[Any, Any, Floats, Floats] | None = None
        self._call: Any = None
        if not self.by_id and not self._embeds:
            self._call = _call_of(teacher)

    @property
    def by_id(self) -> bool:
        """Whether it knows pairs by their ids, not by their texts."""
        return hasattr(self.teacher, "of_pairs")

    @property
    def _embeds(self) -> bool:
        if isinstance(self.teacher, str | bytes) or hasattr(self.teacher, "predict"):
            return False
        return hasattr(self.teacher, "encode")

    @property
    def cosines(self) -> bool:
        """Whether the scores are cosines of embeddings."""
        return self._embeds and self._metric == "cosine"

    @property
    def _metric(self) -> str:
        return str(getattr(self.teacher, "similarity_fn_name", None) or "cosine")

    def fingerprint(self) -> str:
        """A digest of all that decides the scores.

        Raises:
            ValueError: a callable without a method fingerprint.
        """
        teacher = self.teacher
        if not callable(getattr(teacher, "fingerprint", None)) and not hasattr(
            teacher, "state_dict"
        ):
            raise ValueError(
                f"teacher {type(teacher).__name__} has no weights that can be read, so its scores "
                "cannot be kept safely; give it a method fingerprint() -> str that changes "
                "whenever its scores do, or leave folder out"
            )
        return fingerprint_encoder(teacher)

    def of(
        self, pairs: Pairs, query_of: Ids, documents: Ids, progress: Progress | None = None
    ) -> Floats:
        """The scores of pairs, float32 ``[n]``.

        Args:
            pairs: queries and documents; positives are not read.
            query_of, documents: int64 ``[n]``, rows of its queries and of its corpus.
            progress: called with (pairs scored, pairs).

        Raises:
            ValueError, TypeError, OSError, RuntimeError: what `stope.mining.teacher_scores` says.
        """
        numbers, places = np.unique(
            query_of * np.int64(max(1, len(pairs.corpus_texts))) + documents, return_inverse=True
        )
        queries, rows = np.divmod(numbers, max(1, len(pairs.corpus_texts)))
        if self.by_id:
            scores = np.asarray(self.teacher.of_pairs(pairs, queries, rows), np.float32)
        elif self._embeds:
            scores = self._similarities(pairs, queries, rows, progress)
        else:
            scores = self._of_texts(pairs, queries, rows, progress)
        return scores[places.reshape(-1)]

    def _similarities(
        self, pairs: Pairs, queries: Ids, rows: Ids, progress: Progress | None
    ) -> Floats:
        metric = self._metric
        if metric not in ("cosine", "dot"):
            raise ValueError(
                f"teacher has the similarity {metric}; its scores would be minus a distance, which "
                "no margin is for: set its similarity_fn_name to cosine or dot"
            )
        sides = self._embeddings(pairs, progress)
        offsets = np.searchsorted(queries, np.arange(len(pairs.query_texts) + 1))
        return pair_scores(*sides, Lists(offsets, rows), metric=metric)

    def _embeddings(self, pairs: Pairs, progress: Progress | None) -> tuple[Floats, Floats]:
        """Those of all queries and documents, made once for the same texts."""
        texts = pairs.query_texts, pairs.corpus_texts
        known = self._embedded
        if known is not None and known[0] is texts[0] and known[1] is texts[1]:
            return known[2:]
        total, rows = len(texts[0]) + len(texts[1]), []
        cache = None if self._folder is None else EmbeddingCache(self._folder)
        for role, side, prompt, first in (
            ("query", texts[0], self._prompts[0], 0),
            ("corpus", texts[1], self._prompts[1], len(texts[0])),
        ):
            options: dict[str, Any] = {"prompt": prompt or None, "batch_size": self._batch_size}
            if progress is not None:
                options["progress"] = lambda done, _, first=first: progress(first + done, total)
            if cache is not None:
                made = cache.embeddings(self.teacher, side, role=role, **options)  # type: ignore[arg-type]
            else:
                encode = encode_queries if role == "query" else encode_corpus
                made = encode(self.teacher, side, **options)
            rows.append(np.asarray(made, np.float32))
        self._embedded = (*texts, rows[0], rows[1])
        return rows[0], rows[1]

    def _of_texts(self, pairs: Pairs, queries: Ids, rows: Ids, progress: Progress | None) -> Floats:
        sides, places = [], []
        for prompt, texts, numbers in (
            (self._prompts[0], pairs.query_texts, queries),
            (self._prompts[1], pairs.corpus_texts, rows),
        ):
            used, at = np.unique(numbers, return_inverse=True)
            sides.append([f"{prompt or ''}{texts[row]}" for row in used.tolist()])
            places.append(at.reshape(-1))
        self._read_folder()
        digests = _digests(sides[0], places[0]), _digests(sides[1], places[1])
        # Sums of multiples: what is random in both halves stays so in the pair's.
        wanted = digests[0] * _ODD + digests[1]
        scores, known = self._known(wanted)
        missing = np.flatnonzero(~known)
        if not len(missing):
            if progress is not None:
                progress(len(scores), len(scores))
            return scores
        listed = _Pairs(sides[0], sides[1], places[0][missing], places[1][missing])
        here = missing[listed.order]
        score = _scorer(
            self.teacher, self._call, self._batch_size, progress, len(missing), len(scores)
        )
        if self._folder is None:
            scores[here] = score(listed, 0)
        else:
            scores[here] = self._in_folder(self._folder, listed, wanted[here], score, progress)
        self._add(wanted[here], scores[here])
        return scores

    def _known(self, wanted: Digests) -> tuple[Floats, NDArray[np.bool_]]:
        """The scores that are known, and which are."""
        if not len(self._digests):
            return np.zeros(len(wanted), np.float32), np.zeros(len(wanted), np.bool_)
        places = np.searchsorted(self._digests[:, 0], wanted[:, 0])
        places = places.clip(max=len(self._digests) - 1)
        known = (self._digests[places] == wanted).all(axis=1)
        return np.where(known, self._scores[places], np.float32(0)), known

    def _add(self, digests: Digests, scores: Floats) -> None:
        every = np.concatenate([self._digests, digests])
        order = np.argsort(every[:, 0], kind="stable")
        self._digests = every[order]
        self._scores = np.concatenate([self._scores, scores])[order]

    def _read_folder(self) -> None:
        """What the folder has of this teacher, the first time."""
        if self._folder is None or len(self._digests) or not self._folder.is_dir():
            return
        teacher = self.fingerprint()
        for place in sorted(self._folder.glob("teacher-*")):
            table = complete_array(place, _NAME, teacher)
            if table is not None and table.shape[1] == _WIDTH:
                bits = np.ascontiguousarray(table[:, 1:])
                self._add(bits.view(np.uint64), np.array(table[:, 0]))

    def _in_folder(
        self,
        folder: Path,
        listed: _Pairs,
        digests: Digests,
        score: Callable[..., Floats],
        progress: Progress | None,
    ) -> Floats:
        """The scores in their order, from the folder or from the teacher shard by shard."""
        prints = self.fingerprint(), fingerprint_texts(listed.texts())
        key = hashlib.sha256(json.dumps([_FORMAT, 2, *prints]).encode()).hexdigest()
        own = folder / f"teacher-{key[:32]}"
        size = self._shard_size
        wanted = Manifest(key, prints[0], "teacher", None, prints[1], len(listed), size)

        def scored(start: int, stop: int) -> Floats:
            bits = digests[start:stop].view(np.float32)
            return np.column_stack([score(listed, start, stop), bits])

        return np.array(kept_array(own, _NAME, wanted, scored, progress)[:, 0])


class ScoredPairs:
    """A teacher's scores of the positives and of the candidates of some `Pairs`, to look up.

    Args:
        teacher: what is asked.
        pairs: queries, corpus and positives.

    Memory: 12 bytes per pair.
    """

    def __init__(self, teacher: PairScores, pairs: Pairs) -> None:
        self.teacher, self.pairs = teacher, pairs
        self._numbers = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float32)

    def score(self, *tables: Ids | None, progress: Any = None) -> None:
        """Know the scores of the positives and of these, int64 ``[queries, any]``, and no others.

        Args:
            *tables: rows of the corpus, -1 where there is none; None is no table.
            progress: called with ("teacher", pairs scored, pairs).
        """
        positives = self.pairs.positives
        numbers = [self._number(positives.owners, positives.ids)]
        for table in tables:
            if table is not None:
                queries, places = np.nonzero(table >= 0)
                numbers.append(self._number(queries, table[queries, places]))
        wanted = np.unique(np.concatenate(numbers))
        queries, documents = np.divmod(wanted, len(self.pairs.corpus_ids))
        told = None if progress is None else lambda done, total: progress("teacher", done, total)

        def scores() -> Floats:
            return self.teacher.of(self.pairs, queries, documents, told)[:, None]

        self._numbers, self._scores = wanted, computed_in_first(scores)[:, 0]

    def scores(self, queries: Ids, documents: Ids) -> Floats:
        """Float32 ``[B, n]`` of the documents in the rows of these queries; -inf where unknown."""
        wanted = self._number(queries[:, None], documents)
        places = np.searchsorted(self._numbers, wanted).clip(max=len(self._numbers) - 1)
        known = (documents >= 0) & (self._numbers[places] == wanted)
        scores: Floats = np.where(known, self._scores[places], np.float32(-np.inf))
        return scores

    def lowest_positive_scores(self) -> Floats:
        """Float32 ``[queries]``, the lowest among each query's positives."""
        positives = self.pairs.positives
        scores = self.scores(positives.owners, positives.ids[:, None])[:, 0]
        return np.asarray(np.minimum.reduceat(scores, positives.offsets[:-1]))

    def _number(self, queries: Ids, documents: Ids) -> Ids:
        numbers: Ids = queries * np.int64(len(self.pairs.corpus_ids)) + documents
        return numbers


_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


def _digests(texts: Sequence[str], rows: Ids) -> Digests:
    """16 bytes of BLAKE2 of the texts in these rows, as two numbers each."""
    used, places = np.unique(rows, return_inverse=True)
    raw = b"".join(
        hashlib.blake2b(texts[row].encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for row in used.tolist()
    )
    return np.frombuffer(raw, "<u8").astype(np.uint64).reshape(-1, 2)[places.reshape(-1)]


class _Pairs:
    """The texts of all pairs, longest first; equally long ones stay in their order."""

    def __init__(
        self, queries: Sequence[str], documents: Sequence[str], query_of: Ids, document_of: Ids
    ) -> None:
        self._queries, self._documents = queries, documents
        lengths = [
            np.fromiter(map(len, texts), np.int64, len(texts)) for texts in (queries, documents)
        ]
        total = lengths[0][query_of] + lengths[1][document_of]
        self.order = np.argsort(-total, kind="stable")
        self._query_of, self._document_of = query_of[self.order], document_of[self.order]

    def __len__(self) -> int:
        return len(self.order)

    def part(self, start: int, stop: int) -> list[tuple[str, str]]:
        """Texts of some pairs."""
        queries, documents = (of[start:stop].tolist() for of in (self._query_of, self._document_of))
        texts = map(self._queries.__getitem__, queries), map(self._documents.__getitem__, documents)
        return list(zip(*texts, strict=True))

    def texts(self) -> Iterator[str]:
        """All texts in order, query and document in turn."""
        for start in range(0, len(self), 4096):
            for pair in self.part(start, start + 4096):
                yield from pair


def _call_of(teacher: Any) -> Any:
    predict = getattr(teacher, "predict", None)
    call = predict if callable(predict) else teacher
    if not callable(call):
        raise TypeError(
            f"teacher is {type(teacher).__name__}; give a CrossEncoder, or a callable that takes a "
            "list of (query, document) and gives one number for each"
        )
    return call


def _scorer(
    teacher: Any, call: Any, batch_size: int, progress: Progress | None, missing: int, total: int
) -> Callable[..., Floats]:
    """score(pairs, start, stop) -> float32, batch by batch."""
    known = inspect.signature(call).parameters if hasattr(teacher, "predict") else ()
    wanted = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_numpy": True}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if name in known}

    def score(pairs: _Pairs, start: int, stop: int | None = None) -> Floats:
        stop = len(pairs) if stop is None else stop
        scores = np.empty(stop - start, dtype=np.float32)
        for first in range(start, stop, batch_size):
            part = pairs.part(first, min(first + batch_size, stop))
            scores[first - start : first - start + len(part)] = _checked(
                call(part, **options), part, type(teacher).__name__
            )
            if progress is not None:
                progress(total - missing + first + len(part), total)
        return scores

    return score


def _checked(output: Any, pairs: list[tuple[str, str]], name: str) -> Floats:
    scores = on_host(output)
    if scores.shape == (len(pairs), 1):
        scores = scores[:, 0]
    if scores.shape != (len(pairs),) or scores.dtype.kind not in "fiu":
        raise ValueError(
            f"teacher {name} gave scores of shape {scores.shape} and type {scores.dtype} for "
            f"{len(pairs)} pairs; it must give one number for each"
        )
    numbers = scores.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        query, document = pairs[int(bad[0])]
        raise ValueError(
            f"teacher {name} gave {numbers[bad[0]]} for the query {query[:60]!r} and the document "
            f"{document[:60]!r}; scores must be finite"
        )
    return numbers

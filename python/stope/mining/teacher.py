"""A reranker's scores of mined negatives and positives: to filter by, to weigh by, to distil from.

All pairs of all queries are one list, sorted by length, so that batches are full and padding is
small. Scores go to a folder in shards, under a fingerprint of teacher and texts, and a run that was
stopped goes on after its last whole shard, as embeddings do (`stope.encoders.cache`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import integer, path, real
from stope._files.shards import Manifest, kept_array
from stope._host import on_host
from stope._kinds import a, callback, kinds, maybe, string
from stope.data.text_identity import fingerprint_texts
from stope.encoders.cache import fingerprint_encoder
from stope.lists import Ids
from stope.mining.mined import Mined
from stope.progress import Progress
from stope.weighting import teacher_confidence

Floats = NDArray[np.float32]
_FORMAT = "stope.teacher"


@dataclass(frozen=True)
class TeacherScores:
    """What a teacher says of mined negatives and of the positives.

    Attributes:
        mined: what was scored.
        positive_scores: float32, the teacher's score of every positive, aligned with
            ``mined.pairs.positives.ids``.
        negative_scores: float32 ``[queries, n]``, of ``mined.result.ids``; -inf where there is
            none.
    """

    mined: Mined
    positive_scores: Floats
    negative_scores: Floats

    def lowest_positive_scores(self) -> Floats:
        """Float32 ``[queries]``, the lowest teacher score among each query's positives."""
        starts = self.mined.pairs.positives.offsets[:-1]
        return np.asarray(np.minimum.reduceat(self.positive_scores, starts))

    def confidence(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """`stope.weighting.teacher_confidence` of every pair, aligned with the positives.

        The rows that train on `Pairs` are in this order: give it to them as the column
        "teacher_confidence", which `stope.weighting.Teacher` reads.

        Memory: float64 ``[pairs, 1 + n]``.
        """
        found: NDArray[np.float64] = teacher_confidence(
            self.positive_scores.astype(np.float64),
            self.negative_scores[self.mined.pairs.positives.owners].astype(np.float64),
            temperature=temperature,
        )
        return found

    def lists(self) -> tuple[Ids, Floats]:
        """One list per pair for listwise distillation: the positive, then the query's negatives.

        Returns:
            Corpus rows int64 ``[pairs, 1 + n]``, -1 where a query has fewer negatives, and the
            teacher's scores float32 of the same shape, -inf there.
        """
        positives = self.mined.pairs.positives
        ids = np.column_stack([positives.ids, self.mined.result.ids[positives.owners]])
        scores = [self.positive_scores, self.negative_scores[positives.owners]]
        return ids, np.column_stack(scores)


@kinds(
    mined=a(Mined),
    **dict.fromkeys(("query_prompt", "corpus_prompt"), string),
    folder=maybe(path),
    progress=maybe(callback),
)
def teacher_scores(
    mined: Mined,
    teacher: Any,
    *,
    query_prompt: str = "",
    corpus_prompt: str = "",
    batch_size: int = 64,
    folder: str | PathLike[str] | None = None,
    shard_size: int = 16_384,
    progress: Progress | None = None,
) -> TeacherScores:
    """Let a teacher score every mined negative and every positive.

    Args:
        teacher: a sentence-transformers CrossEncoder with one output, or any callable that takes a
            list of (query, document) texts and gives one number for each, higher for better.
        query_prompt, corpus_prompt: put before every query, before every document.
        batch_size: pairs per call. The longest come first, so that memory is short at once or not
            at all.
        folder: keeps the scores, and what is there is used again, if teacher and texts are the
            same. A callable then needs a method ``fingerprint() -> str`` that changes whenever its
            scores do. Nothing is deleted.
        shard_size: pairs that are scored between two saves.
        progress: called with (pairs scored, pairs).

    Raises:
        TypeError: teacher is neither, or a number is no integer.
        ValueError: the teacher gave NaN, infinity or a wrong shape; a number out of range; or, with
            a folder, a teacher without a fingerprint or a file that was altered.
        OSError: the disk is full; shards already saved are kept and used next time.
        RuntimeError: another process is filling the same scores.

    Memory: a reference per pair, and 20 bytes.

    Source: RocketQA (cross-encoder denoising), TAS-B and LLM-Embedder (distillation;
    docs/methods.md, C5, D2).

    Example:
        >>> from stope.data import Pairs
        >>> from stope.mining import mine
        >>> pairs = Pairs.from_texts(["iron ore"], ["ore"], ["ore", "iron", "sea"])
        >>> rows = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
        >>> mined = mine(pairs, query_embeddings=rows[:1], corpus_embeddings=rows, num_negatives=2)
        >>> def shared(pairs):
        ...     return [len(set(query.split()) & set(text.split())) for query, text in pairs]
        >>> found = teacher_scores(mined, shared)
        >>> found.positive_scores.tolist(), found.negative_scores.tolist()
        ([1.0], [[1.0, 0.0]])
    """
    integer(batch_size, "batch_size", 1)
    integer(shard_size, "shard_size", 1)
    pairs, ids = mined.pairs, mined.result.ids
    positives = pairs.positives.ids
    queries, places = np.nonzero(ids >= 0)
    query_of = np.concatenate([pairs.positives.owners, queries])
    documents = np.concatenate([positives, ids[queries, places]])
    query_texts, corpus_texts = (
        [prompt + text for text in side] if prompt else side
        for prompt, side in ((query_prompt, pairs.query_texts), (corpus_prompt, pairs.corpus_texts))
    )
    listed = _Pairs(query_texts, corpus_texts, query_of, documents)
    score = _scorer(teacher, batch_size, progress, len(listed))
    if folder is None:
        in_order = score(listed, 0)
    else:
        in_order = _in_folder(Path(folder), teacher, listed, score, shard_size, progress)
    scores = np.empty(len(listed), dtype=np.float32)
    scores[listed.order] = in_order
    negative_scores = np.full(ids.shape, -np.inf, dtype=np.float32)
    negative_scores[queries, places] = scores[len(positives) :]
    return TeacherScores(mined, scores[: len(positives)], negative_scores)


@kinds(
    scored=a(TeacherScores),
    **dict.fromkeys(("absolute_margin", "relative_margin", "max_score", "min_score"), maybe(real)),
)
def teacher_filter(
    scored: TeacherScores,
    *,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
) -> TeacherScores:
    """Drop negatives that the teacher thinks are answers.

    With p the lowest teacher score among the query's positives, a negative of score s stays iff

        s <= p - absolute_margin,  s <= p - |p| relative_margin,  s <= max_score,  s >= min_score

    for all limits that are given: those of `stope.mine_hard_negatives`, on the teacher's scores
    (which may be logits of either sign). What stays keeps its order.

    Returns:
        Scores whose ``mined`` is a new `Mined`: fewer negatives per query, and counts of the
        dropped ones under "teacher_absolute_margin" and so on among ``result.rejected`` (a negative
        that two limits drop counts for the stricter one). Mine more negatives than are wanted
        where many are dropped.

    Raises:
        ValueError: no limit, a margin that is negative or a limit that is not finite.

    Source: NV-Retriever (docs/methods.md, C1) for the margins, RocketQA for the teacher.

    Example:
        >>> from stope.data import Pairs
        >>> from stope.mining import mine
        >>> pairs = Pairs.from_texts(["iron ore"], ["ore"], ["ore", "iron", "sea"])
        >>> rows = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
        >>> mined = mine(pairs, query_embeddings=rows[:1], corpus_embeddings=rows, num_negatives=2)
        >>> found = TeacherScores(mined, np.float32([2]), np.float32([[1.9, -1]]))
        >>> teacher_filter(found, relative_margin=0.1).mined.negatives()
        {'q0': [('d2', 0.0)]}
    """
    limits = {
        "absolute_margin": absolute_margin,
        "relative_margin": relative_margin,
        "max_score": max_score,
        "min_score": min_score,
    }
    used = {name: float(value) for name, value in limits.items() if value is not None}
    if not used:
        raise ValueError(f"there is no limit; give one of {', '.join(limits)}")
    for name, value in used.items():
        if not np.isfinite(value) or (name.endswith("margin") and value < 0):
            kind = "finite and at least 0" if name.endswith("margin") else "finite"
            raise ValueError(f"{name} is {value}; it must be {kind}")
    result = scored.mined.result
    present = result.ids >= 0
    scores = np.where(present, scored.negative_scores, 0).astype(np.float64)
    lowest = scored.lowest_positive_scores().astype(np.float64)
    ceilings = {
        "absolute_margin": lowest - used.get("absolute_margin", -np.inf),
        "relative_margin": lowest - np.abs(lowest) * used.get("relative_margin", 0.0),
        "max_score": np.full(len(lowest), used.get("max_score", np.inf)),
    }
    names = [name for name in ceilings if name in used]
    rejected = {name: np.asarray(counts) for name, counts in result.rejected.items()}
    keep = present.copy()
    if names:
        stacked = np.stack([ceilings[name] for name in names])
        over = present & (scores > stacked.min(axis=0)[:, None])
        keep &= ~over
        for place, name in enumerate(names):
            strictest = stacked.argmin(axis=0) == place
            rejected[f"teacher_{name}"] = np.where(strictest, over.sum(axis=1), 0)
    if "min_score" in used:
        under = keep & (scores < used["min_score"])
        keep &= ~under
        rejected["teacher_min_score"] = under.sum(axis=1)
    order = np.argsort(~keep, axis=1, kind="stable")
    counts = keep.sum(axis=1)
    gone = np.arange(keep.shape[1]) >= counts[:, None]

    def moved(rows: Any, empty: Any) -> Any:
        return np.where(gone, empty, np.take_along_axis(rows, order, axis=1)).astype(rows.dtype)

    ids, own_scores = moved(result.ids, -1), moved(result.scores, -np.inf)
    kept = result._replace(ids=ids, scores=own_scores, counts=counts, rejected=rejected)
    parameters = {**scored.mined.parameters, "teacher": used}
    mined = replace(scored.mined, result=kept, parameters=parameters)
    return TeacherScores(mined, scored.positive_scores, moved(scored.negative_scores, -np.inf))


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


def _scorer(
    teacher: Any, batch_size: int, progress: Progress | None, total: int
) -> Callable[..., Floats]:
    """score(pairs, start, stop) -> float32, batch by batch."""
    predict = getattr(teacher, "predict", None)
    call = predict if callable(predict) else teacher
    if not callable(call):
        raise TypeError(
            f"teacher is {type(teacher).__name__}; give a CrossEncoder, or a callable that takes a "
            "list of (query, document) and gives one number for each"
        )
    known = inspect.signature(predict).parameters if call is predict else ()
    wanted = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_numpy": True}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if name in known}

    def score(pairs: _Pairs, start: int, stop: int | None = None) -> Floats:
        stop = len(pairs) if stop is None else stop
        found = np.empty(stop - start, dtype=np.float32)
        for first in range(start, stop, batch_size):
            part = pairs.part(first, min(first + batch_size, stop))
            found[first - start : first - start + len(part)] = _checked(
                call(part, **options), part, type(teacher).__name__
            )
            if progress is not None:
                progress(first + len(part), total)
        return found

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


def _in_folder(
    folder: Path,
    teacher: Any,
    pairs: _Pairs,
    score: Callable[..., Floats],
    shard_size: int,
    progress: Progress | None,
) -> Floats:
    """The scores in their order, from the folder or from the teacher shard by shard."""
    if not callable(getattr(teacher, "fingerprint", None)) and not hasattr(teacher, "state_dict"):
        raise ValueError(
            f"teacher {type(teacher).__name__} has no weights that can be read, so its scores "
            "cannot be kept safely; give it a method fingerprint() -> str that changes whenever "
            "its scores do, or leave folder out"
        )
    prints = fingerprint_encoder(teacher), fingerprint_texts(pairs.texts())
    key = hashlib.sha256(json.dumps([_FORMAT, 1, *prints]).encode()).hexdigest()
    own = folder / f"teacher-{key[:32]}"
    wanted = Manifest(key, prints[0], "teacher", None, prints[1], len(pairs), shard_size)

    def scored(start: int, stop: int) -> Floats:
        return score(pairs, start, stop)[:, None]

    return np.array(kept_array(own, "scores", wanted, scored, progress)[:, 0])

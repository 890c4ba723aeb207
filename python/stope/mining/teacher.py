"""A teacher's scores of mined negatives and positives: to filter, to weigh and to distil by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import path, real
from stope._kinds import a, callback, kinds, maybe, string
from stope.lists import Ids
from stope.mining.mined import Mined
from stope.mining.pair_scores import PairScores
from stope.ops.hard_negatives import REASONS, score_limits
from stope.progress import Progress
from stope.weighting import teacher_confidence

Floats = NDArray[np.float32]


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
        teacher: a sentence-transformers CrossEncoder with one output; any callable that takes a
            list of (query, document) texts and gives one number for each, higher for better; an
            encoder, or a MultiVectorEncoder (late interaction), whose similarity it is; or what
            `load_teacher` reads.
        query_prompt, corpus_prompt: put before every query, before every document.
        batch_size: pairs per call. The longest come first, so that memory is short at once or not
            at all.
        folder: keeps the scores; a pair whose texts this teacher has scored there is not scored
            again, whatever it was mined with. A callable then needs a method ``fingerprint() ->
            str`` that changes whenever its scores do. Nothing is deleted.
        shard_size: pairs that are scored between two saves.
        progress: called with (pairs scored, pairs).

    Raises:
        TypeError: teacher is neither, or a number is no integer.
        ValueError: the teacher gave NaN, infinity or a wrong shape; a number out of range; a file
            of scores without one of the pairs; or, with a folder, a teacher without a fingerprint
            or a file that was altered.
        OSError: the disk is full; shards already saved are kept and used next time.
        RuntimeError: another process is filling the same scores.

    Memory: 60 bytes per pair; with an encoder the embeddings of all texts.

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
    pairs, ids = mined.pairs, mined.result.ids
    positives = pairs.positives.ids
    queries, places = np.nonzero(ids >= 0)
    scorer = PairScores(
        teacher,
        query_prompt=query_prompt,
        corpus_prompt=corpus_prompt,
        batch_size=batch_size,
        folder=folder,
        shard_size=shard_size,
    )
    scores = scorer.of(
        pairs,
        np.concatenate([pairs.positives.owners, queries]),
        np.concatenate([positives, ids[queries, places]]),
        progress=progress,
    )
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
    rules = score_limits(scored.lowest_positive_scores(), **used)
    broken = np.where(present, rules.broken(scored.negative_scores), -1)
    rejected = {name: np.asarray(counts) for name, counts in result.rejected.items()}
    rejected |= {f"teacher_{name}": (broken == REASONS.index(name)).sum(axis=1) for name in used}
    keep = present & (broken < 0)
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

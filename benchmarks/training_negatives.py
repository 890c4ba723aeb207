"""Negatives and log-weights that recipes of the benchmark of training make for themselves.

Each is called with the kind of model (`training_kinds.Kind`) and the model as it is, once, before
the training that it is an option of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import torch
from stope.adapters import step
from stope.mining import TeacherScores, teacher_filter
from stope.training import pairs_dataset

POOL = 50  # of which denoising and balancing leave some out
Made = Callable[[Any, Any], Any]


def exposure(kind: Any) -> NDArray[np.float64]:
    """How many training pairs each document of the corpus answers: [documents]."""
    return np.bincount(kind.pairs.positives.ids, minlength=len(kind.pairs.corpus_ids)).astype(float)


def balanced(count: int) -> Made:
    """Negatives of every query such that each document is as often negative as positive.

    Document d, the positive of n_d pairs, is the negative of at most count x n_d queries: ranks are
    gone through from the hardest, queries at random, and what is used up is left out.
    """

    def balanced_negatives(kind: Any, model: Any) -> NDArray[np.int64]:
        pool = kind.mined(model, among="positives", num_negatives=POOL).result.ids
        left = count * exposure(kind)
        chosen = np.full((len(pool), count), -1, dtype=np.int64)
        filled = np.zeros(len(pool), dtype=np.int64)
        rng = np.random.default_rng(0)
        for candidates in pool.T:
            for query in rng.permutation(len(pool)):
                document = candidates[query]
                if document >= 0 and filled[query] < count and left[document] > 0:
                    chosen[query, filled[query]] = document
                    filled[query] += 1
                    left[document] -= 1
        return chosen

    return balanced_negatives


def log_q(kind: Any, model: Any) -> NDArray[np.float32]:
    """Of documents: a_d = -log(n_d), up to a number: the logQ correction of in-batch negatives."""
    times = exposure(kind)
    mean = (times**2).sum() / times.sum()  # as a batch draws them
    return np.asarray(-np.log(np.maximum(times, 1) / mean), dtype=np.float32)


def by_exposure(kind: Any, model: Any) -> NDArray[np.float32]:
    """Of documents: a_d = log((n_d + .1) / 1.1), so that what answers nothing counts a tenth."""
    return np.asarray(np.log((exposure(kind) + 0.1) / 1.1), dtype=np.float32)


@contextlib.contextmanager
def weighed(log_weights: NDArray[np.float32] | None) -> Iterator[None]:
    """Adapters' steps add these to the logits of documents [documents] where they are negatives.

    `stope.infonce_forward` has the option, adapters have not, since it brought nothing here.
    """
    if log_weights is None:
        yield
        return
    of_step, losses_of = step.documents_of_step, step.InfoNCELoss.row_losses
    chosen: list[NDArray[np.int64]] = []

    def documents_of_step(*args: Any) -> NDArray[np.int64]:
        chosen[:] = [of_step(*args)]
        return chosen[0]

    def row_losses(loss: Any, *args: Any, **tensors: Any) -> Any:
        weights = torch.from_numpy(log_weights[chosen[0]])
        return losses_of(loss, *args, **tensors, log_weights=weights)

    with (
        mock.patch.object(step, "documents_of_step", documents_of_step),
        mock.patch.object(step.InfoNCELoss, "row_losses", row_losses),
    ):
        yield


def of_pairs(log_weights: Made) -> Made:
    """The same as a column of the rows that an encoder is trained on."""

    def column(kind: Any, model: Any) -> dict[str, list[float]]:
        values = log_weights(kind, model)[kind.pairs.positives.ids]
        return {"log_weight": values.tolist()}

    return column


def once(among: str, count: int, teacher_margin: float | None = None) -> Made:
    """Rows with negatives mined once by the model as it is.

    With a teacher_margin those are left out whose score by MiniLM lies above the positive's less
    this share of it (`stope.mining.teacher_filter`).
    """

    def mined_once(kind: Any, model: Any) -> Any:
        mined = kind.mined(model, among=among, num_negatives=POOL)
        if teacher_margin is not None:
            scored = TeacherScores(mined, *kind.teacher_scores(mined))
            mined = teacher_filter(scored, relative_margin=teacher_margin).mined
        return pairs_dataset(kind.pairs, mined.result.ids[:, :count])

    return mined_once

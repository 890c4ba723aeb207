"""Train an adapter on the frozen embeddings of any encoder.

Trained are maps f, g on queries and documents (`stope.adapters.maps`), for each pair of
query q and positive p over a set C of documents, without q's other positives (methods.md, H1):

    loss = -log( exp s(q, p) / sum_{c in C} exp s(q, c) ),   s(q, c) = cos(f(q), g(c)) / temperature

Nothing is encoded again: the embeddings are given, so C may be thousands of documents, or all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.adapters import _inputs
from stope.adapters._inputs import Csr
from stope.adapters._mine import Miner
from stope.adapters._step import Problem, Step
from stope.adapters._trainable import Trainable, start_matrix
from stope.adapters.adapter import SIDES, Adapter
from stope.adapters.maps import KINDS, Floats, unit
from stope.training.losses import Precision
from stope.weighting import Weighting


def train_adapter(
    query_embeddings: Floats,
    corpus_embeddings: Floats,
    positives: Csr | Sequence[int] | NDArray[np.int64],
    *,
    negatives: NDArray[np.int64] | None = None,
    num_documents: int = 16_384,
    batch_size: int = 1024,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    temperature: float = 0.05,
    precision: Precision = "float32",
    weight_decay: float = 0.0,
    seed: int = 0,
    kind: str = "linear",
    side: str = "both",
    dim: int | None = None,
    rank: int = 32,
    hidden: int = 512,
    weights: Any = None,
    weighting: Weighting | Mapping[str, Any] | str | None = None,
    signals: Mapping[str, Any] | None = None,
    refresh_every: int | None = None,
    sources: Sequence[tuple[Any, Any]] | None = None,
    num_negatives: int = 5,
    relative_margin: float | None = 0.05,
    matryoshka_dims: Sequence[int] | None = None,
    loss_options: Mapping[str, Any] | None = None,
    evaluate: Callable[[Adapter], float] | None = None,
    evaluate_every: int = 1,
    patience: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    log: Callable[..., object] | None = None,
) -> Adapter:
    """Train an adapter on embeddings that an encoder gave, without the encoder.

    Args:
        query_embeddings: float32 [queries, d].
        corpus_embeddings: float32 [documents, d].
        positives: rows of corpus_embeddings that are right for each query: one per query, or CSR
            ``(offsets, rows)``. Each of them makes a pair.
        negatives: int64 [queries, n], hard negatives that are always among the documents a query
            is scored against; -1 for none. Of use only with more than num_documents documents.
        num_documents: how many documents each step scores: all, if there are no more than this,
            else the positives and negatives of the batch and a random rest. 1: no random rest.
        batch_size: pairs per step; may be all of them.
        epochs: passes over the pairs.
        learning_rate: of Adam, decaying linearly to 0.
        temperature: divides the cosines.
        precision: of the products in the loss, as in `contrastive_loss`.
        weight_decay: pulls the maps towards where they began, not towards 0.
        seed: of the order of pairs, the random documents and the random factors.
        kind: "linear": W x, W at first the identity. "low_rank": x + U V' x. "mlp":
            x + W2 gelu(W1 x).
        side: "both": one map for queries and documents. "queries": a map for queries only, so that
            an index of documents stays as it is. "documents": the reverse. "separate": two maps.
        dim: the dimension that comes out of "linear", less than d for a projection, which starts
            at the corpus's main directions. None: d. With sides "both" and "separate" only.
        rank: r, columns of U and V.
        hidden: rows of W1.
        weights: one number >= 0 per pair; a pair of weight 0 is left out.
        weighting: weights that follow difficulty and progress (`stope.weighting`), by name, as a
            mapping or the object itself. The difficulty is that of the step's own loss, over all
            dimensions. ``weights`` multiply in.
        signals: more signals for the weighting: for each name one number per pair.
        refresh_every: mine negatives anew with the adapted embeddings every so many epochs, the
            first time before training unless ``negatives`` are given.
        sources: for each source the rows of its queries and of its documents; each query is mined
            for among the documents of its own source. None: one corpus for all.
        num_negatives: how many are mined for each query, the hardest.
        relative_margin: how far they stay below the query's lowest positive, as in
            `stope.mine_hard_negatives`.
        matryoshka_dims: the loss is the mean over the first so many coordinates of what comes out,
            for each of these and for all coordinates.
        loss_options: more options of `stope.torch.infonce`, such as ``{"absolute_margin": -0.1}``
            (no negatives that far above the positive).
        evaluate: called with the adapter; returns a score, larger is better. The best adapter is
            returned; the one before training counts, so that it is never worse.
        evaluate_every: epochs between two evaluations; there is always one at the end.
        patience: stop after so many evaluations without a better score.
        progress: called with (steps done, steps in total).
        log: called as ``log("step", step, loss=..., ...)`` after each step, with "refresh" after
            mining and with "evaluation"; `stope.training.TrainingLog.write` fits.

    Returns:
        The adapter. The same seed gives the same weights up to the last bits of torch's matrix
        products.

    Raises:
        ValueError: shapes that disagree, ids out of range, a number out of range, no pair, a
            refresh while every document is scored anyway.
        TypeError: a number or an option of the wrong type.
        ImportError: torch is missing.

    Memory: a copy of both embeddings; the documents of a step and their gradient, three times in
    all (with "mlp" also ``hidden`` numbers per document, three times); the maps four times. The
    loss is `stope.torch.infonce`, which keeps no scores.

    Example:
        >>> rows = np.eye(4, dtype=np.float32)
        >>> adapter = train_adapter(rows, rows[[1, 0, 3, 2]], [1, 0, 3, 2], epochs=2)
        >>> adapter.weight.shape
        (4, 4)
    """
    queries = _inputs.matrix_of_rows(query_embeddings, "query_embeddings")
    corpus = _inputs.matrix_of_rows(corpus_embeddings, "corpus_embeddings")
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"corpus_embeddings has dim {corpus.shape[1]} but query_embeddings has"
            f" {queries.shape[1]}"
        )
    _inputs.at_least_one(
        num_documents=num_documents,
        batch_size=batch_size,
        epochs=epochs,
        rank=rank,
        hidden=hidden,
        num_negatives=num_negatives,
        evaluate_every=evaluate_every,
        refresh_every=refresh_every,
        patience=patience,
    )
    _inputs.positive(learning_rate=learning_rate, temperature=temperature)
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay is {weight_decay}; give 0 or more")
    out = _check_shape(kind, side, dim, queries.shape[1], rank)
    dims, rule = _check_dims(matryoshka_dims, out), _weighting(weighting, signals)
    offsets, ids = _inputs.csr_of_positives(positives, len(queries), len(corpus))
    if patience is not None and evaluate is None:
        raise ValueError(f"patience is {patience}, but there is no evaluation; give evaluate")
    if refresh_every is not None and len(corpus) <= num_documents:
        raise ValueError(
            f"refresh_every is {refresh_every}, but each step scores all {len(corpus)} documents"
            f" (num_documents={num_documents}), so that mined negatives would change nothing; lower"
            " num_documents or leave refresh_every out"
        )
    if sources is not None and refresh_every is None:
        raise ValueError("sources is given, but nothing is mined; give refresh_every, too")
    torch: Any = need("torch", extra="train")

    problem = Problem(
        unit(queries),
        unit(corpus),
        offsets,
        ids,
        num_documents,
        _inputs.checked_weights(weights, len(ids)),
        {
            name: _inputs.numbers_per_pair(values, f"signals[{name!r}]", len(ids))
            for name, values in (signals or {}).items()
        },
    )
    maps = _start(kind, side, problem, out, rank, hidden, seed, torch)
    trained = list({id(part): part for part in maps if part is not None}.values())
    step = Step(problem, maps, rule, dims, temperature, {"precision": precision}, loss_options)
    optimiser = torch.optim.AdamW(
        [group for part in trained for group in part.groups(weight_decay)], lr=learning_rate
    )
    pairs = np.arange(len(ids)) if problem.weights is None else np.flatnonzero(problem.weights)
    total = -(-len(pairs) // batch_size) * epochs
    generator = np.random.default_rng(seed)
    parts = _inputs.checked_sources(sources, (offsets, ids), len(queries), len(corpus))
    miner = Miner(problem, num_negatives, relative_margin, parts)
    known = _inputs.checked_negatives(negatives, len(queries), len(corpus))
    tell = log or (lambda kind, step, **numbers: None)
    losses: list[float] = []
    best = _Best(evaluate, patience)

    def adapter() -> Adapter:
        frozen = [part.frozen() for part in trained]
        more = frozen[1] if len(frozen) > 1 else None
        return Adapter(frozen[0], losses, side=side, documents=more, evaluations=best.scores)

    best.see(0, adapter, tell, 0)
    for epoch in range(epochs):
        # Given negatives serve until the first refresh, which is then due after refresh_every.
        if refresh_every is not None and epoch % refresh_every == 0 and (epoch or known is None):
            known, facts = miner(adapter(), known)
            tell("refresh", len(losses), epoch=epoch, **facts)
        order = generator.permutation(pairs)
        for start in range(0, len(order), batch_size):
            loss, facts = step(
                order[start : start + batch_size], known, len(losses) / total, generator
            )
            if loss is not None:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate * (1 - len(losses) / total)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            losses.append(0.0 if loss is None else float(loss.detach()))
            tell("step", len(losses), epoch=epoch, loss=losses[-1], **facts)
            if progress is not None:
                progress(len(losses), total)
        if ((epoch + 1) % evaluate_every == 0 or epoch + 1 == epochs) and not best.see(
            epoch + 1, adapter, tell, len(losses)
        ):
            break
    return best.adapter or adapter()


class _Best:
    """The adapter of the best score so far."""

    def __init__(self, evaluate: Callable[[Adapter], float] | None, patience: int | None) -> None:
        self.evaluate, self.patience = evaluate, patience
        self.adapter: Adapter | None = None
        self.scores: list[tuple[int, float]] = []
        self._score, self._without_gain = -np.inf, 0

    def see(self, epoch: int, make: Callable[[], Adapter], log: Any, step: int) -> bool:
        """Evaluate; False when training should stop."""
        if self.evaluate is None:
            return True
        adapter = make()
        score = float(self.evaluate(adapter))
        if np.isnan(score):
            raise ValueError(f"evaluate returned NaN after epoch {epoch}; return a number")
        self.scores.append((epoch, score))
        better = self.adapter is None or score > self._score
        if better:
            self.adapter, self._score, self._without_gain = adapter, score, 0
        else:
            self._without_gain += 1
        assert self.adapter is not None
        self.adapter.evaluations = list(self.scores)
        log("evaluation", step, epoch=epoch, score=score, best=self._score)
        return self.patience is None or self._without_gain < self.patience


def _start(
    kind: str,
    side: str,
    problem: Problem,
    out: int,
    rank: int,
    hidden: int,
    seed: int,
    torch: Any,
) -> tuple[Trainable | None, Trainable | None]:
    """The maps of queries and documents, one and the same for both sides."""
    start = start_matrix(problem.corpus.shape[1], out, problem.corpus)
    # A stream of its own for each map: the order of pairs does not depend on the kind.
    first, second = (
        Trainable(kind, start, rank, hidden, np.random.default_rng([seed, place]), torch)
        for place in (1, 2)
    )
    return {
        "both": (first, first),
        "queries": (first, None),
        "documents": (None, first),
        "separate": (first, second),
    }[side]


def _check_shape(kind: str, side: str, dim: int | None, given: int, rank: int) -> int:
    """The dimension that comes out."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; give one of {', '.join(KINDS)}")
    if side not in SIDES:
        raise ValueError(f"side is {side!r}; give one of {', '.join(SIDES)}")
    if kind == "low_rank" and rank > given:
        raise ValueError(f"rank is {rank}, but the embeddings have dim {given}; give at most that")
    if dim is None or dim == given:
        return given
    _inputs.at_least_one(dim=dim)
    if dim > given or kind != "linear" or side not in ("both", "separate"):
        raise ValueError(
            f"dim is {dim} with kind {kind!r}, side {side!r} and embeddings of dim {given}; only a"
            " linear adapter for queries and documents ('both' or 'separate') can end in a smaller"
            " dimension, and none in a larger one"
        )
    return int(dim)


def _check_dims(dims: Sequence[int] | None, out: int) -> list[int]:
    found = sorted({int(dim) for dim in dims or ()} | {out}, reverse=True)
    if found[0] > out or found[-1] < 1:
        raise ValueError(
            f"matryoshka_dims are {list(dims or ())}; each must be from 1 to {out}, the dimension"
            " that comes out"
        )
    return found


def _weighting(
    given: Weighting | Mapping[str, Any] | str | None, signals: Mapping[str, Any] | None
) -> Weighting | None:
    if given is not None:
        return Weighting.from_dict(given)
    if signals:
        raise ValueError(f"signals has {', '.join(signals)}, but there is no weighting to read it")
    return None

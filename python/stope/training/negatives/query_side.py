"""Train the query side alone against all documents: ADORE (docs/methods.md, B2).

The documents were encoded once and stay as they are. Each step finds the exact k best documents of
the queries it has just encoded, so every negative is the hardest that the model has at that moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

import stope
import torch
from stope._checks import choice, integer, real
from stope._kinds import a, at_least, kinds, matrix, string
from stope.data import Pairs
from stope.encoders.encode import has_encode
from stope.encoders.versions import dimension, router
from stope.torch.ranking import RetrievedList, append_missing_positives, lambda_mrr
from torch import nn

LOSSES: tuple[Literal["lambda_mrr", "infonce"], ...] = ("lambda_mrr", "infonce")
_METRICS: tuple[Literal["cosine", "dot"], ...] = ("cosine", "dot")
_FAR = -1e30  # the logit of what is not there: its exponential is 0, its gradient too


@kinds(
    model=a(nn.Module),
    pairs=a(Pairs),
    corpus_embeddings=matrix,
    k=at_least(1),
    loss=string,
    metric=string,
    temperature=real,
)
class QuerySideLoss(nn.Module):  # type: ignore[misc]
    """A loss over what a query retrieves now, as sentence-transformers' trainer calls it.

    With x the scores of the retrieved documents over temperature, a query whose positives are all
    missing gets them at the end of its list. Then

    - "lambda_mrr" is `stope.torch.ranking.lambda_mrr` with ranks in retrieved order,
    - "infonce" is the mean over the positives p in the list of
      ``-log(exp(x_p) / (exp(x_p) + sum over negatives exp(x_j)))``,

    averaged over the batch's rows. Only the query's embedding has a gradient; the other columns of
    the batch are not encoded.

    Args:
        model: the encoder that is trained; from then on it is good for queries only.
        pairs: queries, corpus and positives; the rows of the batches are theirs, one per (query,
            positive) in the order of ``pairs.positives``.
        corpus_embeddings: float32 ``[documents, dim]``, one row per document of the pairs.
        k: documents retrieved per query and step.
        loss: "lambda_mrr" or "infonce".
        metric: "cosine", or "dot" with temperature 1 as in ADORE.
        temperature: divides the scores.
        metric_cut: of "lambda_mrr": ranks beyond it count as 0; None is k, as in ADORE.

    Attributes:
        observed: of the last step: "loss", "search_seconds", "mrr@10" and "recall@10" of the
            retrieved lists; and "search_share", the search's share of the time between the
            beginnings of the last two steps, from the second step on.

    Raises:
        ValueError: a number out of range, an unknown word, embeddings of another number of rows.

    Memory: the embeddings, their packed form (a quarter of it), and batch x k x dim float32 in each
    step.

    Source: ADORE (docs/methods.md, B2).
    """

    def __init__(
        self,
        model: Any,
        pairs: Pairs,
        corpus_embeddings: NDArray[np.float32],
        *,
        k: int = 200,
        loss: Literal["lambda_mrr", "infonce"] = "lambda_mrr",
        metric: Literal["cosine", "dot"] = "cosine",
        temperature: float = 0.05,
        metric_cut: int | None = None,
    ) -> None:
        super().__init__()
        choice(loss, "loss", LOSSES)
        choice(metric, "metric", _METRICS)
        if not real(temperature, "temperature") > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        integer(k, "k", 1)
        if len(corpus_embeddings) != len(pairs.corpus_ids):
            raise ValueError(
                f"corpus_embeddings has {len(corpus_embeddings)} rows for "
                f"{len(pairs.corpus_ids)} documents; give one each"
            )
        self.model = model
        self.observed: dict[str, float] = {}
        self._options: dict[str, Any] = {
            "k": min(k, len(corpus_embeddings)),
            "loss": loss,
            "metric": metric,
            "temperature": float(temperature),
            "metric_cut": metric_cut,
        }
        self._corpus = corpus_embeddings
        self._index = stope.FlatIndex(corpus_embeddings, metric)
        lengths = np.ones(len(corpus_embeddings), dtype=np.float32)
        if metric == "cosine":
            lengths = np.linalg.norm(corpus_embeddings, axis=1).clip(1e-12)
        self._scales = (1 / (lengths * temperature)).astype(np.float32)
        self._positives = pairs.positives
        self._query_of = pairs.positives.owners
        self._never = pairs.never_negatives()
        self._began = math.nan
        self._searched = 0.0

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch.

        Args:
            sentence_features: the columns of the batch; the first are the queries.
            labels: a mapping with "rows", integers ``[B]``, and perhaps "weights", ``[B]``.

        Raises:
            ValueError: labels without rows, or rows that the pairs do not have.
        """
        began = time.perf_counter()
        share = self._searched / (began - self._began)
        self._began = began
        asked = self._queries_of(labels)
        column = dict(next(iter(sentence_features)))  # modules write into it
        queries = self.model(column)["sentence_embedding"].float()
        retrieved = self._retrieve(queries, asked)
        scores = self._scores(queries, retrieved.ids)
        weights = labels.get("weights")
        if weights is not None:
            weights = weights.to(scores)
        value = self._loss(scores, retrieved, weights)
        best = retrieved.relevance[:, : min(10, self._options["k"])]
        first = best.float() / torch.arange(1, best.shape[1] + 1, device=best.device)
        many = torch.from_numpy(self._positives.lengths[asked]).to(best.device)
        self.observed = {
            "loss": float(value.detach()),
            "search_seconds": self._searched,
            "mrr@10": float(first.amax(1).mean()),
            "recall@10": float((best.sum(1) / many).mean()),
        }
        if share == share:  # the first step has none before it
            self.observed["search_share"] = share
        return value

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return dict(self._options)

    def _queries_of(self, labels: Any) -> NDArray[np.int64]:
        if labels is None or not hasattr(labels, "get") or labels.get("rows") is None:
            raise ValueError(
                "The query-side loss needs to know the rows of a batch: give examples as Pairs, so "
                'that labels has "rows".'
            )
        rows = labels["rows"].cpu().numpy()
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self._query_of):
            raise ValueError(
                f"labels has rows from {rows.min()} to {rows.max()}, but the pairs have "
                f"{len(self._query_of)}; give the loss the pairs that are trained on"
            )
        return np.asarray(self._query_of[rows])

    def _retrieve(self, queries: Any, own: NDArray[np.int64]) -> RetrievedList:
        positives = self._positives.take(own)
        # A copy of the query is no negative; where it is a positive it stays.
        exclude = self._never.take(own).without(positives)
        given = queries.detach().cpu().numpy()
        began = time.perf_counter()
        ids = self._index.search(given, self._options["k"], exclude=exclude).ids
        self._searched = time.perf_counter() - began
        found = append_missing_positives(
            torch.from_numpy(ids), [torch.from_numpy(rows) for rows in positives.rows()]
        )
        return RetrievedList(*(part.to(queries.device) for part in found))

    def _scores(self, queries: Any, ids: torch.Tensor) -> Any:
        """Scores over temperature, ``[B, L]``; those of missing documents mean nothing."""
        if self._options["metric"] == "cosine":
            queries = functional.normalize(queries, dim=1)
        places = ids.clamp(min=0).cpu().numpy()
        documents = torch.from_numpy(self._corpus[places]).to(queries.device)
        scales = torch.from_numpy(self._scales[places]).to(queries.device)
        return torch.einsum("bd,bld->bl", queries, documents) * scales

    def _loss(self, scores: Any, found: RetrievedList, weights: Any) -> Any:
        if self._options["loss"] == "lambda_mrr":
            return lambda_mrr(
                scores,
                found.relevance,
                ranks=torch.arange(1, scores.shape[1] + 1, device=scores.device),
                metric_cut=self._options["metric_cut"] or self._options["k"],
                mask=found.mask,
                weights=weights,
            )
        negatives = scores.masked_fill(found.relevance | ~found.mask, _FAR).logsumexp(1)
        each = functional.softplus(negatives[:, None] - scores) * found.relevance
        losses = each.sum(1) / found.relevance.sum(1)
        if weights is None:
            return losses.mean()
        return (weights * losses).sum() / weights.sum()


@kinds(query_model=has_encode, document_model=has_encode)
def query_document_model(query_model: Any, document_model: Any) -> Any:
    """Join the trained query encoder and the document encoder it was trained against.

    Args:
        query_model: a SentenceTransformer, after training.
        document_model: the one that encoded the documents: a ``copy.deepcopy`` of the model made
            before training, or the same folder loaded again.

    Returns:
        A SentenceTransformer whose ``encode_query`` is the one and ``encode_document`` the other;
        it saves and loads as any. Modules are shared, not copied.

    Raises:
        TypeError: a model that is no SentenceTransformer.
        ValueError: both are one model, or their dims differ.
        ImportError: sentence-transformers is older than 5 and has no Router.
    """
    from sentence_transformers import SentenceTransformer

    for name, model in (("query_model", query_model), ("document_model", document_model)):
        if not isinstance(model, SentenceTransformer):
            raise TypeError(f"{name} is {type(model).__name__}; give a SentenceTransformer")
    if query_model is document_model or query_model[0] is document_model[0]:
        raise ValueError(
            "query_model and document_model share their weights; give as document_model the model "
            "that encoded the documents: copy.deepcopy(model) before training, or load it again"
        )
    dims = [dimension(model) for model in (query_model, document_model)]
    if dims[0] != dims[1]:
        raise ValueError(f"query_model has dim {dims[0]} but document_model has dim {dims[1]}")
    joined = router(query_model.children(), document_model.children())
    models = {"query": query_model, "document": document_model}
    kept = {name: model.prompts.get(name) for name, model in models.items()}
    prompts = {name: prompt for name, prompt in kept.items() if prompt}
    return SentenceTransformer(modules=[joined], device=str(query_model.device), prompts=prompts)

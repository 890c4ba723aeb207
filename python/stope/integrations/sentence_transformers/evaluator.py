"""sentence-transformers' InformationRetrievalEvaluator, which searches with stope."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
import torch
from stope._host import on_host
from stope.encoders import versions
from stope.evaluation import Evaluation
from stope.integrations.sentence_transformers.from_embeddings import computable
from stope.integrations.sentence_transformers.metrics import metric_of_function, metric_of_model
from stope.integrations.sentence_transformers.progress import bar
from stope.lists import Ids
from stope.ops._search import Metric

Ranked = tuple[NDArray[np.float32], Ids]  # scores and ranks of corpus ids, best first


class InformationRetrievalEvaluator(versions.evaluator_base()):  # type: ignore[misc]
    """The library's evaluator, with exact scores and with values per query.

    Arguments, names of metrics, files and logs are those of sentence-transformers'
    InformationRetrievalEvaluator, of which this is a subclass. Documents are ranked by (score
    descending, corpus id ascending), by stope's canonical scores, so that results do not depend on
    chunks, threads or device.

    Attributes:
        evaluation: after a call, `stope.evaluation.Evaluation` of every metric by its name without
            the evaluator's ("cosine_ndcg@10"), per query and on average;
            `stope.evaluation.confidence_interval` gives its interval, and `compare` tells two
            models apart.

    Raises:
        ValueError: at construction, a score function other than `util.cos_sim`, `util.dot_score`
            and `util.euclidean_sim`; at a call, a model with another similarity.

    Memory: one chunk of the corpus's embeddings, those of the queries, and O(queries x k).

    Not for several threads at once: a call leaves its evaluation behind.

    Source: docs/guides/sentence_transformers.md.

    >>> from stope.encoders import static_encoder
    >>> from stope.evaluation import confidence_interval
    >>> encoder = static_encoder(["red iron ore", "grey stone", "deep salt sea"] * 9, dim=8)
    >>> evaluator = InformationRetrievalEvaluator(
    ...     {"q0": "iron", "q1": "salt"}, {"d0": "red iron ore", "d1": "deep salt sea"},
    ...     {"q0": {"d0"}, "q1": {"d1"}},
    ... )
    >>> round(evaluator(encoder)["cosine_ndcg@10"], 3)
    1.0
    >>> confidence_interval(evaluator.evaluation, "cosine_ndcg@10")
    (1.0, 1.0)
    """

    evaluation: Evaluation | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for function in (self.score_functions or {}).values():
            metric_of_function(function, "score_functions")

    def compute_all_metrics(
        self,
        model: Any,
        corpus_model: Any = None,
        corpus_embeddings: Any = None,
        output_path: str | None = None,
    ) -> dict[str, dict[str, dict[int, float]]]:
        """{score function: {metric: {k: mean}}}, and `evaluation`; the library calls it."""
        order = np.array(
            sorted(range(len(self.corpus_ids)), key=self.corpus_ids.__getitem__), np.int64
        )
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        ranked = self._ranked(model, corpus_model or model, corpus_embeddings, ranks)
        ids = [self.corpus_ids[place] for place in order.tolist()]
        if self.write_predictions and output_path is not None:
            self._write(Path(output_path), ranked, ids)
        hits = self._relevant(dict(zip(ids, range(len(ids)), strict=True)))
        means: dict[str, Any] = {}
        per_query: dict[str, dict[str, float]] = {}
        for name, (_, listed) in ranked.items():
            values = self._values(hits(listed))
            means[name] = {
                metric: {k: float(rows.mean()) for k, rows in by_k.items()}
                for metric, by_k in values.items()
            }
            per_query |= {
                f"{name}_{metric.replace('@k', f'@{k}')}": dict(
                    zip(self.queries_ids, rows.tolist(), strict=True)
                )
                for metric, by_k in values.items()
                for k, rows in by_k.items()
            }
        mean = {name: float(np.mean(list(values.values()))) for name, values in per_query.items()}
        self.evaluation = Evaluation(mean, per_query)
        for name in self.score_function_names:
            self.output_scores(means[name])
        return means

    compute_metrices = compute_all_metrics  # as older versions have it

    def _ranked(
        self, model: Any, corpus_model: Any, corpus_embeddings: Any, ranks: Ids
    ) -> dict[str, Ranked]:
        """The best documents of every query, by score function."""
        metrics = {name: self._metric(model, name) for name in self.score_functions}
        most = max(
            map(max, (self.mrr_at_k, self.ndcg_at_k, self.accuracy_at_k, self.map_at_k,
                      self.precision_recall_at_k))
        )  # fmt: skip
        queries = self._rows(
            model, self.queries, "query", self.query_prompt_name, self.query_prompt
        )
        empty = np.empty((len(self.queries), 0))
        ranked = {name: (empty.astype(np.float32), empty.astype(np.int64)) for name in metrics}
        progress = bar("Corpus Chunks", hidden=not self.show_progress_bar)
        for start in range(0, len(self.corpus), self.corpus_chunk_size):
            stop = min(start + self.corpus_chunk_size, len(self.corpus))
            if corpus_embeddings is None:
                prompts = self.corpus_prompt_name, self.corpus_prompt
                chunk = self._rows(corpus_model, self.corpus[start:stop], "document", *prompts)
            else:
                chunk = computable(torch.as_tensor(corpus_embeddings[start:stop]))
            places = np.argsort(ranks[start:stop])  # equal scores by corpus id
            if not np.array_equal(places, np.arange(stop - start)):
                chunk = chunk[torch.as_tensor(places)]
            for name, metric in metrics.items():
                best = stope.topk(queries, chunk, min(most, stop - start), metric=metric)
                scores = np.concatenate([ranked[name][0], on_host(best.scores)], axis=1)
                here = ranks[start:stop][places[on_host(best.ids)]]
                ids = np.concatenate([ranked[name][1], here], axis=1)
                first = np.lexsort((ids, -scores), axis=1)[:, :most]
                ranked[name] = (
                    np.take_along_axis(scores, first, axis=1),
                    np.take_along_axis(ids, first, axis=1),
                )
            if progress is not None:
                progress(stop, len(self.corpus))
        return ranked

    def _metric(self, model: Any, name: str) -> Metric:
        function = self.score_functions[name]
        if function == getattr(model, "similarity", None):
            return metric_of_model(model)
        return metric_of_function(function, "score_functions")

    def _rows(
        self, model: Any, texts: Any, role: str, prompt_name: str | None, prompt: str | None
    ) -> Any:
        rows = self.embed_inputs(
            model, texts, encode_fn_name=role, prompt_name=prompt_name, prompt=prompt
        )
        return computable(torch.as_tensor(rows))

    def _relevant(self, ranks: dict[str, int]) -> Any:
        """A function from ranks ``[queries, k]`` to whether they are relevant."""
        keys = [
            number * len(ranks) + ranks[document]
            for number, query in enumerate(self.queries_ids)
            for document in self.relevant_docs[query]
            if document in ranks
        ]

        def hits(listed: Ids) -> NDArray[np.bool_]:
            return np.isin(listed + np.arange(len(listed))[:, None] * len(ranks), keys)

        return hits

    def _values(self, hits: NDArray[np.bool_]) -> dict[str, dict[int, NDArray[np.float64]]]:
        """Every metric of every query, with binary relevance."""
        relevant = np.array([len(self.relevant_docs[query]) for query in self.queries_ids])
        places = np.arange(1, hits.shape[1] + 1)
        so_far = np.cumsum(hits, axis=1)
        gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, relevant.max() + 2)))])

        def sums(terms: NDArray[Any], k: int) -> NDArray[np.float64]:
            return np.asarray(terms[:, :k].sum(axis=1, dtype=np.float64))

        first = hits & (so_far == 1)
        return {
            "accuracy@k": {k: hits[:, :k].any(axis=1).astype(float) for k in self.accuracy_at_k},
            "precision@k": {k: sums(hits, k) / k for k in self.precision_recall_at_k},
            "recall@k": {k: sums(hits, k) / relevant for k in self.precision_recall_at_k},
            "ndcg@k": {
                k: sums(hits / np.log2(places + 1), k) / gains[np.minimum(relevant, k)]
                for k in self.ndcg_at_k
            },
            "mrr@k": {k: sums(first / places, k) for k in self.mrr_at_k},
            "map@k": {
                k: sums(hits * so_far / places, k) / np.minimum(relevant, k) for k in self.map_at_k
            },
        }

    def _write(self, folder: Path, ranked: dict[str, Ranked], ids: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in ranked.items():
            path = folder / self.predictions_file.replace(".jsonl", f"_{name}.jsonl")
            with path.open("w", encoding="utf-8") as file:
                for query_id, query, scores, places in zip(
                    self.queries_ids, self.queries, *(part.tolist() for part in rows), strict=True
                ):
                    results = [
                        {"corpus_id": ids[rank], "score": score}
                        for rank, score in zip(places, scores, strict=True)
                    ]
                    line = {"query_id": query_id, "query": query, "results": results}
                    file.write(json.dumps(line) + "\n")

"""Graded retrieval metrics through ir-measures, with one fixed tie order for all of them."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import neg
from typing import Any

from stope._checks import shown
from stope._extras import need

_NAMES = {name.lower(): name for name in ("nDCG", "RR", "R", "AP", "P", "Success")}
_NAMES |= {"mrr": "RR", "recall": "R", "map": "AP", "precision": "P"}
_NEED_CUTOFF = {"R", "P", "Success"}
_HAS_LEVEL = {"RR", "R", "AP", "P", "Success"}
_METRIC = re.compile(r"([A-Za-z]+)(?:\(rel=([0-9]{1,4})\))?(?:@([0-9]{1,9}))?")
# trec_eval keeps an array with an entry per relevance level: an absurd level would take gigabytes.
_HIGHEST_RELEVANCE = 10_000


@dataclass(frozen=True)
class Evaluation:
    """Metric values of one run.

    Attributes:
        mean: {metric: mean over the queries of the judgements}.
        per_query: {metric: {query id: value}}, in the order of the judgements.
        num_empty: judged queries for which the run has no document; each has the value 0.

    Example:
        >>> Evaluation({"RR@10": 0.5}, {"RR@10": {"q1": 1.0, "q2": 0.0}}).num_queries
        2
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]
    num_empty: int = 0

    @property
    def num_queries(self) -> int:
        """Number of queries each mean is over."""
        return len(next(iter(self.per_query.values())))


def evaluate(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str] = ("nDCG@10", "RR@10", "R@100"),
) -> Evaluation:
    """Score a run against judgements, per query and on average.

    Every query of `qrels` counts: one without retrieved documents, or without a relevant document,
    has the value 0 (trec_eval -c); `num_empty` counts the former. A run without any document for
    the judged queries is refused. Queries of the run that have no judgements are left aside.
    Documents are ranked by (score descending, document id ascending), ids compared as strings, in
    float64; trec_eval itself breaks ties the other way round and compares scores in float32.

    Definitions, with g_i the relevance of the document at rank i (an unjudged document and a
    negative relevance count as 0) and R the number of documents of relevance >= rel (1 by default):

    - nDCG@k = DCG@k / ideal DCG@k, DCG@k = sum over i <= k of g_i / log2(i + 1)
    - RR@k (also MRR@k) = 1 / rank of the first relevant document, 0 when it is beyond k
    - R@k (Recall@k) = relevant documents in the first k / R
    - AP@k (MAP@k) = sum over relevant ranks i <= k of P@i, divided by R
    - P@k = relevant documents in the first k / k
    - Success@k = 1 when there is a relevant document in the first k, else 0

    Args:
        run: {query id: {document id: score}}; the greater the score the better.
        qrels: {query id: {document id: relevance}}, relevances are whole numbers (1.0 too).
        metrics: names as above; "RR(rel=2)@10" counts relevance 2 and more; nDCG, RR and AP may go
            without "@k". The results have the names as given.

    Returns:
        Evaluation(mean, per_query, num_empty).

    Raises:
        ValueError: empty qrels, an unknown or repeated metric, a cutoff of 0, a score that is NaN
            or infinite, a relevance above 10,000, a run that shares no query with the judgements or
            has no document for any of them.
        TypeError: run or qrels is no mapping of mappings, ids that are not strings, a score that is
            no number, a relevance that is not a whole number.
        ImportError: ir-measures is not installed.

    Memory: a few times that of run and qrels. Source: ir-measures (MacAvaney et al., ECIR 2022)
    over trec_eval.

    Example:
        >>> result = evaluate(
        ...     run={"q1": {"d1": 0.5, "d2": 0.75}},
        ...     qrels={"q1": {"d1": 1}, "q2": {"d3": 1}},
        ...     metrics=["MRR@10", "Recall@100"],
        ... )
        >>> result.mean
        {'MRR@10': 0.25, 'Recall@100': 0.5}
        >>> result.per_query["MRR@10"]
        {'q1': 0.5, 'q2': 0.0}
    """
    if isinstance(metrics, str):
        raise TypeError(
            f"metrics is the string {shown(metrics)}; give a list of names: [{shown(metrics)}]"
        )
    if not isinstance(metrics, Sequence):
        raise TypeError(f'metrics is {shown(metrics)}; give a list of names, as ["nDCG@10"]')
    names = list(metrics)
    if not names:
        raise ValueError('metrics is empty; name at least one, for example "nDCG@10"')
    parsed = {name: parse_metric(name) for name in names}
    if len(parsed) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'metrics names "{twice}" twice; name it once')
    for name, value, kind in (("run", run, "score"), ("qrels", qrels, "relevance")):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} is {shown(value)}; give {{query id: {{document id: {kind}}}}}")
    if not qrels:
        raise ValueError("qrels is empty; there is nothing to evaluate against")
    empty = [query for query in qrels if not _documents(run, query, "run", "score")]
    if len(empty) == len(qrels):
        if any(run.values()):
            raise ValueError(
                f"run and qrels share no query (run has {shown(next(iter(run)))}, qrels "
                f"{shown(next(iter(qrels)))}); give those that belong together"
            )
        raise ValueError(
            "run has no document for any query; give a run with results, or see why the search "
            "found nothing"
        )
    library = need("ir_measures", extra="retrieval")
    measures = {name: _measure(library, *parts) for name, parts in parsed.items()}
    queries = list(qrels)
    values = _calculate(library, set(measures.values()), run, qrels, queries)
    per_query = {
        name: {query: values[measure][number] for number, query in enumerate(queries)}
        for name, measure in measures.items()
    }
    mean = {name: math.fsum(each.values()) / len(each) for name, each in per_query.items()}
    return Evaluation(mean, per_query, len(empty))


def _calculate(
    library: Any,
    measures: set[Any],
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, float]],
    queries: Sequence[str],
) -> dict[Any, list[float]]:
    # Queries and documents go in under numbers of our own, and scores as exact small integers, so
    # that neither odd characters in ids nor the library's own tie order can touch the result.
    judged: dict[str, dict[str, int]] = {}
    ranked: dict[str, dict[str, float]] = {}
    for number, query in enumerate(queries):
        documents = _ranking(query, _documents(run, query, "run", "score"))
        places = {document: f"r{place}" for place, document in enumerate(documents)}
        judged[str(number)] = {
            places.get(document, f"u{order}"): _relevance(query, document, relevance)
            for order, (document, relevance) in enumerate(
                _documents(qrels, query, "qrels", "relevance").items()
            )
        }
        ranked[str(number)] = {
            place: float(len(documents) - rank) for rank, place in enumerate(places.values())
        }
    # Some of the library's providers leave out a query without judgements: its value is 0.
    values = {measure: [0.0] * len(queries) for measure in measures}
    for metric in library.iter_calc(list(measures), judged, ranked):
        values[metric.measure][int(metric.query_id)] = float(metric.value)
    return values


def _documents(
    listed: Mapping[str, Mapping[str, float]], query: str, name: str, kind: str
) -> Mapping[str, float]:
    documents = listed.get(query, {})
    if not isinstance(documents, Mapping):
        raise TypeError(
            f"{name}[{shown(query)}] is {shown(documents)}; give {{document id: {kind}}}"
        )
    return documents


def _ranking(query: Any, retrieved: Mapping[Any, Any]) -> list[str]:
    if not isinstance(query, str):
        raise TypeError(
            f"query id {shown(query)} is a {type(query).__name__}; ids are strings, give str(id)"
        )
    if not _plain(retrieved):
        _check_scores(query, retrieved)
    scores = retrieved.values()
    return [document for _, document in sorted(zip(map(neg, scores), retrieved, strict=True))]


def _plain(retrieved: Mapping[Any, Any]) -> bool:
    """Whether ids are strings and scores finite floats, told without a look at each by itself."""
    scores = retrieved.values()
    kinds = set(map(type, retrieved)), set(map(type, scores))
    return kinds == ({str}, {float}) and all(map(math.isfinite, scores))


def _check_scores(query: str, retrieved: Mapping[Any, Any]) -> None:
    for document, score in retrieved.items():
        _check_document(query, document)
        if isinstance(score, bool) or not isinstance(score, numbers.Real):
            raise TypeError(f"{_of(document, query, 'score')} is {shown(score)}; give a number")
        if not math.isfinite(score):
            raise ValueError(
                f"{_of(document, query, 'score')} is {score}; a run holds finite scores"
            )


def _relevance(query: str, document: str, relevance: Any) -> int:
    _check_document(query, document)
    integral = isinstance(relevance, numbers.Real) and not isinstance(relevance, bool)
    if not integral or relevance != relevance // 1:
        raise TypeError(
            f"{_of(document, query, 'relevance')} is {shown(relevance)}; it must be a whole number"
        )
    if relevance > _HIGHEST_RELEVANCE:
        raise ValueError(
            f"{_of(document, query, 'relevance')} is {relevance}; it may be at most "
            f"{_HIGHEST_RELEVANCE}"
        )
    return max(int(relevance), 0)


def _of(document: str, query: str, what: str) -> str:
    return f"the {what} of document {shown(document)} for query {shown(query)}"


def _check_document(query: str, document: Any) -> None:
    if not isinstance(document, str):
        raise TypeError(
            f"document id {shown(document)} of query {shown(query)} is a "
            f"{type(document).__name__}; ids are strings, give str(id)"
        )


def parse_metric(name: Any) -> tuple[str, int | None, int | None]:
    """The library's name of a metric, the least relevance that counts, and the cutoff."""
    if not isinstance(name, str):
        raise TypeError(f'metrics has {shown(name)}; give names, such as "nDCG@10"')
    match = _METRIC.fullmatch(name)
    known = _NAMES.get(match.group(1).lower()) if match else None
    if match is None or known is None:
        raise ValueError(
            f"metrics has {shown(name)}, an unknown name; use nDCG@k, RR@k (MRR@k), "
            "R@k (Recall@k), AP@k (MAP@k), P@k or Success@k"
        )
    level = int(match.group(2)) if match.group(2) else None
    cutoff = int(match.group(3)) if match.group(3) else None
    if cutoff is None and known in _NEED_CUTOFF:
        raise ValueError(f'metric "{name}" needs a cutoff, for example "{name}@10"')
    if cutoff == 0:
        raise ValueError(f'metric "{name}" has the cutoff 0; it must be at least 1')
    if level is not None and (level == 0 or known not in _HAS_LEVEL):
        raise ValueError(
            f'metric "{name}" cannot have rel={level}: nDCG is graded, and the others need rel >= 1'
        )
    return known, level, cutoff


def _measure(library: Any, name: str, level: int | None, cutoff: int | None) -> Any:
    measure = getattr(library, name)
    if level is not None:
        measure = measure(rel=level)
    return measure if cutoff is None else measure @ cutoff

"""Graded retrieval metrics through ir-measures, with one fixed tie order for all of them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import neg
from typing import Any

from stope._checks import first_twice, flag, shown
from stope._extras import need
from stope.evaluation.names import HIGHEST_RELEVANCE, parse_metric

_HERE = ("Accuracy", "NumQ", "NumRel", "NumRet")  # computed in this file


@dataclass(frozen=True)
class Evaluation:
    """Metric values of one run.

    Attributes:
        mean: {metric: mean over the queries of the judgements}.
        per_query: {metric: {query id: value}}, in the order of the judgements.
        num_empty: judged queries for which the run has no document.
        num_identical: judged queries for which the run has a document with the query's own id.
        identical_relevant: those queries of `num_identical` whose own document is judged relevant.

    Example:
        >>> Evaluation({"RR@10": 0.5}, {"RR@10": {"q1": 1.0, "q2": 0.0}}).num_queries
        2
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]
    num_empty: int = 0
    num_identical: int = 0
    identical_relevant: tuple[str, ...] = ()

    @property
    def num_queries(self) -> int:
        """Number of queries each mean is over."""
        return len(next(iter(self.per_query.values())))


def evaluate(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str] = ("nDCG@10", "RR@10", "R@100"),
    *,
    ignore_identical_ids: bool = False,
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
    - Rprec = relevant documents in the first R / R
    - Bpref = 1 / R, times the sum over relevant documents in the run of 1 - (judged irrelevant ones
      before it, R at most) / min(R, judged irrelevant ones)
    - Judged@k = judged documents in the first k / min(k, documents in the run)
    - Accuracy@k = share of the pairs (relevant, irrelevant) in the first k of which the relevant
      one is first; 1 where no irrelevant one is there. What others call accuracy@k is Success@k.

    Args:
        run: {query id: {document id: score}}; the greater the score the better.
        qrels: {query id: {document id: relevance}}, relevances are whole numbers (1.0 too). A
            negative one is a document that nobody judged to infAP, Bpref and `judged_only`.
        metrics: names as above, and all others that ir-measures parses and an installed library
            computes ("RR(rel=2)@10" counts relevance 2 and more, "P(judged_only=True)@5", "ERR@20",
            "Compat(p=0.9)"), or trec_eval's ("ndcg_cut_10", "map_cut_100", "P_5", "recall_100",
            "recip_rank", "Rprec", "bpref"). The results have the names as given. Counts (NumRet,
            num_rel) are means over queries, too, where trec_eval adds them up.
        ignore_identical_ids: leave out of the run every document that has the query's own id, as
            BEIR does unless it is told not to; here nothing is left out unless asked for. Where
            such a document is judged relevant it counts as not retrieved; see `identical_relevant`.

    Returns:
        Evaluation(mean, per_query, num_empty, num_identical, identical_relevant).

    Raises:
        ValueError: empty qrels, an unknown or repeated metric, one that no installed library
            computes, a cutoff of 0, a score that is NaN or infinite, a relevance above 10,000
            (above 4 with ERR and dcg="exp-log2", which gdeval computes to five decimals), a run
            that shares no query with the judgements or has no document for any of them.
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
    if (twice := first_twice(names)) is not None:
        raise ValueError(f'metrics names "{twice}" twice; name it once')
    for name, value, kind in (("run", run, "score"), ("qrels", qrels, "relevance")):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} is {shown(value)}; give {{query id: {{document id: {kind}}}}}")
    if not qrels:
        raise ValueError("qrels is empty; there is nothing to evaluate against")
    flag(ignore_identical_ids, "ignore_identical_ids")
    searched = {query: _documents(run, query, "run", "score") for query in qrels}
    identical = [query for query, documents in searched.items() if query in documents]
    if ignore_identical_ids:
        for query in identical:
            searched[query] = {n: score for n, score in searched[query].items() if n != query}
    empty = [query for query, documents in searched.items() if not documents]
    if len(empty) == len(qrels):
        if any(run.values()) and not identical:
            raise ValueError(
                f"run and qrels share no query (run has {shown(next(iter(run)))}, qrels "
                f"{shown(next(iter(qrels)))}); give those that belong together"
            )
        raise ValueError(
            "run has no document for any query; give a run with results, or see why the search "
            "found nothing"
        )
    values = _calculate(set(parsed.values()), searched, qrels)
    per_query = {
        name: dict(zip(qrels, values[measure], strict=True)) for name, measure in parsed.items()
    }
    mean = {name: math.fsum(each.values()) / len(each) for name, each in per_query.items()}
    relevant = tuple(query for query in identical if qrels[query].get(query, 0) > 0)
    return Evaluation(mean, per_query, len(empty), len(identical), relevant)


def _calculate(
    measures: set[Any],
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, float]],
) -> dict[Any, list[float]]:
    # Queries and documents go in under numbers of our own, and scores as exact small integers, so
    # that neither odd characters in ids nor the library's own tie order can touch the result.
    judged: dict[str, dict[str, int]] = {}
    ranked: dict[str, dict[str, float]] = {}
    highest = min(map(_highest, measures))
    for number, query in enumerate(qrels):
        documents = ranking(query, run[query])
        places = {document: f"r{place}" for place, document in enumerate(documents)}
        judged[str(number)] = {
            places.get(document, f"u{order}"): _relevance(query, document, relevance, highest)
            for order, (document, relevance) in enumerate(
                _documents(qrels, query, "qrels", "relevance").items()
            )
        }
        ranked[str(number)] = {
            place: float(len(documents) - rank) for rank, place in enumerate(places.values())
        }
    values = {measure: [0.0] * len(judged) for measure in measures}
    here = {measure for measure in measures if measure.NAME in _HERE}
    for measure in here:
        values[measure] = [_value(measure, ranked[each], judged[each]) for each in judged]
    # The value is 0 without documents, by which the library divides. trec_eval reads memory that is
    # not its own where nothing is judged; and what was judged negative it knows only for infAP.
    plain = {
        query: {name: relevance for name, relevance in documents.items() if relevance >= 0}
        for query, documents in judged.items()
    }
    rates = {measure for measure in measures if measure.NAME == "Judged"}
    inferred = {measure for measure in measures if measure.NAME == "infAP"}
    others = measures - here - rates - inferred
    library = need("ir_measures", extra="retrieval")
    kinds = ((rates, judged, judged), (inferred, judged, plain), (others, plain, plain))
    for some, judgements, least in kinds:
        queries = [query for query in ranked if ranked[query] and least[query]]
        chosen = ({query: each[query] for query in queries} for each in (judgements, ranked))
        for metric in library.iter_calc(list(some), *chosen) if some and queries else ():
            if metric.value == metric.value:  # not 0 / 0
                values[metric.measure][int(metric.query_id)] = float(metric.value)
    return values


def _value(measure: Any, ranked: Mapping[str, float], judged: Mapping[str, int]) -> float:
    """A query's value of what the library leaves out or fails on: counts, and Accuracy (0 / 0)."""
    level, cutoff = measure.params.get("rel", 1), measure.params.get("cutoff")
    if measure.NAME == "NumQ":
        return 1.0
    if measure.NAME != "Accuracy":
        all_of_them = measure.NAME == "NumRet" and "rel" not in measure.params
        documents = ranked if measure.NAME == "NumRet" else judged
        return float(sum(all_of_them or judged.get(name, 0) >= level for name in documents))
    right, wrong, inverted = 0, 0, 0
    for document in list(ranked)[:cutoff]:
        if judged.get(document, 0) >= level:
            right, inverted = right + 1, inverted + wrong
        else:
            wrong += 1
    return 1 - inverted / (right * wrong) if right and wrong else float(right > 0)


def _highest(measure: Any) -> int:
    """The highest relevance that a metric's library takes."""
    return 4 if measure.NAME == "ERR" or "dcg" in measure.params else HIGHEST_RELEVANCE


def _documents(
    listed: Mapping[str, Mapping[str, float]], query: str, name: str, kind: str
) -> Mapping[str, float]:
    documents = listed.get(query, {})
    if not isinstance(documents, Mapping):
        raise TypeError(
            f"{name}[{shown(query)}] is {shown(documents)}; give {{document id: {kind}}}"
        )
    return documents


def ranking(query: Any, retrieved: Mapping[Any, Any]) -> list[str]:
    """A query's documents, best first, as `evaluate` ranks them."""
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


def _relevance(query: str, document: str, relevance: Any, highest: int) -> int:
    _check_document(query, document)
    integral = isinstance(relevance, numbers.Real) and not isinstance(relevance, bool)
    if not integral or relevance != relevance // 1:
        raise TypeError(
            f"{_of(document, query, 'relevance')} is {shown(relevance)}; it must be a whole number"
        )
    if relevance > highest:
        of_metric = " with ERR and dcg=exp-log2" if highest < HIGHEST_RELEVANCE else ""
        raise ValueError(
            f"{_of(document, query, 'relevance')} is {relevance}; it may be at most "
            f"{highest}{of_metric}"
        )
    return max(int(relevance), -1)


def _of(document: str, query: str, what: str) -> str:
    return f"the {what} of document {shown(document)} for query {shown(query)}"


def _check_document(query: str, document: Any) -> None:
    if not isinstance(document, str):
        raise TypeError(
            f"document id {shown(document)} of query {shown(query)} is a "
            f"{type(document).__name__}; ids are strings, give str(id)"
        )

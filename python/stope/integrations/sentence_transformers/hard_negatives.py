"""sentence-transformers' mine_hard_negatives, over stope's exact search.

The signature, the formats, the names of columns and what is printed are the library's (6.2), so
that changing the import is all there is to do.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, flag, integer, path, real, shown, texts
from stope._extras import need
from stope._host import on_host
from stope._kinds import at_least, kinds, maybe, string
from stope.data import Pairs
from stope.data.writers.training_columns import training_columns
from stope.integrations.sentence_transformers.kept_embeddings import check_prompt_name, embedded
from stope.integrations.sentence_transformers.metrics import metric_of_model
from stope.integrations.sentence_transformers.mined_statistics import statistics, too_few
from stope.integrations.sentence_transformers.mining_arguments import (
    columns_of,
    devices,
    encodes_both,
    format_of,
    predicts,
    ranks_of,
    with_columns,
)
from stope.integrations.sentence_transformers.progress import bar
from stope.lists import Ids, Lists
from stope.mining.pair_scores import PairScores
from stope.ops._search import pair_scores, search
from stope.ops.hard_negatives import RANGE_COUNTS, Pool, among, hardest, signed_limits

_LOG = logging.getLogger(__name__)
_LIMITS = ("absolute_margin", "relative_margin", "max_score", "min_score")
_BATCHES = 64  # of the cross-encoder, sorted by length together


@kinds(
    **dict.fromkeys(
        (
            "anchor_column_name",
            "positive_column_name",
            "query_prompt_name",
            "query_prompt",
            "corpus_prompt_name",
            "corpus_prompt",
        ),
        maybe(string),
    ),
    **dict.fromkeys((*_LIMITS, "margin"), maybe(real)),
    dataset=with_columns,
    model=encodes_both,
    cross_encoder=maybe(predicts),
    corpus=maybe(texts),
    **dict.fromkeys(("sampling_strategy", "output_format", "range_counts"), string),
    use_multi_process=devices,
    as_triplets=maybe(flag),
    **dict.fromkeys(("include_positives", "output_scores", "use_faiss", "verbose"), flag),
    batch_size=at_least(1),
    cache_folder=maybe(path),
)
def mine_hard_negatives(
    dataset: Any,
    model: Any,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: list[str] | None = None,
    cross_encoder: Any = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: Literal["random", "top"] = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"] = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16384,
    use_faiss: bool = False,
    use_multi_process: list[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | None = None,
    as_triplets: bool | None = None,
    margin: float | None = None,
    *,
    range_counts: Literal["eligible", "window"] = "eligible",
) -> Any:
    """Add hard negatives to a `datasets.Dataset` of pairs, as sentence-transformers' function does.

    The library's function looks at a fixed window of range_max + (most positives of a query)
    candidates and drops what limits and positives refuse, so that strict limits leave queries
    without negatives; here limits are part of the search, and every query gets the negatives that
    exist. ``range_counts="window"`` is the library's way, with its rows.

    With p the lowest score among a query's positives, a candidate of score s is taken iff it is no
    positive and s <= p - absolute_margin, s <= p - |p| · relative_margin, s <= max_score and
    s >= min_score, as far as they are given.

    Args:
        dataset: with a column of anchors and one of positives; a query in several rows has several
            positives.
        model: SentenceTransformer, asked by ``encode_query`` and ``encode_document`` for normalised
            embeddings. Scores are its similarity: cosine, dot or euclidean.
        anchor_column_name, positive_column_name: default: the first and the second column.
        corpus: more candidates than the positives.
        cross_encoder: scores the window's candidates and the positives anew, all queries' together,
            each pair of texts once; like the library's, read only where one of the four limits is
            given.
        range_min, range_max: the ranks, among eligible candidates, that negatives are taken from.
            Default: range_min + num_negatives + P, or range_min + 10 · num_negatives + P with
            margins or max_score, P the most positives of a query.
        max_score, min_score, absolute_margin, relative_margin: see above.
        num_negatives: at most so many a query; for "n-tuple" exactly so many.
        sampling_strategy: "top", or "random": drawn from the range by Python's global `random`.
        query_prompt_name, query_prompt, corpus_prompt_name, corpus_prompt, batch_size,
            use_multi_process: for the encoder (and the last two for the cross-encoder).
        include_positives: let the positives be found like any candidate; the format is "n-tuple".
        output_format: "triplet", "n-tuple", "labeled-pair" or "labeled-list".
        output_scores: the column scores; score or scores in place of labels.
        faiss_batch_size, use_faiss: for the library alone; the answer is the exact one either way,
            and FAISS's limit of 2,048 documents does not hold.
        verbose: print counts and scores.
        cache_folder: keeps embeddings under a fingerprint of the model's weights, its tokenizer,
            prompts and texts; encoding that was stopped goes on there.
        as_triplets, margin: old words for output_format and absolute_margin.
        range_counts: "eligible" or "window"; see above.

    Returns:
        A `datasets.Dataset`. "triplet": anchor, positive, negative. "n-tuple": anchor, positive,
        negative_1 to negative_n. "labeled-pair": anchor, a document under the positive's name,
        label. "labeled-list": anchor, documents under the positive's name, labels.

    Raises:
        ValueError: an empty dataset, an unknown column or format, ranges that hold too few, a model
            whose similarity is another.
        TypeError: an argument of another kind.
        ImportError: datasets is not installed.

    Memory: the embeddings, 12 · queries · range_max bytes at most, and the result; with "window" or
    a cross-encoder some 60 bytes per candidate looked at.

    Source: docs/methods.md, C1; docs/guides/sentence_transformers.md.

    >>> import datasets
    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red iron ore", "grey stone", "deep salt sea"] * 9, dim=8)
    >>> pairs = {"query": ["iron ore", "the sea"], "answer": ["red iron ore", "deep salt sea"]}
    >>> mined = mine_hard_negatives(
    ...     datasets.Dataset.from_dict(pairs), encoder, num_negatives=1, verbose=False
    ... )
    >>> mined["negative"][:]
    ['deep salt sea', 'red iron ore']
    """
    if len(dataset) == 0:
        raise ValueError("dataset is empty; give at least one pair")
    columns = columns_of(dataset, anchor_column_name, positive_column_name)
    integer(faiss_batch_size, "faiss_batch_size", 1)
    choice(sampling_strategy, "sampling_strategy", ("top", "random"))
    choice(range_counts, "range_counts", RANGE_COUNTS[:2])
    layout, with_scores = format_of(output_format, as_triplets, include_positives, output_scores)
    if margin is not None:
        absolute_margin = margin
        _LOG.warning("margin is deprecated; absolute_margin is %s", margin)
    limits = dict(
        zip(_LIMITS, (absolute_margin, relative_margin, max_score, min_score), strict=True)
    )
    used = {name: limit for name, limit in limits.items() if limit is not None}
    sides = _Sides.of(dataset, columns, corpus)
    most = int(sides.rows_per_query.max())
    rescored = cross_encoder is not None and bool(used)
    if cross_encoder is not None and not used:
        _LOG.warning("cross_encoder is not used, since none of %s is given", ", ".join(_LIMITS))
    strict = set(used) - (set() if rescored else {"min_score"})
    ranks = ranks_of(range_min, range_max, num_negatives, most, bool(strict), verbose)
    if include_positives and (used or ranks[0] or range_max is not None):
        _LOG.warning("limits and ranges may leave positives out though include_positives is True")
    check_prompt_name(model, query_prompt_name, "query_prompt_name")
    check_prompt_name(model, corpus_prompt_name, "corpus_prompt_name")
    metric = metric_of_model(model)
    say = print if verbose else _nothing
    if len(sides.queries) != len(dataset):
        say(f"Found {len(sides.queries)} unique queries out of {len(dataset)} total queries.")
    if most > 1:
        mean = sides.rows_per_query.mean()
        say(f"Found an average of {mean:.3f} positives per query.")
    corpus_rows, query_rows = embedded(
        model,
        (sides.corpus, corpus_prompt_name, corpus_prompt),
        (sides.queries, query_prompt_name, query_prompt),
        batch_size=batch_size,
        processes=use_multi_process,
        folder=cache_folder,
        say=say,
    )
    scan = functools.partial(
        search, query_rows, corpus_rows, metric=metric, progress=bar("Searching")
    )
    answers, documents = sides.positives, len(sides.corpus)
    never = Lists(np.zeros_like(answers.offsets), answers.ids[:0]) if include_positives else answers
    if rescored:
        ids = on_host(scan(min(ranks[1] + most, documents)).ids)
        scores, positive_scores = _rescored(
            cross_encoder, sides, ids, include_positives, batch_size, use_multi_process
        )
        order = np.argsort(-scores, axis=1, kind="stable")
        ids, scores = (np.take_along_axis(rows, order, axis=1) for rows in (ids, scores))
        pool = among(ids, scores, answers, never, _rules(positive_scores, answers, limits))
        pool = pool._replace(ids=pool.ids[:, : ranks[1]], scores=pool.scores[:, : ranks[1]])
    else:
        positive_scores = pair_scores(query_rows, corpus_rows, answers, metric=metric)
        needed = ranks[0] + num_negatives
        end = needed if sampling_strategy == "top" and range_counts == "eligible" else ranks[1]
        pool = hardest(
            scan,
            answers,
            never,
            _rules(positive_scores, answers, limits),
            (0, end),
            counts=range_counts,
            corpus_rows=documents,
            most_positives=most,
        )
    looked_at = len(pool.ids) * (ranks[1] + most)
    if range_counts == "eligible" and not rescored:
        rejected = sum(int(counts.sum()) for counts in pool.rejected.values())
        looked_at = rejected + int(np.count_nonzero(pool.ids >= 0))
    chosen = _chosen(pool, ranks[0], num_negatives, sampling_strategy)
    say("Negative candidates mined, preparing dataset...")
    rows = _dataset(sides, columns, positive_scores if with_scores else None, chosen, layout)
    if verbose:
        whole = layout == "n-tuple"
        lines = statistics(answers, positive_scores, chosen[1], whole=whole)
        lines += _skipped(pool, used, looked_at)
        possible = _possible(layout, len(positive_scores), chosen[0])
        if len(rows) < possible:
            names = ["range_max", *(["range_min"] if range_min else []), *used]
            lines.append(too_few(possible - len(rows), possible, names))
        print("\n".join(lines))
    return rows


def _dataset(
    sides: _Sides,
    columns: tuple[str, str],
    positive_scores: NDArray[np.float32] | None,
    chosen: tuple[Ids, NDArray[np.float32]],
    output_format: str,
) -> Any:
    """The dataset, its columns under the names of the one that was given."""
    ids, scores = chosen
    table = training_columns(
        (sides.queries, sides.corpus),
        (sides.positives, positive_scores),
        (ids, None if positive_scores is None else scores),
        output_format,
    )
    anchor, positive = columns
    names = {"query": anchor, **dict.fromkeys(("positive", "document", "documents"), positive)}
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    return need("datasets", extra="train").Dataset(table)


def _possible(output_format: str, pairs: int, ids: Ids) -> int:
    """How many rows there would be, had every query all its negatives."""
    if output_format == "triplet":
        return pairs * int(ids.shape[1])
    return pairs + (int(ids.size) if output_format == "labeled-pair" else 0)


class _Sides(NamedTuple):
    """The texts of a dataset, each once, and what answers what."""

    queries: list[str]
    corpus: list[str]
    positives: Lists
    rows_per_query: Ids

    @classmethod
    def of(cls, dataset: Any, columns: tuple[str, str], corpus: Sequence[str] | None) -> _Sides:
        asked, answered = (
            texts(list(dataset[name]), f"dataset column {shown(name)}") for name in columns
        )
        queries = list(dict.fromkeys(asked))
        documents = list(dict.fromkeys([*(answered if corpus is None else corpus), *answered]))
        owners, ids = (
            np.fromiter(map({text: n for n, text in enumerate(names)}.__getitem__, rows), np.int64)
            for names, rows in ((queries, asked), (documents, answered))
        )
        _, first = np.unique(owners * len(documents) + ids, return_index=True)
        first.sort()
        positives = Lists.from_owners(owners[first], ids[first], len(queries))
        return cls(queries, documents, positives, np.bincount(owners))

    def pairs(self) -> Pairs:
        """The same, each text being its id."""
        rows = np.arange(len(self.queries)), np.arange(len(self.corpus))
        sizes = len(self.queries), len(self.corpus)
        texts = self.queries, self.queries, self.corpus, self.corpus
        return Pairs(*texts, self.positives, *rows, *sizes)


def _rules(positive_scores: NDArray[np.float32], answers: Lists, limits: dict[str, Any]) -> Any:
    lowest = np.minimum.reduceat(positive_scores, answers.offsets[:-1])
    return signed_limits(lowest, **limits)


def _rescored(
    cross_encoder: Any,
    sides: _Sides,
    ids: Ids,
    include_positives: bool,
    batch_size: int,
    processes: list[str] | bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The cross-encoder's scores of candidates and of positives; -inf where nobody reads them."""
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    flat = ids.reshape(-1)
    asked = np.ones(len(flat), bool)
    if not include_positives:
        asked = ~sides.positives.contains(rows, flat)
    targets = None if isinstance(processes, bool) else processes
    pool = cross_encoder.start_multi_process_pool(target_devices=targets) if processes else None

    def score(pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        options = {} if pool is None else {"pool": pool}
        scores = cross_encoder.predict(
            pairs, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False, **options
        )
        return np.asarray(scores.float().cpu().numpy())

    try:
        scores = PairScores(score, batch_size=batch_size * _BATCHES).of(
            sides.pairs(),
            np.concatenate([rows[asked], sides.positives.owners]),
            np.concatenate([flat[asked], sides.positives.ids]),
            progress=bar("Rescoring with CrossEncoder"),
        )
    finally:
        if pool is not None:
            cross_encoder.stop_multi_process_pool(pool)
    candidates = np.full(len(flat), -np.inf, np.float32)
    count = int(np.count_nonzero(asked))
    candidates[asked] = scores[:count]
    return candidates.reshape(ids.shape), scores[count:]


def _chosen(pool: Pool, skipped: int, count: int, strategy: str) -> tuple[Ids, Any]:
    """The negatives of each query, best first, filled up with -1 and -inf."""
    ids, scores = pool.ids[:, skipped:], pool.scores[:, skipped:]
    wide = ((0, 0), (0, max(0, count - ids.shape[1])))
    ids = np.pad(ids, wide, constant_values=-1)
    scores = np.pad(scores, wide, constant_values=-np.inf)
    if strategy == "random":
        there = np.maximum(np.count_nonzero(ids >= 0, axis=1), count)
        places = np.sort([random.sample(range(number), count) for number in there.tolist()], axis=1)
        return np.take_along_axis(ids, places, axis=1), np.take_along_axis(scores, places, axis=1)
    return ids[:, :count], scores[:, :count]


def _skipped(pool: Pool, used: dict[str, float], looked_at: int) -> list[str]:
    lines = []
    for name, limit in used.items():
        count = int(pool.rejected[name].sum())
        if count:
            lines.append(
                f"Skipped {count:,} potential negatives ({count / looked_at:.2%}) due to the "
                f"{name} of {limit}."
            )
    return lines


def _nothing(*told: object) -> None:
    """Print nothing."""

"""What judges a run: the held-out queries that its section `evaluation` names."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import counted
from stope._extras import need
from stope.data import Collection, Pairs, Source, SourceData, read_beir, read_sources, text_key
from stope.evaluation import RetrievalEvaluation
from stope.runs.config import Config
from stope.runs.sections import EvaluationSection, HoldoutBy


@dataclass(frozen=True)
class Judges:
    """The evaluation while training goes on, and the one before and after only; or None."""

    held_out: RetrievalEvaluation | None = None
    test: RetrievalEvaluation | None = None
    said: str = ""  # how queries were held out


def judges(config: Config, data: SourceData) -> tuple[Judges, SourceData]:
    """Return the evaluations of a configuration, and the data without what they hold out.

    Raises:
        ValueError: there is nothing to evaluate with, a split without judgements, more queries to
            hold out than can be spared.
    """
    section = config.evaluation
    if section is None:
        return Judges(), data
    if section.holdout is not None:
        return _hold_out(section, data, config.schedule.seed)
    corpus = section.corpus
    path: str | PathLike[str]
    if section.path is not None:
        path = section.path
    else:
        source = config.data[0]
        if len(config.data) > 1 or not Path(source.path).expanduser().is_dir():
            raise ValueError(
                "evaluation has no path, and data is not one BEIR folder with a split of its own; "
                "give evaluation.path, or hold queries out with evaluation.holdout: 0.1"
            )
        path = source.path
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if section.test_split is not None:
            raise ValueError(
                f"evaluation.path is {path}, a file, which has no split "
                f'"{section.test_split}"; leave test_split out'
            )
        if section.ignore_identical_ids:
            raise ValueError(
                f"evaluation.path is {path}, a file of texts without ids, of which "
                "ignore_identical_ids could be true; leave it out"
            )
        pairs = read_sources([Source(path, corpus=corpus)], section="evaluation").pairs
        return Judges(_of_pairs(pairs, np.arange(len(pairs.query_texts)), section)), data
    if corpus is not None:
        raise ValueError(
            "evaluation.path is a BEIR folder, which brings its own corpus; leave "
            "evaluation.corpus out"
        )
    names = [section.split, *([section.test_split] if section.test_split else [])]
    try:
        collection = read_beir(folder, names)
        made = [_of_split(collection, name, section) for name in names]
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"evaluation: {error}") from error
    return Judges(*made), data


def _of_split(collection: Collection, name: str, section: EvaluationSection) -> Any:
    if not any(level > 0 for found in collection.qrels[name].values() for level in found.values()):
        raise ValueError(f'the split "{name}" has no query with a relevant document')
    ignored = section.ignore_identical_ids
    return RetrievalEvaluation.from_collection(
        collection, name, metrics=section.metrics, k=section.k, ignore_identical_ids=ignored
    )


def _of_pairs(pairs: Pairs, queries: Any, section: EvaluationSection) -> RetrievalEvaluation:
    return RetrievalEvaluation.from_pairs(pairs, queries, metrics=section.metrics, k=section.k)


def _hold_out(section: EvaluationSection, data: SourceData, seed: int) -> tuple[Judges, SourceData]:
    count = len(data.pairs.query_texts)
    wanted = section.holdout or 0.0
    number = round(wanted * count) if wanted < 1 else round(wanted)
    if not 1 <= number <= count - 2:
        raise ValueError(
            f"evaluation.holdout is {wanted:g}, which is {number} of {count} queries; hold out at "
            "least 1 and leave at least 2"
        )
    queries, apart = draw(data.pairs, number, section.holdout_by, seed)
    if not len(queries):
        smallest = min(map(len, _groups(data.pairs, True)))
        raise ValueError(
            f"evaluation.holdout_by is positive, but even the smallest of the groups of queries "
            f"that share positives has {smallest} queries, and {number} are to be held out; raise "
            "evaluation.holdout, or leave evaluation.holdout_by out"
        )
    said = f"holding out {counted(len(queries), 'queries')} to judge by: {apart:,} share no "
    said += f"positive with those that are trained on, {len(queries) - apart:,} are drawn at random"
    if not apart and section.holdout_by == "both":
        said += f" (no {number // 2:,} queries or fewer have their positives to themselves)"
    return Judges(_of_pairs(data.pairs, queries, section), said=said), data.without(queries)


def draw(pairs: Pairs, number: int, by: HoldoutBy, seed: int) -> tuple[NDArray[np.int64], int]:
    """Rows of queries to hold out, ascending, and how many were drawn by positive.

    By positive, a query comes with all that share one with it, directly or through others; groups
    that are too large stay. Of both, half are drawn so, if they can be, and the rest at random.
    """
    generator = np.random.default_rng([seed, 2])
    drawn: list[int] = []
    if by != "query":
        goal = number if by == "positive" else number // 2
        groups = _groups(pairs, True)
        for place in generator.permutation(len(groups)).tolist():
            drawn += groups[place] if len(drawn) + len(groups[place]) <= goal else []
    apart = len(drawn)
    if by != "positive":
        groups, taken = _groups(pairs, False), set(drawn)
        for place in generator.permutation(len(groups)).tolist():
            drawn += groups[place] if len(drawn) < number and groups[place][0] not in taken else []
    return np.array(sorted(drawn), dtype=np.int64), apart


def _groups(pairs: Pairs, share_positives: bool) -> list[list[int]]:
    """Queries that are held out together: those of one text, which two sources may have.

    With share_positives also those that have a positive in common, directly or through others.
    """
    sparse: Any = need("scipy.sparse", extra="train")
    graphs: Any = need("scipy.sparse.csgraph", extra="train")
    texts: dict[bytes, int] = {}
    of_text = [texts.setdefault(text_key(text), len(texts)) for text in pairs.query_texts]
    count = len(of_text)
    queries, shared = np.arange(count), np.array(of_text)
    if share_positives:
        queries = np.concatenate([queries, pairs.positives.owners])
        shared = np.concatenate([shared, len(texts) + pairs.positives.ids])
    size = count + int(shared.max()) + 1
    edges = sparse.coo_array((np.ones(len(shared)), (queries, count + shared)), (size, size))
    group = graphs.connected_components(edges, directed=False)[1][:count]
    order = np.argsort(group, kind="stable")
    return [rows.tolist() for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1)]


def usual_evaluation(config: Config) -> EvaluationSection:
    """What judges a guard where nothing is said: the split dev of a BEIR folder, or a tenth."""
    folder = Path(config.data[0].path).expanduser()
    files = [folder / "qrels" / f"dev{ending}" for ending in (".tsv", ".tsv.gz")]
    if len(config.data) == 1 and any(file.exists() for file in files):
        return EvaluationSection(split="dev")
    return EvaluationSection(holdout=0.1)

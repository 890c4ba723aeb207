"""What a run trains on: pairs to mine for, or rows that have their negatives already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stope.data import SourceData, read_negative_ids
from stope.integrations.sentence_transformers.columns import TEACHER
from stope.lists import Lists
from stope.mining.pair_scores import ScoredPairs
from stope.runs.config import Config
from stope.runs.sections import MinedFile
from stope.training.dataset import pairs_dataset, training_dataset
from stope.training.teacher import pair_scores

Say = Callable[[str], None]


def examples_of(
    config: Config, folder: Path, data: SourceData, tell: Say
) -> tuple[Any, dict[str, Any], str | None]:
    """Pairs; or rows with the negatives that the data brings along or a file names.

    Beside them the columns that the teacher adds, and the teacher where it is asked later.
    """
    if config.negatives is not None and data.negatives is not None:
        raise ValueError(
            "negatives are to be mined, but the data brings its own (columns of negatives, or rows "
            "whose label says no); train on those and mine none, or put them aside by "
            "data.negatives: leave in a configuration"
        )
    if isinstance(config.negatives, MinedFile):
        if len(config.data) > 1:
            raise ValueError("negatives.file is for one source; train on one, or mine them anew")
        complete = config.evaluation is None or config.evaluation.holdout is None
        ids = read_negative_ids(
            config.negatives.file, data.pairs, complete=complete, argument="negatives.file"
        )
        if data.pairs.exclusions is not None:
            never = data.pairs.exclusions.lists(len(ids))
            kept = Lists.from_sequences([row[row >= 0] for row in ids]).without(never)
            tell(f"{(ids >= 0).sum() - len(kept.ids):,} negatives of the file are excluded")
            ids = kept.padded()
        rows = pairs_dataset(data.pairs, ids, seed=config.schedule.seed)
        if config.teacher is None:
            return rows, {}, None
        return rows, {TEACHER: _teacher_lists(config, folder, data, ids, tell)}, None
    if data.negatives is None:
        return data.pairs, {}, config.teacher
    rows = pairs_dataset(data.pairs)
    negatives, added = data.filled_negatives(config.schedule.seed)
    if added:
        tell(f"filling up with {added:,} random documents where a pair has fewer negatives")
    rows = training_dataset(rows["query"][:], rows["positive"][:], negatives)
    return rows, {}, config.teacher


def _teacher_lists(
    config: Config, folder: Path, data: SourceData, ids: Any, tell: Say
) -> list[list[float]]:
    """The teacher's scores of positives and of negatives that a file names, per pair."""
    scorer = pair_scores(config.teacher, folder, tell)
    assert scorer is not None
    scores = ScoredPairs(scorer, data.pairs)
    scores.score(ids)
    positives = data.pairs.positives
    listed = np.column_stack([positives.ids, ids[positives.owners]])
    lists: list[list[float]] = scores.scores(positives.owners, listed).tolist()
    return lists

"""Batches of rows that may share queries and positives, and what is said where they may not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from stope.data import Pairs
from stope.encoders import static_encoder
from stope.encoders.versions import part
from stope.progress import silent
from stope.training import Recipe, Shuffled, train
from stope.training.batches import RowNumbers
from stope.training.callbacks.checkpoint import Checkpoints
from stope.training.dataset import as_rows
from stope.training.library_trainer import Job, _deciding

REPEATED = [
    (f"what is {word} {place}", f"{word} lies deep") for word in "abcd" for place in range(9)
]


def test_batches_shortened_by_repeated_positives_are_said(encoder):
    said = []
    train(encoder, REPEATED, batch_size=30, epochs=1, say=said.append)
    (line,) = [line for line in said if line.startswith("batches of")]
    assert line == (
        "batches of 4 rows, not 30, since no query and no positive is twice in a batch; so an epoch"
        " has 36 of 36 rows (batches: shuffled lifts both limits)"
    )
    said.clear()
    report = train(encoder, REPEATED, batch_size=30, epochs=1, batches="shuffled", say=said.append)
    assert report.steps == 2
    train(encoder, REPEATED[::9], batch_size=4, epochs=1, say=said.append)
    assert not [line for line in said if line.startswith("batches of")]


def test_shuffled_rows_of_one_answer_are_no_negatives(encoder):
    """One batch of all rows: the loss of each against the other documents alone, in float64."""
    queries, answers = zip(*REPEATED, ("what is a 0", "b lies deep"), strict=True)
    pairs = Pairs.from_texts(queries, answers)
    vectors = [
        encoder.encode(list(texts), normalize_embeddings=True) for texts in (queries, answers)
    ]
    scores = (vectors[0].astype(np.float64) @ vectors[1].T.astype(np.float64)) / 0.05
    right = {
        query: {a for q, a in zip(queries, answers, strict=True) if q == query} for query in queries
    }
    losses = []
    for row, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        others = [column for column, text in enumerate(answers) if text not in right[query]]
        logits = np.r_[scores[row, row], scores[row, others]]
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - scores[row, row])
        assert answer in right[query]
    report = train(encoder, pairs, batch_size=64, epochs=1, batches="shuffled")
    assert report.losses == [pytest.approx(np.mean(losses), rel=1e-4)]


def test_shuffled_refuses_what_would_take_answers_for_negatives(encoder):
    twice = [*REPEATED, ("what is a 0", "b lies deep")]
    with pytest.raises(ValueError, match="give examples as"):
        train(encoder, twice, batches="shuffled")
    loss = part("losses").MultipleNegativesRankingLoss(encoder)
    with pytest.raises(ValueError, match="a MultipleNegativesRankingLoss, takes it for a negative"):
        train(encoder, REPEATED, batches="shuffled", loss=loss)


@pytest.fixture
def encoder():
    return static_encoder([text for row in REPEATED for text in row], dim=32)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 7, 50, 1000])
def test_shuffled_has_every_row_once_an_epoch(batch_size, processes):
    """Also where all rows have one positive, of which other specs make no batch."""
    table = RowNumbers(np.arange(101), np.zeros(101, int))
    plan, again = (Shuffled().plan(table, batch_size, 3, processes=processes) for _ in range(2))
    assert plan.num_batches == -(-101 // (batch_size * processes)) * processes
    epochs = [plan.batches(epoch) for epoch in range(3)]
    for batches in epochs:
        assert len(batches) == plan.num_batches
        lengths = {len(batch) for batch in batches}
        assert plan.least == min(lengths) >= max(lengths) - 1
        assert max(lengths) <= batch_size
        assert sorted(row for batch in batches for row in batch) == list(range(101))
    assert epochs[0] != epochs[1]
    assert again.batches(2) == epochs[2]
    assert Shuffled().plan(table, batch_size, 4, processes=processes).batches(0) != epochs[0]


def test_shuffled_refuses_batches_of_one_row():
    table = RowNumbers(np.arange(5), np.arange(5))
    with pytest.raises(ValueError, match="table has 5 rows for 4 batches"):
        Shuffled().plan(table, 2, processes=4)
    with pytest.raises(ValueError, match="table has no rows"):
        Shuffled().plan(RowNumbers(np.arange(0), np.arange(0)), 2)


def test_checkpoints_whose_steps_had_other_rows_are_refused(encoder, tmp_path):
    """Rows of a step were once cut among the processes' batches, of all steps at once."""
    recipe = Recipe(batches="shuffled")
    job = Job(encoder, *as_rows(REPEATED, None), recipe, None, None, None, silent, False)
    before = _deciding(job, 2)
    assert before["batches"].pop("rows of a step") == "shared out"
    assert _deciding(job, 1)["batches"] == before["batches"]  # of one process nothing has changed
    Checkpoints(tmp_path, before).save(3, lambda folder: None)
    with pytest.raises(ValueError, match=r"is of another run: batches\.rows of a step"):
        Checkpoints(tmp_path, _deciding(job, 2)).newest(silent)
    assert Checkpoints(tmp_path, before).newest(silent).name == "step-00000003"

"""A batch whose rows bring the same documents: each is encoded and scored once, nothing changes."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from training_loss_cases import (
    NEGATIVES,
    POSITIVES,
    TABLE,
    Live,
    T,
    batch_of,
    measured,
    new_encoder,
    oracle,
    pair_masks,
    pair_rows,
    read,
    same,
    texts_of,
)

from stope.encoders import versions
from stope.integrations.sentence_transformers import InfoNCELoss, from_embeddings
from stope.integrations.sentence_transformers.distinct import COLUMNS, distinct_columns
from stope.integrations.sentence_transformers.row_table import UNKNOWN
from stope.weighting import Weighting

ALIKE = [
    {},
    {"objective": "in"},
    {"objective": "excl"},
    {"objective": "decoupled"},
    {"metric": "dot"},
    {"matryoshka_dims": (24, 8)},
    {"learnable_temperature": True},
    {"weighting": "progressive"},
    {"precision": "float32", "partition_mode": "per_direction"},
]
OTHERWISE = [
    {"hard_negative_log_weight": -1.0},
    {"foreign_hard_negatives": False},
    {"hardness_mode": "hard_negatives", "hardness_strength": 2.0},
    {"hardness_mode": "all_negatives", "hardness_strength": 2.0},
    {"directions": ("query_to_doc", "doc_to_doc")},
    {"directions": ("query_to_doc", "doc_to_query")},
    {"symmetric": True},
    {"queue_size": 5},
    {"focal_margin": 0.25},
    {"relative_margin": 0.3},
    {"absolute_margin": 0.2},
    {"max_score": 0.4},
    {"min_score": -0.5},
    {"drop": 0.01},
    {"objective": "hardness", "beta": 0.5},
    {"objective": "pairwise"},
    {"objective": "sigmoid", "bias": -3.0},
    {"objective": "DCLW"},
    {"weighting": {"name": "rank_cutoff", "top": 4}},
    {"weighting": {"name": "clipped", "of": {"name": "rank_cutoff", "top": 4}, "low": 0.1}},
    {"weighting": {"name": "product", "parts": [{"name": "rank_cutoff", "top": 4}]}},
]


@pytest.fixture(scope="module")
def encoder():
    return new_encoder()


@pytest.fixture
def spied(monkeypatch):
    """What `distinct_columns` returned."""
    told = []

    def noted(*args):
        told.append(distinct_columns(*args))
        return told[-1]

    monkeypatch.setattr(from_embeddings, "distinct_columns", noted)
    return told


def outcome(encoder, rows, *, negatives=None, table=TABLE, steps=1, **options):
    """The losses and the encoder's gradients, and the texts of all columns."""
    model = copy.deepcopy(encoder)
    if negatives is not None:
        options |= {"negatives": negatives}
    loss = InfoNCELoss(model, temperature=T, rows=table, **options)
    for _ in range(steps):
        features, labels = batch_of(model, rows, table)
        result = measured(model, loss, features, labels)
    return result, loss


def both(encoder, monkeypatch, rows, **options):
    """The same with equal columns left apart, and as it is."""
    with monkeypatch.context() as patch:
        patch.setattr(from_embeddings, "distinct_columns", lambda *_: None)
        apart, left = outcome(encoder, rows, **options)
    return apart, left, *outcome(encoder, rows, **options)


@pytest.mark.parametrize("options", ALIKE, ids=str)
def test_equal_columns_are_one_and_count_as_often(encoder, monkeypatch, spied, options):
    live = Live(count=5)
    apart, left, once, loss = both(encoder, monkeypatch, pair_rows(), negatives=live, **options)
    same(once, apart)
    assert len(spied[-1][COLUMNS]) < 40 < 14 * 6
    mine, theirs = loss.statistics, left.statistics
    for name in set(mine._fields) - {"ranks", "best_negatives"}:  # a rank counts documents once
        values = getattr(mine, name), getattr(theirs, name)
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6, msg=name)
    assert loss.observed["false_negatives"] == left.observed["false_negatives"]
    columns = (
        TABLE.positive_numbers[:14].tolist() + live.table[TABLE.query_of[:14]].T.ravel().tolist()
    )
    best = [[columns[j] for j in each.best_negatives.tolist() if j >= 0] for each in (mine, theirs)]
    assert best[0] == best[1]


@pytest.mark.parametrize("name", ["none", "progressive", "dynamic"])
def test_against_every_pair_in_float64(encoder, spied, name):
    rows, live = pair_rows(), Live(count=5)
    weighting = (
        None
        if name == "none"
        else {"name": name} | ({"temperature": 0.4} if name == "dynamic" else {})
    )
    found, _ = outcome(encoder, rows, negatives=live, weighting=weighting)
    chosen = live.table[TABLE.query_of[:14]]
    columns = [*texts_of([{k: v for k, v in row.items() if k != "row"} for row in rows])]
    columns += [live.texts(ids) for ids in chosen.T]
    same(found, oracle(copy.deepcopy(encoder), columns, name, masks=pair_masks(columns, rows)))
    assert spied[-1] is not None


def test_several_rows_of_one_positive_and_queries_of_several(encoder, monkeypatch, spied):
    # Row 15 asks the question of row 1, whose other positive is that of row 0.
    rows = [*pair_rows(range(16)), *pair_rows([3, 3])]
    apart, left, once, loss = both(encoder, monkeypatch, rows, negatives=Live(count=3))
    same(once, apart)
    assert torch.equal(loss.statistics.negatives, left.statistics.negatives)
    assert spied[-1]["positives"][3] == spied[-1]["positives"][16] == spied[-1]["positives"][17]


def test_negatives_of_a_dataset_without_a_table(encoder, monkeypatch, spied):
    rows = [
        {"query": f"what is it {i}", "positive": POSITIVES[i], "negative": NEGATIVES[i % 2][0]}
        for i in range(8)
    ]
    apart, _, once, _ = both(encoder, monkeypatch, rows, table=None)
    same(once, apart)
    assert len(spied[-1][COLUMNS]) == 10


def test_distillation_reads_each_row_its_own_columns(encoder, monkeypatch, spied):
    scores = np.random.default_rng(0).standard_normal((14, 4)).tolist()
    rows = [
        {**row, "negative_1": NEGATIVES[i % 3][0], "negative_2": NEGATIVES[i % 2][1]}
        | {"negative_3": NEGATIVES[5][0], "teacher_scores": scores[i]}
        for i, row in enumerate(pair_rows())
    ]
    for objective in ("listwise", "stabilised"):
        apart, _, once, _ = both(encoder, monkeypatch, rows, distillation=objective)
        same(once, apart)
        assert spied[-1] is not None


@dataclasses.dataclass(frozen=True)
class Inverse(Weighting, name="test_inverse_rank"):
    """Of somebody who reads the ranks in a way of his own."""

    def __call__(self, signals, progress, *, processes=None):
        return 1.0 / signals["rank"]


@pytest.mark.parametrize("options", [*OTHERWISE, {"weighting": Inverse()}], ids=str)
def test_options_under_which_copies_differ(encoder, spied, options):
    result, _ = outcome(encoder, pair_rows(), negatives=Live(count=5), steps=2, **options)
    assert np.isfinite(result[0])
    assert spied[-1:] in ([], [None])  # the queue is empty at first, and options are read before


def test_a_guide_and_log_weights_leave_columns_apart(encoder, spied):
    rows = [{**row, "log_weight": 0.1 * i} for i, row in enumerate(pair_rows())]
    outcome(encoder, rows, negatives=Live(count=5))
    outcome(
        encoder,
        pair_rows(),
        negatives=Live(count=5),
        guide=new_encoder(),
        directions=["query_to_doc"],
    )
    assert spied == [None]  # with a guide there are limits, and nobody asks


def test_copies_with_other_embeddings_stay_apart():
    documents = torch.eye(4)[[0, 1, 0, 2]]
    there = {"document_ids": torch.tensor([5, 6, 5, 7])}
    numbers = np.array([5, 6, 5, 7])
    assert distinct_columns(documents, 2, numbers, there)[COLUMNS].tolist() == [0, 1, 3]
    documents[2, 3] = 1e-30  # as Dropout would
    assert distinct_columns(documents, 2, numbers, there) is None
    assert distinct_columns(torch.eye(4), 2, np.arange(4), there) is None
    assert distinct_columns(torch.eye(4)[[0, 0, 0, 0]], 2, np.full(4, UNKNOWN), there) is None


# --- encoding --------------------------------------------------------------------------------


def test_a_static_encoder_looks_each_text_up_once(encoder, monkeypatch):
    texts = [["iron", "", "copper"], ["iron ore", "iron", "iron"], ["tin", "iron ore", "zinc"]]
    model, calls = copy.deepcopy(encoder), []
    model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0]["offsets"])))
    results = []
    for has_bags in (versions.has_bags, lambda _: False):
        monkeypatch.setattr(versions, "has_bags", has_bags)
        model.zero_grad()
        columns = versions.embed_columns(model, [read(model, column) for column in texts])
        assert [column.shape for column in columns] == [(3, 24)] * 3
        sum(
            ((k + 1) * column.cumsum(0).pow(2).sum()) for k, column in enumerate(columns)
        ).backward()
        results.append((torch.cat(columns).detach(), model[0].embedding.weight.grad.clone()))
    assert calls == [6, 3, 3, 3]
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_modules_that_draw_at_random_see_every_row(encoder):
    assert versions.has_bags(encoder)
    assert versions.has_bags(torch.nn.DataParallel(encoder))
    dropout = versions.part("models").Dropout(0.5)
    assert not versions.has_bags(type(encoder)(modules=[encoder[0], dropout], device="cpu"))
    assert not versions.has_bags(object())


def test_a_static_class_of_somebodys_own_sees_every_row_where_it_computes_otherwise(encoder):
    static = versions.part("models").StaticEmbedding
    for own, expected in (({}, True), ({"forward": lambda self, features: features}, False)):
        model = copy.deepcopy(encoder)
        model[0].__class__ = type("Own", (static,), own)
        assert versions.has_bags(model) == expected


def test_token_ids_of_32_bits(encoder):
    features = read(encoder, ["iron ore", "tin", "iron ore"])
    narrow = {name: features[name].int() for name in ("input_ids", "offsets")}
    rows = [versions.embed_columns(encoder, [each])[0] for each in (narrow, features)]
    assert torch.equal(*rows)

"""Weights by difficulty and Matryoshka dims in the loss of training, against torch in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from small_transformers import tiny
from training_loss_cases import (
    TABLE,
    WEIGHTINGS,
    WORDS,
    Live,
    Spy,
    T,
    batch_of,
    measured,
    new_encoder,
    oracle,
    pair_rows,
    rows_of,
    same,
    texts_of,
)

from stope import weighting as w
from stope.integrations.sentence_transformers import Clock
from stope.integrations.sentence_transformers.signals import check_weighting
from stope.torch import InfoNCELoss, SigmoidLoss
from stope.torch.distributed import DistributedInfoNCELoss
from stope.training import contrastive_loss


@pytest.fixture
def encoder():
    return new_encoder()


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    return tiny(
        tmp_path_factory.mktemp("tiny"), words=[*WORDS, "what", "is", "no", "was", "found", "a"]
    )


# --- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("hard", [0, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_torch(encoder, name, hard, weighted):
    data = [float(1 + i % 4) for i in range(14)] if weighted else None
    rows = rows_of(hard, **({"weight": data} if weighted else {}))
    for step in (0, 55, 100):
        loss = contrastive_loss(
            encoder, temperature=T, weighting=WEIGHTINGS[name], clock=Clock(step, 100)
        )
        found = measured(encoder, loss, *batch_of(encoder, rows))
        same(found, oracle(encoder, texts_of(rows), name, step / 100, data))


def test_weights_change_with_progress(encoder):
    rows = rows_of(2)
    clock, by_loss = Clock(0, 10), {"name": "progressive", "signal": "loss"}
    loss = contrastive_loss(encoder, temperature=T, weighting=by_loss, clock=clock)
    batch = batch_of(encoder, rows)
    values = []
    for clock.step in (0, 10):
        values.append(float(loss(*batch).detach()))
    assert values[0] < values[1]  # easy rows first, hard ones later
    assert loss.clock is clock


@pytest.mark.parametrize("symmetric", [False, True])
def test_both_directions(encoder, symmetric):
    loss = contrastive_loss(encoder, temperature=T, weighting=w.Focal(), symmetric=symmetric)
    rows = rows_of(2)
    found = measured(encoder, loss, *batch_of(encoder, rows))
    same(found, oracle(encoder, texts_of(rows), "focal", symmetric=symmetric))


def test_kappa_zero_is_the_loss_without_weights(encoder):
    batch = batch_of(encoder, rows_of(2))
    plain = measured(encoder, contrastive_loss(encoder, temperature=T), *batch)
    flat = w.Progressive(first=0.0, last=0.0)
    found = measured(encoder, contrastive_loss(encoder, temperature=T, weighting=flat), *batch)
    assert found[0] == plain[0]
    assert np.array_equal(found[1], plain[1])


def test_the_signals_are_what_they_are_called(encoder):
    easiness = [i / 13 for i in range(14)]
    rows = rows_of(2, easiness=easiness, weight=[2.0] * 14)
    rows[3]["negative_1"] = rows[3]["negative_2"] = rows[3]["positive"]  # none of its own is left
    rows[4]["negative_2"] = rows[4]["positive"]  # one is left
    masks = np.zeros((14, 42), bool)
    masks[3, [3 + 14, 3 + 28]] = masks[4, 4 + 28] = True
    Spy.seen.clear()
    loss = contrastive_loss(encoder, temperature=T, weighting=Spy(), clock=Clock(1, 4))
    loss(*batch_of(encoder, rows))
    ((signals, progress),) = Spy.seen
    _, _, exact = oracle(encoder, texts_of(rows), masks=masks)
    assert progress == 0.25
    assert set(signals) == {
        "loss", "log_sum_exp", "rank", "best_hardness", "hardness", "easiness", "weight",
    }  # fmt: skip
    for name in ("loss", "hardness", "best_hardness"):
        np.testing.assert_allclose(signals[name].numpy(), exact[name], atol=2e-6)
    assert signals["hardness"][3] == signals["best_hardness"][3]
    assert (signals["hardness"] != signals["best_hardness"]).sum() == 13
    np.testing.assert_allclose(signals["easiness"], np.float32(easiness))


def test_a_batch_of_weights_zero_teaches_nothing(encoder):
    loss = contrastive_loss(encoder, temperature=T)
    value, gradient = measured(encoder, loss, *batch_of(encoder, rows_of(0, weight=[0.0] * 14)))
    assert value == 0
    assert not gradient.any()
    assert loss.observed["weight_max"] == 0
    loss = contrastive_loss(encoder, temperature=T, weighting=w.Product([Spy(), w.Focal()]))
    value, gradient = measured(encoder, loss, *batch_of(encoder, rows_of(0, weight=[0.0] * 14)))
    assert value == 0
    assert not gradient.any()


def test_what_is_observed(encoder):
    rows = rows_of(2)
    rows[4]["negative_2"] = rows[5]["positive"]
    masks = np.zeros((14, 42), bool)
    masks[5, 28 + 4] = True
    loss = contrastive_loss(encoder, temperature=T, weighting=w.Focal())
    value = loss(*batch_of(encoder, rows))
    expected, _, exact = oracle(encoder, texts_of(rows), "focal", masks=masks)
    seen = loss.observed
    json.dumps(seen, allow_nan=False)
    assert seen["loss"] == float(value.detach()) == pytest.approx(expected, rel=1e-5)
    weights, hardness = exact["weights"], exact["hardness"]
    for key, share in {"min": 0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1}.items():
        assert seen[f"weight_{key}"] == pytest.approx(np.quantile(weights, share), rel=1e-4)
        assert seen[f"hardness_{key}"] == pytest.approx(np.quantile(hardness, share), abs=1e-5)
    quarters = np.array_split(weights[np.argsort(hardness)], 4)
    for name, part in zip(("easiest", "easy", "hard", "hardest"), quarters, strict=True):
        assert seen[f"weight_{name}"] == pytest.approx(part.mean(), rel=1e-4)
    assert seen["weight_mean"] == pytest.approx(weights.mean(), rel=1e-4)
    effective = weights.sum() ** 2 / (weights**2).sum() / 14
    assert seen["weight_effective"] == pytest.approx(effective, rel=1e-4)
    assert seen["false_negatives"] == pytest.approx(1 / (14 * 41))
    assert 1 <= seen["mean_rank"] <= 42
    assert 0 <= seen["first_rank"] <= 1
    plain = contrastive_loss(encoder, temperature=T, symmetric=True)
    plain(*batch_of(encoder, rows_of(2)))
    assert plain.observed["false_negatives"] == 0
    assert not [name for name in plain.observed if name.startswith("weight")]


# --- mini-batches and Matryoshka dims ----------------------------------------------------------


def test_matryoshka_is_the_sum_over_shorter_embeddings(encoder):
    rows = rows_of(2)
    loss = contrastive_loss(
        encoder, temperature=T, weighting=w.Focal(), matryoshka_dims=(24, 12, 5)
    )
    found = measured(encoder, loss, *batch_of(encoder, rows))
    same(found, oracle(encoder, texts_of(rows), "focal", dims=(24, 12, 5)))
    parts = [loss.observed[f"loss_{dim}"] for dim in (24, 12, 5)]
    assert sum(parts) == pytest.approx(found[0], rel=1e-6)
    assert loss.infonce.statistics.losses.mean() != pytest.approx(parts[2], rel=1e-3)
    weighted = contrastive_loss(
        encoder, temperature=T, weighting=w.Focal(), matryoshka_dims=(24, 12, 5),
        matryoshka_weights=(1, 0.5, 0.25),
    )  # fmt: skip
    value, _ = measured(encoder, weighted, *batch_of(encoder, rows))
    assert value == pytest.approx(parts[0] + parts[1] / 2 + parts[2] / 4, rel=1e-5)


@pytest.mark.parametrize("size", [1, 5, 32])
def test_mini_batches_change_nothing(transformer, size):
    options = {"temperature": T, "weighting": "progressive", "matryoshka_dims": (16, 8)}
    clock, rows = Clock(9, 10), pair_rows()
    found = []
    for extra in ({}, {"mini_batch_size": size}):
        live = Live()
        loss = contrastive_loss(
            transformer, clock=clock, negatives=live, table=TABLE, **options, **extra
        )
        batch = batch_of(transformer, [row | {"weight": 1.0 + row["row"]} for row in rows], TABLE)
        found.append((measured(transformer, loss, *batch), loss.observed, live))
    (whole, seen, live), (parts, also, other) = found
    same(parts, whole)
    assert also == pytest.approx(seen, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(other.told[0][2], live.told[0][2], atol=1e-5)
    assert live.asked == other.asked == [(TABLE.query_of[:14].tolist(), 9)]


# --- bad input ---------------------------------------------------------------------------------


def test_refused(encoder):
    with pytest.raises(ValueError, match="has the name 'progresive'; there are the weightings"):
        contrastive_loss(encoder, weighting="progresive")
    with pytest.raises(ValueError, match="weighting 'teacher' reads the signal 'teacher_confid"):
        check_weighting(w.Teacher())
    with pytest.raises(ValueError, match=r"easiness\[1\] is 2; give numbers of"):
        check_weighting("answer_ranking", {"easiness": [0.5, 2.0]})
    assert check_weighting({"name": "rank_cutoff", "top": 3}) == w.RankCutoff(3)
    loss = contrastive_loss(encoder, weighting=w.Teacher())
    with pytest.raises(ValueError, match=r"'teacher_confidence', but signals has loss, log_sum"):
        loss(*batch_of(encoder, rows_of(0)))
    with pytest.raises(ValueError, match="negatives are given without a table of pairs"):
        contrastive_loss(encoder, negatives=Live())
    with pytest.raises(ValueError, match='of this loss with a column "row"'):
        contrastive_loss(encoder, negatives=Live(), table=TABLE)(*batch_of(encoder, rows_of(0)))
    for dims, said in {
        (): r"matryoshka_dims is \(\)", (24, 24): "that descend", (24, 0): "of at least 1",
        (48, 24): "starts with 48, but the model's embeddings have 24; start with 24",
        (12, 6): "starts with 12",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=said):
            contrastive_loss(encoder, matryoshka_dims=dims)
    with pytest.raises(ValueError, match="matryoshka_weights has 1 numbers for 2 dims"):
        contrastive_loss(encoder, matryoshka_dims=(24, 12), matryoshka_weights=[1])
    with pytest.raises(ValueError, match="give finite numbers above 0"):
        contrastive_loss(encoder, matryoshka_dims=(24, 12), matryoshka_weights=[1, 0])
    with pytest.raises(ValueError, match="without matryoshka_dims"):
        contrastive_loss(encoder, matryoshka_weights=[1])
    features, _ = batch_of(encoder, rows_of(0))
    with pytest.raises(ValueError, match="document_ids has 3 numbers for 14 documents"):
        contrastive_loss(encoder)(features, {"document_ids": torch.arange(3)})


# --- weights as a function, in stope.torch -----------------------------------------------------


@pytest.mark.parametrize("make", [InfoNCELoss, DistributedInfoNCELoss, SigmoidLoss])
def test_weights_may_be_a_function_of_the_statistics(make):
    loss = make()
    queries, documents = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).unbind()
    calls = []

    def weights(statistics):
        calls.append(statistics)
        return 1.0 / statistics.ranks.float()

    value = loss(queries, documents, weights=weights)
    assert calls[0] is loss.statistics
    assert len(calls) == 1
    assert value == loss(queries, documents, weights=1.0 / loss.statistics.ranks.float())
    assert value != loss(queries, documents)
    with pytest.raises(ValueError, match=r"weights has shape \(2,\); give one per query"):
        loss(queries, documents, weights=lambda _: torch.ones(2))

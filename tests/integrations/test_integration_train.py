"""One loss for both trainers; every option of it with live negatives, weights and a queue."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from small_transformers import features, tiny
from torch.nn.functional import normalize
from training_loss_cases import (
    NEGATIVES,
    PAIRS,
    POSITIVES,
    QUERIES,
    TABLE,
    Live,
    T,
    batch_of,
    measured,
    new_encoder,
    pair_rows,
    read,
    rows_of,
    texts_of,
)

from stope.encoders import TaskPrompts, static_encoder
from stope.encoders.versions import part
from stope.integrations.sentence_transformers import Clock, InfoNCELoss
from stope.integrations.sentence_transformers.loss import infonce_in
from stope.torch import InfoNCELoss as OfThisProcess
from stope.training import NegativeRefresh, contrastive_loss, train, training_dataset


@pytest.fixture
def encoder():
    return new_encoder()


@pytest.fixture(scope="module")
def guide():
    texts = [*QUERIES, *POSITIVES, *(text for row in NEGATIVES for text in row), "find text a: b"]
    return static_encoder(texts * 3, dim=16, vocab_size=250, seed=3)


def embedded(model, columns):
    with torch.no_grad():
        return [model(read(model, texts))["sentence_embedding"] for texts in columns]


# --- given to train ----------------------------------------------------------------------------


def copies():
    """Rows whose hard negatives are positives of others."""
    negatives = [[POSITIVES[(i + 1) % 14]] for i in range(14)]
    return training_dataset(QUERIES, POSITIVES, negatives)


@pytest.mark.parametrize("weighting", [None, "progressive"])
def test_train_with_the_loss_given_is_train_with_its_own(weighting):
    """Copies of positives are no negatives, rows weigh the same, progress moves on."""
    options = {"batch_size": 14, "epochs": 4, "weighting": weighting}
    losses, models = [], [new_encoder() for _ in range(3)]
    losses.append(train(models[0], copies(), temperature=T, **options).losses)
    given = InfoNCELoss(models[1], temperature=T)
    losses.append(train(models[1], copies(), loss=given, **options).losses)
    # Or the weighting is the loss's own.
    given = InfoNCELoss(models[2], temperature=T, weighting=weighting)
    losses.append(train(models[2], copies(), loss=given, **{**options, "weighting": None}).losses)
    assert losses[0] == losses[1] == losses[2]
    assert given.progress == 0.75
    assert int(given.statistics.negatives.max()) == 26  # 27 without the mask


def test_train_finds_the_loss_in_others():
    inner = InfoNCELoss(model := new_encoder(), temperature=T)
    loss = part("losses").MatryoshkaLoss(model, inner, [24, 8])
    assert infonce_in(loss) is inner
    assert infonce_in(part("losses").MultipleNegativesRankingLoss(model)) is None
    found = train(model, copies(), loss=loss, batch_size=14, epochs=2).losses
    own = train(
        new_encoder(), copies(), temperature=T, matryoshka_dims=(24, 8), batch_size=14, epochs=2
    )
    np.testing.assert_allclose(found, own.losses, rtol=1e-5)


@pytest.mark.parametrize("objective", ["STAR", "HCL"])
def test_refresh_weighting_and_prompts_with_any_loss(objective):
    """A loss given, or the same options of the recipe: equal to the bit."""
    options = {
        "refresh": NegativeRefresh(num_negatives=2, pool=5),
        "weighting": "progressive",
        "prompts": TaskPrompts.from_dict({"default": {"query": "find ", "document": "text "}}),
        "batch_size": 14,
        "epochs": 2,
    }
    words = {"STAR": {"objective": "pairwise"}, "HCL": {"objective": "hardness", "beta": 1.0}}
    of_recipe = train(new_encoder(), PAIRS, **words[objective], **options)
    model = new_encoder()
    loss = InfoNCELoss(model, **{**words[objective], "objective": objective})
    given = train(model, PAIRS, loss=loss, **options)
    assert of_recipe.losses == given.losses
    plain = train(new_encoder(), PAIRS, **options)
    assert plain.losses != given.losses
    assert loss.negatives.version >= 1
    assert "weight_p50" in loss.observed


def test_what_does_not_go_together(encoder):
    loss = InfoNCELoss(encoder, weighting="focal")
    with pytest.raises(ValueError, match=r"the loss has the weighting Focal\(.*another is given"):
        train(encoder, copies(), loss=loss, weighting="progressive")
    with pytest.raises(ValueError, match="negatives are given without a table of pairs"):
        InfoNCELoss(encoder).attach(negatives=Live())
    loss = InfoNCELoss(encoder, negatives=Live(), rows=TABLE)
    with pytest.raises(ValueError, match="the loss has live negatives, and others are given"):
        loss.attach(negatives=Live())
    labelled = copies().add_column("label", [1] * 13 + [0])
    with pytest.raises(ValueError, match='the column "label" has 0 in row 13, which is then no q'):
        train(encoder, labelled)
    assert train(encoder, copies().add_column("label", [1] * 14), epochs=1).steps
    with pytest.raises(TypeError, match="examples has 'a row'; rows are"):
        train(encoder, ["a row"])
    with pytest.raises(TypeError, match="examples is 3; give Pairs"):
        train(encoder, 3)


# --- every option with live negatives ------------------------------------------------------------

OPTIONS = {
    "in": {"objective": "in"},
    "excl": {"objective": "excl"},
    "DCL": {"objective": "DCL"},
    "HCL": {"objective": "HCL", "beta": 0.5, "positive_prior": 0.1},
    "STAR": {"objective": "STAR"},
    "SigLIP": {"objective": "SigLIP"},
    "focal": {"focal_margin": 0.3},
    "directions": {"directions": ("query_to_doc", "query_to_query", "doc_to_doc")},
    "per direction": {
        "directions": ("query_to_document", "document_to_query"), "partition": "per_direction",
    },
    "own negatives": {"hard_negative_log_weight": 1.0},
    "hardness": {"hardness": "hard_negatives", "hardness_strength": 3.0},
    "no foreign ones": {"foreign_hard_negatives": False},
    "margins": {"absolute_margin": 0.05, "min_score": -0.9},
    "dot": {"metric": "dot"},
    "learned": {"learnable_temperature": True},
    "queue": {"queue_size": 30},
    "both directions": {"symmetric": True, "hard_negative_log_weight": 1.0},
    "dims": {"matryoshka_dims": (24, 8), "queue_size": 9},
}  # fmt: skip


@pytest.mark.parametrize("name", [*OPTIONS, "guide", "guide, both directions"])
def test_live_negatives_are_columns_as_any(encoder, guide, name):
    """Value, gradient and what is observed are those of the same negatives as columns."""
    options = dict(OPTIONS.get(name, {"guide": guide, "margin": 0.05}))
    if name == "guide, both directions":
        options["symmetric"] = True
    rows, live = pair_rows(), Live()
    columns = [live.texts(ids) for ids in live.table[TABLE.query_of[:14]].T]
    fixed = [
        {**row, "negative_1": a, "negative_2": b} for row, a, b in zip(rows, *columns, strict=True)
    ]
    outcomes = []
    for negatives, batch in ((live, rows), (None, fixed)):
        loss = contrastive_loss(
            encoder, temperature=T, weighting="progressive", clock=Clock(7, 10), table=TABLE,
            negatives=negatives, **options,
        )  # fmt: skip
        for _ in range(2):  # the second batch has a queue
            value = measured(encoder, loss, *batch_of(encoder, batch, TABLE))
        loss.observed.pop("negatives_version", None)
        outcomes.append((*value, loss.observed, loss.statistics))
    (value, gradient, seen, statistics), (other, its_gradient, also, its_statistics) = outcomes
    assert value == other
    np.testing.assert_array_equal(gradient, its_gradient)
    assert seen == also
    assert torch.equal(statistics.negatives, its_statistics.negatives)
    plain = contrastive_loss(
        encoder, temperature=T, weighting="progressive", clock=Clock(7, 10), table=TABLE
    )
    same = name in ("in", "excl", "learned", "dot")  # one positive each; vectors of length one
    assert (measured(encoder, plain, *batch_of(encoder, fixed, TABLE))[0] == value) == same


# --- formulas ------------------------------------------------------------------------------------


def test_the_mean_of_star_is_over_pairs():
    """docs/methods.md, B1: L = 0.335811 with the hard documents of all queries."""
    queries = torch.eye(2)
    documents = torch.tensor([[2.0, 0.5], [1.0, 1.5], [1.5, 0.5], [0.0, 1.0]])
    loss = OfThisProcess(1.0, metric="dot", objective="STAR")
    assert float(loss(queries, documents)) == pytest.approx(0.335811, abs=1e-6)
    assert loss.statistics.negatives.tolist() == [3, 3]
    weights = torch.tensor([1.0, 3.0])
    rows = loss.statistics.losses
    expected = float((weights * rows).sum() / (weights * 3).sum())
    assert float(loss(queries, documents, weights=weights)) == pytest.approx(expected, rel=1e-6)
    alone = OfThisProcess(1.0, metric="dot", objective="pairwise")
    assert float(alone(queries[:1], documents[:1])) == 0.0


def test_a_guide_in_both_directions(encoder, guide):
    """The mean of two losses with the guide's masks, in float64."""
    columns = [QUERIES, POSITIVES]
    q, d = (normalize(rows.double(), dim=1) for rows in embedded(encoder, columns))
    g, h = (normalize(rows.double(), dim=1) for rows in embedded(guide, columns))
    scores, sims = q @ d.T / T, g @ h.T
    eye = torch.eye(14, dtype=torch.bool)

    def rows(scores, sims):
        masked = scores.masked_fill((sims > sims.diagonal()[:, None] - 0.1) & ~eye, -torch.inf)
        return masked.logsumexp(1) - scores.diagonal()

    expected = (rows(scores, sims) + rows(scores.T, sims.T)).mean() / 2
    loss = InfoNCELoss(encoder, temperature=T, guide=guide, margin=0.1, symmetric=True)
    value = loss(batch_of(encoder, rows_of(0))[0])
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert int(loss.statistics.negatives.min()) < 26


# --- the queue -----------------------------------------------------------------------------------


def halves():
    rows = rows_of(1)
    return rows[:7], rows[7:]


def test_past_documents_are_negatives(encoder):
    first, second = halves()
    second = copy.deepcopy(second)
    second[0]["positive"] = first[3]["negative_1"]  # in the queue, and then no negative of the row
    loss = InfoNCELoss(encoder, temperature=T, queue_size=10)
    loss(*batch_of(encoder, first))
    past = torch.cat(embedded(encoder, texts_of(first))[1:])[:10]
    assert torch.equal(loss.queue.documents, past)
    value, gradient = measured(encoder, loss, *batch_of(encoder, second))

    encoder.zero_grad()
    q, *d = (
        normalize(encoder(read(encoder, texts))["sentence_embedding"].double(), dim=1)
        for texts in texts_of(second)
    )
    scores = q @ torch.cat([*d, normalize(past.double(), dim=1)]).T / T
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    hidden[0, 14 + 7 + 3 : 14 + 7 + 4] = 7 + 3 < 10
    texts = [*texts_of(first)[1], *texts_of(first)[2]][:10]
    hidden[0, 14:] = torch.tensor([text == second[0]["positive"] for text in texts])
    expected = (scores.masked_fill(hidden, -torch.inf).logsumexp(1) - scores.diagonal()).mean()
    expected.backward()
    exact = torch.cat([p.grad.ravel() for p in encoder.parameters()]).numpy()
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=1e-5 * np.abs(exact).max())
    newest = torch.cat(embedded(encoder, texts_of(second))[1:])[:10]
    assert torch.equal(loss.queue.documents, newest)


def test_a_positive_of_the_query_in_the_queue_is_no_negative(encoder):
    """Rows 0 and 1 are of one query: the document of one is no negative of the other, later."""
    rows = pair_rows(range(16))
    loss = InfoNCELoss(encoder, temperature=T, queue_size=8, rows=TABLE)
    loss(*batch_of(encoder, rows[:1] + rows[8:14], TABLE))
    loss(*batch_of(encoder, rows[1:2] + rows[4:8], TABLE))
    assert loss.statistics.negatives.tolist() == [4 + 6] * 5  # of the 7 that wait


def test_the_queue_is_in_the_state(encoder):
    first, second = halves()
    loss = InfoNCELoss(encoder, queue_size=10, learnable_temperature=True)
    loss(*batch_of(encoder, first))
    other = InfoNCELoss(encoder, queue_size=10, learnable_temperature=True)
    other.load_state_dict(loss.state_dict())
    assert other(*batch_of(encoder, second)) == loss(*batch_of(encoder, second))
    with torch.no_grad():  # an evaluation leaves it alone
        before = loss.queue.documents.clone()
        loss(*batch_of(encoder, first))
    assert torch.equal(loss.queue.documents, before)
    around = part("losses").MatryoshkaLoss(encoder, InfoNCELoss(encoder, queue_size=10), [24, 8])
    with pytest.raises(ValueError, match="asked about the same batch twice; a queue goes with mat"):
        around(*batch_of(encoder, first))


# --- the momentum encoder ------------------------------------------------------------------------


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def test_documents_are_encoded_by_the_moving_average(encoder):
    """Two steps, their losses and gradients in float64; the average moves before it encodes."""
    m = 0.75
    loss = InfoNCELoss(encoder, temperature=T, queue_size=10, momentum=m)
    expected_average, past = parameters(encoder), None
    for rows in halves():
        with torch.no_grad():  # the optimiser's step
            for p in encoder.parameters():
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
        expected_average = [m * k + (1 - m) * q for k, q in zip(
            expected_average, parameters(encoder), strict=True)]  # fmt: skip
        value, gradient = measured(encoder, loss, *batch_of(encoder, rows))
        for kept, wanted in zip(loss.keys.average.parameters(), expected_average, strict=True):
            torch.testing.assert_close(kept, wanted)

        encoder.zero_grad()
        texts = texts_of(rows)
        q = encoder(read(encoder, texts[0]))["sentence_embedding"].double()
        keys = torch.cat(embedded(loss.keys.average, texts)[1:]).detach()
        others = keys if past is None else torch.cat([keys, past])
        scores = normalize(q, dim=1) @ normalize(others.double(), dim=1).T / T
        expected = (scores.logsumexp(1) - scores.diagonal()).mean()
        expected.backward()
        exact = torch.cat([p.grad.ravel() for p in encoder.parameters()]).numpy()
        assert value == pytest.approx(float(expected.detach()), rel=1e-5)
        np.testing.assert_allclose(gradient, exact, atol=1e-5 * np.abs(exact).max())
        past = keys[:10]
        assert torch.equal(loss.queue.documents, past)
    with torch.no_grad():  # an evaluation moves nothing
        before = parameters(loss.keys)
        loss(*batch_of(encoder, halves()[0]))
    assert all(map(torch.equal, before, parameters(loss.keys)))


def test_extremes_of_momentum(encoder):
    fixed, same = (InfoNCELoss(encoder, queue_size=10, momentum=m) for m in (1.0, 0.0))
    start = parameters(encoder)
    with torch.no_grad():
        for p in encoder.parameters():
            p += 1.0
    for loss in (fixed, same):
        loss(*batch_of(encoder, halves()[0]))
    assert all(map(torch.equal, parameters(fixed.keys), start))
    assert all(map(torch.equal, parameters(same.keys), parameters(encoder)))
    assert not any(p.requires_grad for p in fixed.keys.parameters())
    assert fixed.get_config_dict()["momentum"] == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"momentum": 0.9}, "momentum is 0.9, but there is no queue"),
        ({"momentum": 1.5, "queue_size": 9}, "momentum is 1.5"),
    ],
)
def test_a_momentum_that_does_not_fit_is_refused(encoder, options, said):
    with pytest.raises(ValueError, match=said):
        InfoNCELoss(encoder, **options)


def test_keys_of_a_transformer(tmp_path):
    """No dropout in them, whatever the trainer sets; mini-batches would save nothing of theirs."""
    model = tiny(tmp_path, dropout=0.4).train()
    loss = InfoNCELoss(model, momentum=0.9, queue_size=24).train()
    columns = features(model, 2)
    loss(copy.deepcopy(columns)).backward()
    torch.testing.assert_close(
        loss.queue.documents, loss.keys.average.eval()(columns[1])["sentence_embedding"]
    )
    with pytest.raises(ValueError, match="there are mini-batches"):
        InfoNCELoss(model, momentum=0.9, queue_size=9, mini_batch_size=4)


def test_a_model_that_was_trained_before_is_trained_again(encoder):
    options = {"batch_size": 7, "epochs": 1, "queue": 20, "momentum": 0.99, "temperature": T}
    train(encoder, copies(), **options)
    assert len(train(encoder, copies(), **options).losses) == 2


@pytest.mark.parametrize("more", [{}, {"momentum": 0.9}], ids=str)
def test_training_that_goes_on_has_the_queue_and_the_temperature(tmp_path, more):
    """Killed after the checkpoint of step 3, and gone on with: as without an interruption."""
    options = {
        "batch_size": 7, "epochs": 3, "queue": 20, "learnable_temperature": True, "seed": 4,
        "learning_rate": 0.05, "temperature": T, **more,
    }  # fmt: skip
    whole = train(new_encoder(), copies(), **options)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    options |= {"output": str(tmp_path / "run"), "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        train(new_encoder(), copies(), progress=stop, **options)
    resumed = train(new_encoder(), copies(), resume=True, **options)
    assert resumed.resumed_from == 3
    assert resumed.losses == whole.losses
    options.pop("output")
    options.pop("checkpoint_every")
    without = train(new_encoder(), copies(), **{**options, "queue": None, "momentum": None})
    assert without.losses != whole.losses

"""Weights by difficulty in the loss for sentence-transformers' own trainer."""

from __future__ import annotations

import warnings

import pytest

library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from datasets import Dataset
from small_transformers import features, tiny
from training_loss_cases import oracle_weights

from stope.integrations.sentence_transformers import Clock, InfoNCECollator, InfoNCELoss
from stope.weighting import Focal, Progressive


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("options", [{}, {"mini_batch_size": 5}])
@pytest.mark.parametrize(
    ("name", "weighting"), [("focal", Focal()), ("progressive", {"name": "progressive"})]
)
def test_rows_weigh_by_their_difficulty(encoder, options, name, weighting):
    encoder.eval()
    columns = features(encoder, 2)
    loss = InfoNCELoss(encoder, temperature=0.05, weighting=weighting, **options)
    loss.progress = 0.8
    value = loss([dict(column) for column in columns])
    with torch.no_grad():
        left, right = (
            torch.nn.functional.normalize(encoder(dict(c))["sentence_embedding"].double(), dim=1)
            for c in columns
        )
    scores = left @ right.T
    losses = (scores / 0.05).logsumexp(1) - scores.diagonal() / 0.05
    best = scores.clone().fill_diagonal_(-torch.inf).max(1).values - scores.diagonal()
    weights = oracle_weights(name, {"loss": losses.numpy(), "hardness": best.numpy()}, 0.8)
    weights = torch.from_numpy(weights)
    expected = float((weights * losses).sum() / weights.sum())
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(float(losses.mean()), rel=1e-3)
    assert loss.get_config_dict()["weighting"]["name"] == name


def test_the_trainer_moves_the_progress_on(encoder, tmp_path):
    loss = InfoNCELoss(encoder, weighting=Progressive(first=0.0))
    seen, real = [], loss.infonce.mean

    def spy(losses, weights=None, negatives=None):
        seen.append((loss.progress, weights))
        return real(losses, weights, negatives)

    loss.infonce.mean = spy
    rows = [f"w{i} w{i + 1}" for i in range(16)]
    data = Dataset.from_dict({"query": rows, "positive": rows, "weight": [1.0] * 16})
    arguments = library.SentenceTransformerTrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, num_train_epochs=2, report_to="none",
        save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    library.SentenceTransformerTrainer(
        model=encoder, args=arguments, train_dataset=data, loss=loss,
        data_collator=InfoNCECollator(encoder), callbacks=[loss.progress_callback()],
    ).train()  # fmt: skip
    assert [progress for progress, _ in seen] == [0.0, 0.25, 0.5, 0.75]
    assert all(weights.std() > 0 for _, weights in seen[1:])
    assert loss.clock.max_steps == 4


def test_a_weighting_that_nobody_tells_the_progress(encoder):
    batch = features(encoder, 2)
    loss = InfoNCELoss(encoder, weighting="progressive")
    loss(batch)
    with pytest.warns(UserWarning, match="'progressive' follows the progress of training, which n"):
        loss(batch)
    told = InfoNCELoss(encoder, weighting="progressive", clock=Clock())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for quiet in (InfoNCELoss(encoder, weighting="focal"), told):
            quiet(batch)
            quiet(batch)

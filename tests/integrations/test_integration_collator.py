"""stope.integrations.sentence_transformers: weights and ids from the dataset to the loss, in the
trainer and over processes.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from gloo_processes import together
from small_transformers import ROWS, features, texts, tiny

from stope.encoders import static_encoder
from stope.integrations.sentence_transformers import InfoNCECollator, InfoNCELoss
from stope.integrations.sentence_transformers.identity import united
from stope.integrations.sentence_transformers.row_table import UNKNOWN, id_number
from stope.torch import infonce
from stope.training import contrastive_loss

ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("encoder"))


# --- weights and ids -----------------------------------------------------------------------------


def rows_with(**extra):
    columns = {"query": texts(0), "positive": texts(1), "negative_1": texts(2), **extra}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def collected(encoder, rows, **options):
    """What the trainer hands to the loss: features and labels."""
    batch = InfoNCECollator(encoder, **options)(rows)
    return library.SentenceTransformerTrainer.collect_features(None, batch)


def test_weights_reach_the_loss(encoder):
    weights = np.arange(ROWS, dtype=float)
    for options in ({}, {"mini_batch_size": 5}):
        loss = InfoNCELoss(encoder, **options)
        value = loss(*collected(encoder, rows_with(weight=weights.tolist())))
        rows = loss.statistics.losses.numpy()
        assert value.item() == pytest.approx((weights * rows).sum() / weights.sum(), rel=1e-5)
        plain = loss(*collected(encoder, rows_with()))
        assert plain.item() == pytest.approx(rows.mean(), rel=1e-5)


def test_ids_reach_the_loss(encoder):
    positives = [f"d{i % 5}" for i in range(ROWS)]
    negatives = [f"d{i % 7}" for i in range(ROWS)]
    queries = [i // 3 for i in range(ROWS)]
    text = (encoder(dict(c))["sentence_embedding"] for c in collected(encoder, rows_with())[0])
    q, p, n = text

    def expected(**known):
        own = torch.arange(ROWS, 2 * ROWS)
        return infonce(q, torch.cat([p, n]), hard_negatives=own, **known).mean().item()

    def value(**columns):
        return InfoNCELoss(encoder)(*collected(encoder, rows_with(**columns))).item()

    numbers = torch.tensor([int(name[1:]) for name in positives + negatives])
    both = {"positive_id": positives, "negative_1_id": negatives}
    assert value(**both) == pytest.approx(expected(document_ids=numbers), rel=1e-5)
    assert value(document_id=positives, negative_1_id=negatives) == value(**both)
    assert value(**both) != pytest.approx(expected(), rel=1e-3)

    only_positives = torch.cat([numbers[:ROWS], torch.arange(100, 100 + ROWS)])
    assert value(positive_id=positives) == pytest.approx(
        expected(document_ids=only_positives), rel=1e-5
    )
    unknown = [None, *positives[1:]]
    one_unknown = torch.cat([torch.tensor([99]), only_positives[1:]])
    assert value(positive_id=unknown) == pytest.approx(expected(document_ids=one_unknown), rel=1e-5)
    by_query = torch.tensor(queries + list(range(100, 100 + ROWS)))
    assert value(query_id=queries) == pytest.approx(expected(document_ids=by_query), rel=1e-5)


def test_copies_of_a_positive_are_no_negatives_whoever_trains(encoder):
    """The integration's loss and that of `train`, on the same batch: equal to the bit."""
    rows = rows_with()
    rows[3]["negative_1"], rows[5]["negative_1"] = rows[4]["positive"], rows[5]["positive"]
    ours = InfoNCELoss(encoder, weighting="progressive")
    trained = contrastive_loss(encoder, weighting="progressive")
    ours.progress = trained.progress = 0.75
    values = [loss(*collected(encoder, rows)) for loss in (ours, trained)]
    assert values[0] == values[1]
    assert ours.observed == trained.observed
    assert ours.statistics.negatives.tolist() == [2 * ROWS - 1 - (i in (4, 5)) for i in range(ROWS)]
    unmasked = InfoNCELoss(encoder)(collected(encoder, rows)[0])
    assert unmasked.item() != pytest.approx(InfoNCELoss(encoder)(*collected(encoder, rows)).item())


def test_log_weights_reach_the_loss(encoder):
    log_weights = [-float(i % 4) for i in range(ROWS)]
    features, labels = collected(encoder, rows_with(log_weight=log_weights))
    q, p, n = (encoder(dict(c))["sentence_embedding"] for c in features)
    told = torch.tensor([*log_weights, *([0.0] * ROWS)])
    expected = infonce(q, torch.cat([p, n]), log_weights=told).mean().item()
    assert InfoNCELoss(encoder)(features, labels).item() == pytest.approx(expected, rel=1e-6)
    assert InfoNCELoss(encoder)(features).item() != pytest.approx(expected, rel=1e-3)


def test_documents_that_relations_make_one():
    # Queries 0 and 1 share document 5; query 1 has document 6 as well: all of them are one.
    positives, negatives = np.array([5, 5, 6, 7]), np.array([6, 8, 9, 7])
    documents = np.concatenate([positives, negatives])
    queries = np.array([0, 1, 1, 2, *[UNKNOWN] * 4])
    a, b = np.split(united(documents, queries), 2)
    assert len(set(a[:3].tolist())) == 1
    assert a[3] != a[0]
    assert b[0] == a[0]
    assert b[3] == a[3]
    assert len({*b[:3].tolist()}) == 3
    assert united(documents).tolist() == [0, 0, 2, 3, 2, 5, 6, 3]
    assert united(np.full(3, UNKNOWN)).tolist() == [0, 1, 2]


def test_ids_as_numbers():
    assert id_number(np.int64(7)) == 7
    assert id_number("d7") == id_number("d7") != id_number("d8")
    assert id_number(None) == UNKNOWN
    for wrong in (1.5, True, ["d7"]):
        with pytest.raises(TypeError, match="an id is"):
            id_number(wrong)


def test_the_collator_leaves_other_columns_alone(encoder):
    plain = InfoNCECollator(encoder)(rows_with())
    extra = InfoNCECollator(encoder)(rows_with(weight=[1.0] * ROWS, query_id=range(ROWS)))
    assert all(torch.equal(torch.as_tensor(plain[k]), torch.as_tensor(extra[k])) for k in plain
               if isinstance(plain[k], torch.Tensor))  # fmt: skip
    assert sorted(extra["label"]) == ["document_ids", "ids", "weights"]


def test_labels_say_what_is_no_pair(encoder):
    others = InfoNCECollator(encoder, labels=True)
    labelled = others(rows_with(label=range(ROWS), weight=[1.0] * ROWS))
    assert labelled["label"].tolist() == list(range(ROWS))
    assert not [name for name in labelled if name.startswith("label_")]
    one = InfoNCECollator(encoder)(rows_with(label=[1] * ROWS))
    assert not [name for name in one if name.startswith("label_")]
    for name, values in {"label": [1, 0] * 6, "score": [0.5, 0.0] * 6, "labels": [2] * 12}.items():
        with pytest.raises(ValueError, match=f'the column "{name}" has .* which is then no query'):
            InfoNCECollator(encoder)(rows_with(**{name: values}))
    loss, batch = InfoNCELoss(encoder), features(encoder, 2)
    assert loss(batch, torch.ones(ROWS)) == loss(batch)
    with pytest.raises(ValueError, match='the column "label" has 0 in row 1'):
        loss(batch, torch.tensor([1, 0] * 6))
    with pytest.raises(TypeError, match="labels is 'all'; give what InfoNCECollator makes"):
        loss(batch, "all")


# --- in the trainer ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of the trainer's own dependencies
@pytest.mark.parametrize("options", [{}, {"mini_batch_size": 4}])
def test_trains(tmp_path, tmp_path_factory, options):
    datasets = pytest.importorskip("datasets")
    model = tiny(tmp_path_factory.mktemp("trained"))
    dataset = datasets.Dataset.from_list(
        rows_with(weight=[1.0] * ROWS, positive_id=[f"d{i}" for i in range(ROWS)])
    )
    before = [p.detach().clone() for p in model.parameters()]
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=8, per_device_train_batch_size=6,
        learning_rate=1e-2, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
        batch_sampler="no_duplicates", disable_tqdm=True,
    )  # fmt: skip
    loss = InfoNCELoss(model, **options)
    trainer = library.SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=loss,
        data_collator=InfoNCECollator(model),
    )
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 16
    assert len(loss.statistics.losses) == 6  # rows of equal weight are no duplicates of each other
    assert np.mean(logged[-2:]) < 0.7 * np.mean(logged[:2])
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# --- over processes ------------------------------------------------------------------------------

IDS = {
    "weight": [float(1 + i % 3) for i in range(2 * ROWS)],
    "query_id": [f"q{i // 2}" for i in range(2 * ROWS)],
    "positive_id": [f"d{i % 9}" for i in range(2 * ROWS)],
}


def process_rows(here, count):
    """Rows of one of `count` processes; all of them for one process alone."""
    extra = {"query": texts(0, 2 * ROWS), "positive": texts(1, 2 * ROWS), "negative": texts(2, 24)}
    rows = rows_with(**{**extra, "negative_1": extra.pop("negative"), **IDS})
    size = len(rows) // count
    return rows[here * size : (here + 1) * size]


def gathered(here, count, gather):
    """Loss and gradient of the embeddings, with weights, query ids and document ids."""
    model = static_encoder([text for seed in range(9) for text in texts(seed)], dim=16)
    found = {}
    forms = {"plain": {}, "directions": {"directions": ALL}, "queue": {"queue_size": 100}}
    forms["learned"] = {"learnable_temperature": True}
    for name, form in forms.items():
        loss = InfoNCELoss(model, gather_across_devices=gather, **form)
        if "queue_size" in form:  # the documents of all, of which some are copies of the next ones
            loss(*collected(model, process_rows(here, count)))
            assert len(loss.queue) == 72
        model.zero_grad()
        value = loss(*collected(model, process_rows(here, count)))
        value.backward()
        (parameter,) = model.parameters()
        found[name] = (value.detach(), parameter.grad.clone(), loss.statistics.negatives)
        if name == "learned":
            found["scale"] = loss.infonce.log_scale.grad
    return found


def worker(here, count, folder):
    return gathered(here, count, True)


def test_gather_across_devices(tmp_path):
    parts = together(__file__, tmp_path)
    alone = gathered(0, 1, False)
    scale = alone.pop("scale")
    for part in parts:  # each has the mean already
        assert part["scale"].item() == pytest.approx(scale.item(), rel=1e-5)
    for name, (value, gradient, negatives) in alone.items():
        values, gradients, counts = zip(*(part[name] for part in parts), strict=True)
        assert sum(values).item() / 2 == pytest.approx(value.item(), rel=1e-6)
        mean = sum(gradients) / 2
        assert float((mean - gradient).abs().max()) <= 2e-6 * float(gradient.abs().max())
        assert torch.equal(torch.cat(counts), negatives)


# --- bad input ---------------------------------------------------------------------------------


def test_bad_batches(encoder):
    with pytest.raises(ValueError, match="the dataset has 1 text column"):
        InfoNCELoss(encoder)(features(encoder, 1), None)
    with pytest.raises(ValueError, match=r"weights?\[0\] is -1"):
        InfoNCELoss(encoder)(*collected(encoder, rows_with(weight=[-1.0] * ROWS)))

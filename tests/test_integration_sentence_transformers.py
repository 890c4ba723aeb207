"""stope.integrations.sentence_transformers against sentence-transformers' own losses."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from stope.integrations._ids import id_number, shared_numbers  # noqa: E402
from stope.integrations.sentence_transformers import (  # noqa: E402
    InfoNCECollator,
    InfoNCELoss,
)
from stope.torch import infonce  # noqa: E402
from stope.training import static_encoder  # noqa: E402
from stope.training._library import part  # noqa: E402

WORDS = [f"w{i}" for i in range(60)]
ROWS = 12


def texts(seed, rows=ROWS):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(2, 9))) for _ in range(rows)]


def tiny(folder, seed=0, dropout=0.0, words=WORDS):
    """A transformer with random weights: one layer, 16 dimensions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **names).save_pretrained(
        folder
    )
    parts = part("models")
    modules = [parts.Transformer(str(folder), max_seq_length=16), parts.Pooling(16)]
    return library.SentenceTransformer(modules=modules, device="cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("guide"), seed=5)


@pytest.fixture(scope="module")
def static():
    return static_encoder([text for seed in range(9) for text in texts(seed)], dim=16)


def features(encoder, columns, rows=ROWS):
    read = encoder.preprocess if hasattr(encoder, "preprocess") else encoder.tokenize
    return [read(texts(seed, rows)) for seed in range(columns)]


def outcome(loss, batch, seed=0):
    """The loss and the gradients of the model it trains."""
    loss.model.zero_grad()
    torch.manual_seed(seed)
    value = loss([dict(column) for column in batch], None)
    value.backward()
    return value.detach(), [p.grad.clone() for p in loss.model.parameters() if p.grad is not None]


def agree(ours, theirs, batch, tolerance=1e-5):
    (a, ga), (b, gb) = outcome(ours, batch), outcome(theirs, batch)
    assert a.item() == pytest.approx(b.item(), rel=tolerance, abs=tolerance)
    assert len(ga) == len(gb) > 0
    scale = max(float(g.abs().max()) for g in gb)
    assert scale > 0
    for x, y in zip(ga, gb, strict=True):
        assert float((x - y).abs().max()) <= tolerance * scale, float((x - y).abs().max()) / scale


def theirs(name, model, **options):
    """One of sentence-transformers' losses; skip what the installed version does not have yet."""
    import inspect

    known = inspect.signature(getattr(part("losses"), name).__init__).parameters
    missing = [option for option in options if option not in known]
    if missing:
        pytest.skip(f"{name} of sentence-transformers {library.__version__} has no {missing[0]}")
    return getattr(part("losses"), name)(model, **options)


# --- equal to MultipleNegativesRankingLoss ---------------------------------------------------

ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
FORMS = [
    {},
    {"directions": ("query_to_doc", "query_to_query")},
    {"directions": ("query_to_doc", "doc_to_query")},
    {"directions": ("query_to_doc", "doc_to_doc")},
    {"directions": ALL},
    {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
    {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    {"hardness_mode": "all_negatives", "hardness_strength": 5.0},
    {"hardness_mode": "all_negatives", "hardness_strength": 2.0, "directions": ALL},
    {
        "hardness_mode": "hard_negatives",
        "hardness_strength": 2.0,
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
    },
]


@pytest.mark.parametrize("columns", [2, 3, 5])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_equals_multiple_negatives_ranking(encoder, columns, form):
    agree(
        InfoNCELoss(encoder, temperature=0.05, **form),
        theirs("MultipleNegativesRankingLoss", encoder, scale=20.0, **form),
        features(encoder, columns),
    )


@pytest.mark.parametrize("form", FORMS[:6], ids=str)
def test_a_static_encoder(static, form):
    agree(
        InfoNCELoss(static, temperature=0.1, **form),
        theirs("MultipleNegativesRankingLoss", static, scale=10.0, **form),
        features(static, 4),
    )


def test_dot_products(encoder):
    from sentence_transformers.util import dot_score

    options = {"scale": 0.5, "similarity_fct": dot_score}
    agree(
        InfoNCELoss(encoder, temperature=2.0, metric="dot"),
        theirs("MultipleNegativesRankingLoss", encoder, **options),
        features(encoder, 3),
    )


def test_options_matter(encoder):
    """Every form above is another loss, so none of them can be lost on the way."""
    batch = features(encoder, 4)
    values = [InfoNCELoss(encoder, **form)(copy.deepcopy(batch), None).item() for form in FORMS]
    assert len({round(value, 5) for value in values}) == len(values)


# --- mini-batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("mini_batch_size", [1, 5, ROWS, 100])
@pytest.mark.parametrize("form", [FORMS[0], FORMS[4], FORMS[5], FORMS[8]], ids=str)
def test_equals_cached_multiple_negatives_ranking(tmp_path_factory, mini_batch_size, form):
    model = tiny(tmp_path_factory.mktemp("dropout"), dropout=0.1)
    model.train()
    ours = InfoNCELoss(model, temperature=0.05, mini_batch_size=mini_batch_size, **form)
    cached = theirs(
        "CachedMultipleNegativesRankingLoss",
        model,
        scale=20.0,
        mini_batch_size=mini_batch_size,
        **form,
    )
    agree(ours, cached, features(model, 3))


def test_mini_batches_equal_the_whole_batch(encoder):
    batch = features(encoder, 4)
    encoder.eval()
    agree(InfoNCELoss(encoder, mini_batch_size=4), InfoNCELoss(encoder), batch)
    assert InfoNCELoss(encoder, mini_batch_size=4).uses_gradient_cache
    assert not InfoNCELoss(encoder).uses_gradient_cache


def test_mini_batches_scale_with_the_gradient_they_get(encoder):
    batch = features(encoder, 2)
    loss = InfoNCELoss(encoder, mini_batch_size=5)
    _, once = outcome(loss, batch)
    encoder.zero_grad()
    (loss(copy.deepcopy(batch), None) * 0.25).backward()
    for a, b in zip(
        (p.grad for p in encoder.parameters() if p.grad is not None), once, strict=True
    ):
        assert torch.allclose(a, b * 0.25, rtol=1e-5, atol=1e-8)


def test_mini_batches_in_evaluation(encoder):
    batch = features(encoder, 3)
    with torch.no_grad():
        cached = InfoNCELoss(encoder, mini_batch_size=5)(copy.deepcopy(batch), None)
        whole = InfoNCELoss(encoder)(copy.deepcopy(batch), None)
    assert cached.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("mini_batch_size", [None, 5])
def test_matryoshka(encoder, mini_batch_size):
    batch = features(encoder, 3)
    wrap = part("losses").MatryoshkaLoss
    options = {} if mini_batch_size is None else {"mini_batch_size": mini_batch_size}
    name = "MultipleNegativesRankingLoss"
    other = theirs(name if mini_batch_size is None else f"Cached{name}", encoder, **options)
    dims = {"matryoshka_dims": [16, 8, 4], "matryoshka_weights": [1, 0.5, 2]}
    agree(
        wrap(encoder, InfoNCELoss(encoder, mini_batch_size=mini_batch_size), **dims),
        wrap(encoder, other, **dims),
        batch,
    )


def test_a_static_encoder_needs_no_mini_batches(static):
    with pytest.raises(ValueError, match="leave it out: this loss needs no score matrix"):
        InfoNCELoss(static, mini_batch_size=4)


# --- equal to GISTEmbedLoss -------------------------------------------------------------------


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("contrast", [(True, True), (True, False), (False, True), (False, False)])
def test_equals_gist(encoder, guide, columns, strategy, margin, contrast):
    options = {
        "temperature": 0.05,
        "margin_strategy": strategy,
        "margin": margin,
        "contrast_anchors": contrast[0],
        "contrast_positives": contrast[1],
    }
    ours = InfoNCELoss(encoder, guide=guide, **options)
    batch = features(encoder, columns)
    agree(ours, theirs("GISTEmbedLoss", encoder, guide=guide, **options), batch)
    assert int(ours.statistics.negatives.sum()) > 0
    unguided = InfoNCELoss(encoder, temperature=0.05)
    unguided([dict(column) for column in batch], None)
    assert int(ours.statistics.negatives.min()) < int(unguided.statistics.negatives.min()) * 3


@pytest.mark.parametrize("mini_batch_size", [5])
def test_equals_cached_gist(encoder, guide, mini_batch_size):
    encoder.eval()
    options = {"temperature": 0.05, "mini_batch_size": mini_batch_size, "margin": 0.05}
    agree(
        InfoNCELoss(encoder, guide=guide, **options),
        theirs("CachedGISTEmbedLoss", encoder, guide=guide, **options),
        features(encoder, 3),
    )


def test_a_guide_with_another_tokenizer(encoder, tmp_path):
    other = tiny(tmp_path, seed=9, words=WORDS[::-1])
    options = {"temperature": 0.05, "margin": 0.1}
    agree(
        InfoNCELoss(encoder, guide=other, **options),
        theirs("GISTEmbedLoss", encoder, guide=other, **options),
        features(encoder, 3),
    )


def test_a_static_guide(static, encoder):
    other = static_encoder([text for seed in range(9) for text in texts(seed)], dim=16, seed=1)
    batch = features(static, 3)
    loss = InfoNCELoss(static, guide=other, contrast_positives=False)
    value = loss([dict(column) for column in batch], None)
    q, p, n = (static(dict(column))["sentence_embedding"] for column in batch)
    guides = [other(dict(column))["sentence_embedding"] for column in batch]
    expected = infonce(
        q,
        torch.cat([p, n]),
        absolute_margin=0.0,
        guide_queries=guides[0],
        guide_documents=torch.cat(guides[1:]),
        hard_negatives=torch.arange(ROWS, 2 * ROWS),
        directions=("query_to_document", "query_to_query"),
    )
    assert value.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    transformer = InfoNCELoss(encoder, guide=static)  # texts come back from a transformer's tokens
    assert torch.isfinite(transformer(features(encoder, 2), None))
    with pytest.raises(ValueError, match="use a guide with the model's tokenizer"):
        InfoNCELoss(static, guide=encoder)


def test_a_margin_without_a_guide_reads_the_model(encoder):
    batch = features(encoder, 2)
    q, d = (encoder(dict(column))["sentence_embedding"] for column in batch)
    loss = InfoNCELoss(encoder, margin_strategy="relative", margin=0.05)
    value = loss([dict(column) for column in batch], None)
    assert value.item() == pytest.approx(
        infonce(q, d, relative_margin=0.05).mean().item(), rel=1e-6
    )


# --- weights and ids -----------------------------------------------------------------------------


def rows_with(**extra):
    columns = {"query": texts(0), "positive": texts(1), "negative_1": texts(2), **extra}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def collected(encoder, rows):
    """What the trainer hands to the loss."""
    batch = InfoNCECollator(encoder)(rows)
    trainer = library.SentenceTransformerTrainer
    return trainer.collect_features(None, batch)[0]


def test_weights_reach_the_loss(encoder):
    weights = np.arange(ROWS, dtype=float)
    plain = collected(encoder, rows_with())
    found = collected(encoder, rows_with(weight=weights))
    assert [sorted(set(f) - set(p)) for f, p in zip(found, plain, strict=True)] == [
        ["stope_weight"],
        [],
        [],
    ]
    for options in ({}, {"mini_batch_size": 5}):
        loss = InfoNCELoss(encoder, **options)
        value = loss([dict(column) for column in found], None)
        rows = loss.statistics.losses.numpy()
        assert value.item() == pytest.approx((weights * rows).sum() / weights.sum(), rel=1e-5)
        assert loss([dict(c) for c in plain], None).item() == pytest.approx(rows.mean(), rel=1e-5)


def test_ids_reach_the_loss(encoder):
    positives = [f"d{i % 5}" for i in range(ROWS)]
    negatives = [f"d{i % 7}" for i in range(ROWS)]
    queries = [i // 3 for i in range(ROWS)]
    text = (encoder(dict(c))["sentence_embedding"] for c in collected(encoder, rows_with()))
    q, p, n = text

    def expected(**given):
        own = torch.arange(ROWS, 2 * ROWS)
        return infonce(q, torch.cat([p, n]), hard_negatives=own, **given).mean().item()

    def value(**columns):
        loss = InfoNCELoss(encoder)
        return loss(collected(encoder, rows_with(**columns)), None).item()

    numbers = torch.tensor([int(name[1:]) for name in positives + negatives])
    both = {"positive_id": positives, "negative_1_id": negatives}
    assert value(**both) == pytest.approx(expected(document_ids=numbers), rel=1e-5)
    assert value(document_id=positives, negative_1_id=negatives) == value(**both)
    assert value(**both) != pytest.approx(expected(), rel=1e-3)

    only_positives = torch.cat([numbers[:ROWS], torch.arange(100, 100 + ROWS)])
    assert value(positive_id=positives) == pytest.approx(
        expected(document_ids=only_positives), rel=1e-5
    )
    by_query = torch.tensor(queries + list(range(100, 100 + ROWS)))
    assert value(query_id=queries) == pytest.approx(expected(document_ids=by_query), rel=1e-5)


def test_shared_numbers_close_both_relations():
    # Queries 0 and 1 share document 5; query 1 has document 6 as well: all of them are one.
    positives, negatives = np.array([5, 5, 6, 7]), np.array([6, 8, 9, 7])
    a, b = shared_numbers(np.array([0, 1, 1, 2]), [positives, negatives])
    assert len(set(a[:3].tolist())) == 1
    assert a[3] != a[0]
    assert b[0] == a[0]
    assert b[3] == a[3]
    assert len({*b[:3].tolist()}) == 3
    plain = shared_numbers(None, [positives, negatives])
    assert [x.tolist() for x in plain] == [[0, 0, 1, 2], [1, 3, 4, 2]]


def test_ids_as_numbers():
    assert id_number(np.int64(7)) == 7
    assert id_number("d7") == id_number("d7") != id_number("d8")
    with pytest.raises(TypeError, match="an id is None"):
        id_number(None)


def test_the_collator_leaves_other_columns_alone(encoder):
    plain = InfoNCECollator(encoder)(rows_with())
    extra = InfoNCECollator(encoder)(rows_with(weight=[1.0] * ROWS, query_id=range(ROWS)))
    assert all(torch.equal(torch.as_tensor(plain[k]), torch.as_tensor(extra[k])) for k in plain
               if isinstance(plain[k], torch.Tensor))  # fmt: skip
    labelled = InfoNCECollator(encoder)(rows_with(label=range(ROWS), weight=[1.0] * ROWS))
    assert labelled["label"].tolist() == list(range(ROWS))
    assert not [name for name in labelled if name.startswith("label_")]


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


def test_the_model_card(encoder, guide):
    loss = InfoNCELoss(encoder, guide=guide, mini_batch_size=8, precision="bfloat16")
    config = loss.get_config_dict()
    assert config["guide"] is guide
    assert config["mini_batch_size"] == 8
    assert config["precision"] == "bfloat16"
    assert config["directions"] == ("query_to_doc", "query_to_query", "doc_to_doc")
    for made in (loss, InfoNCELoss(encoder), InfoNCELoss(encoder, guide=guide)):
        assert made.citation.strip().startswith("@article{")


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"temperature": 0}, ValueError, "temperature is 0.0"),
        ({"margin_strategy": "soft"}, ValueError, "margin_strategy is 'soft'"),
        ({"scale": 20}, TypeError, "no option 'scale'"),
        ({"mini_batch_size": 0}, ValueError, "mini_batch_size is 0"),
    ],
)
def test_bad_options(encoder, options, error, sentence):
    with pytest.raises(error, match=sentence):
        InfoNCELoss(encoder, **options)


def test_bad_batches(encoder):
    with pytest.raises(ValueError, match="the dataset has 1 text column"):
        InfoNCELoss(encoder)(features(encoder, 1), None)
    with pytest.raises(ValueError, match="weights of query 0 is -1"):
        InfoNCELoss(encoder)(collected(encoder, rows_with(weight=[-1.0] * ROWS)), None)

"""stope.integrations.sentence_transformers against sentence-transformers' own losses."""

from __future__ import annotations

import copy
import importlib
import random

import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from small_transformers import ROWS, WORDS, features, texts, tiny

from stope.encoders import static_encoder
from stope.encoders.versions import part
from stope.integrations.sentence_transformers import InfoNCELoss
from stope.torch import infonce


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("guide"), seed=5)


@pytest.fixture(scope="module")
def static():
    return static_encoder([text for seed in range(9) for text in texts(seed)], dim=16)


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
        assert float((a - b * 0.25).abs().max()) <= 1e-6 * float(b.abs().max())


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


@pytest.mark.parametrize("name", ["AdaptiveLayerLoss", "Matryoshka2dLoss"])
@pytest.mark.parametrize("layers", [1, -1])
def test_losses_over_layers(tmp_path, name, layers):
    """They call the loss once a layer, and find the layers in the features of the first call."""
    model = tiny(tmp_path, layers=3)
    options = {"n_layers_per_step": layers}
    if name == "Matryoshka2dLoss":
        options["matryoshka_dims"] = [16, 8]
    outcomes = []
    for inner in (InfoNCELoss(model), theirs("MultipleNegativesRankingLoss", model)):
        random.seed(0)
        outcomes.append(outcome(getattr(part("losses"), name)(model, inner, **options),
                                features(model, 3)))  # fmt: skip
    (value, gradients), (expected, exact) = outcomes
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    scale = max(float(g.abs().max()) for g in exact)
    for a, b in zip(gradients, exact, strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * scale


def test_a_static_encoder_needs_no_mini_batches(static):
    with pytest.raises(ValueError, match="use InfoNCELoss without mini-batches: it needs no score"):
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


# --- options ----------------------------------------------------------------------------------


def test_the_model_card(encoder, guide):
    loss = InfoNCELoss(encoder, guide=guide, mini_batch_size=8, precision="bfloat16")
    config = loss.get_config_dict()
    assert config["guide"] is guide
    assert config["mini_batch_size"] == 8
    assert config["precision"] == "bfloat16"
    assert config["directions"] == ("query_to_doc", "query_to_query", "doc_to_doc")
    for made in (loss, InfoNCELoss(encoder), InfoNCELoss(encoder, guide=guide)):
        assert made.citation.strip().startswith("@article{")
        # The card says where the class is from: everybody finds it there.
        public = importlib.import_module("stope.integrations.sentence_transformers")
        assert getattr(public, type(made).__name__) is type(made)
    assert config["partition_mode"] == "joint"
    assert not [name for name in loss.state_dict() if name.startswith("guide.")]
    loss.load_state_dict(loss.state_dict())


def test_words_of_the_library(encoder):
    from sentence_transformers import util

    loss = InfoNCELoss(encoder, scale=50.0, similarity_fct=util.dot_score)
    assert (loss.temperature, loss.scale) == (0.02, 50.0)
    assert loss.similarity_fct is util.dot_score
    assert loss.get_config_dict()["metric"] == "dot"
    assert InfoNCELoss(encoder).similarity_fct is util.cos_sim
    for one, other in (
        ({"objective": "DCL"}, {"objective": "decoupled"}),
        (
            {"hardness_mode": "all_negatives", "hardness_strength": 2},
            {"hardness": "all_negatives", "hardness_strength": 2},
        ),
    ):
        losses = [InfoNCELoss(encoder, **options) for options in (one, other)]
        assert losses[0].infonce.options == losses[1].infonce.options


def test_a_model_in_double_precision(encoder):
    double = copy.deepcopy(encoder).double()
    agree(InfoNCELoss(double), theirs("MultipleNegativesRankingLoss", double), features(double, 3))


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"temperature": 0}, ValueError, "temperature is 0"),
        ({"margin_strategy": "soft"}, ValueError, "margin_strategy is 'soft'"),
        ({"tau": 20}, TypeError, "no option 'tau'"),
        ({"mini_batch_size": 0}, ValueError, "mini_batch_size is 0"),
        ({"mini_batch_size": 2.5}, TypeError, "mini_batch_size is 2.5"),
        ({"objective": "infonse"}, ValueError, "objective is 'infonse'; give one of 'out'"),
        ({"precision": "half"}, ValueError, "precision is 'half'; give one of"),
        ({"scale": 20, "temperature": 0.1}, ValueError, "temperature is 0.1 and scale is 20, its"),
        ({"scale": 0}, ValueError, "scale is 0; give a number above 0"),
        ({"scale": "20"}, TypeError, "scale is '20'; give a number"),
        (
            {"similarity_fct": max},
            ValueError,
            "similarity_fct is .*; give one of util.cos_sim, .*util.dot",
        ),
        ({"directions": ["doc_to_doc"]}, ValueError, "must hold 'query_to_document'"),
        ({"directions": "query_to_doc"}, TypeError, "directions is 'query_to_doc'; give a list"),
        (
            {"symmetric": True, "directions": ["query_to_doc", "doc_to_query"]},
            ValueError,
            "symmetric adds a loss of its own from documents to queries, but directions is",
        ),
        ({"symmetric": 1}, TypeError, "symmetric is 1; give True or False"),
        ({"beta": 1.0}, ValueError, "beta and positive_prior are for objective 'hardness' only"),
        (
            {"focal_margin": 0.1, "hardness_mode": "all_negatives", "hardness_strength": 1.0},
            ValueError,
            "focal_margin changes the logits",
        ),
        ({"partition_mode": "per_direction", "partition": "joint"}, ValueError, "give one"),
        ({"margin": 0.1, "absolute_margin": 0.2}, ValueError, "margin is 0.1 and absolute_margin"),
        ({"queue_size": -1}, ValueError, "queue_size is -1"),
        ({"bias": 1.0}, ValueError, "bias is 1.0, but only objective 'sigmoid' has one"),
    ],
)
def test_bad_options(encoder, options, error, sentence):
    with pytest.raises(error, match=sentence):
        InfoNCELoss(encoder, **options)

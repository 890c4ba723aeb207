"""The ranking losses under the library's names against the library's own classes."""

from __future__ import annotations

import functools
import inspect

import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from sentence_transformers import util
from small_transformers import features, tiny

from stope.encoders import static_encoder
from stope.encoders.versions import part
from stope.integrations import sentence_transformers as ours

NAMES = [
    "MultipleNegativesRankingLoss",
    "CachedMultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "GISTEmbedLoss",
    "CachedGISTEmbedLoss",
]
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
OPTIONS = {
    "MultipleNegativesRankingLoss": [
        {},
        {"scale": 50.0, "similarity_fct": util.cos_sim},
        {"scale": 0.5, "similarity_fct": util.dot_score},
        {"directions": ALL, "hardness_mode": "all_negatives", "hardness_strength": 2.0},
    ],
    "MultipleNegativesSymmetricRankingLoss": [{}, {"scale": 30.0}],
    "GISTEmbedLoss": [
        {},
        {"temperature": 0.05, "margin_strategy": "relative", "margin": 0.05},
        {"contrast_anchors": False, "contrast_positives": False, "margin": 0.1},
    ],
}


def told(value):
    """A parameter in words that are the same in every process: functions by their names."""
    if isinstance(value, dict):
        return str({name: getattr(item, "__name__", item) for name, item in value.items()})
    return getattr(value, "__name__", str(value))


CASES = [(name, options) for name in NAMES for options in OPTIONS[name.removeprefix("Cached")]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("model"), layers=3)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("guide"), seed=5)


def make(kind, name, model, guide, **options):
    guides = {"guide": guide} if "GIST" in name else {}
    sizes = {"mini_batch_size": 5} if "Cached" in name else {}
    return getattr(kind, name)(model, **guides, **sizes, **options)


def outcome(loss, model, columns=3, labels=None):
    model.zero_grad()
    value = loss([dict(column) for column in features(model, columns)], labels)
    value.backward()
    return value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def agree(mine, wanted, tolerance=1e-5):
    assert mine[0] == pytest.approx(wanted[0], rel=tolerance, abs=tolerance)
    scale = max(float(g.abs().max()) for g in wanted[1])
    assert scale > 0
    for x, y in zip(mine[1], wanted[1], strict=True):
        assert float((x - y).abs().max()) <= tolerance * scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "options"), CASES, ids=told)
def test_values_gradients_and_options(model, guide, name, options):
    theirs = make(part("losses"), name, model, guide, **options)
    loss = make(ours, name, model, guide, **options)
    agree(outcome(loss, model), outcome(theirs, model))
    assert loss.get_config_dict() == theirs.get_config_dict()
    for word in (
        "scale",
        "temperature",
        "directions",
        "partition_mode",
        "margin",
        "similarity_fct",
    ):
        if hasattr(theirs, word) and not ("GIST" in name and word == "similarity_fct"):
            assert getattr(loss, word) == getattr(theirs, word), word


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_the_librarys_in_its_order(name):
    theirs = inspect.signature(getattr(part("losses"), name).__init__).parameters
    mine = inspect.signature(getattr(ours, name).__init__).parameters
    assert list(mine)[: len(theirs)] == list(theirs)
    assert list(mine)[len(theirs) :] == ["options"]
    for word, parameter in theirs.items():
        if word != "similarity_fct":  # None is util.cos_sim
            assert mine[word].default == parameter.default


@pytest.mark.parametrize("name", NAMES[:1] + NAMES[4:5])
@pytest.mark.parametrize("wrapper", ["MatryoshkaLoss", "AdaptiveLayerLoss", "Matryoshka2dLoss"])
def test_wrappers(model, guide, name, wrapper):
    options = {} if wrapper == "AdaptiveLayerLoss" else {"matryoshka_dims": [16, 8]}
    if wrapper != "MatryoshkaLoss":
        options["n_layers_per_step"] = -1
    if wrapper == "Matryoshka2dLoss":
        options["n_dims_per_step"] = -1
    made = []
    for kind in (ours, part("losses")):
        inner = make(kind, name, model, guide)
        torch.manual_seed(0)
        made.append(outcome(getattr(part("losses"), wrapper)(model, inner, **options), model))
    agree(*made, tolerance=1e-4)


def test_labels_are_not_read_but_told_of(model, guide, caplog):
    loss = ours.MultipleNegativesRankingLoss(model)
    wanted = outcome(loss, model)
    agree(outcome(loss, model, labels=torch.zeros(12)), wanted, 1e-7)
    assert caplog.text == ""
    for _ in range(2):
        agree(outcome(loss, model, labels=torch.arange(12) % 2), wanted, 1e-7)
    assert caplog.text.count("reads no labels") == 1


def test_more_options_of_ours(model):
    loss = ours.MultipleNegativesRankingLoss(model, 30.0, weighting="progressive", queue_size=8)
    config = loss.get_config_dict()
    assert (config["scale"], config["queue_size"], config["weighting"]["name"]) == (
        30.0,
        8,
        "progressive",
    )
    learned = ours.MultipleNegativesRankingLoss(model, learnable_temperature=True)
    with torch.no_grad():
        learned.infonce.log_scale.add_(0.5)
    assert learned.scale == pytest.approx(20 * 2.718281828**0.5)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"scale": -1.0}, ValueError, "Scale must be a positive value; scale is -1.0"),
        ({"scale": "much"}, TypeError, "scale is 'much'"),
        ({"similarity_fct": util.euclidean_sim}, ValueError, "similarity_fct is .*util.dot_score"),
        ({"similarity_fct": lambda a, b: a @ b.T}, ValueError, "similarity_fct is"),
        ({"directions": ("doc_to_query",)}, ValueError, "query_to_doc"),
        ({"directions": ALL, "partition_mode": "per_direction"}, ValueError, "per_direction"),
        ({"partition_mode": "split"}, ValueError, "split"),
        ({"hardness_mode": "hard"}, ValueError, "hard"),
        ({"hardness_strength": -1.0}, ValueError, "hardness_strength is -1.0"),
        ({"temprature": 0.1}, TypeError, "temprature"),
        ({"temperature": 0.1}, ValueError, "temperature is 0.1 and scale is 20.0"),
    ],
    ids=told,
)
def test_options_are_refused_at_construction(model, options, kind, message):
    with pytest.raises(kind, match=message):
        ours.MultipleNegativesRankingLoss(model, **options)


def test_refusals_of_the_others(model, guide):
    with pytest.raises(ValueError, match="margin_strategy is 'both'"):
        ours.GISTEmbedLoss(model, guide, margin_strategy="both")
    encoder = static_encoder(["red ore", "iron in rock", "deep pit"] * 9, dim=8)
    with pytest.raises(ValueError, match=r"StaticEmbedding.*use MultipleNegativesRankingLoss"):
        ours.CachedMultipleNegativesRankingLoss(encoder)
    with pytest.raises(AttributeError, match="scale"):
        ours.MultipleNegativesRankingLoss(model).scale = 5.0
    partial = ours.MultipleNegativesRankingLoss(
        model, similarity_fct=functools.partial(util.dot_score)
    )
    assert partial.get_config_dict()["similarity_fct"] == "dot_score"


def test_a_model_card_names_the_class(model, tmp_path):
    import datasets
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    rows = {"anchor": ["w1 w2", "w3 w4", "w5"], "positive": ["w1", "w3", "w5 w6"]}
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    trainer = SentenceTransformerTrainer(
        model, arguments, train_dataset=datasets.Dataset.from_dict(rows),
        loss=ours.MultipleNegativesRankingLoss(model),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2
    assert "loss:MultipleNegativesRankingLoss" in model.model_card_data.tags
    model.save_pretrained(str(tmp_path / "saved"))
    text = (tmp_path / "saved" / "README.md").read_text()
    assert "stope.integrations.sentence_transformers.losses.MultipleNegativesRankingLoss" in text
    assert '"scale": 20.0' in text

"""`Recipe` and `train`'s options: each defined once, read by name, and obeyed by every method."""

from __future__ import annotations

import json
import pydoc

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from test_training_checkpoint import (  # noqa: F401
    PAIRS,
    ROWS,
    new_encoder,
    one_thread,
    same,
    trained,
)

from stope.integrations.sentence_transformers import InfoNCELoss
from stope.training import LossPart, NegativeRefresh, Recipe, SchedulePart, train
from stope.training.library_trainer import describe

# --- by name -----------------------------------------------------------------------------------


def test_options_find_their_part():
    recipe = Recipe().with_options(
        epochs=3,
        temperature=0.02,
        evaluate_every=5,
        keep="best",
        output="run",
        tensorboard=True,
        refresh="static",
        weighting="focal",
        batches={"name": "clustered", "clusters": 2},
        prompts={"default": ["q: ", "d: "]},
        lora={"rank": 4},
    )
    assert (recipe.schedule.epochs, recipe.loss.temperature) == (3, 0.02)
    assert (recipe.evaluation.every, recipe.evaluation.keep) == (5, "best")
    assert (recipe.output.folder, recipe.output.tensorboard) == ("run", True)
    assert (recipe.negatives.mode, recipe.weighting.name) == ("static", "focal")
    assert (recipe.batches.clusters, recipe.lora.rank) == (2, 4)
    assert recipe.prompts.query() == "q: "
    assert recipe.with_options(loss={"precision": "bfloat16"}).loss.temperature == 0.05
    assert Recipe.read(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_numpy_numbers_are_numbers():
    part = SchedulePart(epochs=np.int64(3), learning_rate=np.float32(0.5), warmup=0)
    assert (part.epochs, part.learning_rate, part.warmup) == (3, 0.5, 0.0)
    assert type(part.epochs) is int
    dims = LossPart(matryoshka_dims=np.array([8, 4]), matryoshka_weights=(1, 2.5))
    assert (dims.matryoshka_dims, dims.matryoshka_weights) == ((8, 4), (1.0, 2.5))


def test_parts_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().loss.temperature = 1.0


def test_help_explains_every_option():
    told = pydoc.render_doc(LossPart, renderer=pydoc.plaintext)
    for name in LossPart.model_fields:
        assert f"{name}: " in told
    assert "divides the similarities" in told


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"epoch": 3}, TypeError, 'there is no option "epoch" (did you mean "epochs"?)'),
        ({"temprature": 3}, TypeError, 'did you mean "temperature"?'),
        ({"batch_size": "many"}, TypeError, "batch_size is 'many'; give a whole number"),
        ({"batch_size": True}, TypeError, "batch_size is True"),
        ({"batch_size": 2.5}, TypeError, "batch_size is 2.5"),
        ({"temperature": float("nan")}, ValueError, "temperature is nan; give a number above 0"),
        ({"temperature": "x" * 10_000}, TypeError, "temperature is 'xxx"),
        ({"weighting": object}, TypeError, "weighting is <class 'object'"),
        ({"refresh": 3}, TypeError, "negatives is 3; give a mapping"),
        ({"output": 3}, TypeError, "folder is 3; give a text"),
        ({"lora": {"rang": 3}}, ValueError, 'lora has no key "rang" (did you mean "rank"?)'),
        ({"recipe": {"los": {}}}, ValueError, 'the recipe has no key "los" (did you mean "loss"?)'),
        ({"recipe": {"loss": 3}}, TypeError, "loss is 3; give a mapping with keys of: temp"),
        ({"recipe": 3}, TypeError, "give a mapping"),
    ],
    ids=str,
)
def test_train_says_what_is_wrong(options, kind, said):
    with pytest.raises(kind) as error:
        train(new_encoder(), ROWS, **options)
    assert said in str(error.value)
    assert len(str(error.value)) < 1000


# --- margins of papers -------------------------------------------------------------------------


def test_named_samplings_have_no_margin_of_their_own():
    assert NegativeRefresh().relative_margin == 0.05
    for name in ("uniform", "simans", "top"):
        assert NegativeRefresh(sampling=name).relative_margin is None
        assert NegativeRefresh(sampling=name, relative_margin=0.1).relative_margin == 0.1
    assert NegativeRefresh(relative_margin=None).relative_margin is None


# --- every method with everything --------------------------------------------------------------

METHODS = {
    "STAR": {"objective": "STAR"},
    "DCL": {"objective": "DCL"},
    "DCLW": {"objective": "DCLW"},
    "HCL": {"objective": "HCL", "beta": 0.5},
    "SigLIP": {"objective": "SigLIP", "metric": "cosine"},
    "GTE": {"directions": ["query_to_document", "query_to_query", "document_to_query"]},
    "Qwen3": {"absolute_margin": -0.1},
    "hard": {"hardness": "hard_negatives", "hardness_strength": 5.0},
    "queue": {"queue": 20},
    "learnable": {"learnable_temperature": True},
    "matryoshka": {"matryoshka_dims": [8, 4], "symmetric": True},
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_live_negatives_weightings_and_prompts(method):
    options = {
        "examples": PAIRS,
        "refresh": {"num_negatives": 2, "pool": 8},
        "prompts": {"default": ["w1 ", "w2 "]},
        "epochs": 1,
    }
    if method != "SigLIP":
        options["weighting"] = "progressive"
    weights, report = trained(loss=METHODS[method], **options)
    assert np.isfinite(report.losses).all()
    assert len(report.refreshes) == 1
    start = new_encoder().state_dict()
    assert not same(weights, start)
    without, _ = trained(loss=METHODS[method], **{**options, "prompts": None})
    assert not same(weights, without)


def test_a_guide_is_taken_and_named(tmp_path):
    weights, _ = trained(guide=new_encoder(), epochs=1)
    plain, _ = trained(epochs=1)
    assert not same(weights, plain)
    assert set(describe({"guide": new_encoder()})["guide"]) == {"name", "sha256"}


# --- what a loss has learned -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"learnable_temperature": True, "temperature": 0.1},
        {"objective": "SigLIP", "learnable_temperature": True, "temperature": 0.1},
        {"queue": 15},
        {"weighting": {"name": "progressive", "first": -1.0, "last": 1.0}},
        {"weighting": "dynamic"},
    ],
    ids=str,
)
def test_the_state_of_a_loss_goes_on(tmp_path, one_thread, options):  # noqa: F811
    plain, report = trained(**options)
    trained(tmp_path / "run", stop=9, checkpoint_every=2, **options)
    weights, resumed = trained(tmp_path / "run", resume=True, checkpoint_every=2, **options)
    assert resumed.resumed_from == 8
    assert resumed.losses == report.losses
    assert same(weights, plain)


def test_the_temperature_that_was_learned_is_in_checkpoints(tmp_path, one_thread):  # noqa: F811
    def run(**options):
        encoder = new_encoder()
        loss = InfoNCELoss(encoder, temperature=0.1, learnable_temperature=True)
        trained(model=encoder, loss=loss, **options)
        return loss.temperature

    plain = run()
    run(output=tmp_path / "run", stop=8)
    assert run(output=tmp_path / "run", resume=True) == plain != 0.1


# --- checkpoints of before ---------------------------------------------------------------------


def test_checkpoints_of_earlier_versions_are_gone_on_from(tmp_path, one_thread):  # noqa: F811
    """Their manifests name these options and no others."""
    plain, _ = trained()
    trained(tmp_path / "run", stop=8)
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    options = json.loads((folder / "manifest.json").read_text())["options"]
    assert set(options) == {
        *("loss", "temperature", "precision", "mini_batch_size", "symmetric"),
        *("matryoshka_dims", "matryoshka_weights", "weighting", "refresh", "batches", "prompts"),
        *("batch_size", "epochs", "max_steps", "learning_rate", "scheduler", "warmup", "seed"),
        *("lora", "autocast", "evaluation", "evaluate_every", "patience", "keep"),
        *("encoder", "examples", "processes"),
    }
    weights, _ = trained(tmp_path / "run", resume=True)
    assert same(weights, plain)


def test_newer_options_are_named_where_they_differ(tmp_path):
    trained(tmp_path / "run", stop=8)
    with pytest.raises(ValueError, match=r"objective \(not given, now 'decoupled'\)"):
        trained(tmp_path / "run", resume=True, objective="DCL")


def test_threads_hold_while_training_and_decide_nothing(tmp_path):
    import stope

    seen = []
    before = torch.get_num_threads(), stope.get_num_threads()
    trained(evaluation=lambda model: seen.append(torch.get_num_threads()) or {"x": 1.0}, threads=1)
    assert set(seen) == {1}
    assert (torch.get_num_threads(), stope.get_num_threads()) == before


def test_options_beside_a_given_loss_are_refused():
    encoder = new_encoder()
    loss = InfoNCELoss(encoder)
    with pytest.raises(ValueError, match="temperature was given, which is for the recipe's loss"):
        train(encoder, ROWS, loss=loss, temperature=0.1)
    with pytest.raises(ValueError, match="which has a loss of its own"):
        train(encoder, PAIRS, loss=loss, refresh="query_side")
    with pytest.raises(ValueError, match="symmetric was given, but refresh has the mode"):
        train(encoder, PAIRS, symmetric=True, refresh="query_side")


def test_presets_fill_in_what_is_left_open():
    from stope.training.trainer import _schedule

    def chosen(static, rows=100_000, **options):
        part = _schedule(Recipe().with_options(**options), rows, static=static)
        return part.batch_size, part.epochs, part.learning_rate

    assert chosen(True) == (2048, 10, 0.1)
    assert chosen(False) == chosen(False, preset="transformer") == (64, 1, 2e-5)
    assert chosen(False, preset="base") == (64, 4, 1e-4)
    assert chosen(False, preset="base", epochs=2, learning_rate=1e-3) == (64, 2, 1e-3)
    assert chosen(False, rows=200, preset="base") == (25, 4, 1e-4)
    assert chosen(True, preset="static") == (2048, 10, 0.1)
    wrong = [(True, "base"), (True, "transformer"), (False, "static")]
    for static, preset in (*wrong, (True, "adapter"), (False, "adapter")):
        with pytest.raises(ValueError, match=f"preset is {preset}, whose learning rate is not for"):
            chosen(static, preset=preset)
    assert chosen(False, lora={"rank": 4}) == (64, 1, pytest.approx(2e-4))
    with pytest.raises(ValueError, match="preset is 'small'; give one of static, transf"):
        Recipe().with_options(preset="small")

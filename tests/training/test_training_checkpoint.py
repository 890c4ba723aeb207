"""Checkpoints, resume, early stopping: an interrupted run ends as one that was not."""

from __future__ import annotations

import resource

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

import small_transformers

from stope._files.manifest import differences
from stope.data import Pairs
from stope.encoders import static_encoder
from stope.training import contrastive_loss, pairs_dataset, train
from stope.training.callbacks.log import read_log

QUERIES, DOCUMENTS = small_transformers.texts(0, 60), small_transformers.texts(1, 60)
ROWS = list(zip(QUERIES, DOCUMENTS, strict=True))
PAIRS = Pairs.from_texts(QUERIES, DOCUMENTS)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_encoder():
    return static_encoder([*QUERIES, *DOCUMENTS], dim=8, vocab_size=64)


def trained(output=None, stop=None, model=None, examples=ROWS, **options):
    """The weights and the report of a run, or None where it was interrupted after step stop."""
    encoder = new_encoder() if model is None else model

    def progress(step, total):
        if step == stop:
            raise KeyboardInterrupt

    options = {"batch_size": 10, "epochs": 3, **options}
    try:
        report = train(encoder, examples, output=output, progress=progress, **options)
    except KeyboardInterrupt:
        return None, None
    return {name: value.clone() for name, value in encoder.state_dict().items()}, report


def same(first, second):
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


def judge(values):
    found = iter(values)
    return lambda model: {"made up": next(found), "other": 0.0}


# --- going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 6, 9, 12, 17])
def test_batches_go_on_where_they_were(tmp_path, one_thread, stop):
    """In the middle of an epoch (2, 9, 17), at its end (6, 12): a checkpoint after every step."""
    plain, report = trained()
    trained(tmp_path / "run", stop=stop + 1, checkpoint_every=1)
    weights, resumed = trained(tmp_path / "run", resume=True, checkpoint_every=1)
    assert resumed.resumed_from == stop
    assert resumed.losses == report.losses
    assert same(weights, plain)


def test_the_losss_own_parameters_go_on(tmp_path, one_thread):
    class Scaled(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner = contrastive_loss(model)
            self.scale = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, features, labels=None):
            return self.inner(features, None) * self.scale.exp()

    def run(**options):
        encoder = new_encoder()
        loss = Scaled(encoder)
        weights, _ = trained(model=encoder, loss=loss, **options)
        return weights, loss.scale.item()

    plain, scale = run()
    run(output=tmp_path / "run", stop=8)
    weights, again = run(output=tmp_path / "run", resume=True)
    assert scale == again != 1.0
    assert same(weights, plain)


# --- what lies on the disk ---------------------------------------------------------------------


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*given, **named):
        raise AssertionError("torch.load or torch.save was called")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    trained(tmp_path / "run", stop=8, examples=PAIRS, refresh={"num_negatives": 1, "pool": 5})
    trained(tmp_path / "run", resume=True, examples=PAIRS, refresh={"num_negatives": 1, "pool": 5})
    files = [path for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".npy"}
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_a_finished_run_is_not_trained_again(tmp_path):
    plain, report = trained(tmp_path / "run")
    weights, again = trained(tmp_path / "run", stop=1, resume=True)
    assert same(weights, plain)
    assert again.losses == report.losses
    assert again.finished
    assert again.resumed_from == again.steps == 18


def test_newest_checkpoints_are_kept(tmp_path):
    trained(tmp_path / "run", checkpoint_every=4, keep_checkpoints=3)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000012", "step-00000016", "step-00000018"]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "not what was written"),
        ("optimizer.json", lambda raw: raw + b" ", "not what was written"),
        ("manifest.json", lambda raw: raw[:40], "manifest.json is damaged: it is not JSON"),
        ("manifest.json", lambda raw: b"[" * 10**6, "manifest.json is damaged: it is nested"),
        ("manifest.json", lambda raw: raw.replace(b'"files"', b'"file"'), "files is missing"),
        ("manifest.json", lambda raw: raw.replace(b'"size": ', b'"size": -'), "size is -"),
        ("progress.json", None, "'progress.json' is missing"),
    ],
)
def test_a_broken_checkpoint_is_passed_over(tmp_path, one_thread, name, change, said):
    plain, _ = trained()
    trained(tmp_path / "run", stop=11, checkpoint_every=5)
    file = tmp_path / "run" / "checkpoints" / "step-00000010" / name
    file.write_bytes(change(file.read_bytes())) if change else file.unlink()
    lines = []
    weights, report = trained(
        tmp_path / "run", resume=True, checkpoint_every=5, say=lines.append, keep_checkpoints=1
    )
    assert any("step-00000010" in line and said in line for line in lines)
    assert report.resumed_from == 5
    assert same(weights, plain)


def test_resume_without_a_checkpoint_starts(tmp_path):
    lines = []
    _, report = trained(tmp_path / "run", resume=True, say=lines.append)
    assert any("starting at the beginning" in line for line in lines)
    assert report.resumed_from is None
    assert report.steps == 18


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.05}, "learning_rate (0.1, now 0.05)"),
        ({"weighting": "focal"}, "weighting"),
        (
            {"scheduler": "cosine", "seed": 1},
            "scheduler ('linear', now 'cosine'), seed (0, now 1)",
        ),
        ({"examples": ROWS[::-1]}, "examples differs"),
        ({"model": static_encoder(QUERIES, dim=8, vocab_size=60)}, "encoder differs"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, said):
    trained(tmp_path / "run", stop=8)
    with pytest.raises(ValueError, match="is of another run") as caught:
        trained(tmp_path / "run", resume=True, **change)
    assert said in str(caught.value)


def test_a_run_is_not_overwritten(tmp_path):
    trained(tmp_path / "run", stop=8)
    with pytest.raises(FileExistsError, match="give resume=True"):
        trained(tmp_path / "run")


def test_a_full_disk_leaves_older_checkpoints(tmp_path, one_thread):
    plain, _ = trained()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def say(line):
        if "checkpoint of step 10" in line:  # files of more than 1,000 bytes cannot be written
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))

    try:
        with pytest.raises(OSError, match=r"cannot write the checkpoint .*step-00000010"):
            trained(tmp_path / "run", checkpoint_every=5, say=say)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]
    weights, report = trained(tmp_path / "run", checkpoint_every=5, resume=True)
    assert report.resumed_from == 5
    assert same(weights, plain)


def test_differences_are_named():
    there = {"lora": None, "seed": 0, "rows": {"sha256": "a", "count": 3}}
    here = {"lora": {"rank": 4}, "seed": 0, "rows": {"sha256": "b", "count": 3}}
    assert differences(there, here) == ["lora (not given, now {'rank': 4})", "rows differs"]


# --- when to evaluate and stop -----------------------------------------------------------------


def test_patience_counts_evaluations_without_a_gain(tmp_path):
    evaluation = judge([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    weights, report = trained(
        tmp_path / "run",
        evaluation=evaluation,
        evaluate_every=2,
        patience=3,
        keep="best",
        checkpoint_every=1,
    )
    assert report.stopped_early
    assert report.steps == 10
    assert report.evaluation_steps == [2, 4, 6, 8, 10]
    assert (report.best_step, report.best_epoch) == (4, 1)
    again, resumed = trained(
        tmp_path / "run",
        stop=11,
        evaluation=evaluation,
        evaluate_every=2,
        patience=3,
        keep="best",
        resume=True,
    )
    assert resumed.stopped_early
    assert same(weights, again)


def test_patience_goes_on_after_an_interruption(tmp_path):
    options = {"evaluate_every": 2, "patience": 3, "checkpoint_every": 1, "keep": "best"}
    trained(tmp_path / "run", stop=7, evaluation=judge([0.1, 0.5, 0.4]), **options)
    _, report = trained(tmp_path / "run", evaluation=judge([0.5, 0.3]), resume=True, **options)
    assert report.steps == 10
    assert report.best_step == 4


def test_a_metric_that_is_no_number_is_no_gain(tmp_path):
    nan = float("nan")
    plain, _ = trained()
    options = {"keep": "best", "patience": 3}
    trained(tmp_path / "run", stop=13, evaluation=judge([nan, nan]), **options)
    weights, report = trained(tmp_path / "run", evaluation=judge([nan]), resume=True, **options)
    assert np.isnan([found["made up"] for found in report.evaluations]).all()
    assert report.best_step is None
    assert not report.stopped_early  # patience ended with the last step
    assert all(torch.allclose(weights[name], plain[name], atol=1e-3) for name in plain)


def test_last_step_is_evaluated():
    _, report = trained(evaluation=judge([0.1, 0.2, 0.3]), evaluate_every=8)
    assert report.evaluation_steps == [8, 16, 18]


def test_max_steps_ends_within_an_epoch(tmp_path):
    _, report = trained(tmp_path / "run", epochs=None, max_steps=8, scheduler="constant")
    assert report.steps == 8
    rates = [line["learning_rate"] for line in read_log(tmp_path / "run") if "loss" in line]
    assert rates[1:] == pytest.approx([0.1] * 7)


def test_cosine_falls_to_zero(tmp_path):
    trained(tmp_path / "run", scheduler="cosine", warmup=0.0)
    rates = [line["learning_rate"] for line in read_log(tmp_path / "run") if "loss" in line]
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(18) / 18))
    assert rates == pytest.approx(expected.tolist(), rel=1e-6)


def test_log_tells_what_happened(tmp_path):
    trained(
        tmp_path / "run",
        examples=PAIRS,
        refresh={"every": 6, "num_negatives": 1, "pool": 5},
        weighting="progressive",
        evaluation=judge([0.1, 0.2, 0.3]),
    )
    lines = list(read_log(tmp_path / "run"))
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert [line["step"] for line in lines if line["kind"] == "refresh"] == [0, 6, 12]
    assert [line["made up"] for line in lines if line["kind"] == "evaluation"] == [0.1, 0.2, 0.3]
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["negatives_version"] for line in steps] == [1] * 6 + [2] * 6 + [3] * 6
    assert all("learning_rate" in line and line["seconds"] >= 0 for line in steps)


# --- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_steps": 0, "epochs": None}, "max_steps is 0; give a whole number of at least 1"),
        ({"max_steps": 5}, "both epochs .3. and max_steps .5. are given; keep one"),
        ({"scheduler": "step"}, "scheduler is 'step'; give one of linear, cosine, constant"),
        ({"patience": 2}, "patience is 2 but there is no evaluation"),
        ({"evaluate_every": 2}, "evaluate_every is 2 but there is no evaluation"),
        ({"resume": True}, "resume is True but there is no output"),
        ({"tensorboard": True}, "tensorboard is True but there is no output"),
        ({"checkpoint_every": 3}, "checkpoint_every is 3 but there is no output"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0; give a whole number of at least 1"),
        ({"refresh": {}}, "give examples as stope.data.Pairs"),
        ({"autocast": "float16"}, "autocast is 'float16'; give bfloat16"),
        ({"autocast": "bfloat16"}, "is a static encoder"),
        ({"weighting": "nobody"}, "there are the weightings"),
        ({"weighting": "teacher"}, "reads the signal 'teacher_confidence'"),
        ({"batches": "nobody"}, "there are the kinds clustered"),
        ({"columns": {"weight": [1.0]}}, "1 values of \"weight\" for 60 rows"),
        ({"columns": {"query": QUERIES}}, 'columns has "query", which the rows have already'),
        ({"evaluation": lambda model: {}}, "returned no metric"),
        ({"loss": torch.nn.Identity(), "weighting": "focal"}, "leave it or loss out"),
        ({"loss": torch.nn.Identity(), "examples": PAIRS, "refresh": {"pool": 5}},
         "refresh was given, which is for stope's own losses"),
        ({"examples": PAIRS, "refresh": {"mode": "query_side"}, "weighting": "focal"},
         "whose loss does not take it"),
    ],
)  # fmt: skip
def test_train_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        trained(**options)


def test_output_must_be_a_folder(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(FileExistsError, match="which is a file"):
        trained(tmp_path / "note")
    with pytest.raises(FileNotFoundError, match="create it first"):
        trained(tmp_path / "no" / "where")


def test_columns_are_weights_and_signals(one_thread):
    columns = {"weight": [1.0] * 30 + [0.0] * 30, "easiness": np.linspace(0, 1, 60).tolist()}
    given, _ = trained(examples=PAIRS, columns=columns)
    dataset = pairs_dataset(PAIRS)
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    expected, _ = trained(examples=dataset)
    plain, _ = trained(examples=PAIRS)
    assert same(given, expected)
    assert not same(given, plain)


def test_a_given_loss_follows_the_clock():
    encoder = new_encoder()
    loss = contrastive_loss(encoder, weighting="progressive")
    trained(model=encoder, loss=loss)
    assert (loss.clock.step, loss.clock.max_steps) == (17, 18)


def test_clustered_batches_go_on(tmp_path, one_thread):
    options = {"examples": PAIRS, "batches": {"name": "clustered", "clusters": 3}}
    plain, _ = trained(**options)
    trained(tmp_path / "run", stop=8, **options)
    weights, _ = trained(tmp_path / "run", resume=True, **options)
    assert same(weights, plain)

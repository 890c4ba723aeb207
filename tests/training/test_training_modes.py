"""`train` and `run` in their rarer modes: query_side, bfloat16, TensorBoard, a full disk."""

from __future__ import annotations

import resource

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

import small_transformers
from test_training_checkpoint import (  # noqa: F401
    PAIRS,
    ROWS,
    new_encoder,
    one_thread,
    same,
    trained,
)

from stope.data import write_jsonl
from stope.runs import run
from stope.training import NegativeRefresh, train
from stope.training.callbacks.log import read_log
from stope.training.negatives import refresh_run


def test_query_side_goes_on(tmp_path, one_thread):  # noqa: F811
    options = {"examples": PAIRS, "refresh": {"mode": "query_side", "pool": 12}}
    plain, report = trained(**options)
    trained(tmp_path / "run", stop=9, checkpoint_every=2, **options)
    weights, resumed = trained(tmp_path / "run", resume=True, checkpoint_every=2, **options)
    assert resumed.resumed_from == 8
    assert resumed.losses == report.losses
    assert same(weights, plain)
    assert not same(weights, new_encoder().state_dict())


def write_pairs(folder, rows=40):
    lines = [{"query": query, "positive": positive} for query, positive in ROWS[:rows]]
    write_jsonl(folder / "pairs.jsonl", lines)


def test_query_side_in_a_configuration(tmp_path, monkeypatch):
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "data: pairs.jsonl\noutput: run\nencoder: {static: {dim: 8}}\n"
        "negatives: {mode: query_side, pool: 9}\n"
        "training: {epochs: 2, batch_size: 8}\n"
    )
    report = run("config.yaml")
    assert report.training.steps == 10
    assert np.isfinite(report.training.losses).all()
    steps = [line for line in read_log(tmp_path / "run") if line["kind"] == "step"]
    assert len(steps) == 10
    assert (report.model / "modules.json").exists()


def test_sources_with_their_own_prompts_are_mined(tmp_path, monkeypatch):
    from stope.training.negatives import live as negatives

    monkeypatch.chdir(tmp_path)
    half = len(ROWS) // 2
    for name, rows in (("a", ROWS[: half + 5]), ("b", ROWS[half:])):
        lines = [{"query": query, "positive": positive} for query, positive in rows]
        write_jsonl(tmp_path / f"{name}.jsonl", lines)
    real, chosen = negatives.LiveNegatives.choose, []

    def choose(self, queries, step):
        ids = real(self, queries, step)
        chosen.extend(zip(queries.tolist(), ids.tolist(), strict=True))
        chosen_pairs.append(self.pairs)
        return ids

    chosen_pairs = []
    monkeypatch.setattr(negatives.LiveNegatives, "choose", choose)
    run(
        {
            "data": [
                {"path": "a.jsonl", "prompts": {"query": "w1 ", "document": "w2 "}},
                {"path": "b.jsonl", "prompts": {"query": "w3 ", "document": "w4 "}},
            ],
            "encoder": {"static": {"dim": 8}},
            "negatives": {"mode": "periodic", "num_negatives": 2, "pool": 10},
            "training": {"epochs": 2, "batch_size": 16},
            "output": "run",
        }
    )
    pairs = chosen_pairs[0]
    first = len({query for query, _ in ROWS[: half + 5]})  # those of the source a come first
    for query, ids in chosen:
        name = "a.jsonl" if query < first else "b.jsonl"
        assert set(ids) <= set(pairs.corpus_of[name].tolist())
    assert {query < first for query, _ in chosen} == {True, False}


def test_bfloat16_is_near_float32(tmp_path, one_thread):  # noqa: F811
    def run_once(autocast):
        encoder = small_transformers.tiny(tmp_path / str(autocast))
        kinds = set()
        encoder[0].auto_model.encoder.layer[0].output.dense.register_forward_hook(
            lambda module, given, out: kinds.add((module.training, out.dtype))
        )
        report = train(
            encoder, ROWS, batch_size=10, epochs=1, learning_rate=1e-3, autocast=autocast
        )
        encoder.eval()
        encoder.encode(["w1 w2"])
        return np.array(report.losses), kinds, encoder

    exact, kinds, _ = run_once(None)
    assert {dtype for _, dtype in kinds} == {torch.float32}
    near, kinds, encoder = run_once("bfloat16")
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(value.dtype == torch.float32 for value in encoder.parameters())
    np.testing.assert_allclose(near, exact, rtol=0.05)
    assert (near != exact).any()


def test_tensorboard_has_every_step(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, report = trained(tmp_path / "run", tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.split("/")[-1] == "loss"]
    found = events.Scalars(tag)
    assert [one.step for one in found] == list(range(1, 19))
    np.testing.assert_allclose([one.value for one in found], report.losses, rtol=1e-6)


def test_a_weighting_is_checked_before_anything_is_mined(monkeypatch):
    def start(*given, **named):
        raise AssertionError("mining was prepared")

    monkeypatch.setattr(NegativeRefresh, "start", start)
    with pytest.raises(ValueError, match="reads the signal 'teacher_confidence'"):
        trained(examples=PAIRS, refresh={"pool": 5}, weighting="teacher")


def test_a_full_disk_in_a_refresh_loses_nothing(tmp_path, one_thread, monkeypatch):  # noqa: F811
    options = {"examples": PAIRS, "refresh": {"every": 6, "num_negatives": 1, "pool": 5}}
    plain, report = trained(**options)
    limits, real, calls = resource.getrlimit(resource.RLIMIT_FSIZE), refresh_run.mine_by_source, []

    def fill(*given, **named):
        calls.append(1)
        if len(calls) == 2:  # files of more than 1,000 bytes cannot be written
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        return real(*given, **named)

    monkeypatch.setattr(refresh_run, "mine_by_source", fill)
    try:
        with pytest.raises(OSError, match="the shards saved before are kept"):
            trained(tmp_path / "run", checkpoint_every=2, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    weights, resumed = trained(tmp_path / "run", resume=True, checkpoint_every=2, **options)
    assert resumed.resumed_from == 4
    assert resumed.losses == report.losses
    assert same(weights, plain)


def test_a_stopped_adapter_run_goes_on(tmp_path, monkeypatch, one_thread):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path)
    random = np.random.default_rng(0)
    np.save("q.npy", random.standard_normal((40, 8)).astype(np.float32))
    np.save("c.npy", random.standard_normal((40, 8)).astype(np.float32))
    section = {
        "data": "pairs.jsonl",
        "adapter": {"query_embeddings": "q.npy", "corpus_embeddings": "c.npy"},
        "training": {"epochs": 3, "batch_size": 8},
    }

    def stop(step, total):
        if step == 4:
            raise KeyboardInterrupt

    plain = run({**section, "output": "plain"})
    with pytest.raises(KeyboardInterrupt):
        run({**section, "output": "run"}, progress=stop)
    again = run({**section, "output": "run"}, resume=True)
    assert again.training.losses == plain.training.losses
    name = "adapter.safetensors"
    assert (again.model / name).read_bytes() == (plain.model / name).read_bytes()

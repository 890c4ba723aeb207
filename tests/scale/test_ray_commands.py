"""Commands that are told --ray: the files of one process, from a local cluster of two nodes."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests

from __future__ import annotations

import shutil

import numpy as np
import pytest
from command import call, folder, texts
from ray_cluster import MARKS, local, ray

import encoders
from stope.data import write_jsonl
from stope.encoders import encode_corpus, encode_queries, save_encoder, static_encoder
from stope.scale import ray as scale

pytestmark = MARKS


def test_commands_write_the_same_bytes(local, call, tmp_path):
    shutil.copy(tmp_path / "corpus.jsonl", tmp_path / "twice.jsonl")
    embedded = ("--embeddings", "c.npy", "--quiet")
    for name, arguments, outputs in (
        ("graph", ("corpus.jsonl", "-k", 4, *embedded), {"-o": "graph.npz"}),
        (
            "dedup",
            ("corpus.jsonl", "--threshold", 0.6, "--keep", "longest", *embedded),
            {"-o": "kept.jsonl", "--groups": "groups.jsonl"},
        ),
        (
            "cluster",
            ("corpus.jsonl", "-k", 3, *embedded),
            {"-o": "clusters.jsonl", "--centers": "centers.npy", "--summary": "clusters.json"},
        ),
        (
            "mine",
            (
                *("pairs.tsv", "corpus.jsonl", "--query-embeddings", "q.npy"),
                *("--corpus-embeddings", "c.npy", "--relative-margin", 0.05, "--quiet"),
            ),
            {"-o": "mined.jsonl", "--ids": "ids.jsonl", "--summary": "summary.json"},
        ),
    ):
        said = []
        for first, more in (("here-", ()), ("ray-", ("--ray", "--workers", 2))):
            files = [each for at, file in outputs.items() for each in (at, f"{first}{file}")]
            done = call(name, *arguments, *files, *more)
            said.append(done.stdout.replace(first, ""))
        assert said[0] == said[1]
        for file in outputs.values():
            here, there = (tmp_path / f"{first}{file}" for first in ("here-", "ray-"))
            assert here.read_bytes() == there.read_bytes(), file
            assert here.stat().st_size
    assert not list(tmp_path.glob("*.ray"))


def test_mining_jobs_write_the_same_bytes(local, call, tmp_path, monkeypatch):
    monkeypatch.setattr("stope.mining.jobs.job.SHARD_SIZE", 16)
    (tmp_path / "groups.tsv").write_text(
        "document_id\tgroup\n" + "".join(f"d{row}\tg{row % 9}\n" for row in range(150))
    )
    run = [{"query_id": f"q{row}", "document_id": f"d{row + 7}", "score": 1} for row in range(40)]
    write_jsonl(tmp_path / "run.jsonl", run)
    mined = (
        *("mine", "pairs.tsv", "corpus.jsonl", "--query-embeddings", "q.npy", "--quiet"),
        *("--corpus-embeddings", "c.npy", "--relative-margin", 0.05, "--near-positive", 0.5),
        *("--quotas", "dense=3,bm25=1,run=1,siblings=1,random=1", "--run", "run.jsonl"),
        *("--groups", "groups.tsv", "--job"),
    )
    call(*mined, "here", "-o", "here.jsonl")
    monkeypatch.setattr("stope.mining.jobs.miner.Miner.records", None)  # not in this process
    shutil.copytree(tmp_path / "here", tmp_path / "ray")
    shutil.rmtree(tmp_path / "ray" / "mined")
    for name in ("negatives.parquet", "counts.parquet", "job.json"):
        (tmp_path / "ray" / name).unlink()
    call(*mined, "ray", "-o", "ray.jsonl", "--ray", "--workers", 2)
    for name in (path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*")):
        here, there = tmp_path / "here" / name, tmp_path / "ray" / name
        assert here.is_dir() or here.read_bytes() == there.read_bytes(), name
    assert (tmp_path / "here.jsonl").read_bytes() == (tmp_path / "ray.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.ray"))
    scored = ("--teacher", "run.jsonl", "--ray")
    done = call(*mined, "other", *scored, code=2)
    assert "a teacher scores in this process" in one_line(done.output)
    done = call(*mined, "other", "--ray", "--workers", 1, "--worker-memory", 0.25, code=1)
    assert "a worker needs 3" in one_line(done.output)


def one_line(text):
    return " ".join(text.replace("│", " ").split())


def test_search_writes_the_same_bytes(local, call, tmp_path, texts):
    save_encoder(static_encoder([*texts[0], *texts[1]]), tmp_path / "model")
    searched = ("search", "queries.jsonl", "corpus.jsonl", "--encoder", "./model", "--quiet")
    options = ("--method", "hybrid", "-k", 7, "--batch-size", 16, "-o")
    call(*searched, *options, "here.trec")
    call(*searched, *options, "ray.trec", "--ray", "--workers", 1)
    assert (tmp_path / "here.trec").read_bytes() == (tmp_path / "ray.trec").read_bytes()
    done = call("search", "queries.jsonl", "corpus.jsonl", "--ray", code=2)
    assert "it has no effect with --method bm25" in done.output
    done = call("graph", "corpus.jsonl", "--workers", 2, code=2)
    assert "it has no effect without --ray" in done.output


def test_batches_of_an_encoder_are_those_of_one_process(local, tmp_path, monkeypatch):
    """An encoder whose embeddings depend on the texts that it is given together."""
    ray.cloudpickle.register_pickle_by_value(encoders)
    monkeypatch.setattr("stope.scale.ray.encoding.load_encoder", None)  # not in this process
    docs = [f"w{row} w{row % 7}" for row in range(70)]

    class Together(encoders.HashEncoder):
        def encode(self, texts):
            rows = super().encode(texts)
            return rows + np.float32(rows[0, 0] * len(texts))

    class Uneven(encoders.HashEncoder):
        def encode(self, texts):
            return super().encode(texts)[:, : None if len(texts) == 16 else 1]

    def refuse(texts):
        raise AssertionError("encoded in this process")

    model, told = Together(), []
    asked = {"prompt": "of ", "batch_size": 16}
    wanted = [ask(model, docs, **asked) for ask in (encode_queries, encode_corpus)]
    with scale.Operations.at(tmp_path) as remote:
        remote.share(model, Together())
        model.encode = refuse
        for ask, rows in zip((encode_queries, encode_corpus), wanted, strict=True):
            made = ask(model, docs, **asked, progress=lambda *done: told.append(done))
            assert np.array_equal(made, rows)
        assert [total for _, total in told] == [70] * 10
        assert sorted(told[5:]) == told[5:]
        assert told[9][0] == 70
        assert remote.topk(made, made, 1, metric="cosine").ids.shape == (70, 1)  # CPUs are free
        remote.share(model, refuse)
        for _ in range(5):  # what is left of one call does not keep the next from a worker
            with pytest.raises(TypeError, match="encoder is function, which has no encode method"):
                encode_corpus(model, docs, batch_size=16)
        remote.share(model, Uneven())
        with pytest.raises(ValueError, match=r"columns for text \d+ of corpus but \d+ before"):
            encode_corpus(model, docs, batch_size=16)

"""The benchmark of training: how it cuts collections, and that nothing is trained twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stope.data import Collection, write_beir

pytest.importorskip("sentence_transformers", reason="the benchmark trains encoders")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WORDS = [f"{first}{second}" for first in "bdfgklmnpr" for second in ("ado", "ilu", "ete", "osa")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A BEIR folder without a dev split: 60 documents, of which 40 answer two queries each."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(60)]
    asked = {f"q{row}": " ".join(texts[row % 40].split()[:3]) for row in range(80)}
    qrels = {
        split: {f"q{row}": {f"d{row % 40}": 1} for row in range(80) if (row % 40 < 30) == seen}
        for split, seen in (("train", True), ("test", False))
    }
    ids = [f"d{row}" for row in range(60)]
    collection = Collection(ids, texts, list(asked), list(asked.values()), qrels)
    write_beir(collection, tmp_path / "small")
    return tmp_path / "small"


def answers(judged):
    return {name for positives in judged.values() for name in positives}


def test_queries_of_one_positive_are_held_out_together(folder):
    import training_data

    collection = training_data.read(folder, None, None)
    train, dev = collection.qrels["train"], collection.qrels["dev"]
    assert len(train) + len(dev) == 60
    assert len(dev) == 10  # 9 are wanted, and groups are of two
    assert not answers(train) & answers(dev)
    assert not set(train) & set(dev)


def test_a_cut_keeps_the_share_of_documents_that_answer_nothing(folder):
    import training_data

    collection = training_data.read(folder, 20, None)
    assert [len(collection.qrels[split]) for split in ("train", "dev", "test")] == [20, 8, 8]
    kept = training_data.positives_of(collection.qrels)
    assert len(collection.corpus_ids) - len(kept) == 20 * len(kept) // 40
    described = training_data.facts(collection)
    seen = answers(collection.qrels["train"])
    assert described["never_positive"] == pytest.approx(1 - len(seen) / len(collection.corpus_ids))
    assert described["unseen"] == 1.0


def test_no_split_is_read_as_another(folder):
    import training_data

    (folder / "qrels" / "train.tsv").unlink()
    with pytest.raises(ValueError, match="train"):
        training_data.read(folder, None, None)


def test_a_stopped_benchmark_goes_on(folder, tmp_path, monkeypatch, capsys):
    import bench_training

    recipes = ["start", "in-batch", "in-batch, progressive"]

    def ran(*names):
        arguments = ["--data", folder.parent, "--collections", "small", "--kinds", "static"]
        arguments += ["--seeds", 2, "--rates", 1, 0.5, "--cells", tmp_path / "cells"]
        arguments += ["--json", tmp_path / "rows.json", "--recipes", *names]
        monkeypatch.setattr(sys, "argv", ["bench_training.py", *map(str, arguments)])
        bench_training.main()
        return json.loads((tmp_path / "rows.json").read_text())["rows"]

    first = ran(*recipes[:2])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(before) == 4
    both = ran(*recipes)
    assert [row["recipe"] for row in both] == recipes
    assert both[:2] == first
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(after) == 6
    assert before.items() <= after.items()
    cells = [json.loads(path.read_text()) for path in after]
    for cell in cells:  # the chosen rate is the best of dev, and the other seeds take it over
        tried = {float(rate): value for rate, value in cell["dev_by_rate"].items()}
        assert cell["rate"] == max(tried, key=tried.get)
        assert len(tried) == (1 if cell["key"]["seed"] else 2)
    row = next(row for row in both if row["recipe"] == "in-batch, progressive")
    of_seeds = [
        np.mean(list(cell["test"].values()))
        for seed in (0, 1)
        for cell in cells
        if cell["key"]["seed"] == seed and cell["key"]["recipe"][0] == "in-batch, progressive"
    ]
    assert row["of_each_seed"] == pytest.approx(of_seeds)
    assert row["difference"] == pytest.approx(np.mean(of_seeds) - both[1]["mean"])
    assert "better : worse" in capsys.readouterr().out


def test_weights_and_negatives_are_compared_with_the_same_batch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_training

    rng = np.random.default_rng(0)
    names = [f"{title}{words}, 1,024 a step" for title in ("in-batch", "5 among positives")
             for words in ("", ", progressive")]  # fmt: skip
    assert set(names) <= set(bench_training.RECIPES)
    seeds = {
        name: [{"test": {f"q{row}": float(value) for row, value in enumerate(rng.random(40))}}] * 2
        for name in ("in-batch", *names)
    }
    means = {name: np.mean(list(cells[0]["test"].values())) for name, cells in seeds.items()}
    besides = {name: bench_training.beside(name, seeds[name], seeds) for name in names}
    plain, weighted, negatives, both = names
    assert besides[plain] == {}  # its difference to in-batch training is that of every row
    expected = {
        (weighted, "beside_uniform"): plain,
        (negatives, "beside_in_batch"): plain,
        (both, "beside_uniform"): negatives,
        (both, "beside_in_batch"): weighted,
    }
    assert {(name, key) for name, rows in besides.items() for key in rows} == set(expected)
    for (name, key), other in expected.items():
        difference = besides[name][key]["difference"]
        assert difference == pytest.approx(means[name] - means[other], abs=1e-12)

"""The demo: what it reads, that its stages run to the end, and that it says what it measured."""

from __future__ import annotations

import io
import json
import random
import re

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="the demo trains: extra 'train'")
pytest.importorskip("bm25s", reason="the demo compares with BM25: extra 'retrieval'")

from rich.console import Console

from stope import demo
from stope.data import Collection, read_run, write_beir
from stope.demo import sources
from stope.demo.python_corpus import first_sentence, read_functions, read_python
from stope.encoders import load_encoder, save_encoder, static_encoder
from stope.evaluation import evaluate

METRICS = {"nDCG@10", "MRR@10", "Recall@100"}


def quiet():
    return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope="module")
def python():
    return read_python(500, seed=3)


@pytest.fixture
def beir(tmp_path):
    """A collection in which half of a query's words are its document's."""
    rng = random.Random(5)
    words = [f"word{i}" for i in range(400)]
    documents = [" ".join(rng.sample(words, 12)) for _ in range(160)]
    queries = [" ".join(rng.sample(text.split(), 4)) for text in documents]
    ids = [f"d{i}" for i in range(len(documents))]
    names = [f"q{i}" for i in range(len(queries))]
    judged = {name: {one: 1} for name, one in zip(names, ids, strict=True)}
    qrels = {"train": dict(list(judged.items())[:120]), "test": dict(list(judged.items())[120:])}
    folder = tmp_path / "beir"
    write_beir(Collection(ids, documents, names, queries, qrels), folder)
    return folder


def test_reading_the_installation_is_reproducible(python):
    again = read_python(500, seed=3)
    assert again == python
    assert read_python(500, seed=4).qrels != python.qrels
    assert len(python.corpus) == 500
    assert sum(python.packages.values()) == 500
    assert python.num_files > 10


def test_no_file_is_in_two_splits(python):
    files = {
        split: {document.split(":")[0] for found in judged.values() for document in found}
        for split, judged in python.qrels.items()
    }
    assert set(files) == {"train", "dev", "test"}
    assert all(files.values())
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not files[one] & files[other], f"{one} and {other} share source files"
    sentences = [python.queries[query] for judged in python.qrels.values() for query in judged]
    assert len(sentences) == len(set(sentences))
    counts = {name: len(judged) for name, judged in python.qrels.items()}
    assert counts["train"] > counts["test"] > 0


def test_documents_do_not_hold_their_docstring(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "class Pit:\n"
        "    def dig(self, depth):\n"
        '        """Dig a hole of the given depth.\n\n        And more.\n        """\n'
        "        self.depth = depth\n"
        "        return depth\n"
        "\n"
        "def bare():\n"
        "    return 1\n"
    )
    (found,) = read_functions(path, "mine.py")
    assert found.sentence == "Dig a hole of the given depth."
    assert found.source == "def dig(self, depth):\n    self.depth = depth\n    return depth"
    assert found.document_id == "mine.py:2:Pit.dig"
    path.write_text("print 'Python 2'")
    assert read_functions(path, "mine.py") == []


@pytest.mark.parametrize("text", ["f(x) -> y", "Two words.", ">>> 1 + 1 is the answer here", ""])
def test_what_is_no_sentence(text):
    assert first_sentence(text) is None


def test_too_few_documents_are_refused():
    with pytest.raises(ValueError, match="max_documents is 50"):
        read_python(50)


def test_the_whole_loop_on_the_installation(tmp_path):
    console = quiet()
    result = demo.run(output=tmp_path / "out", max_documents=500, console=console)
    assert [stage.name for stage in result.stages] == [
        "BM25",
        "static, in-batch negatives",
        "+ hard negatives, guarded",
        "hybrid with BM25",
    ]
    for stage in result.stages:
        assert set(stage.mean) == METRICS
        for metric, (low, high) in stage.interval.items():
            assert 0 <= low <= stage.mean[metric] <= high <= 1
    told = console.file.getvalue()
    for stage in result.stages:
        assert f"{stage.mean['nDCG@10']:.3f}" in told
    assert "stope train pairs.jsonl" in told
    assert "Negatives were mined" in told
    (kept,) = re.findall(
        r"going on with negatives brought .* held-out queries: (kept|not kept)", told
    )
    changed = next(row for row in result.differences if row["after"] == "+ hard negatives, guarded")
    assert kept == "kept" or changed["low"] == changed["high"] == 0
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in kept["stages"]] == [stage.name for stage in result.stages]
    assert len(kept["differences"]) == 3
    # The numbers told are the numbers of the runs kept.
    material = sources.read(None, max_documents=500, seed=0)
    qrels = material.collection.split("test").qrels
    for number, row in enumerate(kept["stages"]):
        run = read_run(tmp_path / "out" / "runs" / f"{number}.trec")
        again = evaluate(run, qrels, ["nDCG@10"]).mean["nDCG@10"]
        assert again == pytest.approx(row["mean"]["nDCG@10"], abs=1e-3)
    assert load_encoder(tmp_path / "out" / "encoder").encode(["open a file"]).shape == (1, 512)


def test_a_frozen_encoder_gets_an_adapter(beir, tmp_path):
    corpus = sources.read(beir, max_documents=0, seed=0).collection.corpus_texts
    save_encoder(static_encoder(corpus, dim=64), tmp_path / "encoder")
    result = demo.run(beir, str(tmp_path / "encoder"), console=quiet(), output=tmp_path / "out")
    names = [stage.name for stage in result.stages]
    assert names == [
        "BM25",
        "encoder, as it is",
        "+ adapter",
        "+ adapter, hard negatives",
        "hybrid with BM25",
    ]
    assert result.stages[0].mean["nDCG@10"] > 0.9  # the words are there for BM25 to find
    rows = result.encoder.encode(["word1 word2"])
    assert np.linalg.norm(rows) == pytest.approx(1, abs=1e-5)
    kept = load_encoder(tmp_path / "out" / "encoder").encode(["word1 word2"])
    np.testing.assert_allclose(kept, rows, atol=1e-5)


def test_a_folder_without_dev_gives_a_tenth_of_its_train_queries(beir):
    whole = sources.read(beir, max_documents=0, seed=0)
    divided = sources.with_dev(whole, seed=0)
    queries = {name: set(judged) for name, judged in divided.collection.qrels.items()}
    assert {name: len(ids) for name, ids in queries.items()} == {
        "train": 108,
        "dev": 12,
        "test": 40,
    }
    assert queries["train"] | queries["dev"] == set(whole.collection.qrels["train"])
    console = quiet()
    result = demo.run(beir, console=console)
    assert "its split dev is a tenth of the train queries" in console.file.getvalue()
    assert len(result.stages) == 4


def test_a_folder_without_a_train_split_is_refused(beir):
    (beir / "qrels" / "train.tsv").unlink()
    with pytest.raises(
        ValueError, match=r"has the splits test; the demo trains on qrels/train\.tsv"
    ):
        demo.run(beir, console=quiet())


def test_a_folder_that_holds_nothing_out_is_refused(beir):
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(ValueError, match=r"holds out nothing; add qrels/test\.tsv"):
        demo.run(beir, console=quiet())

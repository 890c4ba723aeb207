"""stope graph: the file that scipy reads, its ids and what is said of it."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from command import DOCUMENTS, call, folder, one_sentence, texts

sparse = pytest.importorskip("scipy.sparse", reason="needs the extra neighbors")

import stope
from stope.cli import corpus
from stope.neighbors import connected_components, neighbor_graph

FILES = ("corpus.jsonl", "--embeddings", "c.npy")


def test_scipy_reads_the_neighbours_of_every_document(call, folder):
    call("graph", *FILES, "-k", 4, "--kind", "directed")
    made = sparse.load_npz("graph.npz")
    scores = reference.canonical(np.load("c.npy"), np.load("c.npy"), "cosine")
    np.fill_diagonal(scores, -np.inf)
    for row in range(DOCUMENTS):
        nearest = np.argsort(-scores[row], kind="stable")[:4]
        assert set(made[row].indices) == set(nearest)
        np.testing.assert_array_equal(made[row].data, scores[row, made[row].indices])
    with np.load("graph.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == [f"d{row}" for row in range(DOCUMENTS)]


def test_with_a_cluster_the_cache_gets_no_folder_for_answers(tmp_path):
    """Ray's jobs keep their blocks beside the output."""
    context = SimpleNamespace(params={"cache": tmp_path / "cache", "ray": ""})
    assert corpus.operations(context) is stope
    assert not (tmp_path / "cache").exists()
    context.params["ray"] = None
    assert corpus.operations(context).folder == tmp_path / "cache" / "answers"


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"kind": "mutual", "weights": "distance"},
        {"metric": "euclidean", "weights": "connectivity"},
        {"metric": "dot", "kind": "mutual"},
    ],
    ids=str,
)
def test_every_option_reaches_the_graph_and_counts_are_true(call, folder, chosen):
    options = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    call("graph", "c.npy", "-k", 3, *options, "-o", "g.npz", "--summary", "counts.json")
    made, want = sparse.load_npz("g.npz"), neighbor_graph(np.load("c.npy"), 3, **chosen)
    assert (made != want).nnz == 0
    assert made.nnz == want.nnz
    counts = json.loads((folder / "counts.json").read_text())
    degrees = np.diff(want.indptr)
    assert counts["edges"] == want.nnz // 2
    assert counts["connected_parts"] == connected_components(want).number
    assert counts["documents_without_an_edge"] == (degrees == 0).sum()
    assert counts["most_edges_of_one_document"] == degrees.max()


def test_it_shows_the_hubs(call, folder):
    done = call("graph", *FILES, "-k", 3)
    degrees = np.diff(sparse.load_npz("graph.npz").indptr)
    assert f"d{degrees.argmax()} " in done.stdout.split("Most edges")[1]
    assert "weights in graph.npz" in done.stdout


def test_few_documents(call, folder):
    np.save("few.npy", np.eye(5, dtype=np.float32))
    call("graph", "few.npy")
    assert sparse.load_npz("graph.npz").nnz == 20  # all others, though all scores are 0
    said = one_sentence(call("graph", "few.npy", "-k", 5, code=1).stderr)
    assert said == "-k is 5 but each of 5 documents has 4 others; lower it."
    (folder / "one.txt").write_text("only one\n")
    said = one_sentence(call("graph", "one.txt", code=1).stderr)
    assert said == "one.txt has 1 document, which has no neighbours; give more."


def test_ids_that_an_array_would_change_are_refused(call, folder):
    (folder / "nul.jsonl").write_text('{"_id": "a\\u0000", "text": "b"}\n{"_id": "c", "text": "d"}')
    np.save("two.npy", np.eye(2, dtype=np.float32))
    done = call("graph", "nul.jsonl", "--embeddings", "two.npy", code=1)
    assert "an id ends in the character NUL" in one_sentence(done.stderr)
    done = call("graph", "c.npy", "--metric", "dot", "--weights", "distance", code=2)
    assert "dot products are no distances" in done.stderr

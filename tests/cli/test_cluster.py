"""stope cluster: every document with its cluster, the centers, and what is said of them."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json

import numpy as np
import pytest
from command import DOCUMENTS, call, folder, one_sentence, texts

import stope
from stope.data import read_jsonl

FILES = ("corpus.jsonl", "--embeddings", "c.npy")


@pytest.mark.parametrize(
    "chosen",
    [{}, {"metric": "euclidean", "init": "random"}, {"seed": 4, "max_iterations": 2}],
    ids=str,
)
def test_clusters_and_centers_are_those_of_kmeans(call, folder, chosen):
    options = [
        word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    call("cluster", *FILES, "-k", 9, *options, "--centers", "m.npy", "--summary", "counts.json")
    want = stope.kmeans(np.load("c.npy"), 9, **{"metric": "cosine", **chosen})
    rows = list(read_jsonl(folder / "clusters.jsonl"))
    assert [row["document_id"] for row in rows] == [f"d{row}" for row in range(DOCUMENTS)]
    assert [row["cluster"] for row in rows] == want.labels.tolist()
    np.testing.assert_array_equal([row["score"] for row in rows], want.scores)
    np.testing.assert_array_equal(np.load("m.npy"), want.centers)
    counts, sizes = json.loads((folder / "counts.json").read_text()), np.bincount(want.labels)
    assert counts["documents_of_the_largest"] == sizes.max()
    assert counts["documents_of_the_smallest"] == sizes.min()
    assert counts["inertia"] == want.inertia[-1]
    assert counts["converged"] == want.converged


def test_the_largest_cluster_is_shown_by_its_nearest_documents(call, folder, texts):
    done = call("cluster", *FILES, "-k", 4)
    made = stope.kmeans(np.load("c.npy"), 4, metric="cosine")
    largest = np.bincount(made.labels).argmax()
    members = np.flatnonzero(made.labels == largest)
    nearest = members[made.scores[members].argmax()]
    assert texts[1][nearest][:20] in done.stdout
    assert "150 documents in clusters.jsonl" in done.stdout


def test_odd_results_are_explained(call, folder):
    done = call("cluster", "c.npy", "-k", 20, "--max-iterations", 1)
    assert "documents still changed clusters after 1 rounds" in done.stderr
    np.save("equal.npy", np.float32([[1, 0], [1, 0], [1, 0], [0, 1]]))
    done = call("cluster", "equal.npy", "-k", 3)
    assert "clusters without documents: k-means found fewer places" in done.stderr
    shown = done.stdout.split("Largest clusters")[1].splitlines()
    assert sum(line.startswith("│") for line in shown) == 2  # the empty one is not among them
    np.save("one.npy", np.ones((1, 4), np.float32))
    call("cluster", "one.npy", "-k", 1)
    rows = list(read_jsonl(folder / "clusters.jsonl"))
    assert [(row["document_id"], row["cluster"]) for row in rows] == [("0", 0)]


def test_it_says_what_is_wrong(call, folder):
    said = one_sentence(call("cluster", "c.npy", "-k", 151, code=1).stderr)
    assert said == "-k is 151 but c.npy has 150 documents; lower it."
    assert "Missing option" in call("cluster", "c.npy", code=2).stderr
    said = one_sentence(call("cluster", "c.npy", "-k", 3, "--centers", "c.npy", code=1).stderr)
    assert "cannot write c.npy: it is read or written already" in said
    assert not (folder / "clusters.jsonl").exists()

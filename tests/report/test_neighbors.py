"""Pages of dedup, select, graph and cluster: their tables and figures are what was decided."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json
import re

import numpy as np
import pytest
from command import call, folder, one_sentence, texts

import stope
from stope.neighbors import BenchmarkTargeted, CraftMix
from stope.report import neighbors as pages

X = np.random.default_rng(0).standard_normal((12, 6), dtype=np.float32)
DOCUMENTS = pages.Documents([f"d{row}" for row in range(12)], [f"text {row}" for row in range(12)])


def rows_of(table):
    return [[column.cell(row) for column in table.columns] for row in range(len(table))]


def section(page, title):
    return next(part for part in page.sections if part.title == title)


def test_duplicates_are_listed_by_group_with_what_stays_below():
    keepers = np.array([0, 0, 0, 3, 3, 5, 6, 7, 8, 9, 10, 11])
    scores = np.full(12, -np.inf, np.float32)
    scores[[1, 4]] = 0.95, 0.91  # row 2 is a copy
    nearest, before = np.arange(-1, 11), np.full(12, 0.5, np.float32)
    nearest[2], before[[0, 2]] = -1, -np.inf
    before[[1, 4, 6, 7]] = 0.95, 0.91, 0.89, 1.0000001
    made = pages.Duplicates(keepers, scores, nearest, before, 0.9)
    page = pages.duplicates_page("Of a test.", DOCUMENTS, {"documents": 12}, made)
    assert rows_of(section(page, "Groups").table) == [
        [3, "d0", "text 0", "d1", "text 1", np.float32(0.95), "cosine"],
        [3, "d0", "text 0", "d2", "text 2", -np.inf, "same text"],
        [2, "d3", "text 3", "d4", "text 4", np.float32(0.91), "cosine"],
    ]
    below = rows_of(section(page, "Below the threshold").table)
    assert below[0] == ["d5", "text 5", "d6", "text 6", np.float32(0.89)]
    assert "d5" not in [row[2] for row in below]  # what it is near to goes itself
    (figure,) = section(page, "Similarity").figures
    assert {s.name: sum(s.y) for s in figure.series} == {
        "below": 7,
        "at the threshold and above": 3,
    }
    for series in figure.series:  # no bar has both
        filled = np.asarray(series.x)[:-1][np.asarray(series.y) > 0] >= 0.9
        assert (filled == (series.name != "below")).all()
    assert figure.rules == {"threshold 0.9": 0.9}
    (groups,) = section(page, "Groups").figures
    assert groups.numbers()[1] == [["2", "1"], ["3", "1"]]
    assert page.facts() == {"documents": "12"}


def test_what_was_chosen_is_told_with_its_reasons():
    examples = pages.Documents(["q0", "q1"], None)
    chosen = BenchmarkTargeted(X[:2])(X, 4)
    page = pages.selection_page("Of a test.", DOCUMENTS, {}, chosen, examples)
    table = section(page, "Chosen").table
    assert [column.name for column in table.columns] == [
        "rank", "document", "document: text", "score", "rank for the example", "example",
    ]  # fmt: skip
    for rank, row in enumerate(rows_of(table)):
        assert row[:3] == [rank + 1, f"d{chosen.ids[rank]}", f"text {chosen.ids[rank]}"]
        assert row[4:] == [chosen.reasons["rank"][rank], f"q{chosen.reasons['target'][rank]}"]
    assert np.signbit(table.columns[3].values[0]) == np.False_  # no -0
    brought = dict(section(page, "Chosen").figures[1].numbers()[1])
    assert sum(map(int, brought.values())) == 4
    mixed = CraftMix(X[:2])(X, 6)
    page = pages.selection_page("Of a test.", DOCUMENTS, {}, mixed, examples)
    told = [row[-1] for row in rows_of(section(page, "Chosen").table)]
    assert told == [f"q{e}" if e >= 0 else "" for e in mixed.reasons["few_shot"]]


def test_graphs_and_clusters_name_the_documents_in_their_midst():
    pytest.importorskip("scipy", reason="needs the extra neighbors")
    from stope.neighbors import connected_components, neighbor_graph

    graph = neighbor_graph(X, 2, kind="directed")
    parts = connected_components(graph).labels
    page = pages.graph_page("Of a test.", DOCUMENTS, {}, graph, parts)
    rows, best = rows_of(section(page, "Documents").table), stope.knn_graph(X, 1, metric="cosine")
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    for name, _, edges, part, other, _, weight in rows:
        row = int(name[1:])
        assert (edges, part) == ((graph.indices == row).sum(), parts[row])
        assert (other, weight) == (f"d{best.ids[row, 0]}", best.scores[row, 0])
    made = stope.kmeans(X, 3, metric="cosine")
    page = pages.clusters_page("Of a test.", DOCUMENTS, {}, made)
    for cluster, size, mean, near, _, far, _ in rows_of(section(page, "Clusters").table):
        members = np.flatnonzero(made.labels == cluster)
        assert size == len(members)
        assert mean == pytest.approx(made.scores[members].mean())
        assert near == f"d{members[made.scores[members].argmax()]}"
        assert far == f"d{members[made.scores[members].argmin()]}"


def test_a_long_table_says_what_it_leaves_out_and_texts_are_cut(monkeypatch):
    monkeypatch.setattr(pages, "_MOST_ROWS", 5)
    monkeypatch.setattr(pages, "_LETTERS", 4)
    made = stope.kmeans(X, 9, init=X[:9])
    page = pages.clusters_page("Of a test.", DOCUMENTS, {}, made)
    clusters = section(page, "Clusters")
    assert len(clusters.table) == 5
    assert clusters.missing == ("The table holds the first 5 of 9 rows.",)
    assert clusters.table.columns[4].cell(0) == "text"


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("dedup", ("--threshold", 0.5)),
        ("select", ("-n", 5, "--for", "q.npy")),
        ("graph", ()),
        ("cluster", ("-k", 3)),
    ],
)
def test_every_command_writes_a_page_and_one_object(call, folder, command, more):
    pytest.importorskip("vl_convert", reason="needs the extra report")
    pytest.importorskip("scipy", reason="needs the extra neighbors")
    files = ("corpus.jsonl", "--embeddings", "c.npy", *more)
    done = call(command, *files, "--report", "page.html", "--json", "--summary", "counts.json")
    assert json.loads(done.stdout) == json.loads((folder / "counts.json").read_text())
    text = (folder / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["figures"]
    assert data["tables"]
    assert f"stope {command} of corpus.jsonl" in text
    said = one_sentence(call(command, *files, "--report", "page.txt", code=1).stderr)
    assert said == "cannot write page.txt: its name must end in .html."

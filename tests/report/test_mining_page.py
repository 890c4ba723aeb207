"""What the page of a mining table says, against loops over the same rows, from every form of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra report")

import pyarrow.parquet

from stope.data import FORMATS, Layout, Pairs, read_exclusions
from stope.mining import Limits, MiningJob, mine
from stope.report import of_table
from stope.report.mining import _LETTERS


def embedded(seed=0, queries=40, documents=90):
    """Queries of one or two positives, which are often not the nearest, and embeddings."""
    random = np.random.default_rng(seed)
    texts = [f"document {n} " + "ore " * (n % 7) for n in range(documents)]
    texts[85] = "Document 0."  # the letters of the first, and another document
    corpus = random.standard_normal((documents, 8), dtype=np.float32)
    rows = [[n, n + 40] if n % 2 else [n] for n in range(queries)]
    noise = random.standard_normal((queries, 8), np.float32)
    asked = corpus[[first for first, *_ in rows]] + np.float32(0.6) * noise
    answers = [[texts[row] for row in two] for two in rows]
    return Pairs.from_texts([f"query {n}" for n in range(queries)], answers, texts), asked, corpus


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """A folder with a job, ids and training rows of the same negatives; and the pairs."""
    folder = tmp_path_factory.mktemp("mined")
    pairs, queries, corpus = embedded()
    limits = Limits(num_negatives=4, max_score=0.9)
    embeddings = {"query_embeddings": queries, "corpus_embeddings": corpus}
    MiningJob(folder / "job", pairs, **embeddings, limits=limits).run()
    result = mine(pairs, **embeddings, limits=limits)
    with (folder / "ids.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in result.rows())
    for format in FORMATS:
        result.export(folder / f"{format}.jsonl", format, scores=True)
        result.export(folder / f"{format}.plain.parquet", format)
    return folder, pairs, result


def section(page, title):
    return next(each for each in page.sections if each.title.startswith(title))


def listed(page):
    table = section(page, "Suspected").table
    columns = {column.name: column for column in table.columns}
    rows = range(len(table))
    return {name: [column.cell(row) for row in rows] for name, column in columns.items()}


def by_loops(result, near=0.05):
    """Facts of negatives, one by one."""
    pairs, above, close, margins = result.pairs, 0, 0, []
    answers = iter(result.positive_scores.tolist())
    for query, row in enumerate(result.result.ids):
        lowest = min(next(answers) for _ in pairs.positives.row(query))
        for place, document in enumerate(row):
            if document >= 0:
                score = float(result.result.scores[query, place])
                above += score >= lowest
                close += lowest - near * abs(lowest) < score < lowest
                margins.append(lowest - score)
    return above, close, margins


def test_a_job_says_what_loops_say(mined):
    folder, pairs, result = mined
    page = of_table(folder / "job", pairs)
    above, close, margins = by_loops(result)
    total, facts = len(margins), page.facts()
    assert 0 < above < total
    assert close > 0
    assert facts["negatives that score as high as a positive"].startswith(f"{above} of {total} (")
    assert facts["negatives up to 5% below it"].startswith(f"{close} of {total} (")
    assert facts["margin, median (5% to 95%)"].startswith(f"{np.median(margins):.4g} (")
    assert (facts["queries"], facts["positives"]) == ("40", "60")
    assert facts["documents in the corpus"] == str(len(pairs.corpus_ids))
    assert facts["queries without negatives"] == "0"
    counts = json.loads((folder / "job/job.json").read_text())["counts"]
    away = sum(numbers.get("max_score", 0) for numbers in counts.values())
    assert facts["turned away: max score"] == str(away)
    scores = section(page, "Scores").figures[0]
    assert [int(np.sum(each.y)) for each in scores.series] == [60, total]
    assert int(section(page, "Negatives per query").figures[0].series[0].y.sum()) == 40
    cells = section(page, "Exposure").table.columns[1:]
    assert sum(int(np.sum(column.values)) for column in cells) == len(pairs.corpus_ids)


def test_rows_stand_beside_the_positive_they_were_compared_with(mined):
    folder, pairs, result = mined
    rows = listed(of_table(folder / "job", pairs))
    scores = dict(zip(zip(pairs.positives.owners, pairs.positives.ids, strict=True),
                      result.positive_scores, strict=True))  # fmt: skip
    query_of = {name: row for row, name in enumerate(pairs.query_ids)}
    row_of = {name: row for row, name in enumerate(pairs.corpus_ids)}
    for n, name in enumerate(rows["query id"]):
        query, positive = query_of[name], row_of[rows["positive id"][n]]
        lowest = min(pairs.positives.row(query), key=lambda row, query=query: scores[query, row])
        assert rows["query"][n] == pairs.query_texts[query]
        if "same text" not in rows["suspicion"][n]:
            assert positive == lowest
        assert rows["positive"][n] == pairs.corpus_texts[positive]
        assert rows["document"][n] == pairs.corpus_texts[row_of[rows["document id"][n]]]
        assert rows["positive's score"][n] == pytest.approx(scores[query, lowest])
        assert rows["margin"][n] == pytest.approx(rows["positive's score"][n] - rows["score"][n])
    kept = np.array(rows["reason"]) == "kept"
    suspected = np.array(rows["suspicion"]) != ""
    state = np.where(kept & suspected, 0, np.where(~kept, 1, 2))
    assert state.tolist() == sorted(state)  # what to look at comes first
    assert set(state) == {0, 1, 2}


def test_copies_of_a_positive_are_suspected(tmp_path):
    pairs, _, _ = embedded()
    rows = [("q0", pairs.corpus_ids[n]) for n in (85, 1, 2)]
    assert pairs.corpus_texts[85] == "Document 0."
    path = tmp_path / "ids.jsonl"
    path.write_text("".join(f'{{"query_id": "{q}", "document_id": "{d}"}}\n' for q, d in rows))
    page = of_table(path, pairs)
    assert page.facts()["suspected: same text"] == "1 of 3 (33.3%)"
    assert listed(page)["suspicion"] == ["same text", "", ""]
    assert listed(page)["positive"][0] == pairs.corpus_texts[0]
    # By ids alone a document that is a positive and a negative of a query is still seen.
    table = ["positive", "kept", "kept"]
    both = [
        {"query_id": "q", "document_id": d, "reason": r} for d, r in zip("aab", table, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in both))
    assert of_table(path).facts()["suspected: same text"] == "1 of 2 (50.0%)"


WITH_SCORES = ("triplet", "flagembedding", "tevatron")  # beside their labels, of every query


@pytest.mark.parametrize("name", ["ids", *WITH_SCORES])
def test_every_form_says_the_same(mined, name):
    folder, pairs, _ = mined
    facts = of_table(folder / f"{name}.jsonl", pairs).facts()
    # Which are not in the other forms; --ids has the lowest score alone.
    absent = ("turned away", "score of positives") if name == "ids" else ("turned away",)
    whole = of_table(folder / "job", pairs).facts()
    assert facts == {fact: text for fact, text in whole.items() if not fact.startswith(absent)}


def test_scores_that_are_labels_need_their_border(mined):
    path = mined[0] / "labeled-pair.jsonl"
    with pytest.raises(ValueError, match="min_relevance"):
        of_table(path)
    with pytest.raises(ValueError, match="has no positive"):
        of_table(path, layout=Layout(min_relevance=2))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    high = sorted(row["score"] for row in rows if row["score"] >= 0.6)
    scores = section(of_table(path, layout=Layout(min_relevance=0.6)), "Scores").figures[0]
    assert [int(np.sum(each.y)) for each in scores.series] == [len(high), len(rows) - len(high)]


def test_scores_go_to_the_documents_they_stand_for(mined, tmp_path):
    triplets = mined[0] / "triplet.jsonl"  # of which no label says anything
    plain = of_table(triplets)
    assert of_table(triplets, layout=Layout(min_relevance=0.5)).facts() == plain.facts()
    path = tmp_path / "lists.jsonl"
    row = {"query": "q", "documents": ["bad", "good", "worse"], "labels": [0, 1, 0]}
    path.write_text(json.dumps({**row, "scores": [0.5, 0.75, 0.25]}) + "\n")
    rows = listed(of_table(path))
    assert dict(zip(rows["document"], rows["score"], strict=True)) == {"bad": 0.5, "worse": 0.25}
    assert rows["positive's score"] == [0.75, 0.75]


def test_queries_of_equal_text_are_one_in_rows_of_texts(tmp_path):
    pairs = Pairs.from_texts(["ore?", "pit?"], ["a", "b"], ["a", "b", "c"], query_ids=["1", "2"])
    twice = dataclasses.replace(pairs, query_texts=["ore?", "ore?"])
    path = tmp_path / "rows.jsonl"
    row = {"query": "ore?", "positive": "a", "negative": "c"}
    path.write_text("".join(json.dumps({**row, "positive": name}) + "\n" for name in "ab"))
    page = of_table(path)
    assert page.facts()["queries"] == "1"
    assert "queries of equal text apart" in " ".join(section(page, "In short").missing)
    page = of_table(path, twice)
    notes = " ".join(section(page, "In short").missing)
    assert "1 query with the text of another" in notes
    assert page.facts()["queries without negatives"] == "1"
    assert listed(page)["query id"] == ["1"]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_missing_is_said_and_not_made_up(mined, format):
    folder, pairs, _ = mined
    page = of_table(folder / f"{format}.plain.parquet")
    notes = " ".join(section(page, "In short").missing)
    assert "no scores" in notes
    assert "not in training rows" in notes
    assert not any("score" in name or "margin" in name for name in page.facts())
    assert "score" not in listed(page)
    table = section(page, "Suspected").table
    assert bool(table.export) is (format == "tevatron")  # which has ids
    assert ("no ids" in notes) is (format != "tevatron")
    assert section(of_table(folder / f"{format}.plain.parquet", pairs), "Suspected").table.export


def test_scores_that_some_rows_lack_are_counted_and_said(tmp_path):
    nan = float("nan")
    columns = {
        "query_id": ["a", "a", "b", "b", "c"],
        "document_id": ["1", "2", "3", "4", "5"],
        "score": [0.5, 0.25, nan, 0.5, nan],
        "reason": ["positive", "kept", "positive", "kept", "kept"],
    }
    path = tmp_path / "some.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    page = of_table(path)
    assert "Not counted here: 2 negatives without a score" in section(page, "Margins").missing[0]
    assert int(np.sum(section(page, "Margins").figures[0].series[0].y)) == 1
    assert page.facts()["negatives that score as high as a positive"] == "0 of 3 (0.0%)"
    columns["score"] = [nan] * 5
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert "no scores" in " ".join(section(of_table(path), "In short").missing)


def test_ids_without_texts_say_so(mined):
    folder, pairs, _ = mined
    page = of_table(folder / "ids.jsonl")
    notes = " ".join(section(page, "In short").missing)
    assert "ids and no texts" in notes
    assert "turned away is not counted" in notes
    assert "does not name positives" in section(page, "Exposure").missing[0]
    assert set(listed(page)) == {
        *("suspicion", "query id", "document id", "score", "positive's score", "margin", "rank")
    }
    without = of_table(folder / "job/negatives.parquet").facts()
    assert {
        k: v for k, v in of_table(folder / "job", pairs).facts().items() if k in without
    } == without


def test_saved_ids_are_read_as_exclusions(mined, tmp_path):
    folder, pairs, _ = mined
    page = of_table(folder / "job", pairs)
    table, rows = section(page, "Suspected").table, listed(page)
    assert table.export == {"query_id": "query id", "document_id": "document id"}
    saved = tmp_path / table.export_name
    names = list(zip(rows["query id"], rows["document id"], strict=True))[:5]
    lines = [json.dumps({"query_id": query, "document_id": name}) for query, name in names]
    saved.write_text("\n".join(lines) + "\n")
    excluded = read_exclusions(saved, pairs).queries
    assert {(pairs.query_ids[q], pairs.corpus_ids[d])
            for q, d in zip(excluded.owners, excluded.ids, strict=True)} == set(names)  # fmt: skip


def test_hubs_are_negatives_of_many(tmp_path):
    rows = [{"query_id": f"q{n}", "document_id": "hub", "score": 0.5} for n in range(30)]
    rows += [{"query_id": f"q{n}", "document_id": f"d{n}", "score": 0.25} for n in range(29)]
    path = tmp_path / "ids.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hubs = section(of_table(path), "Hubs")
    assert hubs.facts == {"hubs": "1 (with 50.8% of the negatives)"}
    assert "at least 20 queries" in hubs.text[0]  # ten times 59 / 30
    assert [column.cell(0) for column in hubs.table.columns] == ["hub", 30, 0]
    assert hubs.table.export == {"document_id": "document id"}
    assert dict(zip(hubs.figures[0].series[0].x, hubs.figures[0].series[0].y, strict=True)) == {
        "1": 29, "2 to 3": 0, "4 to 7": 0, "8 to 15": 0, "16 to 31": 1,
    }  # fmt: skip


def test_only_so_many_rows_are_listed_and_long_texts_are_cut(mined):
    folder, pairs, _ = mined
    page = of_table(folder / "job", pairs, most_rows=7)
    assert len(section(page, "Suspected").table) == 7
    assert "Listed are 7 of" in section(page, "Suspected").missing[0]
    long = Pairs.from_texts(["q"], ["ore " * 500], ["ore " * 500, "pit " * 500])
    job = folder / "long.jsonl"
    job.write_text('{"query_id": "q0", "document_id": "d1", "score": 1}\n')
    assert {len(listed(of_table(job, long))[name][0]) for name in ("document", "positive")} == {
        _LETTERS + 1
    }


def test_faults_are_sentences(mined, tmp_path):
    folder = mined[0]
    others = Pairs.from_texts(["another"], ["text"])
    with pytest.raises(
        ValueError, match=r"names 40 queries that the pairs do not have, such as the"
    ):
        of_table(folder / "triplet.jsonl", others)
    with pytest.raises(ValueError, match=r"that the pairs do not have, such as the id 'q1'"):
        of_table(folder / "ids.jsonl", others)
    broken = tmp_path / "x.jsonl"
    for text, words in (
        ("", "has no rows"),
        ('{"query_id": "q", "document_id": null}\n', "has rows without document_id"),
        ('{"query_id": "", "document_id": "d"}\n', "has rows without query_id"),
        ('{"query_id": 3, "document_id": "d"}\n', "give what stope mine wrote"),
        ('{"query_id": "q", "document_id": "d", "score": "high"}\n', "give what stope mine wrote"),
        ('{"query_id": "q", "document_id": "d", "reason": "copy"}\n', "has no negative"),
        ('{"left": "q", "right": "d"}\n', "no query column"),
    ):
        broken.write_text(text)
        with pytest.raises(ValueError, match=words):
            of_table(broken)
    table = pyarrow.table({"query_id": ["q"], "document_id": ["d"], "score": [float("inf")]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has an infinite score; give finite numbers"):
        of_table(tmp_path / "x.parquet")
    with pytest.raises(
        ValueError, match=r"has no negatives\.parquet; give the folder of a job that"
    ):
        of_table(tmp_path)
    with pytest.raises(FileNotFoundError):
        of_table(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="near is 2"):
        of_table(folder / "ids.jsonl", near=2)

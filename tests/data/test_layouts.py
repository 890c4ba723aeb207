"""Rows of every layout: labels decide, negatives are read whole, ids are never made up."""

from __future__ import annotations

from collections import Counter

import pytest

from stope.data import (
    FORMATS,
    Layout,
    NegativeTable,
    Source,
    export_negatives,
    read_examples,
    read_pairs,
    read_queries,
    read_source,
    read_texts,
    write_jsonl,
)

# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["label", "Relevance", "grade", "is_relevant", "is_selected"])
@pytest.mark.parametrize("no", [0, "0", False, 0.0, -1])
def test_a_row_labelled_0_is_no_positive(column, no):
    rows = [
        {"query": "q", "document": "good", column: 1},
        {"query": "q", "document": "bad", column: no},
        {"query": "q", "document": "best", column: 2},
    ]
    skipped = Counter()
    assert list(read_pairs(rows, skipped=skipped)) == [("q", "good"), ("q", "best")]
    assert skipped == {"rows labelled as no answer": 1}
    assert [(e.positives, e.negatives) for e in read_examples(rows)][1] == ([], ["bad"])
    assert list(read_pairs(rows, layout=Layout(min_relevance=2))) == [("q", "best")]
    assert len(list(read_pairs(rows, layout=Layout(ignore_labels=True)))) == 3


def test_a_label_that_comes_late_counts():
    rows = [{"query": "q", "document": "a"}, {"query": "q", "document": "b", "label": 0}]
    assert list(read_pairs(rows)) == [("q", "a")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 0.6},
         'row 1: field "label" is 0.6, which is neither yes nor no; give the least'),
        ({"label": "entailment"}, "'entailment' stands in the column \"label\"; give a finite num"),
        ({"label": None}, 'None stands in the column "label"'),
        ({"label": [1, 0]}, 'field "label" has 2 labels for 1 texts'),
        ({"score": 0.93}, 'the column "score" may say which documents answer; give the least sco'),
        ({"similarity": 4}, 'the column "similarity" may say'),
    ],
)  # fmt: skip
def test_a_label_that_says_neither_is_refused(row, message):
    rows = [{"query": "q", "document": "d", **row}]
    with pytest.raises(ValueError, match=message):
        list(read_pairs(rows))
    assert list(read_pairs(rows, layout=Layout(ignore_labels=True))) == [("q", "d")]


@pytest.mark.parametrize(("yes", "no"), [(1, 0), ("True", "False"), (" yes", "NO "), (1.0, 0.0)])
def test_a_column_of_yes_and_no_that_nobody_named_is_refused(yes, no):
    rows = [{"query": f"q{n}", "document": f"d{n}", "gold": [yes, no][n == 2]} for n in range(4)]
    with pytest.raises(ValueError, match='row 3: the column "gold", which says yes in some rows'):
        list(read_pairs(rows))
    for layout in (Layout(ignore_labels=True), Layout(numbers=("gold",))):
        assert len(list(read_pairs(rows, layout=layout))) == 4
    named = [{**row, "gold": str(row["gold"])} for row in rows]
    assert len(list(read_pairs(named, layout=Layout(query_id_column="gold")))) == 4
    assert len(list(read_pairs([{**row, "neg": "x"} for row in rows]))) == 4  # not a labelled pair
    assert len(list(read_pairs([*rows, {**rows[0], "gold": "perhaps"}]))) == 5
    assert len(list(read_pairs(rows[:2]))) == 2


def test_scores_are_labels_where_the_border_is_known():
    rows = [{"query": "q", "document": f"d{n}", "score": n / 4} for n in range(5)]
    pairs = list(read_pairs(rows, layout=Layout(min_relevance=0.5)))
    assert pairs == [("q", "d2"), ("q", "d3"), ("q", "d4")]
    assert len(list(read_pairs(rows, layout=Layout(numbers=("score",))))) == 5
    with pytest.raises(ValueError, match="ignore_labels is set beside min_relevance; keep one"):
        Layout(ignore_labels=True, min_relevance=1)


def test_no_row_that_is_a_pair_is_said(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"query": "q", "document": "d", "label": 0}])
    with pytest.raises(ValueError, match=r"holds no pairs \(1 row labelled as no answer\)"):
        list(read_pairs(tmp_path / "p.jsonl"))
    with pytest.raises(ValueError, match=r"holds no pairs \(1 row labelled as no answer\)"):
        read_source(Source(tmp_path / "p.jsonl"))


# --- what one command writes the next reads whole ---------------------------------------------


def negative_table():
    return NegativeTable(
        ["a", "b", "c"],
        ["ore?", "pit?", "sea?"],
        [f"d{n}" for n in range(9)],
        [f"text {n}" for n in range(9)],
        positives=[[0, 1], [2], [3]],
        negatives=[[4, 5, 6], [7, 8, 4], [0, 1, 2]],
        positive_scores=[[0.9, 0.8], [0.7], [0.6]],
        negative_scores=[[0.5, 0.4, 0.3]] * 3,
    )


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_whole(tmp_path, format, scores, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    table = negative_table()
    path = tmp_path / f"rows.{ending}"
    export_negatives(path, format, table, scores=scores)
    if scores and format.startswith("labeled"):  # scores take the place of the labels
        with pytest.raises(ValueError, match=r"may say which documents answer.*min_relevance"):
            read_source(Source(path))
        data = read_source(Source(path, min_relevance=0.55))
    else:
        data = read_source(Source(path))
    pairs = data.pairs
    assert pairs.query_texts == table.query_texts
    read = {
        (pairs.query_texts[query], pairs.corpus_texts[row]): texts
        for query, row, texts in zip(
            pairs.positives.owners, pairs.positives.ids, data.negatives, strict=True
        )
    }
    texts = table.document_texts
    assert read == {
        (table.query_texts[query], texts[positive]): [texts[n] for n in table.negatives_of(query)]
        for query in range(3)
        for positive in table.positives_of(query)
    }
    if format == "tevatron":
        assert pairs.query_ids == ["a", "b", "c"]
        assert pairs.corpus_ids == ["d0", "d1", "d2", "d3"]


@pytest.mark.parametrize(
    "names",
    [["neg"], ["negative"], ["negatives"], ["hard_negatives"], ["negative_passages"],
     ["negative_1", "negative_2"], ["neg1", "neg2"], ["hard_negative_2", "hard_negative_10"],
     ["hard_negative_ctxs"], ["negative_text_1", "negative_text_2"]],
)  # fmt: skip
def test_negatives_under_every_usual_name(names):
    texts = [f"n{place}" for place in range(2)]
    cells = dict(zip(names, texts, strict=True)) if len(names) == 2 else {names[0]: texts}
    example = next(read_examples([{**cells, "query": "q", "positive": "p"}]))
    assert example.negatives == texts


def test_negatives_of_unequal_number_are_filled_up_and_that_is_said(tmp_path):
    rows = [{"query": f"q{n}", "positive": f"p{n}", "neg": ["x", "y", "z"][: n % 4]}
            for n in range(8)]  # fmt: skip
    rows.append({"query": "q3", "positive": "p3", "neg": ["P3 ", "x", "w"]})
    write_jsonl(tmp_path / "p.jsonl", rows)
    data = read_source(Source(tmp_path / "p.jsonl"))
    assert data.negatives[3] == ["x", "y", "z", "w"]
    assert data.left_out["negatives among the positives of their query"] == 1
    assert "with 0 to 4 negatives each" in data.described()
    assert "left out: 1 negative among the positives of their query" in data.described()
    filled, added = data.filled_negatives(seed=1)
    assert added == 4 * 8 - sum(map(len, data.negatives))
    assert {len(texts) for texts in filled} == {4}
    for query, texts, before in zip(range(8), filled, data.negatives, strict=True):
        assert texts[: len(before)] == before
        assert f"p{query}" not in texts
        assert len(set(texts)) == 4
    assert data.filled_negatives(seed=1)[0] == filled
    left = read_source(Source(tmp_path / "p.jsonl", negatives="leave"))
    assert left.negatives is None
    assert "negatives of the file" in left.described()


def test_rows_of_queries_without_a_positive_are_counted(tmp_path):
    rows = [
        {"query": "q", "document": "d", "label": 1},
        {"query": "r", "document": "e", "label": 0},
    ]
    write_jsonl(tmp_path / "p.jsonl", rows)
    data = read_source(Source(tmp_path / "p.jsonl"))
    assert data.pairs.query_texts == ["q"]
    assert "1 query without a positive" in data.described()


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_id", "id", "qid", "query_id", "query-id", "Query_ID"])
def test_usual_names_of_query_ids(name):
    assert read_queries([{name: "x7", "query": "q"}], ids="needed") == (["x7"], ["q"])


@pytest.mark.parametrize(
    "name",
    ["_id", "id", "docid", "doc_id", "document_id", "corpus-id", "corpus_id", "pid", "passage_id"],
)
def test_usual_names_of_document_ids(name):
    assert read_texts([{name: 7, "text": "t"}], ids="needed") == (["7"], ["t"])


def test_ids_are_not_made_up_where_they_join_files():
    rows = [{"key": "k1", "query": "q"}]
    with pytest.raises(ValueError, match=r'no id column among "key", "query"; name it with query_'):
        read_queries(rows, ids="needed")
    with pytest.raises(ValueError, match=r'no id column among "key", "text"; name it with id_col'):
        read_texts([{"key": "k1", "text": "t"}], ids="needed")
    assert read_queries(rows, query_id_column="key", ids="needed") == (["k1"], ["q"])
    assert read_queries(rows) == (["0"], ["q"])
    assert read_texts([{"text": "t"}], ids="needed")[0] == ["0"]  # nothing else could be an id
    with pytest.raises(ValueError, match="no id column"):
        read_texts([{"text": "t"}], ids="named")


def test_judgements_join_queries_and_documents_by_id(tmp_path):
    write_jsonl(
        tmp_path / "q.jsonl", [{"query_id": "7", "text": "a"}, {"query_id": 8, "text": "b"}]
    )
    write_jsonl(tmp_path / "c.jsonl", [{"docid": "x", "text": "c"}, {"docid": "y", "text": "d"}])
    (tmp_path / "qrels").write_text("8 0 y 1\n7 0 x 0\n")
    source = Source(tmp_path / "q.jsonl", corpus=tmp_path / "c.jsonl", qrels=tmp_path / "qrels")
    pairs = read_source(source).pairs
    assert (pairs.query_ids, pairs.positives.ids.tolist()) == (["8"], [1])
    (tmp_path / "qrels").write_text("8 0 y 1\n0 0 x 1\n")
    with pytest.raises(ValueError, match=r"judges query '0', which is not in .*q\.jsonl"):
        read_source(source)
    write_jsonl(tmp_path / "q.jsonl", [{"text": "a"}])
    with pytest.raises(ValueError, match="no id column among"):
        read_source(source)


def test_positives_that_are_ids(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [{"pid": n, "title": "T", "text": f"t{n}"} for n in range(4)])
    rows = [{"query_id": "a", "query": "q", "positive_document_ids": [2], "negative_ids": ["3"]}]
    write_jsonl(tmp_path / "p.jsonl", rows)
    source = Source(
        tmp_path / "p.jsonl", corpus=tmp_path / "c.jsonl", positive_ids=True, negatives="leave"
    )
    pairs = read_source(source).pairs
    assert [pairs.corpus_texts[row] for row in pairs.positives.ids] == ["T t2"]
    assert pairs.query_ids == ["a"]
    write_jsonl(tmp_path / "p.jsonl", [{"query": "q", "positive_id": "9"}])
    with pytest.raises(ValueError, match=r"p\.jsonl:1: names the positive '9', an id that the cor"):
        read_source(source)


def test_ids_are_not_read_as_texts(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [{"_id": f"d{n}", "text": f"t{n}"} for n in range(4)])
    write_jsonl(tmp_path / "p.jsonl", [{"query": "q", "answer": "d2"}])
    with pytest.raises(ValueError, match=r"are ids of the corpus, such as 'd2'; give positive_ids"):
        read_source(Source(tmp_path / "p.jsonl", corpus=tmp_path / "c.jsonl"))
    write_jsonl(tmp_path / "c.jsonl", [{"_id": "d2", "text": "pit"}, {"_id": "x", "text": "D2"}])
    pairs = read_source(Source(tmp_path / "p.jsonl", corpus=tmp_path / "c.jsonl")).pairs
    assert [pairs.corpus_ids[row] for row in pairs.positives.ids] == ["x"]


def test_lines_of_one_query_may_repeat_its_id(tmp_path):
    rows = [{"qid": 7, "query": "q", "positive": text} for text in ("a", "b")]
    write_jsonl(tmp_path / "p.jsonl", [*rows, {"qid": 8, "query": "r", "positive": "c"}])
    assert read_source(Source(tmp_path / "p.jsonl")).pairs.query_ids == ["7", "8"]
    write_jsonl(tmp_path / "p.jsonl", [*rows, {"qid": 7, "query": "r", "positive": "c"}])
    with pytest.raises(ValueError, match=r"p\.jsonl: the id '7' stands for two queries; keep one"):
        read_source(Source(tmp_path / "p.jsonl"))


def test_one_id_for_two_texts_is_refused(tmp_path):
    passages = [[{"docid": "d", "text": text}] for text in ("one", "two")]
    rows = [{"query": f"q{n}", "positive_passages": each} for n, each in enumerate(passages)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(ValueError, match="the id 'd' stands for two texts; keep one"):
        read_source(Source(tmp_path / "p.jsonl"))


# --- empty rows, many columns -------------------------------------------------------------------


def test_rows_without_text_are_left_out_when_asked(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("query\tpositive\na\tb\n\t\nc\t \nd\te\n")
    with pytest.raises(ValueError, match=r'p\.tsv:3: field "query" is empty'):
        read_source(Source(path))
    data = read_source(Source(path, skip_empty=True))
    assert data.pairs.query_texts == ["a", "d"]
    assert "left out: 2 rows without text" in data.described()
    skipped = Counter()
    rows = [{"text": "a"}, {"text": None}, {"text": " "}, {"text": "b"}]
    assert read_texts(rows, skip_empty=True)[0] == ["0", "3"]
    read_queries(rows, skip_empty=True, skipped=skipped)
    assert skipped == {"rows without text": 2}


def test_many_columns_take_no_time(tmp_path):
    names = [f"column {n}" for n in range(100_000)]
    path = tmp_path / "p.tsv"
    path.write_text("\t".join([*names, "query", "positive"]) + "\n" + "\t".join([*names, "a", "b"]))
    assert list(read_pairs(path)) == [("a", "b")]
    with pytest.raises(ValueError, match="no query column among") as caught:
        list(read_pairs([dict.fromkeys(names, "x")]))
    assert len(str(caught.value)) < 1000
    assert "and 99,980 more" in str(caught.value)

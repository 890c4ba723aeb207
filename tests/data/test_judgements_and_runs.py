"""Judgements and runs: what is written is read back, and what is wrong is told with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.data import read_qrels, read_run, write_jsonl, write_qrels, write_run

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\ufeff"),
    min_size=1,
    max_size=6,
)
relevances = st.dictionaries(
    names, st.dictionaries(names, st.integers(-3, 999), min_size=1, max_size=4), max_size=4
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(qrels=relevances, format=st.sampled_from(["beir", "trec"]))
def test_qrels_round_trip(qrels, format, tmp_path_factory):
    path = tmp_path_factory.mktemp("qrels") / "test.tsv"
    write_qrels(qrels, path, format=format)
    assert read_qrels(path) == qrels


@given(run=st.dictionaries(names, st.dictionaries(names, finite, min_size=1), max_size=4))
def test_run_round_trip_and_order(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.txt.gz"
    write_run(run, path)
    after = read_run(path)
    assert after == run
    for retrieved in after.values():
        order = list(retrieved.items())
        assert order == sorted(order, key=lambda item: (-item[1], item[0]))


def test_qrels_layouts(tmp_path):
    path = tmp_path / "qrels"
    for content in ("q1\td 1\t1\n", "query-id\tcorpus-id\tscore\nq1\td 1\t1\n"):
        path.write_text(content)
        assert read_qrels(path) == {"q1": {"d 1": 1}}
    for content in ("q1 0 d1 1\n", "\nq1\t0\td1\t1\n", "q1   Q0  d1   1  \r\n"):
        path.write_text(content)
        assert read_qrels(path) == {"q1": {"d1": 1}}
    path.write_text("")
    assert read_qrels(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1 0 d1\n",
         "qrels:1: expected 4 columns .query, iteration, document, relevance., but found 3"),
        ("q1 0 d1 1\nq1 0 d2 1.5\n",
         'qrels:2: the relevance is "1.5", which is not a whole number'),
        ("q1 0 d1 1\nq1 0 d2 1_0\n", 'qrels:2: the relevance is "1_0"'),
        ("q1 0 d1 1\nq1 0 d1 2\n",
         'qrels:2: document "d1" is judged twice for query "q1", as 1 and as 2; keep one'),
        ("q1\t\t1\n", "qrels:1: an id is empty"),
        ("query-id\tcorpus-id\n", "qrels:1: expected 3 columns"),
        ("q1 Q0 d1 1 0.5\n", "run:1: expected 6 columns .* but found 5"),
        ("q1 Q0 d1 1 high tag\n", 'run:1: the score is "high", which is not a finite number'),
        ("q1 Q0 d1 1 2 t\nq1 Q0 d2 2 nan t\n", 'run:2: the score is "nan"'),
        ("q1 Q0 d1 1 1_0 t\n", 'run:1: the score is "1_0"'),
        ("q1 Q0 d1 1 \u0661\u0662 t\n", "run:1: the score is"),
        ("q1 Q0 d1 1 2 t\nq1 Q0 d1 2 1 t\n", 'run:2: document "d1" is retrieved twice'),
    ],
)  # fmt: skip
def test_malformed_lines(tmp_path, content, message):
    kind = message.split(":")[0]
    (tmp_path / kind).write_text(content)
    with pytest.raises(ValueError, match=message):
        {"qrels": read_qrels, "run": read_run}[kind](tmp_path / kind)


def test_equal_judgements_and_integral_grades_are_accepted(tmp_path):
    path = tmp_path / "qrels"
    path.write_text("q1 0 d1 1\nq1 0 d1 1\nq1 0 d2 2.0\n")
    assert read_qrels(path) == {"q1": {"d1": 1, "d2": 2}}


def test_what_a_file_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "file"
    for write in (lambda: write_run({"q 1": {"d": 1.0}}, path),
                  lambda: write_run({"q": {"": 1.0}}, path),
                  lambda: write_run({}, path, tag="my run"),
                  lambda: write_qrels({"q": {"d 1": 1}}, path, format="trec"),
                  lambda: write_qrels({"q": {"d\t1": 1}}, path)):  # fmt: skip
        with pytest.raises(ValueError, match="cannot be written to this file"):
            write()
    with pytest.raises(ValueError, match='score of document "d" for query "q" is nan'):
        write_run({"q": {"d": float("nan")}}, path)
    with pytest.raises(TypeError, match="must be a whole number"):
        write_qrels({"q": {"d": 0.5}}, path)
    with pytest.raises(ValueError, match="it may be at most 999999999"):
        write_qrels({"q": {"d": 10**9}}, path)
    with pytest.raises(ValueError, match="format is 'csv'"):
        write_qrels({}, path, format="csv")
    assert not path.exists()


def test_a_run_of_json_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    rows = [{"query_id": "a b", "document_id": "x", "rank": 1, "score": 2.5}]
    write_jsonl(path, [*rows, {"query_id": 7, "document_id": "y z", "score": 1}])
    assert read_run(path) == {"a b": {"x": 2.5}, "7": {"y z": 1.0}}
    for row, message in (
        ({"query_id": "q", "document_id": "x"}, 'field "score" is missing'),
        ({"query_id": "q", "document_id": "x", "score": "1"}, 'field "score" must be a number'),
        (rows[0], 'document "x" is retrieved twice for query "a b"'),
    ):
        write_jsonl(path, [*rows, row])
        with pytest.raises(ValueError, match=rf"run\.jsonl:2: {message}"):
            read_run(path)


@pytest.mark.parametrize("header", ["query-id\tscore\tcorpus-id", "qid\trelevance\tdoc"])
def test_a_header_in_another_order_is_refused(tmp_path, header):
    (tmp_path / "qrels.tsv").write_text(f"{header}\n1\t1\t7\n")
    with pytest.raises(ValueError, match=r"qrels.tsv:1: the header's columns are q"):
        read_qrels(tmp_path / "qrels.tsv")


@pytest.mark.parametrize(
    ("ranks", "scores", "refused"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.2], True),  # distances
        ([3, 2, 1], [0.9, 0.5, 0.1], True),
        ([1.0, 2.0, 3.0], [0.1, 0.2, 0.2], True),  # as pandas writes them beside gaps
        ([0, 0, 0], [0.1, 0.2, 0.3], False),  # no ranks
        ([1, 2, 3], [0.3, 0.2, 0.1], False),
        ([1, 2, 3], [0.1, 0.3, 0.2], False),  # in no order
        ([1, 2, 3], [0.5, 0.5, 0.5], False),
    ],
)
def test_a_run_of_distances_is_refused(tmp_path, ranks, scores, refused):
    rows = [
        {"query_id": "q", "document_id": f"d{place}", "rank": rank, "score": score}
        for place, (rank, score) in enumerate(zip(ranks, scores, strict=True))
    ]
    write_jsonl(tmp_path / "r.jsonl", rows)
    lines = [f"q Q0 {row['document_id']} {row['rank']} {row['score']} t\n" for row in rows]
    (tmp_path / "r.trec").write_text("".join(lines))
    for name in ("r.jsonl", "r.trec"):
        if refused:
            with pytest.raises(ValueError, match=f"{name}: the scores rise with the ranks, as dis"):
                read_run(tmp_path / name)
        else:
            assert list(read_run(tmp_path / name)["q"].values()) == scores


def test_two_runs_in_one_file_are_not_one(tmp_path):
    path = tmp_path / "both.trec"
    path.write_text("q1 Q0 d1 1 0.5 a\nq2 Q0 d1 1 0.5 b\n")
    assert read_run(path).keys() == {"q1", "q2"}
    path.write_text("q1 Q0 d1 1 0.5 bm25\nq1 Q0 d2 1 30.0 dense\n")
    with pytest.raises(ValueError, match=r'both\.trec:2: query "q1" has documents of two runs, ta'):
        read_run(path)
    path.write_text("q1 Q0 d1 1 0.5 a\nq1 Q0 d2 2 0.4 a\nq1 Q0 d3 1 9.5 b\nq1 Q0 d4 2 9.4 b\n")
    with pytest.raises(ValueError, match=r"both\.trec:3: "):
        read_run(path)
    path.write_text("q1 Q0 d1 1 0.5 bm25\nq1 Q0 d2 2 0.4 dense\nq1 Q0 d3 3 0.3 bm25\n")
    assert len(read_run(path)["q1"]) == 3  # a merged run that tags whose each document is


@pytest.mark.parametrize("name", ["run.json", "run.ndjson", "run.jsonl"])
def test_runs_in_json_by_any_name(tmp_path, name):
    (tmp_path / name).write_text('[{"query_id": 1, "document_id": "d 2", "score": 3}]')
    assert read_run(tmp_path / name) == {"1": {"d 2": 3.0}}

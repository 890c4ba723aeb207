"""stope.data: pairs, documents and training rows from every kind of source."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope._extras import need
from stope.data import (
    TrainingExample,
    iter_texts,
    read_flagembedding,
    read_pairs,
    read_rows,
    read_tevatron,
    read_texts,
    write_jsonl,
)

PAIRS = [("what is ore", 'rock, "metal" in it'), ("caf\u00e9", "two\nlines")]


def write_pairs(path, pairs, columns=("query", "positive")):
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        write_jsonl(path, (dict(zip(columns, pair, strict=True)) for pair in pairs))
    elif name.endswith(".parquet"):
        arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = {column: [pair[i] for pair in pairs] for i, column in enumerate(columns)}
        parquet.write_table(arrow.table(table), path)
    elif name.endswith(".csv"):
        open_it = gzip.open if path.suffix == ".gz" else open
        with open_it(path, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *pairs])
    else:
        lines = "".join("\t".join(cells) + "\n" for cells in [columns, *pairs])
        path.write_text(lines, encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_pairs_of_every_kind_of_file(tmp_path, ending):
    path = write_pairs(tmp_path / f"pairs.{ending}", PAIRS)
    assert list(read_pairs(path)) == PAIRS
    assert list(read_pairs(str(path), "positive", "query")) == [(b, a) for a, b in PAIRS]


cell = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@given(
    pairs=st.lists(st.tuples(cell, cell), min_size=1, max_size=5),
    kind=st.sampled_from(["tsv", "csv"]),
)
def test_pairs_round_trip(pairs, kind, tmp_path_factory):
    path = write_pairs(tmp_path_factory.mktemp("pairs") / f"pairs.{kind}", pairs)
    assert list(read_pairs(path)) == pairs


def test_quotes_in_tsv_are_text_and_csv_cells_may_be_long(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text('query\tpositive\n"a" b\tsay "c\n')
    assert list(read_pairs(path)) == [('"a" b', 'say "c')]
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read_pairs(path)) == [('"a" b', 'say "c')]
    long = "x" * 300_000
    assert list(read_pairs(write_pairs(tmp_path / "pairs.csv", [("q", long)]))) == [("q", long)]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("anchor", "positive"), ("a", "b")),
        (("Question", "Answer"), ("a", "b")),
        (("answer", "question"), ("b", "a")),
        (("text", "query"), ("b", "a")),
        (("sentence1", "sentence2"), ("a", "b")),
    ],
)
def test_usual_column_names_are_found(tmp_path, columns, found):
    assert list(read_pairs(write_pairs(tmp_path / "pairs.tsv", [("a", "b")], columns))) == [found]


def test_list_of_positives_gives_several_pairs():
    rows = [
        {"query": "q1", "pos": ["a", "b"], "neg": ["c"]},
        {"query": "q2", "pos": []},
        {"query": "q3", "pos": [{"docid": "1", "title": "T", "text": "d"}, {"text": "e"}]},
    ]
    assert list(read_pairs(rows)) == [("q1", "a"), ("q1", "b"), ("q3", "T d"), ("q3", "e")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.tsv", "left\tright\na\tb\n",
         'among "left", "right"; name it with query_column; the first line of a table names its'),
        ("p.tsv", f"{'long ' * 50}\tb\na\tb\n", r'column among "(long ?){7}\.\.\.", "b"; '),
        ("p.csv", "query,left\na,b\n", r'p\.csv:2: no positive column among "left"; name it'),
        ("p.tsv", "query\tpositive\na\tb\tc\n", r"p\.tsv:2: expected 2 columns .* but found 3"),
        ("p.csv", 'query,positive\na,b\n"a\nb",c\nd\n', r"p\.csv:5: expected 2 columns .* found 1"),
        ("p.csv", 'query,positive\na,"b"c\n', r"p\.csv:2: not CSV"),
        ("p.csv", 'query,positive\na,"b\n', r"p\.csv:2: not CSV"),
        ("p.tsv", "query\tquery\na\tb\n", r'p\.tsv:1: the header names the column "query" twice'),
        ("p.tsv", "query\tpositive\n", "holds no pairs"),
        ("p.tsv", "query\tpositive\na\t \n", r'p\.tsv:2: field "positive" is empty'),
        ("p.jsonl", '{"query": "a", "positive": "b"}\n{"query": "a"}\n',
         r'p\.jsonl:2: field "positive" is missing; the fields are "query"'),
        ("p.jsonl", '{"query": ["a"], "positive": "b"}\n', r'p\.jsonl:1: field "query" must be'),
        ("p.jsonl", '{"query": "a", "pos": ["b", 3]}\n', r'p\.jsonl:1: field "pos\[1\]" must be a'),
        ("p.xlsx", "", r"p\.xlsx: unknown kind of file; the name must end in \.jsonl"),
        ("p.parquet", "PAR1 nothing", r"p\.parquet: not a readable Parquet file after row 0"),
    ],
)  # fmt: skip
def test_malformed_pairs_are_reported(tmp_path, name, content, message):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_pairs(tmp_path / name))


def test_named_column_that_is_not_there_is_reported(tmp_path):
    path = write_pairs(tmp_path / "pairs.tsv", PAIRS[:1])
    with pytest.raises(ValueError, match='query_column is "q", but the columns are "query", "posi'):
        list(read_pairs(path, query_column="q"))
    with pytest.raises(ValueError, match='positive_column is "p", but the columns are "positive"'):
        list(read_pairs(path, positive_column="p"))


def test_datasets_and_iterables():
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = [{"query": query, "positive": positive} for query, positive in PAIRS]
    dataset = datasets.Dataset.from_list(rows)
    assert list(read_pairs(dataset)) == PAIRS
    assert list(read_pairs(dataset.to_iterable_dataset())) == PAIRS
    assert [row for _, row in read_rows(iter(rows))] == rows
    with pytest.raises(TypeError, match='a dict of "train"; give one of its values'):
        list(read_pairs(datasets.DatasetDict({"train": dataset})))
    with pytest.raises(TypeError, match="row 1 of the source is a tuple, not a mapping"):
        list(read_pairs(PAIRS))


def test_rows_are_streamed():
    taken = []

    def endless():
        while True:
            taken.append(None)
            yield {"query": "a", "positive": "b", "text": "c"}

    assert next(read_pairs(endless())) == ("a", "b")
    assert next(iter_texts(endless(), text_column="text", id_column="query")) == ("a", "c")
    assert len(taken) == 2


def test_texts(tmp_path):
    path = tmp_path / "corpus.jsonl"
    write_jsonl(
        path, [{"id": 7, "title": "T", "text": "a"}, {"id": "x", "title": None, "text": "b"}]
    )
    assert read_texts(path) == (["7", "x"], ["T a", "b"])
    assert read_texts(path, text_column="text", id_column="text") == (["a", "b"], ["a", "b"])
    path = tmp_path / "corpus.txt"
    path.write_text("one\n\n  \ntwo\tthree\n")
    assert read_texts(path) == (["0", "1"], ["one", "two\tthree"])
    with pytest.raises(ValueError, match="plain text, one document a line; it has no columns"):
        read_texts(path, text_column="text")
    packed = tmp_path / "corpus.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_texts(packed) == read_texts(path)
    assert read_texts([{"passage": "p"}, {"passage": ""}]) == (["0", "1"], ["p", ""])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": "b"}, {"id": "a", "text": "c"}], 'row 2: the id "a" appears twice'),
        ([{"id": 1, "text": "b"}, {"id": "1", "text": "c"}], 'row 2: the id "1" appears twice'),
        ([{"words": "b"}], 'row 1: no text column among "words"; name it with text_column'),
        ([{"text": 3}], 'row 1: field "text" must be a string, but it is int 3'),
        ([{"id": True, "text": "a"}], 'row 1: field "id" must be a string or a whole number'),
        ([{"id": "1", "text": "a"}, {"text": "a"}], 'row 2: field "id" is missing'),
        ([], "the source holds no documents"),
    ],
)
def test_malformed_texts_are_reported(rows, message):
    with pytest.raises(ValueError, match=message):
        read_texts(rows)


def test_flagembedding_rows(tmp_path):
    path = tmp_path / "train.jsonl"
    full = {
        "query": "q",
        "pos": ["a"],
        "neg": ["b", "c"],
        "pos_scores": [1],
        "neg_scores": [0.5, 0],
    }
    write_jsonl(path, [full, {"query": "q", "pos": ["a"], "prompt": "p"}])
    assert list(read_flagembedding(path)) == [
        TrainingExample("q", ["a"], ["b", "c"], positive_scores=[1.0], negative_scores=[0.5, 0.0]),
        TrainingExample("q", ["a"], []),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": []}, 'field "pos" is empty; a row needs at least one positive'),
        ({"neg": [None]}, r'field "neg\[0\]" must be a string, but it is null'),
        ({"query": 1}, 'field "query" must be a string'),
        ({"neg_scores": [0.5]}, 'field "neg_scores" has 1 scores for 2 texts'),
        ({"neg_scores": [0.5, "x"]}, r'field "neg_scores\[1\]" must be a number, but it is str'),
        ({"neg_scores": [0.5, float("nan")]}, r'field "neg_scores\[1\]" must be a finite number'),
        ({"pos_scores": [True]}, r'field "pos_scores\[0\]" must be a number, but it is bool True'),
        ({"pos_scores": [10**400]}, r'field "pos_scores\[0\]" must be a finite number'),
    ],
)
def test_malformed_flagembedding_rows(change, message):
    row = {"query": "q", "pos": ["a"], "neg": ["b", "c"], **change}
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        list(read_flagembedding([row]))


def test_tevatron_rows_of_both_layouts():
    inline = {
        "query_id": 3,
        "query": "q",
        "positive_passages": [{"docid": "1", "title": "T", "text": "a", "score": 2}],
        "negative_passages": [
            {"docid": 2, "text": "b", "score": 1},
            {"docid": "4", "title": "", "text": "c"},
        ],
    }
    by_id = {
        "query_id": "3",
        "query_text": "q",
        "positive_document_ids": ["1"],
        "negative_document_ids": ["2", "4"],
    }
    wanted = TrainingExample("q", ["T a"], ["b", "c"], "3", ["1"], ["2", "4"], [2.0], None, ["T"])
    assert list(read_tevatron([inline])) == [wanted]
    documents = {"1": "T a", "2": "b", "4": "c"}
    (found,) = read_tevatron([by_id], documents)
    assert (found.positives, found.negatives) == (wanted.positives, wanted.negatives)
    assert (found.query_id, found.negative_ids) == ("3", ["2", "4"])
    with pytest.raises(ValueError, match=r"row 1: there are no positive_passages .* pass document"):
        list(read_tevatron([by_id]))
    with pytest.raises(ValueError, match=r"row 1: negative_document_ids\[1\] is '4', an id that"):
        list(read_tevatron([by_id], {"1": "a", "2": "b"}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "positive_passages": ["a"]}, 'query_id_column is "query_id", but the col'),
        ({"query_id": "1", "query": "q"}, 'no positive_passages among "query_id", "query"'),
        ({"query_id": "1", "query": "q", "positive_passages": []},
         "is empty; a row needs at least"),
        ({"query_id": "1", "query": "q", "positive_passages": {}}, "must be a string, but it is d"),
    ],
)  # fmt: skip
def test_malformed_tevatron_rows(row, message):
    with pytest.raises(ValueError, match=message):
        list(read_tevatron([row]))


def test_need_names_the_extra_and_leaves_other_errors_alone(tmp_path, monkeypatch):
    assert need("json", extra="train") is json
    with pytest.raises(
        ImportError, match=r'^nowhere_x is not .* pip install "stope\[retrieval\]"$'
    ):
        need("nowhere_x.inner", extra="retrieval")
    (tmp_path / "half_installed.py").write_text("import surely_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'surely_missing'"):
        need("half_installed", extra="train")


def test_importing_data_and_evaluation_imports_no_heavy_library():
    code = (
        "import sys, stope.data, stope.evaluation;"
        "heavy = {'torch', 'datasets', 'pyarrow', 'ir_measures'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

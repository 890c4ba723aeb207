"""Files as people have them: compressed otherwise, pretty, quoted, cut, with CR line ends."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
import os
import time

import numpy as np
import pytest

from stope.data import (
    Source,
    read_embeddings,
    read_jsonl,
    read_pairs,
    read_qrels,
    read_queries,
    read_rows,
    read_run,
    read_source,
    read_texts,
    write_jsonl,
)
from stope.data.readers.lines import read_lines

ROWS = [{"query": "q1", "positive": "a"}, {"query": "q2", "positive": "b\nc"}]
PAIRS = [("q1", "a"), ("q2", "b\nc")]


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n\n" + json.dumps(ROWS, indent=1) + "\n\n",
        "\n".join(json.dumps(row, indent=4) for row in ROWS),
        "\r\n".join(json.dumps(row) for row in ROWS),
        "\r".join(json.dumps(row) for row in ROWS),
        "\n".join(json.dumps(row) for row in ROWS),
        "[" + ",\n".join(json.dumps(row) for row in ROWS) + "]",
    ],
)
@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_json_however_it_is_laid_out(tmp_path, written, name):
    (tmp_path / name).write_bytes(written.encode())
    assert list(read_pairs(tmp_path / name)) == PAIRS


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('[\n {"a": 1},\n {"a": }\n]', r"p\.json:3: not JSON \(Expecting value at column 8\)"),
        ('{\n "a": 1', r"p\.json:2: not JSON"),
        ("[1, 2]", "p.json: item 1: expected a JSON object, but it is a int"),
        ('{"a": 1, "b": 2, "a": 3}', "p.json:1: not JSON .the key 'a' appears twice in one object"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' appears twice"),
        ('[\n{"a": 1, "a": 2}]', "the key 'a' appears twice"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", r"p\.json:1: not JSON \(maximum recur"),
        ("[" * 100_000, r"p\.json:1: not JSON \(maximum recursion"),
        ('{"a": ' + "1" * 10_000 + "}", r"p\.json:1: not JSON \(Exceeds the limit"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_json_that_is_wrong_is_said(tmp_path, written, message):
    (tmp_path / "p.json").write_text(written)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_jsonl(tmp_path / "p.json"))
    assert len(str(caught.value)) < 400


def test_deep_surrogates_are_a_sentence(tmp_path):
    deep = '{"a": ' + "[" * 400 + r'"\ud800"' + "]" * 400 + "}"
    (tmp_path / "p.jsonl").write_text(deep)
    with pytest.raises(ValueError, match=r"half a surrogate pair|nested too deeply"):
        list(read_jsonl(tmp_path / "p.jsonl"))


def test_large_json_takes_linear_time(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"n": n}, indent=1) for n in range(40_000)))
    began = time.perf_counter()
    assert sum(1 for _ in read_jsonl(path)) == 40_000
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("ending", "pack"), [("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)]
)
def test_compressed_files(tmp_path, ending, pack):
    raw = "query\tpositive\nq1\ta\n".encode("utf-8-sig")
    path = tmp_path / f"p.tsv.{ending}"
    path.write_bytes(pack(raw))
    assert list(read_pairs(path)) == [("q1", "a")]
    (tmp_path / "p.tsv").write_bytes(pack(raw))  # told by the content
    assert list(read_pairs(tmp_path / "p.tsv")) == [("q1", "a")]
    path.write_bytes(pack(raw + b"q2\ta\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"p\.tsv\.\w+:\d+: the \w+ data (ends early|is damaged)"):
        list(read_pairs(path))
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"the name ends in .{ending} but the content is not"):
        list(read_pairs(path))


@pytest.mark.parametrize(("start", "kind"), [(b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")])
def test_other_compressions_are_named(tmp_path, start, kind):
    (tmp_path / "p.jsonl").write_bytes(start + b"something")
    with pytest.raises(ValueError, match=f"the content is {kind}, which is not read; unpack it"):
        list(read_jsonl(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("name", ["p.tsv", "p.csv"])
def test_carriage_returns_end_the_lines_of_old_files(tmp_path, name):
    mark = "\t" if name == "p.tsv" else ","
    (tmp_path / name).write_bytes(f"query{mark}positive\rq1{mark}a\rq2{mark}b\r".encode())
    assert list(read_pairs(tmp_path / name)) == [("q1", "a"), ("q2", "b")]
    (tmp_path / "c.txt").write_bytes(b"one\rtwo\r")
    assert read_texts(tmp_path / "c.txt") == (["0", "1"], ["one", "two"])


def test_blanks_after_commas_are_no_part_of_the_cells(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('query, positive\nq1, a\nq2, "b, c"\n"q, 3",  d\n')
    assert list(read_pairs(path)) == [("q1", "a"), ("q2", "b, c"), ("q, 3", "d")]
    path.write_text('query,positive\nq1, a\n"x\ny",b\nq2\n')
    with pytest.raises(ValueError, match=r"p\.csv:5: expected 2 columns"):
        list(read_pairs(path))
    path.write_text('query, positive\n"x\ny", b\nq2\n')
    with pytest.raises(ValueError, match=r"p\.csv:4: expected 2 columns"):
        list(read_pairs(path))


@pytest.mark.parametrize("line", ['q1\t"he said ""ore"" twice"', 'q1\t"two\nlines"', 'q1\t"a\tb"'])
def test_a_tsv_quoted_as_csv_is_explained(tmp_path, line):
    path = tmp_path / "p.tsv"
    path.write_text(f"query\tpositive\n{line}\n")
    with pytest.raises(ValueError, match=r"p\.tsv:[23]: .* quoted as in CSV.*QUOTE_NONE"):
        list(read_pairs(path))


def test_parquet_values_that_python_does_not_have(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    far = arrow.array([10**8], arrow.int32()).cast(arrow.date32())
    torn = arrow.array([b"\xff\xfe"]).view(arrow.binary()).view(arrow.string())
    for name, column in (("date", far), ("bytes", torn)):
        table = arrow.table({"query": ["q"], "positive": ["p"], name: column})
        parquet.write_table(table, tmp_path / "p.parquet")
        with pytest.raises(ValueError, match=r"p\.parquet: not a readable Parquet file after row"):
            list(read_rows(tmp_path / "p.parquet"))
    today = arrow.table({"query": ["q"], "day": [datetime.date(2020, 1, 1)]})
    parquet.write_table(today, tmp_path / "p.parquet")
    assert len(list(read_rows(tmp_path / "p.parquet"))) == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), r'holds float64; save it as np.save\(path, array.astype\("float32"\)\)'),
        (np.zeros((2, 3), np.int64), "holds int64; save it"),
        (np.asfortranarray(np.zeros((4, 3), np.float32)), "is in column order .*ascontiguousarray"),
        (np.zeros(3, np.float32), r"must hold one array of two dimensions .* it has \(3,\)"),
        (np.zeros((2, 3), np.float32), "has 2 rows for 5 texts"),
    ],
)
def test_embeddings_name_the_option_the_file_and_the_remedy(tmp_path, array, message):
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(ValueError, match=rf"--corpus-embeddings \S*e\.npy {message}"):
        read_embeddings(tmp_path / "e.npy", "--corpus-embeddings", rows=5)


def test_embeddings_are_mapped_and_broken_files_are_sentences(tmp_path):
    path = tmp_path / "e.npy"
    for kind in ("float32", "float16", "int8"):
        np.save(path, np.ones((2, 3), kind))
        rows = read_embeddings(path)
        assert isinstance(rows, np.memmap)
        assert rows.dtype == kind
    np.save(path, np.asfortranarray(np.ones((1, 3), np.float32)))
    assert read_embeddings(path).shape == (1, 3)  # one row is in both orders
    whole = path.read_bytes()
    for content in (whole[:-4], b"", b"no array", whole[:20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"query_embeddings \S*e\.npy is no \.npy file of num"):
            read_embeddings(path, "query_embeddings")
    with pytest.raises(FileNotFoundError, match=r"none\.npy does not exist"):
        read_embeddings(tmp_path / "none.npy")


def test_numbers_of_other_scripts_are_no_weights(tmp_path):
    from stope.data import Source, read_source

    for weight in ("1_0", "\u0661", "", "nan", "1e999"):
        write_jsonl(tmp_path / "p.jsonl", [{"query": "q", "positive": "p", "weight": weight}])
        with pytest.raises(ValueError, match='stands in the column "weight"; give a finite number'):
            read_source(Source(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("kind", ["list_", "large_list", "fixed"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_embeddings_in_parquet_are_those_in_npy(tmp_path, kind, dtype):
    arrow = pytest.importorskip("pyarrow", reason="needs the extra train")
    parquet = pytest.importorskip("pyarrow.parquet")
    x = (np.random.default_rng(0).standard_normal((20_000, 3)) * 20).astype(dtype)  # two batches
    number, path = arrow.from_numpy_dtype(dtype), tmp_path / "e.parquet"
    of = arrow.list_(number, 3) if kind == "fixed" else getattr(arrow, kind)(number)
    vectors = arrow.array(list(x), of)
    parquet.write_table(arrow.table({"text": ["a"] * len(x), "v": vectors}), path)
    read = read_embeddings(path, rows=len(x))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, x)
    parquet.write_table(arrow.table({"v": vectors[:0]}), path)
    assert read_embeddings(path).shape[0] == 0
    with pytest.raises(ValueError, match="has 0 rows for 5 texts"):
        read_embeddings(path, rows=5)


@pytest.mark.parametrize("late", [{"_id": "d7"}, {"_id": None}, {"docid": 7}])
def test_ids_that_the_first_row_lacks_are_not_replaced_by_numbers(late):
    with pytest.raises(ValueError, match=r'row 2: field "_?d?o?c?id" is there, but the first row'):
        read_texts([{"text": "ore"}, {"text": "rock", **late}])
    with pytest.raises(ValueError, match='row 2: no id column among "text", "sku"'):
        read_texts([{"text": "ore"}, {"text": "rock", "sku": "7"}], ids="needed")


def test_titles_that_the_first_row_lacks_are_read():
    rows = [{"text": "ore"}, {"text": "rock", "title": "Hard"}, {"Title": "Soft", "text": "clay"}]
    assert read_texts(rows)[1] == ["ore", "Hard rock", "Soft clay"]
    assert read_texts(rows, "text")[1] == ["ore", "rock", "clay"]


@pytest.mark.parametrize("late", [{"query_id": "q7"}, {"weight": 2.0}, {"Weight": 2.0}])
def test_what_says_something_of_a_row_is_not_overlooked_where_the_first_lacks_it(tmp_path, late):
    write_jsonl(tmp_path / "p.jsonl", [ROWS[0], {**ROWS[1], **late}])
    with pytest.raises(ValueError, match=f'p.jsonl:2: field "{next(iter(late))}" is there, but'):
        read_source(Source(tmp_path / "p.jsonl"))


@pytest.mark.parametrize(
    ("name", "header"), [("p.csv", "query;positive"), ("p.csv", "a\tb"), ("p.tsv", "a,b")]
)
def test_a_table_divided_otherwise_is_told_so(tmp_path, name, header):
    (tmp_path / name).write_text(f"{header}\nx\n")
    kind, sign = name[2:], {"p.csv": "commas", "p.tsv": "tabs"}[name]
    with pytest.raises(ValueError, match=f"{sign} divide the columns of a .{kind} file, and this"):
        list(read_pairs(tmp_path / name))


def test_null_is_told_with_the_way_around_it():
    for read, row in ((read_texts, {"text": None}), (read_pairs, {"query": None, "text": "a"})):
        with pytest.raises(ValueError, match="is null; fill it, or leave such rows out by skip_em"):
            list(read([row]))


def test_an_array_behind_the_first_is_not_left_out(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    with (tmp_path / "e.npy").open("wb") as file:
        np.save(file, rows)
    assert read_embeddings(tmp_path / "e.npy").tolist() == rows.tolist()
    with (tmp_path / "e.npy").open("ab") as file:
        np.save(file, rows)
    with pytest.raises(ValueError, match=r"e\.npy goes on behind its array of 3 rows, which would"):
        read_embeddings(tmp_path / "e.npy")


def test_carriage_returns_that_end_lines_begin_none(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"ore\rrock\r")
    assert list(read_lines(tmp_path / "t.txt")) == [(1, "ore"), (2, "rock")]


def test_a_blank_before_the_first_name_of_a_header_is_none_after_a_comma(tmp_path):
    (tmp_path / "p.csv").write_text(" query,positive\nq, a\n")
    assert next(iter(read_rows(tmp_path / "p.csv")))[1] == {"query": "q", "positive": " a"}


def test_files_put_behind_each_other_have_marks_and_headers_in_the_middle(tmp_path):
    mark, path = b"\xef\xbb\xbf", tmp_path / "p.tsv"
    path.write_bytes(mark + b"query_id\tquery\n1\tore\n" + mark + b"2\trock\n")
    assert read_queries(path) == (["1", "2"], ["ore", "rock"])
    (tmp_path / "p.jsonl").write_bytes(2 * (mark + json.dumps(ROWS[0]).encode() + b"\n"))
    assert list(read_pairs(tmp_path / "p.jsonl")) == [PAIRS[0]] * 2
    for name, row in (("p.tsv", b"query\tpositive\nq\ta\n"), ("p.csv", b"query, positive\nq,a\n")):
        (tmp_path / name).write_bytes(row * 2)
        with pytest.raises(ValueError, match=rf"{name}:3: this is the header once more"):
            list(read_pairs(tmp_path / name))
    (tmp_path / "p.tsv").write_text("text\ntext\n")  # a word like others, of one column
    assert read_texts(tmp_path / "p.tsv")[1] == ["text"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["c.txt", "c.tsv", "c.jsonl"])
def test_utf_16_is_no_text_with_zeros_between(tmp_path, encoding, name):
    lines = {"c.txt": "ore", "c.tsv": "text\nore", "c.jsonl": '{"text": "ore"}'}
    (tmp_path / name).write_bytes(f"{lines[name]}\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"{name}:1: not UTF-8 \(UTF-16, it seems\); save"):
        read_texts(tmp_path / name)


def test_zeros_that_a_crash_left_are_no_document(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"ore\nrock\n" + bytes(512))
    with pytest.raises(ValueError, match=r"c\.txt:3: not UTF-8 \(zero bytes alone"):
        read_texts(tmp_path / "c.txt")
    (tmp_path / "c.txt").write_bytes(b"iron\0ore\n")
    assert read_texts(tmp_path / "c.txt")[1] == ["iron\0ore"]


def test_two_columns_of_one_name_are_not_one(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = [arrow.array([text]) for text in ("d1", "ore", "rock")]
    parquet.write_table(arrow.table(columns, ["id", "text", "text"]), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r'p\.parquet: two columns have the name "text"; rename'):
        list(read_rows(tmp_path / "p.parquet"))


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.tsv")
    for read in (read_rows, read_texts, read_qrels, read_run, read_embeddings):
        with pytest.raises(
            ValueError, match=r"p\.tsv is a pipe or a device, .*; write what it gives"
        ):
            read(tmp_path / "p.tsv")


def test_one_id_of_two_queries_is_said_with_the_file(tmp_path):
    rows = [{"query_id": "7", "query": text, "positive": "a"} for text in ("ore", "Ore ", "rock")]
    write_jsonl(tmp_path / "p.jsonl", rows[:2])
    assert read_source(Source(tmp_path / "p.jsonl")).pairs.query_ids == ["7"]
    write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(ValueError, match=r"p\.jsonl: the id '7' stands for two queries; keep one"):
        read_source(Source(tmp_path / "p.jsonl"))


def test_weights_and_labels_are_known_in_capitals_and_by_the_name_of_nli(tmp_path):
    weights = [{"Query": text, "Positive": "p", "Weight": text} for text in ("2", "3")]
    write_jsonl(tmp_path / "p.jsonl", weights)
    assert read_source(Source(tmp_path / "p.jsonl")).columns == {"weight": [2.0, 3.0]}
    row = {"sentence1": "ore", "sentence2": "no ore", "gold_label": "contradiction"}
    with pytest.raises(
        ValueError, match="'contradiction' stands in the column \"gold_label\"; give"
    ):
        list(read_pairs([row]))

"""stope.data: collections, JSON lines, judgements, runs, damaged files, atomic writing."""

from __future__ import annotations

import errno
import gzip
import importlib
import json
import os
import resource
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stope.data
from stope.data import (
    Collection,
    iter_beir_corpus,
    open_atomic,
    read_beir,
    read_jsonl,
    write_beir,
    write_jsonl,
)

COLLECTIONS = Path(__file__).resolve().parents[3] / "shared" / "data"
CORPUS = '{"_id": "d1", "title": "Ore", "text": "Rock."}\n{"_id": "d2", "text": "Pit."}\n'
QUERIES = '{"_id": "q1", "text": "what is ore"}\n{"_id": "q2", "text": "what is a pit"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\ufeff"),
    min_size=1,
    max_size=6,
)


def beir_folder(path, corpus=CORPUS, queries=QUERIES, qrels=QRELS, *, packed=False):
    (path / "qrels").mkdir(parents=True)
    for name, content in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        if packed:
            (path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (path / name).write_text(content, encoding="utf-8")
    (path / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_beir_folder_is_read(tmp_path, packed):
    collection = read_beir(beir_folder(tmp_path / "set", packed=packed))
    assert collection.corpus_ids == ["d1", "d2"]
    assert collection.corpus_texts == ["Ore Rock.", "Pit."]
    assert collection.corpus_titles == ["Ore", ""]
    assert collection.queries == {"q1": "what is ore", "q2": "what is a pit"}
    assert collection.splits == ["test"]
    split = collection.split("test")
    assert (split.query_ids, split.query_texts) == (["q1"], ["what is ore"])
    assert split.qrels == {"q1": {"d1": 2, "d2": 0}}
    assert len(split) == 1
    assert split.positives() == [["d1"]]
    assert split.positives(min_relevance=2) == [["d1"]]
    assert split.positives(min_relevance=3) == [[]]
    with pytest.raises(ValueError, match=r'no split "dev"; the splits are "test"'):
        collection.split("dev")
    streamed = list(iter_beir_corpus(tmp_path / "set"))
    assert streamed == [("d1", "Ore", "Rock."), ("d2", "", "Pit.")]


@given(data=st.data())
def test_beir_round_trip(data, tmp_path_factory):
    documents = data.draw(st.dictionaries(names, st.tuples(text, text), max_size=4))
    queries = data.draw(st.dictionaries(names, text, max_size=4))
    qrels = {}
    if documents and queries:
        relevances = st.dictionaries(
            st.sampled_from(sorted(documents)), st.integers(-2, 5), min_size=1
        )
        judged = st.dictionaries(st.sampled_from(sorted(queries)), relevances)
        qrels = data.draw(st.dictionaries(st.sampled_from(["test", "a.b", "dev"]), judged))
    titles = [title for title, _ in documents.values()]
    joined = [
        f"{title} {body}" if title and body else title or body for title, body in documents.values()
    ]
    before = Collection(
        list(documents), joined, list(queries), list(queries.values()), qrels, titles
    )
    folder = tmp_path_factory.mktemp("beir")
    write_beir(before, folder, compress=data.draw(st.booleans()))
    after = read_beir(folder)
    assert after == Collection(
        before.corpus_ids,
        before.corpus_texts,
        before.query_ids,
        before.query_texts,
        {split: qrels[split] for split in sorted(qrels)},
        before.corpus_titles,
    )
    assert [body for _, _, body in iter_beir_corpus(folder)] == [b for _, b in documents.values()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n'},
         r'corpus\.jsonl:2: the id "d1" appears twice'),
        ({"corpus": '{"_id": "d1", "text": "a"}\n\n{"text": "b"}\n'},
         r'corpus\.jsonl:3: field "_id" is missing; the fields are "text"'),
        ({"corpus": '{"_id": "d1", "title": "b"}\n'}, r'corpus\.jsonl:1: field "text" is missing'),
        ({"corpus": '{"_id": "d1", "text": 5}\n'},
         r'corpus\.jsonl:1: field "text" must be a string, but it is int 5'),
        ({"corpus": '{"_id": 1.5, "text": "a"}\n'}, r':1: field "_id" must be a string or a whole'),
        ({"corpus": '{"_id": "", "text": "a"}\n'}, r':1: field "_id" is empty'),
        ({"corpus": '{"_id": "d1", "title": [], "text": "a"}\n'}, r':1: field "title" must be'),
        ({"queries": '{"_id": "q1", "text": null}\n'}, r'queries\.jsonl:1: field "text".*is null'),
        ({"queries": '{"_id": "q1", "text": "a"\n'}, r"queries\.jsonl:1: not JSON .* column 26\)"),
        ({"qrels": "q1\td1\tx\n"}, r'test\.tsv:1: the relevance is "x", which is not'),
        ({"qrels": QRELS + "q1\td1\t1\n"}, r'test\.tsv:4: document "d1" is judged twice for'),
        ({"qrels": QRELS + "q2\td1\n"}, r"test\.tsv:4: expected 3 columns .* but found 2"),
        ({"qrels": QRELS + "q2\td9\t1\n"}, r"document 'd9', which is not in corpus\.jsonl; pass"),
        ({"qrels": QRELS + "q9\td1\t1\n"}, r"query 'q9', which is not in queries\.jsonl; pass"),
    ],
)  # fmt: skip
def test_malformed_beir_folder_is_reported_with_file_and_line(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_beir(beir_folder(tmp_path / "set", **changes))


def test_unknown_ids_can_be_dropped_or_kept(tmp_path):
    folder = beir_folder(tmp_path / "set", qrels=QRELS + "q1\td9\t1\nq9\td1\t1\n")
    assert read_beir(folder, unknown_ids="drop").qrels == {"test": {"q1": {"d1": 2, "d2": 0}}}
    kept = read_beir(folder, unknown_ids="keep").qrels["test"]
    assert kept == {"q1": {"d1": 2, "d2": 0, "d9": 1}, "q9": {"d1": 1}}
    with pytest.raises(ValueError, match=r"unknown_ids is 'ignore'; use"):
        read_beir(folder, unknown_ids="ignore")


def test_beir_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_beir(tmp_path / "none")
    folder = beir_folder(tmp_path / "set")
    with pytest.raises(ValueError, match=r'has no split "dev"; the splits are "test"'):
        read_beir(folder, splits=["dev"])
    with pytest.raises(TypeError, match="splits is 'test'; give a list"):
        read_beir(folder, splits="test")
    with pytest.raises(ValueError, match=r"corpus\.jsonl is already there"):
        write_beir(Collection([], [], [], []), folder, compress=True)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS.encode()))
    with pytest.raises(ValueError, match=r"both .* exist; keep one"):
        read_beir(folder)
    with pytest.raises(ValueError, match=r"split '\.\./x' cannot be the name of a file"):
        write_beir(Collection([], [], [], [], {"../x": {}}), tmp_path / "other")
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither .*corpus\.jsonl nor .* exists"):
        read_beir(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "a"], ["", ""], [], []), "corpus_ids has 'a' more than once; ids must be"),
        ((["a"], [], [], []), "corpus_texts has 0 entries for 1 corpus_ids"),
        (([], [], ["a"], []), "query_texts has 0 entries for 1 query_ids"),
        ((["a"], ["b"], [], [], {}, ["c", "d"]), "corpus_titles has 2 entries"),
        ((["a"], ["b"], [], [], {}, ["c"]), "does not begin with it"),
    ],
)
def test_collection_checks_itself(arguments, message):
    with pytest.raises(ValueError, match=message):
        Collection(*arguments)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(text, json_values, max_size=3), max_size=5), packed=st.booleans()
)
def test_jsonl_round_trip(rows, packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("jsonl") / ("rows.jsonl.gz" if packed else "rows.jsonl")
    assert write_jsonl(path, iter(rows)) == len(rows)
    assert list(read_jsonl(path)) == rows
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_gzip_output_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl.gz", [{"x": 1}] * 100)
    header = (tmp_path / "a.jsonl.gz").read_bytes()[:10]
    assert header[3:8] == bytes(5), "neither a name nor a time"
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y\x85z"}\r\n   \n\n{"a": 2}'.encode())
    assert list(read_jsonl(path)) == [{"a": "x\u2028y\x85z"}, {"a": 2}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "expected a JSON object, but it is a list"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": "\xff"}', "not UTF-8 .byte 0xff at position 8 of the line"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": 1', "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_malformed_json_line_is_reported(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\\ud83d\\ude00"}\n' + line + b"\n")
    rows = read_jsonl(path)
    assert next(rows) == {"a": "\U0001f600"}
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*{message}"):
        next(rows)


def test_damaged_gzip_is_reported(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    lines = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(2000))
    whole = gzip.compress(lines.encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz:\d+: the gzip data ends early"):
        list(read_jsonl(path))
    path.write_bytes(whole[:2000] + b"\x00" * 50 + whole[2050:])
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz:\d+: (the gzip data is damaged|not )"):
        list(read_jsonl(path))
    path.write_bytes(whole[:-8] + b"\x00" * 8)
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz:2001: the gzip data is damaged"):
        list(read_jsonl(path))
    for content in (b"", b"{}\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"ends in \.gz but the content is not gzip"):
            list(read_jsonl(path))
    plain_name = tmp_path / "rows.jsonl"
    plain_name.write_bytes(whole)
    assert len(list(read_jsonl(plain_name))) == 2000


def test_missing_file_and_folder_are_sentences(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl does not exist"):
        list(read_jsonl(tmp_path / "rows.jsonl"))
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        list(read_jsonl(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist"):
        write_jsonl(tmp_path / "none" / "rows.jsonl", [])
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        write_jsonl(tmp_path, [])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_full_disk_is_a_sentence_and_leaves_the_earlier_file(tmp_path, name):
    path = tmp_path / name
    write_jsonl(path, [{"old": True}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond it fails: EFBIG
    try:
        with pytest.raises(OSError, match=r"cannot write .*rows.*no partial file") as caught:
            write_jsonl(path, ({"text": os.urandom(500).hex()} for _ in range(2000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(read_jsonl(path)) == [{"old": True}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt, RuntimeError("source failed"), OSError(5, "x")]
)
def test_failing_source_leaves_the_earlier_file(tmp_path, failure):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"old": True}])

    def rows():
        yield {"new": True}
        raise failure

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the very failure, unchanged
        write_jsonl(path, rows())
    assert caught.value is failure or caught.type is failure
    assert list(read_jsonl(path)) == [{"old": True}]
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_are_not_json_or_not_text_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match=r"row 2 for .* is not valid as JSON"):
        write_jsonl(path, [{"a": 1}, {"a": float("nan")}])
    with pytest.raises(ValueError, match=r"row 1 for .* is not valid as JSON"):
        write_jsonl(path, [{"a": {1, 2}}])
    with pytest.raises(ValueError, match="lone surrogate"):
        write_jsonl(path, [{"a": "\ud800"}])
    assert list(tmp_path.iterdir()) == []


def test_new_file_has_ordinary_permissions(tmp_path):
    with open_atomic(tmp_path / "a.txt") as file:
        file.write("a")
    (tmp_path / "b.txt").write_text("b")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


relevances = st.dictionaries(
    names, st.dictionaries(names, st.integers(-3, 999), min_size=1, max_size=4), max_size=4
)


@pytest.mark.skipif(
    not COLLECTIONS.is_dir(), reason=f"the real collections are not at {COLLECTIONS}"
)
@pytest.mark.parametrize(
    ("name", "documents", "queries", "judgements"),
    [
        ("scifact", 5183, 1109, {"test": 339, "train": 919}),
        ("stackexchange_small", 5215, 2177,
         {"dev": 474 + 10, "test": 941 + 28, "train": 3700 + 62}),
        ("miracl_yo", 49043, 119, {"test": 144 + 1044}),
        ("xquad", 2880, 14280, None),
    ],
)  # fmt: skip
def test_real_collections(tmp_path, name, documents, queries, judgements):
    collection = read_beir(COLLECTIONS / name)
    assert (len(collection.corpus_ids), len(collection.query_ids)) == (documents, queries)
    if judgements is not None:
        found = {
            split: sum(len(judged) for judged in qrels.values())
            for split, qrels in collection.qrels.items()
        }
        assert found == judgements
    write_beir(collection, tmp_path / "copy", compress=True)
    assert read_beir(tmp_path / "copy") == collection


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("beir", ["read_beir", "write_beir"]),
        ("jsonl", ["read_jsonl", "write_jsonl"]),
        ("trec", ["read_run", "write_qrels", "write_run"]),
        ("training_rows", ["TrainingExample", "read_flagembedding", "read_tevatron"]),
    ],
)
def test_old_modules_have_their_names_for_one_release(module, names):
    sys.modules.pop(f"stope.data.{module}", None)
    with pytest.warns(DeprecationWarning, match="the old name goes with the next release"):
        old = importlib.import_module(f"stope.data.{module}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(getattr(old, name) is getattr(stope.data, name) for name in names)

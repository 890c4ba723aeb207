"""stope dedup: which documents go and for which, from any kind of file; what it says."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import reference
from command import DOCUMENTS, call, folder, one_sentence, prose, texts

pytest.importorskip("scipy", reason="needs the extra neighbors")

from stope.cli.terminal import side_by_side
from stope.data import read_jsonl

NEAR = {30: 3, 31: 3, 60: 8}  # row: the earlier row that it is like
SAME = {40: 5, 41: 30}


@pytest.fixture
def planted(folder):
    """A corpus with duplicates among the documents, and embeddings of their own beside them."""
    documents = prose(DOCUMENTS)
    x = np.load(folder / "c.npy")
    rng = np.random.default_rng(2)
    for row, earlier in NEAR.items():
        documents[row] = documents[earlier] + f" {documents[row].split()[0]}"  # a word more
        x[row] = x[earlier] + 0.05 * rng.standard_normal(16, dtype=np.float32)
    for row, earlier in SAME.items():
        documents[row], x[row] = documents[earlier], x[earlier]
    rows = [{"_id": f"d{i}", "text": text, "year": 1900 + i} for i, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "x.npy", x)
    return folder


def rows_of(path):
    return list(read_jsonl(path))


def gone(path):
    return {entry["document_id"]: row["kept"] for row in rows_of(path) for entry in row["dropped"]}


def expected(x, order, threshold):
    """The kept row for which each one goes: the most similar before it, by canonical cosines."""
    scores, kept, keepers = reference.canonical(x, x, "cosine"), [], {}
    for row in order:
        alike = [(-scores[row, other], other) for other in kept if scores[row, other] >= threshold]
        if alike:
            keepers[f"d{row}"] = f"d{min(alike)[1]}"
        else:
            kept.append(row)
    return keepers


@pytest.mark.parametrize("threshold", [0.98, 0.9, 0.5])
@pytest.mark.parametrize(("keep", "step"), [("earliest", 1), ("latest", -1)])
def test_what_goes_is_what_a_loop_over_all_pairs_lets_go(call, planted, threshold, keep, step):
    call(
        "dedup", "corpus.jsonl", "--embeddings", "x.npy", "--groups", "groups.jsonl",
        "--threshold", threshold, "--keep", keep, "--summary", "counts.json",
    )  # fmt: skip
    x = np.load(planted / "x.npy")
    keepers = expected(x, range(DOCUMENTS)[::step], threshold)
    assert gone(planted / "groups.jsonl") == keepers
    kept, source = rows_of(planted / "kept.jsonl"), rows_of(planted / "corpus.jsonl")
    assert kept == [row for row in source if row["_id"] not in keepers]  # all columns, in order
    counts = json.loads((planted / "counts.json").read_text())
    assert counts["documents_that_go"] == len(keepers)
    assert counts["documents_that_are_kept"] == len(kept)
    assert counts["copies_of_an_equal_document"] == len(SAME)
    assert counts["groups_of_duplicates"] == len(set(keepers.values()))
    scores = reference.canonical(x, x, "cosine")
    for row in rows_of(planted / "groups.jsonl"):
        for entry in row["dropped"]:
            if "score" in entry:
                names = row["kept"], entry.get("copy_of", entry["document_id"])
                assert entry["score"] == scores[tuple(int(name[1:]) for name in names)]
            else:
                assert entry["copy_of"] == row["kept"]


def test_the_longest_is_kept_and_texts_alone_are_enough(call, planted):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    done = call("dedup", "corpus.jsonl", "--threshold", 0.8, "--groups", "g.jsonl")
    assert "compared by their words" in done.stderr
    near = {f"d{row}": f"d{earlier}" for row, earlier in NEAR.items()}
    assert gone(planted / "g.jsonl") == near | {"d40": "d5", "d41": "d3"}
    call("dedup", "corpus.jsonl", "--threshold", 0.8, "--groups", "g.jsonl", "--keep", "longest")
    rows = {row["_id"]: row for row in rows_of(planted / "corpus.jsonl")}
    longest = max(["d30", "d31"], key=lambda name: len(rows[name]["text"]))
    left = {row["_id"] for row in rows_of(planted / "kept.jsonl")}
    assert left == set(rows) - ({"d3", "d30", "d31", "d41", "d40", "d8"} - {longest})


def test_every_kind_of_file_gives_the_same(call, planted):
    arrow = pytest.importorskip("pyarrow", reason="needs the extra train")
    parquet = pytest.importorskip("pyarrow.parquet")
    x, source = np.load(planted / "x.npy"), rows_of(planted / "corpus.jsonl")
    names, words = [row["_id"] for row in source], [row["text"] for row in source]
    vectors = arrow.array(x.tolist(), arrow.list_(arrow.float32()))
    parquet.write_table(arrow.table({"id": names, "v": vectors}), planted / "x.parquet")
    table = {"id": names, "text": words, "v": vectors}
    parquet.write_table(arrow.table(table), planted / "both.parquet")
    (planted / "c.txt").write_text("\n".join(words) + "\n")
    lines = [f"{name}\t{text}" for name, text in zip(names, words, strict=True)]
    (planted / "c.tsv").write_text("\n".join(["key\ttext", *lines]) + "\n")
    (planted / "beir").mkdir()
    (planted / "beir" / "corpus.jsonl").write_text((planted / "corpus.jsonl").read_text())
    want = set(names) - set(expected(x, range(DOCUMENTS), 0.9))
    beside = ("--embeddings", "x.npy")
    for arguments, column, numbered in (
        (("c.txt", *beside), "_id", True),
        (("c.tsv", *beside), "_id", True),
        (("c.tsv", *beside, "--id-column", "key"), "key", False),
        (("beir", *beside), "_id", False),
        (("x.npy",), "_id", True),
        (("x.parquet",), "_id", False),
        (("both.parquet", "--embeddings", "x.parquet"), "id", False),
    ):
        call("dedup", *arguments, "--threshold", 0.9)
        kept = rows_of(planted / "kept.jsonl")
        told = {f"d{row[column]}" if numbered else row[column] for row in kept}
        assert told == want, arguments
    assert kept[0]["text"] == words[0]


def test_a_stopped_command_goes_on_from_the_cache(call, planted, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    from stope.encoders import save_encoder, static_encoder

    save_encoder(static_encoder([row["text"] for row in rows_of(planted / "corpus.jsonl")]), "m")
    arguments = ("dedup", "corpus.jsonl", "--encoder", "m", "--cache", "cache", "--threshold", 0.9)
    with monkeypatch.context() as patched:
        patched.setattr("stope.neighbors.deduplicate", lambda *_, **__: 1 / 0)
        said = one_sentence(call(*arguments, code=1).stderr)
        assert said.startswith("ZeroDivisionError")

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        patched.setattr("stope.neighbors.deduplicate", interrupt)
        said = call(*arguments, code=130).stderr
        assert "the same command goes on from what --cache keeps" in said
    with monkeypatch.context() as patched:
        patched.setattr("stope.encoders.cache.encode_corpus", lambda *_, **__: pytest.fail("again"))
        call(*arguments)
    cached = (planted / "kept.jsonl").read_text()
    call("dedup", "corpus.jsonl", "--encoder", "m", "--threshold", 0.9)
    assert (planted / "kept.jsonl").read_text() == cached


def test_answers_are_kept_for_other_thresholds(call, planted, monkeypatch):
    import stope

    call("dedup", "x.npy", "--threshold", 0.9, "-o", "plain.jsonl")
    call("dedup", "x.npy", "--threshold", 0.5, "--cache", "cache")
    monkeypatch.setattr(stope.neighbors.kept, "earlier_part", lambda *_, **__: pytest.fail("again"))
    call("dedup", "x.npy", "--threshold", 0.9, "--cache", "cache")
    assert (planted / "kept.jsonl").read_text() == (planted / "plain.jsonl").read_text()
    (planted / "file").write_text("")
    said = one_sentence(call("dedup", "x.npy", "--cache", "file", code=1).stderr)
    assert said == "cannot write file: it is a file; name a folder."


def test_it_shows_what_the_threshold_divides(call, planted):
    arguments = ("dedup", "corpus.jsonl", "--embeddings", "x.npy", "--threshold")
    done = call(*arguments, 0.9)
    assert "Lowest cosines at the threshold and above" in done.stdout
    assert "d3: " in done.stdout
    assert "d31: " in done.stdout
    assert f"The largest group is kept as d3: {prose(DOCUMENTS)[3][:30]}" in done.stdout
    # What it says of the next pair is true: with that threshold one more goes, with a higher none.
    said = float(done.stdout.split("lower --threshold to ")[1].split()[0].rstrip("."))
    x = np.load(planted / "x.npy")
    now = len(expected(x, range(DOCUMENTS), 0.9))
    assert len(expected(x, range(DOCUMENTS), said + 1e-4)) == now
    assert len(expected(x, range(DOCUMENTS), said)) > now
    assert done.stdout.endswith("145 documents in kept.jsonl\n")
    assert call(*arguments, 0.9, "-q").stderr == ""


def test_documents_that_are_kept_although_alike_are_told(call, folder):
    angles = np.radians([0, 10, 20])
    np.save("chain.npy", np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))
    done = call("dedup", "chain.npy", "--threshold", 0.98)
    assert "because that one goes itself: 1." in done.stdout
    assert [row["_id"] for row in rows_of(folder / "kept.jsonl")] == ["0", "2"]


def test_where_there_are_no_bars_lines_tell_how_far_it_is(call, planted, monkeypatch):
    arguments = ("graph", "x.npy", "-k", 3)
    monkeypatch.setattr("stope.cli.terminal._PATIENCE", 1000.0)
    assert call(*arguments).stderr == ""
    monkeypatch.setattr("stope.cli.terminal._PATIENCE", 0.0)
    assert re.search(r"^stope: neighbours: [\d,]+ of [\d,]+\.$", call(*arguments).stderr, re.M)
    assert call(*arguments, "-q").stderr == ""


def test_a_score_below_the_threshold_does_not_look_like_it(call, folder):
    np.save("near.npy", np.float32([[1, 0], [0.89997, (1 - 0.89997**2) ** 0.5]]))
    below = call("dedup", "near.npy", "--threshold", 0.9).stdout.split("Highest cosines")[1]
    assert "0.8999" in below
    assert "0.9000" not in below


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty.jsonl"], "empty.jsonl holds no documents"),
        (["twice.jsonl"], 'twice.jsonl:2: the id "a" appears twice'),
        (["nan.npy"], "CORPUS nan.npy: row 7 (counted from 0) holds NaN or infinity; embed that"),
        (["double.npy"], "CORPUS double.npy holds float64; save it as"),
        (["none.npy"], "CORPUS none.npy has no rows"),
        (["corpus.jsonl", "--embeddings", "few.npy"], "--embeddings few.npy has 5 rows for 150"),
        (["x.npy", "--keep", "longest"], "--keep longest needs texts, and x.npy holds embeddings"),
        (["corpus.jsonl", "-o", "corpus.jsonl"], "cannot write corpus.jsonl: it is read or"),
        (["x.npy", "--groups", "kept.jsonl"], "cannot write kept.jsonl: it is read or written"),
        (["x.npy", "-o", "kept.csv"], "its name must end in .jsonl"),
        (["x.npy", "--picture", "no/scores.png"], "the folder no does not exist"),
        (["points.txt"], "points.txt holds no letter or digit, and without --encoder"),
        (["day.parquet"], 'row 1: the column "day" holds datetime.date(2020, 1, 1), which JSON'),
        (["double.parquet"], 'holds lists of double in "v"; cast the column to lists of float32'),
        (["two.parquet"], 'two.parquet has the columns of lists "v", "w"; leave one in it'),
        (["uneven.parquet"], "row 1 (from 0) has 3 numbers, others have 2; give all the same"),
        (["gap.parquet"], 'gap.parquet, "v": row 1 (from 0) has no list; add it'),
        (["corpus.jsonl", "--embeddings", "day.parquet"], "has no column of lists of numbers"),
    ],
    ids=str,
)
def test_it_says_what_is_wrong_before_it_works(call, planted, arguments, message, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra train")
    arrow, x = pytest.importorskip("pyarrow"), np.load("x.npy")
    import datetime

    for name, array in (("few", x[:5]), ("none", x[:0]), ("double", x.astype(float))):
        np.save(f"{name}.npy", array)
    x[7, 2] = np.nan
    np.save("nan.npy", x)
    one, floats = [[1.0, 2.0]], arrow.list_(arrow.float32())
    for name, columns in {
        "day": {"text": ["a"], "day": [datetime.date(2020, 1, 1)]},
        "double": {"v": one},
        "two": {"v": arrow.array(one, floats), "w": arrow.array(one, floats)},
        "uneven": {"v": arrow.array([*one, [1, 2, 3]], floats)},
        "gap": {"v": arrow.array([*one, None], floats)},
    }.items():
        parquet.write_table(arrow.table(columns), f"{name}.parquet")
    (planted / "empty.jsonl").write_text("")
    (planted / "points.txt").write_text("...\n!!!\n")
    (planted / "twice.jsonl").write_text('{"_id": "a", "text": "b"}\n{"_id": "a", "text": "c"}\n')
    monkeypatch.setattr("stope.neighbors.deduplicate", lambda *_, **__: pytest.fail("it worked"))
    assert message in one_sentence(call("dedup", *arguments, code=1).stderr)
    assert not (planted / "kept.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["x.npy", "--encoder", "m"], "--encoder"),
        (["x.npy", "--text-column", "text"], "--text-column"),
        (["x.npy", "--id-column", "id"], "--id-column"),
        (["corpus.jsonl", "--embeddings", "x.npy", "--cache", "c", "--ray"], "--cache"),
        (["x.npy", "--cache", "c", "--ray"], "--cache"),
        (["x.npy", "--threshold", "1.5"], "--threshold"),
    ],
    ids=str,
)
def test_options_without_effect_are_wrong_usage(call, planted, arguments, option):
    assert option in call("dedup", *arguments, code=2).stderr


def test_odd_files_are_served(call, folder):
    np.save("zeros.npy", np.float32([[1, 2], [0, 0], [3, 1], [0, 0]]))
    done = call("dedup", "zeros.npy")
    assert "documents whose embedding is all zeros: 1, such as '1'" in done.stderr
    assert [row["_id"] for row in rows_of(folder / "kept.jsonl")] == ["0", "1", "2"]
    np.save("one.npy", np.ones((1, 4), np.float32))
    told = call("dedup", "one.npy").stdout
    assert "1 document in kept.jsonl" in told
    assert "Other thresholds" not in told  # nothing to choose between
    halves = np.float32([[1, 2], [1, 2], [2, -1]]).view(np.uint32) >> 16
    np.save("brain.npy", halves.astype(np.uint16).view("V2"))
    call("dedup", "brain.npy", "--threshold", 1.0)  # where rounding would tell equal rows apart
    assert [row["_id"] for row in rows_of(folder / "kept.jsonl")] == ["0", "2"]
    (folder / "blank.jsonl").write_text('{"text": "ore"}\n{"text": ""}\n{"text": "ore"}\n')
    np.save("two.npy", np.eye(2, dtype=np.float32))
    done = call("dedup", "blank.jsonl", "--skip-empty", "--embeddings", "two.npy")
    assert "2 documents, whose ids are the numbers of their rows" in done.stderr
    assert "left out: 1 row without text" in done.stderr
    assert rows_of(folder / "kept.jsonl") == [{"_id": "0", "text": "ore"}]


def test_embeddings_beside_texts_are_not_overlooked(call, planted):
    pa = pytest.importorskip("pyarrow", reason="needs the extra train")
    import pyarrow.parquet as parquet

    rows = list(read_jsonl("corpus.jsonl"))
    table = {"_id": [row["_id"] for row in rows], "text": [row["text"] for row in rows]}
    vectors = pa.array(list(np.load("x.npy")), pa.list_(pa.float32()))
    parquet.write_table(pa.table({**table, "vector": vectors}), "both.parquet")
    said = call("dedup", "both.parquet", "--threshold", 0.9).stderr
    assert 'both.parquet has embeddings, too, in "vector", which are not used' in said
    done = call("dedup", "both.parquet", "--embeddings", "both.parquet", "--threshold", 0.9)
    assert "are not used" not in done.stderr
    kept = [row["_id"] for row in rows_of(planted / "kept.jsonl")]
    assert kept == [f"d{row}" for row in range(DOCUMENTS) if row not in {**NEAR, **SAME}]


def test_scripts_without_blanks_need_no_encoder(call, folder):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    lines = ["鉱石は岩の中にある", "立坑は深くて暗い", "鉱石は岩の中にある。", "新しい鉱山の話"]
    (folder / "zh.txt").write_text("\n".join(lines))
    call("dedup", "zh.txt")
    assert [row["text"] for row in rows_of(folder / "kept.jsonl")] == [*lines[:2], lines[3]]


def test_a_picture_needs_matplotlib_before_any_work(call, planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = one_sentence(call("dedup", "x.npy", "--picture", "scores.png", code=1).stderr)
    assert said == 'matplotlib is not installed. Install it with: pip install "stope[pictures]".'
    assert not (planted / "kept.jsonl").exists()


def test_a_picture_shows_every_score(call, planted):
    pytest.importorskip("matplotlib", reason="needs the extra pictures")
    call("dedup", "x.npy", "--picture", "scores.png", "--threshold", 0.9)
    assert (planted / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert not list(planted.glob("*.tmp"))


def test_texts_stand_side_by_side_where_they_differ():
    same = "the same long beginning " * 10
    first, second = side_by_side(same + "ends", same + "is over", 30)
    assert first.endswith("ends")
    assert second.endswith("is over")
    assert max(len(first), len(second)) <= 30
    assert side_by_side("ore", "ore and rock") == ("ore", "ore and rock")
    assert side_by_side("a\x1b[31mb", "") == ("a\\x1b[31mb", "")


@pytest.mark.parametrize("empty_first", [False, True])
def test_an_empty_row_of_the_same_id_is_not_written_for_the_one_that_stays(
    call, folder, empty_first
):
    rows = [{"_id": "a", "text": "iron ore", "n": 1}, {"_id": "a", "text": " ", "n": 2}]
    rows = [*(reversed(rows) if empty_first else rows), {"_id": "None", "text": "copper"}]
    rows.append({"_id": None, "text": None})
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "e.npy", np.eye(2, dtype=np.float32))
    done = call("dedup", "x.jsonl", "--embeddings", "e.npy", "--skip-empty", "-q")
    assert "left out: 2 rows without text" in done.stderr  # with -q, too
    written = rows_of(folder / "kept.jsonl")
    assert written == [{"_id": "a", "text": "iron ore", "n": 1}, {"_id": "None", "text": "copper"}]


def test_rows_without_ids_keep_their_numbers_where_some_are_left_out(call, folder):
    (folder / "x.jsonl").write_text('{"text": ""}\n{"text": "ore"}\n{"text": "ore"}\n')
    np.save(folder / "e.npy", np.ones((2, 4), np.float32))
    call("dedup", "x.jsonl", "--embeddings", "e.npy", "--skip-empty", "--groups", "g.jsonl")
    assert rows_of(folder / "kept.jsonl") == [{"_id": "1", "text": "ore"}]
    assert gone(folder / "g.jsonl") == {"2": "1"}

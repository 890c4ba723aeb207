"""Mining jobs: what they find, what their tables say, and whose folders they leave alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables are Parquet")
pytest.importorskip("bm25s", reason="needs the extra retrieval")

import pyarrow.parquet
from killed_mining import a_job

from encoders import Counting, numbered
from stope.data import Exclusions, Pairs, read_exclusions, read_negative_ids
from stope.mining import Limits, MiningJob, SimANS, Sources, mine

TABLES = ("negatives.parquet", "counts.parquet", "job.json")
QUERIES, DOCUMENTS = 30, 200


def rows_of(folder, name="negatives.parquet"):
    return pyarrow.parquet.read_table(folder / name).to_pylist()


def kept_of(folder):
    """{query: [(document, source)]} by rank."""
    kept = {}
    for row in rows_of(folder):
        if row["reason"] == "kept":
            kept.setdefault(row["query_id"], []).append((row["document_id"], row["source"]))
            assert row["rank"] == len(kept[row["query_id"]])
    return kept


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    corpus = rng.standard_normal((DOCUMENTS, 12), dtype=np.float32)
    queries = corpus[:QUERIES] + 0.6 * rng.standard_normal((QUERIES, 12), dtype=np.float32)
    texts = numbered(DOCUMENTS, "document")
    return Pairs.from_texts(numbered(QUERIES, "query"), texts[:QUERIES], texts), queries, corpus


def a_case_job(folder, case, **options):
    pairs, queries, corpus = case
    return MiningJob(folder, pairs, query_embeddings=queries, corpus_embeddings=corpus, **options)


# --- what is mined -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        Limits(relative_margin=0.1, num_negatives=4),
        Limits(absolute_margin=0.3, max_score=0.4, min_score=0.1, num_negatives=3),
        Limits(sampling=SimANS(), seed=5, pool=20),
        Limits(among="positives", num_negatives=6),
        Limits(metric="dot", range_min=2),
    ],
    ids=str,
)
def test_the_dense_source_alone_mines_as_mine_does(tmp_path, case, limits, monkeypatch):
    pairs, queries, corpus = case
    exclude = [np.array([40 + query]) for query in range(QUERIES)]
    want = mine(
        pairs, query_embeddings=queries, corpus_embeddings=corpus, limits=limits, exclude=exclude
    )
    for shard_size in (7, 100):
        folder = tmp_path / str(shard_size)
        monkeypatch.setattr("stope.mining.jobs.job.SHARD_SIZE", shard_size)
        found = a_case_job(folder, case, limits=limits, exclude=exclude).run()
        for name in ("ids", "scores", "positive_scores", "counts"):
            assert np.array_equal(getattr(found.result, name), getattr(want.result, name)), name
        assert np.array_equal(found.positive_scores, want.positive_scores)
        for reason in ("absolute_margin", "relative_margin", "max_score", "min_score"):
            assert np.array_equal(found.result.rejected[reason], want.result.rejected[reason])
        assert found.summary().num_negatives == want.summary().num_negatives > 0
    for name in TABLES[:2]:
        assert (tmp_path / "7" / name).read_bytes() == (tmp_path / "100" / name).read_bytes()


def test_sources_follow_one_another_as_plain_loops_say(tmp_path, case, monkeypatch):
    monkeypatch.setattr("stope.mining.jobs.job.SHARD_SIZE", 8)
    _, queries, corpus = case
    run = {f"q{q}": {f"d{(7 * q + 3 * n) % DOCUMENTS}": -n for n in range(9)} for q in range(29)}
    groups = {f"d{d}": d % 11 for d in range(0, DOCUMENTS, 2)}
    limits = Limits(max_score=0.35)
    sources = Sources({"run": 2, "random": 1, "siblings": 2, "dense": 2}, run=run, groups=groups)
    a_case_job(tmp_path / "job", case, limits=limits, sources=sources).run()
    unit = [x / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (queries, corpus)]
    scores = unit[0] @ unit[1].T
    kept = kept_of(tmp_path / "job")
    for query in range(QUERIES):
        eligible = [d for d in range(DOCUMENTS) if d != query and scores[query, d] <= 0.35]
        hardest = sorted(eligible, key=lambda d: -scores[query, d])
        named = sorted(run.get(f"q{query}", {}).items(), key=lambda entry: -entry[1])
        same = [d for d in hardest if query % 2 == 0 and d % 2 == 0 and d % 11 == query % 11]
        lists = {
            "run": [int(name[1:]) for name, _ in named if int(name[1:]) in eligible],
            "siblings": same[:7],
            "dense": hardest,
        }
        want, target = {}, 0
        for source, quota in (("run", 2), ("siblings", 2), ("dense", 2)):
            target += quota
            for document in lists[source]:
                if len(want) < target and document not in want:
                    want[document] = source
        found = {int(name[1:]): source for name, source in kept[f"q{query}"]}
        assert {d: s for d, s in found.items() if s != "random"} == want
        assert list(found.values()).count("random") == 1
        assert set(found) <= set(eligible)
        order = [scores[query, d] for d in found]
        assert order == sorted(order, reverse=True)


def test_what_one_source_lacks_the_others_give(tmp_path, case):
    run = {"q0": {"d100": 1.0}}
    sources = Sources({"dense": 2, "run": 3}, run=run)
    a_case_job(tmp_path / "job", case, sources=sources).run()
    kept = kept_of(tmp_path / "job")
    assert [source for _, source in kept["q1"]] == ["dense"] * 5
    assert sorted(source for _, source in kept["q0"]) == ["dense"] * 4 + ["run"]


def test_the_table_says_what_was_turned_away_and_why(tmp_path):
    texts = ["Iron: an ore.", "iron - an ore", "iron ores", "a pit", "a lamp", "what is iron"]
    corpus = np.float32(
        [[1, 0, 0], [0.9, 0.1, 0], [0.995, 0.1, 0], [0.9, 0.436, 0], [0.1, 0, 1], [1, 0.01, 0]]
    )
    pairs = Pairs.from_texts(["What is iron?", "what is iron"], [texts[0], texts[0]], texts)
    options = {
        "query_embeddings": np.float32([[1, 0.1, 0]] * 2),
        "corpus_embeddings": corpus,
        "limits": Limits(max_score=0.8, num_negatives=3),
        "near_positive": 0.99,
    }
    MiningJob(tmp_path / "job", pairs, **options).run()
    found = {
        (row["query_id"], row["document_id"]): (row["source"], row["reason"], row["rank"])
        for row in rows_of(tmp_path / "job")
    }
    assert found == {
        ("q0", "d0"): ("positive", "positive", None),
        ("q0", "d4"): ("dense", "kept", 1),
        ("q0", "d1"): ("corpus", "copy", None),
        ("q0", "d2"): ("corpus", "near_positive", None),
        ("q0", "d5"): ("corpus", "near_positive", None),
        ("q0", "d3"): ("dense", "max_score", None),
        ("q1", "d0"): ("positive", "positive", None),
        ("q1", "d4"): ("dense", "kept", 1),
        ("q1", "d1"): ("corpus", "copy", None),
        ("q1", "d2"): ("corpus", "near_positive", None),
        ("q1", "d3"): ("dense", "max_score", None),
    }
    counts = json.loads((tmp_path / "job" / "job.json").read_text())["counts"]
    known = {"positive": 2, "query_text": 1, "copy": 2, "near_positive": 3, "excluded": 0}
    assert counts == {"corpus": known, "dense": {"kept": 2, "max_score": 2}}
    by_query = rows_of(tmp_path / "job", "counts.parquet")
    assert {"query_id": "q1", "source": "corpus", "reason": "query_text", "count": 1} in by_query
    assert all(row["count"] for row in by_query)
    totals = {}
    for row in by_query:
        key = row["source"], row["reason"]
        totals[key] = totals.get(key, 0) + row["count"]
    want = {(s, r): n for s, reasons in counts.items() for r, n in reasons.items() if n}
    assert totals == want


def test_a_teacher_turns_away_what_it_takes_for_answers(tmp_path, case):
    pairs, queries, corpus = case
    every = [(q, d) for q in range(QUERIES) for d in range(DOCUMENTS)]
    said = {(q, d): float(np.float32(((31 * q + 17 * d) % 23) / 23)) for q, d in every}
    places = [{t: n for n, t in enumerate(x)} for x in (pairs.query_texts, pairs.corpus_texts)]

    class Teacher:
        asked = 0

        def fingerprint(self):
            return "by table"

        def __call__(self, both):
            Teacher.asked += len(both)
            return [said[places[0][q], places[1][d]] for q, d in both]

    options = {"teacher": Teacher(), "teacher_margin": 0.5, "sources": Sources(spare=4)}
    a_case_job(tmp_path / "job", case, **options).run()
    plain = mine(pairs, query_embeddings=queries, corpus_embeddings=corpus, num_negatives=20)
    kept = kept_of(tmp_path / "job")
    asked = Teacher.asked
    for query in range(QUERIES):
        ceiling = said[query, query] * 0.5
        want = [d for d in plain.result.ids[query].tolist() if said[query, d] <= ceiling][:5]
        assert [int(name[1:]) for name, _ in kept.get(f"q{query}", [])] == want
    for row in rows_of(tmp_path / "job"):
        pair = int(row["query_id"][1:]), int(row["document_id"][1:])
        assert row["teacher_score"] == np.float32(said[pair])
    assert asked == QUERIES * 21
    a_case_job(tmp_path / "job", case, **options).run()
    assert Teacher.asked == asked


# --- folders -----------------------------------------------------------------------------------


def test_a_finished_job_is_not_done_again(tmp_path):
    a_job(tmp_path / "job").run()
    before = {name: (tmp_path / "job" / name).stat().st_mtime_ns for name in TABLES}
    encoder = Counting(before=lambda count: pytest.fail("texts were encoded again"))
    job = a_job(tmp_path / "job")
    job._encoder = encoder
    job.run()
    assert {name: (tmp_path / "job" / name).stat().st_mtime_ns for name in TABLES} == before
    content = (tmp_path / "job" / TABLES[0]).read_bytes()
    (tmp_path / "job" / TABLES[0]).write_bytes(content[:-9])
    job.run()
    assert (tmp_path / "job" / TABLES[0]).read_bytes() == content


def test_a_stopped_job_goes_on_in_the_shards_that_it_began_with(tmp_path, case, monkeypatch):
    def stop(stage, done, total):
        if stage == "mining" and done > 7:
            raise KeyboardInterrupt

    want = a_case_job(tmp_path / "whole", case).run()
    monkeypatch.setattr("stope.mining.jobs.job.SHARD_SIZE", 7)
    with pytest.raises(KeyboardInterrupt):
        a_case_job(tmp_path / "stopped", case).run(stop)
    monkeypatch.setattr("stope.mining.jobs.job.SHARD_SIZE", 100)  # of a later version
    found = a_case_job(tmp_path / "stopped", case).run()
    assert np.array_equal(found.result.ids, want.result.ids)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"limits": Limits(relative_margin=0.1)}, r"relative_margin \(0.02, now 0.1\)"),
        (
            {"sources": Sources({"dense": 2})},
            r"run differs, groups differs, .*quotas.dense \(3, now 2\)",
        ),
        ({"teacher": None, "teacher_margin": None}, "teacher differs"),
        ({"near_positive": None}, r"near_positive \(0.99, now not given\)"),
        ({"query_prompt": "find: "}, r"query_prompt \(not given, now 'find: '\)"),
        ({"exclude": Exclusions(None, np.array([3]))}, "exclude differs"),
    ],
)
def test_a_job_of_others_is_left_alone(tmp_path, changes, sentence):
    a_job(tmp_path / "job").run()
    before = {name: (tmp_path / "job" / name).read_bytes() for name in TABLES}
    with pytest.raises(ValueError, match=rf"was begun otherwise: .*{sentence}.*another folder"):
        a_job(tmp_path / "job", **changes).run()
    assert {name: (tmp_path / "job" / name).read_bytes() for name in TABLES} == before


def test_other_weights_and_other_texts_are_another_job(tmp_path, case):
    pairs = case[0]
    MiningJob(tmp_path / "job", pairs, Counting()).run()
    with pytest.raises(ValueError, match=r"otherwise: encoder differs\. Go on with what"):
        MiningJob(tmp_path / "job", pairs, Counting(scale=2.0)).run()
    other = Pairs.from_texts(
        pairs.query_texts, pairs.corpus_texts[:QUERIES], pairs.corpus_texts[1:]
    )
    with pytest.raises(ValueError, match=r"begun otherwise: texts differs\. Go on"):
        MiningJob(tmp_path / "job", other, Counting()).run()
    titles = [*["document"] * 9, *[""] * (DOCUMENTS - 9)]  # the same texts, put together otherwise
    titled = Pairs.from_texts(
        pairs.query_texts, pairs.corpus_texts[:QUERIES], pairs.corpus_texts, corpus_titles=titles
    )
    assert titled.corpus_texts == pairs.corpus_texts
    with pytest.raises(ValueError, match=r"begun otherwise: texts differs\. Go on"):
        MiningJob(tmp_path / "job", titled, Counting()).run()
    moved = tmp_path / "next"
    asked = Counting()
    cache = tmp_path / "job" / "embeddings"
    MiningJob(moved, pairs, asked, cache=cache, limits=Limits(max_score=0.9)).run()
    assert not asked.asked


def test_folders_of_others_and_old_versions(tmp_path, case):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"full holds other files and no job.json; name a new"
    ):
        a_case_job(tmp_path / "full", case).run()
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        a_case_job(tmp_path / "full" / "notes.txt", case).run()
    (tmp_path / "empty").mkdir()
    a_case_job(tmp_path / "empty", case).run()
    path = tmp_path / "empty" / "job.json"
    state = json.loads(path.read_text())
    state["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(state))
    a_case_job(tmp_path / "empty", case).run()
    del state["files"]
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"otherwise: numpy \('1.0', now '"):
        a_case_job(tmp_path / "empty", case).run()
    path.write_text("{")
    with pytest.raises(ValueError, match=r"job.json is damaged: .*; name another folder"):
        a_case_job(tmp_path / "empty", case).run()


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"limits": Limits(sampling="random")}, ValueError, "sampling is 'random', which a job"),
        ({"teacher_margin": 0.1}, ValueError, "teacher_margin is 0.1, but there is no teacher"),
        ({"near_positive": 1.5}, ValueError, "near_positive is 1.5"),
        ({"near_positive": 0}, ValueError, "near_positive is 0; give a cosine above 0"),
        ({"teacher": lambda both: [0.0] * len(both)}, ValueError, "teacher .* has no weights"),
        ({"sources": Sources({"run": 1}, run={"q0": {"x": 1.0}})}, ValueError, "run names no doc"),
        ({"query_embeddings": None}, TypeError, "there is no encoder and no query_embeddings"),
        (
            {"corpus_embeddings": np.zeros((3, 4), np.float32)},
            ValueError,
            "corpus_embeddings has 3",
        ),
    ],
)
def test_wrong_arguments_leave_no_folder(tmp_path, case, options, error, sentence):
    pairs, queries, corpus = case
    known = {"query_embeddings": queries, "corpus_embeddings": corpus, **options}
    with pytest.raises(error, match=sentence):
        MiningJob(tmp_path / "job", pairs, **known).run()
    assert not (tmp_path / "job" / "negatives.parquet").exists()


# --- ids ---------------------------------------------------------------------------------------


def test_exclusions_are_read_by_query_and_for_all(tmp_path, case):
    pairs = case[0]
    first = a_case_job(tmp_path / "first", case).run()
    worst = [(query, found[0][0]) for query, found in first.negatives().items()]
    lines = ["query_id\tdocument_id", *(f"{q}\t{d}" for q, d in worst[:10]), f"\t{worst[20][1]}"]
    (tmp_path / "no.tsv").write_text("\n".join(lines) + "\n")
    exclude = read_exclusions(tmp_path / "no.tsv", pairs)
    a_case_job(tmp_path / "second", case, exclude=exclude).run()
    kept = kept_of(tmp_path / "second")
    for query, document in worst[:10]:
        assert document not in [name for name, _ in kept[query]]
    assert all(worst[20][1] not in [name for name, _ in rows] for rows in kept.values())
    assert kept["q15"] == kept_of(tmp_path / "first")["q15"] or worst[20][1] in dict(
        kept_of(tmp_path / "first")["q15"]
    )
    pairs, queries, corpus = case
    again = mine(
        pairs,
        query_embeddings=queries,
        corpus_embeddings=corpus,
        exclude=exclude.lists(QUERIES),
    )
    assert {q: [d for d, _ in rows] for q, rows in again.negatives().items()} == {
        q: [d for d, _ in rows] for q, rows in kept.items()
    }
    counts = json.loads((tmp_path / "second" / "job.json").read_text())["counts"]
    assert counts["corpus"]["excluded"] in (QUERIES + 10, QUERIES + 9)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "x.tsv",
            "query_id\tdocument_id\nq0\tnope\n",
            r"--exclude: .*x.tsv:2: the data have no docu",
        ),
        ("x.tsv", "query_id\tdocument_id\nnope\td1\n", "no query of the id 'nope'; take it out"),
        ("x.tsv", "query_id\tword\nq0\td1\n", 'no id of a document among "query_id", "word"'),
        ("x.txt", "\n", "names no document"),
    ],
)
def test_exclusions_that_name_nothing_are_refused(tmp_path, case, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_exclusions(tmp_path / name, case[0], argument="--exclude")


def test_the_table_is_read_as_negatives_by_id(tmp_path, case):
    found = a_case_job(tmp_path / "job", case, limits=Limits(relative_margin=0.2)).run()
    assert np.array_equal(
        read_negative_ids(tmp_path / "job" / "negatives.parquet", case[0]), found.result.ids
    )
    suspects = [row for row in rows_of(tmp_path / "job") if row["reason"] == "relative_margin"]
    assert suspects

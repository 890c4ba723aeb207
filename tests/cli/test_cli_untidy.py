"""The commands with untidy files and options: what they say is plain, true and harmless."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json
import re

import pytest
from command import EMBEDDED, beir, call, folder, one_sentence, process, texts

from stope.cli.terminal import clean
from stope.data import read_jsonl, read_run


@pytest.fixture
def untidy(folder):
    """Files with BOM, CRLF and empty lines, whose names and ids would be markup or escapes."""
    (folder / "q [red].csv").write_bytes(
        b"\xef\xbb\xbfid,query\r\nq 1,iron ore\r\nq[b]2,silver mine\r\n\r\n"
    )
    (folder / "c [b].csv").write_bytes(
        b"id,text\r\nd 1,iron ore is rock\r\nd\x1b[31m2,the silver mine\r\n"
    )
    (folder / "one.tsv").write_text("query-id\tcorpus-id\tscore\nq 1\td 1\t1\n")
    return folder


def usage_error(done):
    return " ".join(re.sub(r"[│╭╮╰╯─]", "", done.stderr).split())


def test_ids_with_blanks_are_told_before_the_search(call, untidy, monkeypatch):
    monkeypatch.setattr("stope.retrieval.search", lambda *_, **__: pytest.fail("it searched"))
    said = one_sentence(call("search", "q [red].csv", "c [b].csv", code=1).stderr)
    assert said == (
        "q [red].csv: the query 'q 1' holds a blank, which a TREC file cannot hold; write JSON "
        "lines instead: -o run.jsonl."
    )
    done = call("search", "queries.jsonl", "corpus.jsonl", "--tag", "my run", code=1)
    assert "--tag: the tag 'my run' holds a blank" in one_sentence(done.stderr)


def test_what_search_wrote_is_evaluated_one_query_too(call, untidy):
    call("search", "q [red].csv", "c [b].csv", "-o", "[run].jsonl")
    assert read_run(untidy / "[run].jsonl")["q 1"].keys() == {"d 1"}
    done = call("evaluate", "[run].jsonl", "one.tsv", "--baseline", "[run].jsonl", "-o", "x.json")
    assert "[run].jsonl on 1 query" in done.stdout
    assert re.search(r"nDCG@10 .* 1.0000 .* undefined .* \+0.0000 .* undefined", done.stdout)
    assert "an interval is undefined with one query; judge more." in done.stderr
    row = json.loads((untidy / "x.json").read_text())["metrics"][0]
    assert (row["mean"], row["low"], row["difference"]["p_value"]) == (1.0, None, None)


def test_numbers_in_place_of_ids_are_told(call, folder):
    (folder / "q.txt").write_text("iron ore\nsilver mine\n")
    (folder / "c.txt").write_text("the iron ore\nthe silver mine\na pump\n")
    (folder / "j.tsv").write_text("query-id\tcorpus-id\tscore\n0\td1\t1\n1\td2\t1\n")
    done = call("search", "q.txt", "c.txt", "-o", "run.trec")
    assert "q.txt: the queries go by their row, 0 to 1; judgements need the same" in done.stderr
    assert "c.txt: the documents go by their row, 0 to 2" in done.stderr
    said = one_sentence(call("evaluate", "run.trec", "j.tsv", "-o", "x.json", code=1).stderr)
    assert "no document of run.trec is judged for any query, so all numbers would be 0" in said
    assert "its ids are as '0', those of the judgements as 'd1'; give judgements of the" in said
    assert not (folder / "x.json").exists()
    done = call("search", "queries.jsonl", "corpus.jsonl", "-o", "run.trec")
    assert "go by their row" not in done.stderr


def test_an_unknown_metric_is_the_options_fault(call, untidy):
    said = one_sentence(call("evaluate", "nope.trec", "one.tsv", "-m", "foo@10", code=1).stderr)
    assert said.startswith("--metric: 'foo@10', an unknown name; use nDCG@k")
    said = one_sentence(call("evaluate", "one.tsv", "one.tsv", "-m", "nDCG@0", code=1).stderr)
    assert said.startswith('--metric: metric "nDCG@0" has the cutoff 0; it must be a whole number')


def test_control_characters_reach_no_terminal(call, untidy):
    done = call("search", "q [red].csv", "c [b].csv", "--text-column", "\x1b]0;x\x07", code=1)
    assert "\x1b" not in done.stderr
    assert r"--text-column is \"\x1b]0;x\x07\"".replace('\\"', '"') in done.stderr
    assert clean("a\x1b[2J\u202eb\udcff\n c") == r"a\x1b[2J\u202eb\udcff c"
    done = call("search", "queries.jsonl", "[bold]nope.csv", code=1)
    assert one_sentence(done.stderr) == "[bold]nope.csv does not exist; check the name."


def test_queries_that_find_nothing_are_told(call, untidy):
    (untidy / "q.csv").write_text("id,query\na,iron\nb,zzz\nc,yyy\n")
    done = call("search", "q.csv", "c [b].csv", "-o", "r.jsonl")
    assert "2 of 3 queries found nothing: b, c." in done.stderr
    (untidy / "j.tsv").write_text("a\td 1\t1\nb\td 1\t1\n")
    done = call("evaluate", "r.jsonl", "j.tsv")
    assert "r.jsonl has no document for 1 of 2 judged queries, which score 0." in done.stderr
    (untidy / "empty.trec").write_text("")
    said = one_sentence(call("evaluate", "empty.trec", "j.tsv", code=1).stderr)
    assert said.startswith("empty.trec: run has no document for any query")


def test_scripts_without_blanks_are_found(call, folder):
    (folder / "q.csv").write_text("id,query\n1,東京の天気\n", encoding="utf-8")
    (folder / "c.csv").write_text("id,text\na,今日の東京は晴れ\nb,鯨は大きい\n", encoding="utf-8")
    call("search", "q.csv", "c.csv")
    assert read_run(folder / "run.trec")["1"].keys() == {"a"}


def test_unknown_ids_of_a_folder_have_an_option(call, folder, beir):
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("q30\tnowhere\t1\n")
    said = one_sentence(call("search", "beir", code=1).stderr)
    assert "--unknown-ids drop" in said
    assert "unknown_ids" not in said
    call("search", "beir", "--unknown-ids", "drop")
    said = one_sentence(call("mine", "beir", "--split", "test", *EMBEDDED, code=1).stderr)
    assert "--unknown-ids drop" in said
    call("mine", "beir", "--split", "test", *EMBEDDED, "--unknown-ids", "drop")


SEARCH = ("search", "queries.jsonl", "corpus.jsonl")
MINE = ("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED)
TRAIN = ("train", "pairs.tsv")


@pytest.mark.parametrize(
    ("arguments", "option", "why"),
    [
        ((*SEARCH, "--encoder", "x"), "--encoder", "no effect with --method bm25"),
        ((*SEARCH, "--metric", "dot"), "--metric", "no effect with --method bm25"),
        ((*SEARCH, "--fusion", "rrf"), "--fusion", "no effect with --method bm25"),
        (
            (*SEARCH, "--method", "dense", "--encoder", "x", "--stemmer", "english"),
            "--stemmer",
            "no effect with --method dense",
        ),
        ((*SEARCH, "-o", "x.jsonl", "--tag", "x"), "--tag", "JSON lines have no tag"),
        ((*SEARCH, "--split", "test"), "--split", "is a file; this is for BEIR folders"),
        ((*SEARCH, "--unknown-ids", "drop"), "--unknown-ids", "is a file; this is for BEIR"),
        (("search", "beir", "--query-column", "q"), "--query-column", "which has no columns"),
        ((*MINE, "--seed", "3"), "--seed", "no effect without --sampling random"),
        ((*MINE, "--range-counts", "raw"), "--range-counts", "no effect without --range-min"),
        ((*MINE, "--encoder", "x"), "--encoder", "where both sides have embeddings"),
        ((*MINE, "--batch-size", "9"), "--batch-size", "where both sides have embeddings"),
        (("mine", "pairs.tsv", "--text-column", "x"), "--text-column", "it is about CORPUS"),
        (("mine", "beir", "--text-column", "t"), "--text-column", "which has no columns"),
        (("mine", "beir", "--positive-ids"), "--positive-ids", "with ids in its qrels"),
        ((*TRAIN, "--relative-margin", "0.1"), "--relative-margin", "without --num-negatives"),
        ((*TRAIN, "--split", "dev"), "--split", "is a file; this is for BEIR folders"),
        ((*TRAIN, "--code", "--encoder", "x"), "--code", "it is for a static encoder"),
        (("demo", "--unknown-ids", "drop"), "--unknown-ids", "the BEIR folder of --data"),
        (("demo", "--data", "x", "--max-documents", "200"), "--max-documents", "beside --data"),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(call, folder, beir, arguments, option, why):
    said = usage_error(call(*arguments, code=2))
    assert f"Invalid value for {option}: " in said
    assert why in said
    assert not (folder / "negatives.jsonl").exists()


def test_rows_and_negatives_are_told_apart(call, folder):
    lines = (folder / "pairs.tsv").read_text().splitlines()
    query = lines[1].split("\t")[0]
    (folder / "two.tsv").write_text("\n".join([*lines, f"{query}\t{lines[2].split(chr(9))[1]}"]))
    done = call("mine", "two.tsv", "corpus.jsonl", "--corpus-embeddings", "c.npy",
                "--query-embeddings", "q41.npy", code=1)  # fmt: skip
    assert "q41.npy" in one_sentence(done.stderr)
    import numpy as np

    np.save(folder / "q41.npy", np.concatenate([np.load(folder / "q.npy")] * 2)[:41])
    done = call("mine", "two.tsv", "corpus.jsonl", "--corpus-embeddings", "c.npy",
                "--query-embeddings", "q41.npy", "-n", 2)  # fmt: skip
    told = " ".join(done.stdout.split())
    assert "82 rows in negatives.jsonl: 41 pairs of a query and a positive x 2 negatives" in told
    assert len(list(read_jsonl(folder / "negatives.jsonl"))) == 82


def test_one_pair_is_too_few_to_train_on(call, folder):
    (folder / "single.tsv").write_text("query\tpositive\nw1 w2\tw1 w2 w3\n")
    said = one_sentence(call("mine", "single.tsv", "corpus.jsonl", code=1).stderr)
    assert "one pair is too few" in said
    assert "--encoder" in said
    assert not (folder / "negatives.jsonl").exists()


def test_search_counts_what_it_leaves_out_and_says_that_rows_have_numbers(call, folder):
    (folder / "q.jsonl").write_text('{"text": ""}\n{"text": "iron"}\n{"text": "copper"}\n')
    (folder / "c.tsv").write_text("id\ttext\na\tiron\nb\t \nc\tcopper\n")
    done = call("search", "q.jsonl", "c.tsv", "--skip-empty")
    assert "q.jsonl: left out: 1 row without text." in done.stderr
    assert "c.tsv: left out: 1 row without text." in done.stderr
    assert "q.jsonl: the queries go by their row, 1 to 2; judgements need the same" in done.stderr
    assert read_run(folder / "run.trec").keys() == {"1", "2"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("dedup", "beir", "-o", "beir/corpus.jsonl"),
        ("search", "beir", "-o", "beir/queries.jsonl"),
        ("select", "corpus.jsonl", "--for", "beir", "-n", "3", "-o", "beir/corpus.jsonl"),
        ("mine", "beir", *EMBEDDED, "--ids", "beir/corpus.jsonl.gz"),
        ("mine", "pairs.tsv", *EMBEDDED, "--job", "beir", "-o", "beir/negatives.parquet"),
    ],
    ids=lambda words: words[0],
)
def test_no_output_takes_the_place_of_a_file_in_a_folder_that_is_read(
    call, folder, beir, arguments
):
    before = {path: path.read_bytes() for path in beir.rglob("*.*")}
    said = one_sentence(call(*arguments, code=1).stderr)
    assert said == f"cannot write {arguments[-1]}: it is read or written already; name another."
    assert {path: path.read_bytes() for path in beir.rglob("*.*")} == before


def test_nor_that_of_a_file_to_which_a_link_leads(call, folder, beir):
    (beir / "corpus.jsonl").rename(folder / "large.jsonl")
    (beir / "corpus.jsonl").symlink_to(folder / "large.jsonl")
    before = (folder / "large.jsonl").read_bytes()
    for name in ("beir/corpus.jsonl", "large.jsonl"):
        said = one_sentence(call("search", "beir", "-o", name, code=1).stderr)
        assert said == f"cannot write {name}: it is read or written already; name another."
    assert (folder / "large.jsonl").read_bytes() == before
    (folder / "lost.trec").symlink_to("nowhere/run.trec")
    said = one_sentence(call("search", "absent.tsv", "c.tsv", "-o", "lost.trec", code=1).stderr)
    assert said.endswith("nowhere does not exist; create it first.")  # before anything is read


def test_judgements_without_an_answer_are_told_and_blamed(call, folder):
    (folder / "run.trec").write_text("q1 Q0 d1 1 2.0 x\nq2 Q0 d1 1 2.0 x\n")
    (folder / "j.tsv").write_text("q1\td1\t1\nq2\td1\t0\nq2\td2\t-1\n")
    done = call("evaluate", "run.trec", "j.tsv")
    said = "j.tsv has no relevant document (of grade 1 at least) for 1 of 2 judged queries, where"
    assert said in done.stderr
    (folder / "j.tsv").write_text("q1\td1\t10001\n")
    said = one_sentence(call("evaluate", "run.trec", "j.tsv", code=1).stderr)
    assert said.startswith("j.tsv: the relevance of document 'd1' for query 'q1' is 10001; it may")


def test_absurd_numbers_of_negatives_are_refused_before_memory_is_taken(call, folder):
    said = one_sentence(call(*MINE, "-n", 10**9, code=1).stderr)
    assert said == "-n asks for 1,000,000,000 negatives of 150 documents; lower it."
    quotas = ("--job", "job", "--quotas", "dense=9,random=1000000000")
    said = one_sentence(call(*MINE, *quotas, code=1).stderr)
    assert said == "--quotas asks for 1,000,000,009 negatives of 150 documents; lower it."


def test_names_that_stdout_and_the_locale_lack_are_written_all_the_same(process, folder):
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    name = "\u0440\u0443\u0434\u0430.jsonl"
    done = process("search", "queries.jsonl", "corpus.jsonl", "-o", name, env=plain)
    told, said = done.communicate(timeout=120)
    assert done.returncode == 0, said
    assert told.startswith("40 queries, ")
    assert told.isascii()
    assert len(read_run(folder / name)) == 40


def test_judgements_that_are_left_out_are_counted(call, folder, beir):
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("q30\tnowhere\t1\nnobody\td1\t1\nq3\td1\t0\n")
    done = call("search", "beir", "--unknown-ids", "drop")
    assert "beir: left out: 2 judgements of unknown ids." in done.stderr
    left = "left out: 2 judgements of unknown ids, 1 judged query without an answer."
    mine = ("mine", "beir", "--split", "test", *EMBEDDED, "--unknown-ids", "drop")
    assert f"10 queries, 150 documents, 10 pairs; {left}" in call(*mine).stderr
    assert left in call(*mine, "--job", "job").stderr
    assert call(*mine, "-q").stderr == f"stope: beir: {left}\n"
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    said = one_sentence(call("search", "beir", code=1).stderr)
    assert said == "beir has no judged query in the split test; name another."


def test_a_run_of_other_queries_is_no_source_of_negatives(call, folder):
    (folder / "r.trec").write_text("another Q0 d5 1 3 x\n")
    quotas = ("--job", "job", "--quotas", "run=1,dense=1", "--run", "r.trec")
    said = one_sentence(call(*MINE, *quotas, code=1).stderr)
    assert said.startswith("--run names no document of the corpus for any query; give one of these")

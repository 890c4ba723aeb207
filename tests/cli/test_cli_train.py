# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
"""`stope train`: two files, a configuration, a kill and --resume, and what it says of mistakes."""

from __future__ import annotations

import json
import re
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("yaml", reason="needs the extra train")

from command import beir, call, folder, one_sentence, process, texts

from stope.data import read_jsonl, write_jsonl
from stope.encoders import load_encoder
from stope.runs import RunReport, run
from stope.training.callbacks.log import read_log

SMALL = {"static": {"dim": 16}}


def weights(model):
    return (model / "model.safetensors").read_bytes() if model.is_dir() else None


def files(path):
    return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))


# --- two files ---------------------------------------------------------------------------------


def test_two_files_and_a_transformer(call, folder, texts):
    from small_transformers import tiny

    words = sorted({word for text in texts[1] for word in text.split()})
    tiny(folder / "scratch", words=words).save_pretrained(str(folder / "tiny"))
    done = call(
        "train", "pairs.tsv", "corpus.jsonl", "--encoder", "tiny", "-n", 2, "--epochs", 2,
        "--batch-size", 16, "--holdout", 8, "--max-tokens", 12, "--learning-rate", "1e-3",
    )  # fmt: skip
    assert "holding out 8 queries" in done.stderr
    assert "refreshing negatives" in done.stderr
    assert re.match(r"\d+ steps in [\d.]+ s, last loss", done.stdout)
    assert "8 held-out queries" in done.stdout
    assert "try it: stope search QUERIES corpus.jsonl --method dense --encoder " in done.stdout
    for metric in ("nDCG@10", "MRR@10", "R@100"):
        row = next(line for line in done.stdout.splitlines() if metric in line)
        gain, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", row))
        assert low <= gain <= high
    assert files(folder / "model.run")[0] == "checkpoints"
    report = json.loads((folder / "model.run" / "report.json").read_text())
    assert set(report["before"]) == set(report["gains"]) == {"nDCG@10", "MRR@10", "R@100"}
    assert report["num_queries"] == 8
    kinds, second = (
        {row["kind"] for row in read_jsonl(folder / "model.run" / place / "log.jsonl")}
        for place in (".", "second")
    )
    assert {"step", "evaluation", "checkpoint", "guard"} <= kinds
    assert {"step", "refresh", "evaluation", "checkpoint"} <= second
    assert "refresh" not in kinds
    verdict = report["training"]["guard"]
    assert verdict["queries"] == 8
    told = " ".join(done.stdout.split())
    assert f"Going on with negatives brought {verdict['gain']:+.3f} [" in told
    assert ("Nothing is lost" in told) != verdict["kept"]
    encoder = load_encoder(folder / "model")
    assert encoder.max_seq_length == 12
    assert encoder.encode(["w1 w2"]).shape == (1, 16)


def test_what_to_try_next_is_what_the_same_command_takes(call, folder):
    """An option beside files, a key in a configuration, nothing where the data has negatives."""
    (folder / "run.yaml").write_text(
        "data: pairs.tsv\nencoder: {static: {dim: 16}}\nschedule: {epochs: 1}\n"
        "evaluation: {holdout: 5}\noutput: out\n"
    )
    of_adapters = "adapter: {query_embeddings: q.npy, corpus_embeddings: c.npy, num_documents: 4"
    for name, more in (("plain", ""), ("mined", ", refresh_every: 1")):
        (folder / f"{name}.yaml").write_text(
            "data: {path: pairs.tsv, corpus: corpus.jsonl}\nschedule: {epochs: 2}\n"
            f"evaluation: {{holdout: 5}}\noutput: of_{name}\n{of_adapters}{more}}}\n"
        )
    rows = [
        {"query": f"w{n} w1", "document": f"{word}{n} w1", "label": label}
        for n in range(30)
        for word, label in (("w", 1), ("v", 0))
    ]
    write_jsonl(folder / "labels.jsonl", rows)
    options = ("--holdout", 5, "--epochs", 1, "-q")
    said = [
        call("train", "pairs.tsv", *options, "-o", "a").stdout,
        call("train", "run.yaml", "-q").stdout,
        call("train", "labels.jsonl", *options, "-o", "b").stdout,
    ]
    assert "Trained in-batch; -n 5 tries" in said[0]
    assert "try it: stope search QUERIES CORPUS --method dense --encoder " in said[0]
    assert "Trained in-batch; negatives: auto tries" in said[1]
    assert "Trained in-batch" not in said[2]
    adapted = [" ".join(call("train", f"{n}.yaml").stdout.split()) for n in ("plain", "mined")]
    assert "Trained without mined negatives; adapter.refresh_every with guard: true" in adapted[0]
    assert "rained without" not in adapted[1]
    assert "/of_plain/model; stope.adapters.Adapter.load reads it" in adapted[0]
    report = json.loads((folder / "of_mined" / "report.json").read_text())
    assert [refresh["step"] for refresh in report["training"]["refreshes"]] == [0, 3]
    refused = call("train", "labels.jsonl", *options, "-o", "c", "-n", 2, code=1).stderr
    assert "data.negatives: leave" in refused


def test_without_a_guard_negatives_are_there_from_the_first_step(call, folder):
    files = ["train", "pairs.tsv", "corpus.jsonl", "-n", 2, "--epochs", 1]
    said = one_sentence(call(*files, "--holdout", 0, code=1).stderr)
    assert said.startswith("--holdout is 0, but negatives and weights stay only where")
    call(*files, "--holdout", 0, "--no-guard")
    report = json.loads((folder / "model.run" / "report.json").read_text())
    assert report["training"]["guard"] is None
    assert [refresh["step"] for refresh in report["training"]["refreshes"]] == [0]
    done = call("train", "pairs.tsv", "-o", "other", "--no-guard", code=2)
    assert "it has no effect without" in " ".join(re.sub("│", "", done.stderr).split())


def test_again_needs_resume_or_another_place(call, folder):
    done = call("train", "pairs.tsv", "-o", "m", "--epochs", 1, "--resume")
    assert "m.run holds no run to go on with; this one starts afresh." in done.stderr
    kept = weights(folder / "m")
    said = one_sentence(call("train", "pairs.tsv", "-o", "m", "--epochs", 1, code=1).stderr)
    assert said == "cannot write m: it exists and is not an empty folder; name another."
    done = call("train", "pairs.tsv", "-o", "m", "--epochs", 1, "--resume")
    assert "starts afresh" not in done.stderr
    assert "is a finished run; nothing is left to do" in done.stderr
    assert weights(folder / "m") == kept
    other = call("train", "pairs.tsv", "-o", "m", "--epochs", 2, "--resume", code=1)
    assert "--epochs (1, now 2)" in one_sentence(other.stderr)


# --- a configuration ---------------------------------------------------------------------------


def test_the_example_works(call, folder):
    (folder / "config.yaml").write_text(call("train", "--example").stdout)
    done = call("train", "config.yaml", "--set", "training.epochs=2", "--set", "schedule.threads=1")
    assert "holding out 4 queries to judge by" in done.stderr
    assert "gain" in done.stdout
    assert "run/model" in done.stdout
    assert {"config.yaml", "run.json", "log.jsonl", "report.json", "model"} <= set(
        files(folder / "run")
    )
    # What was written is a configuration that says the same.
    again = call("train", "run/config.yaml", "--resume")
    assert "is a finished run" in again.stderr


def test_a_run_of_before_goes_on_in_the_whole_corpus(folder, monkeypatch):
    """Its configuration does not say which documents are mined; it was begun with all."""
    monkeypatch.chdir(folder)
    given = {
        "data": {"path": "pairs.tsv", "corpus": "corpus.jsonl"}, "encoder": SMALL, "output": "old",
        "negatives": {"num_negatives": 2}, "schedule": {"epochs": 2},
    }  # fmt: skip
    every = run({**given, "negatives": {"num_negatives": 2, "among": "corpus"}})
    path = folder / "old" / "config.yaml"
    kept = path.read_text()
    path.write_text(kept.replace("  among: corpus\n", ""))
    assert path.read_text() != kept
    (folder / "old" / "report.json").unlink()
    again = run(given, resume=True)
    assert again.training.losses == every.training.losses
    (folder / "old" / "report.json").unlink()
    with pytest.raises(ValueError, match=r"negatives.among \('corpus', now 'positives'\)"):
        run({**given, "negatives": {"num_negatives": 2, "among": "positives"}}, resume=True)


def test_a_beir_folder_with_every_section(call, folder, beir):
    (folder / "all.yaml").write_text(
        """
data: {path: beir, name: tests}
encoder: {static: {dim: 16}}
loss: {temperature: 0.1, matryoshka_dims: [8], symmetric: true}
weighting: {name: progressive, first: -0.5, last: 0.5}
negatives: {mode: periodic, every: 2, num_negatives: 2, sampling: top}
batches: distinct
prompts: {query: "w1 ", document: ""}
training: {epochs: 3, batch_size: 8, learning_rate: 5e-2, scheduler: cosine, threads: 1}
evaluation: {split: test, metrics: [MRR@10, R@5], every: 2, patience: 9, keep: last}
output: {folder: out, model: there, checkpoint_every: 3, keep_checkpoints: 1}
"""
    )
    done = call("train", "all.yaml", "-q")
    assert "try it: stope search beir --method dense --encoder " in done.stdout
    assert "MRR@10" in done.stdout
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["after"] == report["training"]["evaluations"][-1]
    assert len(files(folder / "out" / "checkpoints")) == 1
    assert load_encoder(folder / "there").prompts["query"] == "w1 "


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["nope.yaml"], "nope.yaml does not exist", 1),
        (["wrong.yaml"], 'wrong.yaml: training has no key "epoch" (did you mean "epochs"?)', 1),
        (["good.yaml", "--set", "training.epochs=none"], "training.epochs is 'none'; give a", 1),
        (["good.yaml", "--epochs", "3"], "a configuration says this itself", 2),
        (["good.yaml", "corpus.jsonl"], "a configuration says this itself", 2),
        (["good.yaml", "-o", "x"], "a configuration says this itself", 2),
        (["pairs.tsv", "--set", "training.epochs=3"], "it changes a configuration", 2),
        (["pairs.tsv", "--encoder", "./none"], "--encoder ./none: there is no such folder", 1),
        (["pairs.tsv", "-o", "no/model"], "the folder", 1),
        (["pairs.tsv", "--weighting", "often"], "weighting has the name 'often'; there are", 1),
        (["pairs.tsv", "--holdout", "39"], "--holdout is 39, which is 39 of 40", 1),
        (["texts.txt"], "texts.txt holds documents and no queries; give pairs first, or", 2),
        ([], "Missing argument", 2),
    ],
    ids=str,
)
def test_train_says_what_is_wrong(call, folder, arguments, message, code):
    (folder / "wrong.yaml").write_text("data: pairs.tsv\noutput: x\ntraining: {epoch: 3}\n")
    (folder / "good.yaml").write_text("data: pairs.tsv\noutput: x\n")
    (folder / "texts.txt").write_text("ore\nrock\n")
    done = call("train", *arguments, code=code)
    text = (
        one_sentence(done.stderr) if code == 1 else " ".join(re.sub("│", "", done.stderr).split())
    )
    assert message in text
    assert not (folder / "model").exists()


# --- the folder of a run -----------------------------------------------------------------------


def sections(**more):
    return {
        "data": "pairs.tsv",
        "output": "out",
        "encoder": SMALL,
        "training": {"epochs": 1, "threads": 1},
        **more,
    }


def test_a_folder_belongs_to_one_configuration(call, folder):
    first = run(sections())
    with pytest.raises(ValueError, match="out holds a finished run; go on with it by resume=True"):
        run(sections())
    with pytest.raises(ValueError, match=r"another configuration: schedule.epochs \(1, now 2\)"):
        run(sections(training={"epochs": 2}), resume=True)
    again = run(sections(), resume=True)
    assert again == RunReport(**{**vars(first), "resumed": True})
    damages = {
        "run.json": ('"data": {', '"data": [{'),
        "report.json": ('"losses": [', '"losses": 1'),
    }
    for name, (old, new) in damages.items():
        whole = (folder / "out" / name).read_text()
        for damaged in (whole.replace(old, new), "[]", "[" * 10**5, '{"training": {}}'):
            (folder / "out" / name).write_text(damaged)
            with pytest.raises(ValueError, match=rf"{name} is damaged: .*name another output.fold"):
                run(sections(), resume=True)
        (folder / "out" / name).write_text(whole)
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="which holds other files"):
        run(sections(output="other"))
    assert files(folder / "other") == ["notes.txt"]
    with pytest.raises(FileExistsError, match="which is a file"):
        run(sections(output="pairs.tsv"))


def test_a_folder_in_which_nothing_was_begun_may_be_taken(call, folder):
    (folder / "empty").mkdir()
    wrong = [
        sections(data="pears.tsv"),
        sections(evaluation={"path": "pears.tsv"}),
        sections(encoder="empty"),
    ]
    for one in wrong:
        with pytest.raises((FileNotFoundError, ValueError), match=r"pears|has no modules.json"):
            run(one)
        assert files(folder / "out") == ["config.yaml"]
    assert not run(sections(), resume=True).resumed
    (folder / "own").mkdir()
    (folder / "own" / "config.yaml").write_text("data: pairs.tsv\noutput: own\n")
    with pytest.raises(FileExistsError, match="which holds other files"):
        run("own/config.yaml")


def test_texts_that_changed_are_noticed(call, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["stope.runs.run"], "save_encoder", full)
        with pytest.raises(OSError, match=r"cannot write the model .* make room and resume it"):
            run(sections())
    assert "model" not in files(folder / "out")
    with pytest.raises(ValueError, match="out holds a run that has not ended"):
        run(sections())
    before = (folder / "pairs.tsv").read_text()
    (folder / "pairs.tsv").write_text(before + "one more\tpair\n")
    with pytest.raises(ValueError, match=r'begun with other texts: "pairs.tsv" has changed since'):
        run(sections(), resume=True)
    (folder / "pairs.tsv").write_text(before)
    done = run(sections(), resume=True)
    assert done.resumed
    assert weights(done.model) == weights(run(sections(output="fresh")).model)


def test_several_sources(call, folder):
    (folder / "more.csv").write_text(
        "question,answer,weight\n" + "".join(f"w{n} w{n + 1},w{n} w{n + 2},2\n" for n in range(30))
    )
    data = [
        {"path": "pairs.tsv", "corpus": "corpus.jsonl", "name": "own"},
        {"path": "more.csv", "name": "more"},
    ]
    done = run(
        sections(
            data=data,
            batches="homogeneous",
            negatives={"mode": "static", "num_negatives": 1, "across_sources": True},
            evaluation={"holdout": 6},
        )
    )
    assert done.training.steps > 0
    assert set(done.after) == {"nDCG@10"}


def test_negatives_of_a_file(call, folder):
    call(
        "mine", "pairs.tsv", "corpus.jsonl", "--query-embeddings", "q.npy", "--corpus-embeddings",
        "c.npy", "-n", 2, "--ids", "ids.jsonl",
    )  # fmt: skip
    data = {"path": "pairs.tsv", "corpus": "corpus.jsonl"}
    plain = run(sections(data=data))
    mined = run(sections(data=data, negatives={"file": "ids.jsonl"}, output="mined"))
    assert mined.training.losses != plain.training.losses


def test_adapters(call, folder, beir):
    np.save(folder / "qf.npy", np.load(folder / "q.npy"))
    data = {"path": "pairs.tsv", "corpus": "corpus.jsonl"}
    given = {"query_embeddings": "qf.npy", "corpus_embeddings": "c.npy"}
    done = run(sections(data=data, adapter=given, evaluation={"holdout": 8, "metrics": ["R@10"]}))
    assert done.after["R@10"] >= done.before["R@10"]
    assert files(done.model) == ["adapter.json", "adapter.safetensors"]
    (folder / "never.txt").write_text("d1\n")
    without = run(sections(data={**data, "exclude": "never.txt"}, adapter=given, output="without"))
    every = run(sections(data=data, adapter=given, output="every"))
    assert without.training.losses[0] < every.training.losses[0]  # of one negative less
    (line,) = [line for line in read_log(done.folder) if line["kind"] == "evaluation"][-1:]
    low, high = line["intervals"]["score"]
    assert low <= line["score"] <= high
    np.save(folder / "short.npy", np.load(folder / "q.npy")[:9])
    with pytest.raises(ValueError, match="query_embeddings has 9 rows, but 40 texts were read"):
        run(sections(data=data, adapter={**given, "query_embeddings": "short.npy"}, output="b"))
    static = run(sections(output="static")).model
    attached = run(
        {
            "data": "beir",
            "encoder": str(static),
            "adapter": {"kind": "low_rank", "rank": 4},
            "evaluation": {"split": "test"},
            "output": "attached",
            "weighting": "progressive",
        }
    )
    assert load_encoder(attached.model).encode(["w1"]).shape == (1, 16)


# --- kill and resume ---------------------------------------------------------------------------

RUN = """
data: {path: pairs.tsv, corpus: corpus.jsonl}
encoder: {static: {dim: 16}}
weighting: progressive
negatives: {mode: periodic, every: 7, num_negatives: 2}
training: {max_steps: 60, batch_size: 8, threads: 1}
evaluation: {holdout: 8, every: 10}
output: {folder: FOLDER, checkpoint_every: 5}
"""


# The command, which is killed as it begins to write the checkpoint of the step in argv[1].
KILLED = """
import os, signal, sys
from stope.__main__ import main
from stope.training.callbacks.checkpoint import Checkpoints

at, save = int(sys.argv.pop(1)), Checkpoints.save

def save_or_die(self, step, write):
    if step == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, step, write)

Checkpoints.save = save_or_die
main()
"""


def test_killed_and_resumed_is_as_if_never_killed(call, process, folder):
    (folder / "whole.yaml").write_text(RUN.replace("FOLDER", "whole"))
    (folder / "killed.yaml").write_text(RUN.replace("FOLDER", "killed"))
    call("train", "whole.yaml", "-q")
    for at in (15, 40):
        running = process(
            sys.executable, "-c", KILLED, str(at), "train", "killed.yaml", "--resume",
            module=False, env={"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        _, said = running.communicate(timeout=240)
        assert running.returncode == -signal.SIGKILL, said
    assert not (folder / "killed" / "report.json").exists()
    done = call("train", "killed.yaml", "--resume")
    assert "60 steps" in done.stdout
    assert weights(folder / "killed" / "model") == weights(folder / "whole" / "model")
    one, other = (
        json.loads((folder / name / "report.json").read_text()) for name in ("whole", "killed")
    )
    assert one["training"]["losses"] == other["training"]["losses"]
    assert one["after"] == other["after"]
    assert other["training"]["resumed_from"] == 35


def test_ctrl_c_says_how_to_go_on(call, folder, monkeypatch):
    import stope.runs

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stope.runs, "run", interrupted)
    (folder / "config.yaml").write_text("data: pairs.tsv\noutput: out\n")
    said = one_sentence(call("train", "config.yaml", code=130).stderr)
    assert "stope train config.yaml --resume goes on from the last checkpoint" in said

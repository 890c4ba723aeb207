"""Configurations of training runs: every key, every sentence, the sources they name."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("yaml", reason="needs the extra train")

from stope.data import Collection, write_beir, write_jsonl
from stope.training import Config, run
from stope.training.configuration.data import read_sources
from stope.training.configuration.example import EXAMPLE
from stope.training.configuration.judging import judges
from stope.training.configuration.options import differences, plain
from stope.training.configuration.sections import Source
from stope.training.configuration.source import source_name, subset

LEAST = {"data": "pairs.tsv", "output": "run"}


def told(sections):
    """The sentence about wrong sections."""
    with pytest.raises(ValueError, match=r".") as error:
        Config.from_dict({**LEAST, **sections})
    return str(error.value)


# --- what is read ------------------------------------------------------------------------------


def test_the_least_configuration_has_defaults():
    config = Config.from_dict(LEAST)
    assert config.data == (Source("pairs.tsv"),)
    assert (config.encoder.static.dim, config.encoder.model) == (512, None)
    assert (config.loss.temperature, config.loss.precision) == (0.05, "float32")
    assert config.output.folder == "run"
    assert config.evaluation is None
    assert config.negatives is None


def test_short_forms():
    config = Config.from_dict(
        {
            "data": ["a.tsv", {"path": "b.tsv", "name": "second"}],
            "output": "run",
            "encoder": "some/model",
            "weighting": "progressive",
            "batches": "distinct",
            "negatives": "static",
        }
    )
    assert [source_name(one) for one in config.data] == ["a.tsv", "second"]
    assert config.encoder.model == "some/model"
    assert config.weighting["name"] == "progressive"
    assert config.batches["name"] == "distinct"
    assert config.negatives["mode"] == "static"
    assert Config.from_dict({**LEAST, "encoder": "static"}).encoder.static is not None


NUMBERS = {
    "batch_size": st.integers(2, 9999),
    "learning_rate": st.floats(1e-9, 10),
    "warmup": st.floats(0, 0.99),
    "seed": st.integers(0, 2**31),
    "scheduler": st.sampled_from(["linear", "cosine", "constant"]),
}
PATHS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@st.composite
def configurations(draw):
    sections = {"data": {"path": draw(PATHS)}, "output": {"folder": draw(PATHS)}}
    if draw(st.booleans()):
        sections["training"] = draw(st.fixed_dictionaries({}, optional=NUMBERS))
    if draw(st.booleans()):
        sections["weighting"] = draw(
            st.sampled_from(["progressive", {"name": "focal", "gamma": 1.5}, "dynamic"])
        )
    if draw(st.booleans()):
        sections["negatives"] = {"num_negatives": draw(st.integers(1, 9)), "every": 7}
    if draw(st.booleans()):
        sections["prompts"] = {"query": draw(st.text(st.characters(codec="utf-8")))}
    if draw(st.booleans()):
        sections["loss"] = {"matryoshka_dims": draw(st.lists(st.integers(1, 512), min_size=1))}
    if draw(st.booleans()):
        sections["evaluation"] = {"holdout": draw(st.floats(0.001, 1e5))}
    if draw(st.booleans()):
        sections["encoder"] = {"model": draw(PATHS), "max_tokens": draw(st.integers(1, 512))}
    return sections


@settings(max_examples=40)
@given(sections=configurations())
def test_round_trip(sections, tmp_path_factory):
    config = Config.from_dict(sections)
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    again = Config.from_yaml(file)
    assert again == config
    assert again.fingerprint() == config.fingerprint()


def test_the_fingerprint_is_of_what_decides():
    first = Config.from_dict(LEAST)
    for same in ({"output": "other"}, {"training": {"threads": 1}}):
        assert Config.from_dict({**LEAST, **same}).fingerprint() == first.fingerprint()
    for other in (
        {"data": "other.tsv"},
        {"training": {"epochs": 2}},
        {"weighting": "focal"},
        {"loss": {"temperature": 0.1}},
    ):
        assert Config.from_dict({**LEAST, **other}).fingerprint() != first.fingerprint()


def test_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    config = Config.from_dict(
        {**LEAST, "encoder": "model", "evaluation": {"path": "dev.tsv"}}
    ).absolute()
    assert config.data[0].path == str(tmp_path / "pairs.tsv")
    assert config.encoder.model == str(tmp_path / "model")
    assert config.evaluation.path == str(tmp_path / "dev.tsv")
    assert config.output.folder == str(tmp_path / "run")
    hub = Config.from_dict({**LEAST, "encoder": "some/model"}).absolute()
    assert hub.encoder.model == "some/model"


# --- YAML --------------------------------------------------------------------------------------


def yaml(tmp_path, text, changes=()):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return Config.from_yaml(file, changes)


def test_numbers_with_exponents_are_numbers(tmp_path):
    config = yaml(tmp_path, "data: a.tsv\noutput: run\ntraining: {learning_rate: 2e-5}\n")
    assert config.training.learning_rate == 2e-5


def test_changes(tmp_path):
    text = "data:\n  - a.tsv\n  - path: b.tsv\noutput: run\n"
    changes = ["training.epochs=3", "data.1.path=c.tsv", "data.0=d.tsv", "loss.temperature=1e-1"]
    config = yaml(tmp_path, text, changes)
    assert (config.training.epochs, config.loss.temperature) == (3, 0.1)
    assert [one.path for one in config.data] == ["d.tsv", "c.tsv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs", "'training.epochs' is no change; write it as section.key=value"),
        ("data.path=x", "there is no path in a list of 2"),
        ("data.7=x", "there is no 7 in a list of 2"),
        ("data.7.path=x", "there is no 7 in a list of 2"),
        ("output.folder=x", "output is 'run', which has no keys"),
        ("training.epoch=3", 'training has no key "epoch" (did you mean "epochs"?)'),
    ],
)
def test_wrong_changes(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        yaml(tmp_path, "data:\n  - a.tsv\n  - path: b.tsv\noutput: run\n", [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no configuration; it needs data: and output:"),
        ("- a\n", "holds no configuration"),
        ("data: [a\n", "config.yaml:2: not plain YAML"),
        ("data: a\noutput: b\ndata: c\n", "config.yaml:3: the key 'data' appears twice; keep one"),
        ("data: !!python/object/apply:os.system ['true']\n", "not plain YAML"),
        ("data: a.tsv\n", "config.yaml: the configuration has no section output; give it"),
        ("output: run\n", "the configuration has no section data; give it"),
        ("data: a\noutput: b\nlos: {}\n", 'no key "los" (did you mean "loss"?)'),
    ],
)
def test_wrong_yaml(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        yaml(tmp_path, text)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml does not exist"):
        Config.from_yaml(tmp_path / "nope.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"data: \xe4\n")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        Config.from_yaml(tmp_path / "latin.yaml")


def test_the_example_is_a_configuration_and_names_what_there_is(tmp_path):
    config = yaml(tmp_path, EXAMPLE)
    assert config.data[0].path == "pairs.tsv"
    # What is commented out must be right as well, but for what excludes something else.
    whole = re.sub(r"^( *)# ((?:  )?[a-z_]+: ?.*)$", r"\1\2", EXAMPLE, flags=re.M)
    whole = re.sub(r"^#( +[a-z_]+:)", r" \1", whole, flags=re.M)
    for one in ("static", "holdout", "pairs_from", "Killed", "One value"):
        whole = re.sub(rf"^ *(# )?{one}.*\n", "", whole, flags=re.M)
    config = yaml(tmp_path, whole)
    assert config.weighting["first"] == -0.5
    assert config.negatives["num_negatives"] == 5
    assert config.prompts.document == "passage: "
    assert config.evaluation.test_split == "test"
    assert config.encoder.lora == {"rank": 16, "alpha": 32}
    assert config.output.tensorboard


# --- sentences ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"batch_size": "many"}},
         "training.batch_size is 'many'; give a whole number of at least 2"),
        ({"training": {"batch_size": 1}}, "training.batch_size is 1; give a whole number"),
        ({"training": {"batch_size": 2.5}}, "training.batch_size is 2.5; give a whole number"),
        ({"training": {"batch_size": True}}, "training.batch_size is True; give a whole number"),
        ({"training": {"epochs": float("inf")}}, "training.epochs is inf; give a whole number"),
        ({"training": {"learning_rate": 0}},
         "training.learning_rate is 0; give a number above 0"),
        ({"training": {"warmup": 1}},
         "training.warmup is 1; give a number of at least 0 and below 1"),
        ({"training": {"warmup": float("nan")}}, "training.warmup is nan; give a number"),
        ({"training": {"scheduler": "square"}},
         "training.scheduler is 'square'; give one of linear, cosine, constant"),
        ({"training": {"epochs": 1, "max_steps": 1}}, "both epochs and max_steps; keep one"),
        ({"training": 3}, "training is 3; give a mapping with keys of: batch_size, epochs"),
        ({"trainig": {}}, 'the configuration has no key "trainig" (did you mean "training"?)'),
        ({"loss": {"temprature": 1}}, 'loss has no key "temprature" (did you mean "temperature"?)'),
        ({"loss": {"precision": "half"}}, "loss.precision is 'half'; give one of float32, bfl"),
        ({"loss": {"symmetric": "yes"}}, "loss.symmetric is 'yes'; give true or false"),
        ({"loss": {"matryoshka_dims": 64}}, "loss.matryoshka_dims is 64; give a list of dim"),
        ({"loss": {"matryoshka_dims": [64, 0]}}, "loss.matryoshka_dims[1] is 0; give a whole"),
        ({"data": []}, "data is []; give one source or a list of them"),
        ({"data": {"corpus": "c.tsv"}}, "data.path is missing; give it"),
        ({"data": [{"path": "a"}, {"path": ""}]}, "data[1].path is ''; give a text"),
        ({"data": [{"path": "a"}, {"pat": "b"}]},
         'data[1] has no key "pat" (did you mean "path"?)'),
        ({"data": ["x/a.tsv", "y/a.tsv"]}, 'data has two sources called "a.tsv"'),
        ({"data": {"path": "a", "pairs_from": "crop"}}, "data.pairs_from is 'crop'; give one of"),
        ({"data": {"path": "a", "pairs_from": {"kind": "crops", "ratio": 1}}},
         'data.pairs_from has no key "ratio"'),
        ({"data": {"path": "a", "pairs_from": "query_as_context"}}, "needs a model of yours"),
        ({"data": {"path": "a", "prompts": {"queries": ""}}},
         'data.prompts has no key "queries" (did you mean "query"?)'),
        ({"encoder": {"static": {}, "model": "x"}}, "encoder has both static and model"),
        ({"encoder": {"lora": {"rank": 2}}}, "encoder.lora needs encoder.model"),
        ({"encoder": {"max_tokens": 5}}, "a static encoder has encoder.static.max_tokens"),
        ({"encoder": {"model": "x", "lora": {"rang": 2}}},
         'encoder.lora has no key "rang" (did you mean "rank"?)'),
        ({"encoder": {"model": "x", "lora": {"rank": 0}}}, "encoder.lora: lora.rank must be"),
        ({"weighting": {"name": "progresive"}}, "weighting: name is 'progresive'; there are"),
        ({"weighting": {"name": "focal", "gama": 1}}, "weighting: weighting 'focal' has no field"),
        ({"negatives": {"mode": "sometimes"}}, "negatives: mode is 'sometimes'"),
        ({"negatives": {"numnegatives": 3}},
         'negatives has no key "numnegatives" (did you mean "num_negatives"?)'),
        ({"negatives": {"file": "a", "mode": "static"}}, 'negatives has no key "mode"'),
        ({"negatives": 3}, "negatives is 3; give a mapping with keys of: mode"),
        ({"batches": {"name": "homogenous"}}, "batches: batches has the name 'homogenous'"),
        ({"evaluation": {"holdout": 0.1, "path": "x"}}, "evaluation has both holdout and path"),
        ({"evaluation": {"keep": "first"}}, "evaluation.keep is 'first'; give one of best, last"),
        ({"output": {"folder": ""}}, "output.folder is ''; give a text"),
        ({"output": {"folder": "x", "keep_checkpoints": 0}}, "output.keep_checkpoints is 0"),
        ({"adapter": {"kind": "big"}}, "adapter.kind is 'big'; give one of linear"),
        ({"adapter": {"query_embeddings": "q.npy"}}, "adapter.corpus_embeddings is missing"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_said(sections, message):
    assert message in told(sections)


def test_sections_built_in_python_check_themselves():
    from stope.training.configuration.sections import Training

    with pytest.raises(ValueError, match=r"training\.batch_size is 'many'"):
        Training(batch_size="many")


def test_differences_name_paths():
    one = plain(Config.from_dict(LEAST))
    other = plain(Config.from_dict({**LEAST, "training": {"epochs": 3}, "weighting": "constant"}))
    assert set(differences(one, other)) == {
        "training.epochs (not given, now 3)",
        "weighting (not given, now {'name': 'constant', 'value': 1.0})",
    }
    assert differences(one, one) == []


# --- sources -----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows):
    write_jsonl(path, rows)
    return str(path)


def test_columns_follow_their_pair(here):
    rows = [
        {"query": "b", "positive": "y", "weight": 2.0, "ease": 0.5},
        {"query": "a", "positive": "z", "weight": 1.0, "ease": 0.25},
        {"query": "b", "positive": "x", "weight": 4.0, "ease": 1.0},
        {"query": "b", "positive": "y", "weight": 4.0, "ease": 0.0},
    ]
    data = read_sources([Source(write("p.jsonl", rows), signals=("ease",))])
    pairs = data.pairs
    offsets, ids = pairs.positives
    found = {
        (pairs.query_texts[query], pairs.corpus_texts[row]): (
            data.columns["weight"][place],
            data.columns["ease"][place],
        )
        for query in range(len(pairs.query_texts))
        for place, row in zip(
            range(offsets[query], offsets[query + 1]),
            ids[offsets[query] : offsets[query + 1]],
            strict=True,
        )
    }
    assert found == {("b", "y"): (3.0, 0.25), ("a", "z"): (1.0, 0.25), ("b", "x"): (4.0, 1.0)}


def test_sources_are_joined(here):
    first = [
        {"query": "q1", "positive": "shared", "w": 2, "ease": 1},
        {"query": "q2", "positive": "only a", "w": 3, "ease": 1},
    ]
    second = [{"query": "q1", "positive": "only b"}, {"query": "q3", "positive": "shared"}]
    one = Source(write("a.jsonl", first), name="a", weight="w")
    other = Source(write("b.jsonl", second), name="b")
    with pytest.raises(ValueError, match='the source "b" has no signal "ease", which another has'):
        read_sources([dataclasses.replace(one, signals=("ease",)), other])
    write("c.jsonl", [{"query": "q", "positive": "p", "negative": "n"}])
    with pytest.raises(ValueError, match=r'negatives along .*"b" 0, "c\.jsonl" 1'):
        read_sources([other, Source("c.jsonl")])
    data = read_sources([one, other])
    pairs = data.pairs
    assert pairs.query_texts == ["q1", "q2", "q1", "q3"]
    assert len(set(pairs.query_ids)) == 4
    assert sorted(pairs.corpus_texts) == ["only a", "only b", "shared"]
    assert data.columns == {"source": ["a", "a", "b", "b"], "weight": [2.0, 3.0, 1.0, 1.0]}
    assert [pairs.corpus_texts[row] for row in pairs.positives[1]] == [
        "shared", "only a", "only b", "shared",
    ]  # fmt: skip
    sources = dict(zip(pairs.corpus_texts, data.corpus_sources, strict=True))
    assert sources == {"shared": {0, 1}, "only a": {0}, "only b": {1}}
    assert data.query_sources.tolist() == [0, 0, 1, 1]


def test_same_ids_of_other_texts_stay_apart(here):
    for name in ("a", "b"):
        write_beir(
            Collection(["d1", "d2"], [f"{name} one", "same"], ["q"], [f"{name}?"],
                       {"train": {"q": {"d1": 1, "d2": 1}}}),
            here / name,
        )  # fmt: skip
    pairs = read_sources([Source(str(here / "a")), Source(str(here / "b"))]).pairs
    assert sorted(pairs.corpus_texts) == ["a one", "b one", "same"]
    assert pairs.query_ids == ["q", "b:q"]
    assert np.diff(pairs.positives[0]).tolist() == [2, 2]


def test_negatives_come_along(here):
    rows = [{"query": f"q{n}", "positive": f"d{n}", "negative_1": f"n{n}", "negative_2": "m"}
            for n in range(5)]  # fmt: skip
    data = read_sources([Source(write("t.jsonl", rows))])
    assert data.negatives == [[f"n{n}", "m"] for n in range(5)]
    assert "n3" in data.texts()
    left = data.without(np.array([1, 3]))
    assert left.negatives == [["n0", "m"], ["n2", "m"], ["n4", "m"]]
    assert left.pairs.query_texts == ["q0", "q2", "q4"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "none.tsv"}, "data: none.tsv does not exist"),
        ({"path": "p.jsonl", "query_column": "left"}, 'query_column is "left"'),
        ({"path": "p.jsonl", "weight": "w"}, 'p.jsonl has no column "w"; its columns are "query"'),
        ({"path": "p.jsonl", "signals": ["ease"]}, 'p.jsonl has no column "ease"'),
        ({"path": "bad.jsonl"}, "bad.jsonl:2: 'heavy' stands in the column \"weight\"; give a fi"),
        ({"path": "empty.jsonl"}, "empty.jsonl holds no pairs"),
        ({"path": "hole.jsonl"}, 'hole.jsonl:2: field "positive" is empty'),
        ({"path": "p.jsonl", "positive_ids": True}, "positive_ids needs corpus"),
        ({"path": "beir", "split": "dev"}, 'has no split "dev"; the splits are "train"'),
        ({"path": "beir", "corpus": "p.jsonl"}, "is a BEIR folder, which brings its own corpus"),
        ({"path": "beir", "weight": "w"}, "which has no columns of weights; leave weight away"),
        ({"path": "t.jsonl", "corpus": "p.jsonl"}, "brings its own negatives (negative)"),
        ({"path": "p.jsonl", "pairs_from": "title"}, 'there is no text in the column "title"'),
    ],
    ids=str,
)
def test_wrong_sources(here, source, message):
    write("p.jsonl", [{"query": "a", "positive": "b"}, {"query": "c", "positive": "d"}])
    write("bad.jsonl", [{"query": "a", "positive": "b", "weight": 1},
                        {"query": "c", "positive": "d", "weight": "heavy"}])  # fmt: skip
    write("hole.jsonl", [{"query": "a", "positive": "b", "weight": 1},
                         {"query": "c", "positive": "", "weight": 1}])  # fmt: skip
    write("t.jsonl", [{"query": "a", "positive": "b", "negative": "c"}])
    (here / "empty.jsonl").write_text("")
    write_beir(Collection(["d"], ["x"], ["q"], ["y"], {"train": {"q": {"d": 1}}}), here / "beir")
    config = Config.from_dict({"data": source, "output": "run"})
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        read_sources(config.data)


def test_several_sources_say_which_is_wrong(here):
    write("p.jsonl", [{"query": "a", "positive": "b"}])
    with pytest.raises(FileNotFoundError, match=r"data\[1\]: none.tsv does not exist"):
        read_sources([Source("p.jsonl"), Source("none.tsv")])


def test_limit_draws_queries(here):
    rows = [{"query": f"q{n}", "positive": f"d{n}", "weight": n} for n in range(50)]
    source = Source(write("p.jsonl", rows), limit=10)
    data = read_sources([source], seed=1)
    assert len(data.pairs.query_texts) == 10
    assert len(data.pairs.corpus_texts) == 50
    assert [f"q{weight:.0f}" for weight in data.columns["weight"]] == data.pairs.query_texts
    assert read_sources([source], seed=1).pairs.query_ids == data.pairs.query_ids
    assert read_sources([source], seed=2).pairs.query_ids != data.pairs.query_ids


@pytest.mark.parametrize("kind", ["crops", "inverse_cloze", "recurring_spans", "title"])
def test_pairs_from_raw_text(here, kind):
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(80)]
    rows = [
        {
            "title": f"About {n}",
            "text": " ".join(" ".join(rng.choice(words, 9)).capitalize() + "." for _ in range(12)),
        }
        for n in range(20)
    ]
    for row in rows:
        row["text"] += " The same five words again here. " + row["text"]
    options = {"kind": kind}
    data = read_sources(
        Config.from_dict(
            {"data": {"path": write("raw.jsonl", rows), "pairs_from": options}, "output": "x"}
        ).data
    )
    assert len(data.pairs.query_texts) >= 10


# --- what judges -------------------------------------------------------------------------------


def judged(here, evaluation, rows=20):
    write("p.jsonl", [{"query": f"q{n}", "positive": f"d{n}"} for n in range(rows)])
    config = Config.from_dict({"data": "p.jsonl", "output": "x", "evaluation": evaluation})
    return judges(config, read_sources(config.data))


def test_holding_out(here):
    for holdout in (5, 0.25):
        found, left = judged(here, {"holdout": holdout})
        assert len(found.held_out.query_ids) == 5
        assert not set(found.held_out.query_texts) & set(left.pairs.query_texts)
        assert len(left.pairs.query_texts) == 15
        assert found.held_out.corpus_texts == left.pairs.corpus_texts
        for name in found.held_out.query_ids:
            (document,) = found.held_out.qrels[name]
            row = found.held_out.corpus_ids.index(document)
            assert found.held_out.corpus_texts[row] == f"d{name[1:]}"
    again, _ = judged(here, {"holdout": 5})
    assert again.held_out.query_ids == found.held_out.query_ids


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({}, "evaluation has no path, and data is not one BEIR folder"),
        ({"holdout": 19}, "evaluation.holdout is 19, which is 19 of 20 queries"),
        ({"holdout": 0.001}, "which is 0 of 20 queries"),
        ({"path": "p.jsonl", "test_split": "test"}, 'a file, which has no split "test"'),
        ({"path": "beir", "split": "dev"}, 'has no split "dev"; the splits are "none", "train"'),
        ({"path": "beir", "split": "none"}, 'the split "none" has no query with a relevant'),
        ({"path": "beir", "corpus": "p.jsonl"}, "brings its own corpus"),
    ],
    ids=str,
)
def test_nothing_to_judge_by(here, evaluation, message):
    qrels = {"train": {"q": {"d": 1}}, "none": {"q": {"d": 0}}}
    write_beir(Collection(["d"], ["x"], ["q"], ["y"], qrels), here / "beir")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        judged(here, evaluation)


def test_subset_keeps_rows():
    from stope.mining import Pairs

    pairs = Pairs.from_texts(["a", "b", "c"], [["x"], ["y", "z"], ["x", "z"]])
    part = subset(pairs, np.array([1, 2]))
    assert part.positives[0].tolist() == [0, 2, 4]
    assert [part.corpus_texts[row] for row in part.positives[1]] == ["y", "z", "x", "z"]


# --- what does not go together -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": "t.jsonl", "negatives": "static"}, "the data brings its own along"),
        ({"data": ["p.jsonl", "r.jsonl"], "negatives": "static"}, "negatives.across_sources: true"),
        ({"negatives": {"file": "n.jsonl"}}, "the id 'd99' is not in the data"),
        ({"negatives": {"file": "p.jsonl"}}, "p.jsonl:1: no query_id and document_id"),
        ({"adapter": {}}, "adapter needs embeddings: give encoder.model"),
        ({"adapter": {"query_embeddings": "q.npy", "corpus_embeddings": "c.npy"}},
         "q.npy, which does not exist"),
        ({"adapter": {}, "encoder": "m", "negatives": "static"}, "adapter.refresh_every mines"),
        ({"adapter": {}, "encoder": "m", "loss": {"symmetric": True}}, "loss.symmetric is not for"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_go_together(here, sections, message):
    write("p.jsonl", [{"query": f"q {n}", "positive": f"d {n}"} for n in range(9)])
    write("r.jsonl", [{"query": f"r {n}", "positive": f"e {n}"} for n in range(9)])
    write("t.jsonl", [{"query": f"q {n}", "positive": f"d {n}", "negative": "n"} for n in range(9)])
    write("n.jsonl", [{"query_id": "q0", "document_id": "d99"}])
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        run({"data": "p.jsonl", "output": "run", **sections})

"""Configurations of training runs: every key, every sentence, the sources they name."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("yaml", reason="needs the extra train")

from stope._files.manifest import differences
from stope.adapters import AdapterRecipe
from stope.runs import Config
from stope.runs.sections import SourceSection
from stope.runs.yaml_text import example
from stope.training import EvaluationPart, LossPart, NegativeRefresh, OutputPart, SchedulePart
from stope.training.presets import PRESETS

LEAST = {"data": "pairs.tsv", "output": "run"}


def told(sections):
    """The sentence about wrong sections."""
    with pytest.raises(ValueError, match=r".") as error:
        Config.from_dict({**LEAST, **sections})
    return str(error.value)


# --- what is read ------------------------------------------------------------------------------


def test_the_least_configuration_has_defaults():
    config = Config.from_dict(LEAST)
    assert config.data == (SourceSection("pairs.tsv"),)
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
    assert [one.title for one in config.data] == ["a.tsv", "second"]
    assert config.encoder.model == "some/model"
    assert config.weighting.name == "progressive"
    assert config.batches.name == "distinct"
    assert config.negatives.mode == "static"
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


@pytest.mark.parametrize("text", ["1e5", "-.5", "1.5e3", "+.5e3", "010", "0x10", "1_0", "1:30"])
def test_texts_that_look_like_numbers_are_written_as_texts(text, tmp_path):
    config = Config.from_dict({**LEAST, "data": text})
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert Config.from_yaml(file) == config


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
    assert config.schedule.learning_rate == 2e-5


@pytest.mark.parametrize(
    "number", ["010", "1_0", "1:30", "0x10", "0b1", "\u0661", "1_0.5", "1e\u0661"]
)
def test_numbers_of_yaml_1_1_are_no_other_numbers(tmp_path, number):
    with pytest.raises(ValueError, match=rf"schedule.epochs is '{number}'; give a whole number"):
        yaml(tmp_path, f"data: a.tsv\noutput: run\nschedule: {{epochs: {number}}}\n")


@pytest.mark.parametrize(
    ("number", "value"), [("0.25", 0.25), ("1.", 1.0), (".5", 0.5), ("1e-1", 0.1), ("+2.5E+0", 2.5)]
)
def test_numbers_of_yaml_1_2(tmp_path, number, value):
    config = yaml(tmp_path, f"data: a.tsv\noutput: run\nschedule: {{learning_rate: {number}}}\n")
    assert config.schedule.learning_rate == value


def test_changes(tmp_path):
    text = "data:\n  - a.tsv\n  - path: b.tsv\noutput: run\n"
    changes = ["training.epochs=3", "data.1.path=c.tsv", "data.0=d.tsv", "loss.temperature=1e-1"]
    config = yaml(tmp_path, text, changes)
    assert (config.schedule.epochs, config.loss.temperature) == (3, 0.1)
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
        ("data: a.tsv\n", "config.yaml: output is missing; give it"),
        ("output: run\n", "data is missing; give it"),
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
    config = yaml(tmp_path, example(Config))
    assert config == Config.from_dict(
        {
            "data": {"path": "pairs.tsv", "corpus": "corpus.jsonl"},
            "output": "run",
            "schedule": {"epochs": 5},
            "evaluation": {"holdout": 0.1, "metrics": ["nDCG@10", "R@100"]},
        }
    )
    # What is commented out is right as well, and says what holds without it.
    one_kind = re.sub(r"^  # student:.*\n(?:  #  .*\n|   .*\n)*", "", example(Config), flags=re.M)
    assert "student:" not in one_kind
    whole = re.sub(r"^( {0,4})# ( {0,4}[a-z_]+:.*)$", r"\1\2", one_kind, flags=re.M)
    everything = yaml(tmp_path, whole.partition("\nadapter:")[0])
    assert everything == config.changed(negatives={}, prompts={}, guard={}, distillation="listwise")


def test_the_example_explains_every_option():
    for line in example(Config).splitlines()[6:]:
        name = re.match(r"^ *(?:# )? *([a-z_]+):", line)
        assert not line or name or line.lstrip().startswith("# "), line
        assert "PydanticUndefined" not in line
    for part in (SchedulePart, LossPart, EvaluationPart, OutputPart, NegativeRefresh):
        assert all(field.description for field in part.model_fields.values())


def test_the_schema_knows_every_key():
    schema = Config.json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == {*Config.model_fields, "training"}
    loss = schema["$defs"]["LossPart"]["properties"]
    assert set(loss) == set(LossPart.model_fields)
    assert loss["temperature"]["exclusiveMinimum"] == 0
    assert loss["objective"]["enum"][0] == "out"
    assert "divides the similarities" in loss["temperature"]["description"]


def test_files_of_before_are_read(tmp_path):
    config = yaml(tmp_path, "data: a\noutput: b\ntraining: {epochs: 3}\n", ["training.seed=2"])
    assert (config.schedule.epochs, config.schedule.seed) == (3, 2)
    assert "schedule:" in config.to_yaml()
    with pytest.raises(ValueError, match="the same section; keep schedule"):
        Config.from_dict({**LEAST, "training": {}, "schedule": {}})


BOMB = "data: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "its aliases stand for more than 20,000 values"),
        ("data: " + "[" * 3000 + "]" * 3000, "more than 50 levels"),
        ("data: &a {path: *a}\noutput: b\n", "an alias stands for what it is in"),
        ("".join(f"key{number}: 1\n" for number in range(100_000)), "more than 20,000 values"),
        ("? [a, b]\n: c\n", "a key is a list or a mapping"),
        ("data: !!binary aGk=\noutput: b\n", "not plain YAML (the tag"),
        (
            "data: a\noutput: b\nloss: {temperature: " + "9" * 5000 + "}\n",
            "not plain YAML (Exceeds",
        ),
        ("data: a\noutput: b\n" + "k" * 900 + ": 1\n", "has no key"),
    ],
)
def test_what_is_too_large_is_refused_at_once(tmp_path, text, message):
    began = time.perf_counter()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        yaml(tmp_path, text)
    assert len(str(error.value)) < 1000
    assert time.perf_counter() - began < 10


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
        ({"training": {"epochs": 1, "max_steps": 1}}, "both epochs (1) and max_steps (1) are"),
        ({"training": 3}, "training is 3; give a mapping with keys of: batch_size, epochs"),
        ({"shedule": {}}, 'the configuration has no key "shedule" (did you mean "schedule"?)'),
        ({"loss": {"temprature": 1}}, 'loss has no key "temprature" (did you mean "temperature"?)'),
        ({"loss": {"precision": "half"}}, "loss.precision is 'half'; give one of float32, bfl"),
        ({"loss": {"symmetric": "yes"}}, "loss.symmetric is 'yes'; give true or false"),
        ({"loss": {"matryoshka_dims": 64}}, "loss.matryoshka_dims is 64; give a list, each a"),
        ({"loss": {"matryoshka_dims": [64, 0]}}, "loss.matryoshka_dims[1] is 0; give a whole"),
        ({"data": []}, "data is []; give one source or a list of them"),
        ({"data": {"corpus": "c.tsv"}}, "data.path is missing; give it"),
        ({"data": [{"path": "a"}, {"path": ""}]}, "data[1].path is ''; give a text"),
        ({"data": [{"path": "a"}, {"pat": "b"}]},
         'data[1] has no key "pat" (did you mean "path"?)'),
        ({"data": ["x/a.tsv", "y/a.tsv"]}, 'data has two sources called "a.tsv"'),
        ({"data": {"path": "a", "pairs_from": "crop"}}, "data: pairs_from is 'crop'; give one of"),
        ({"data": {"path": "a", "pairs_from": {"kind": "crops", "ratio": 1}}},
         'data: pairs_from has no key "ratio"'),
        ({"data": {"path": "a", "pairs_from": "query_as_context"}}, "needs a model of yours"),
        ({"data": {"path": "a", "prompts": {"queries": ""}}},
         'data.prompts has no key "queries" (did you mean "query"?)'),
        ({"encoder": {"static": {}, "model": "x"}}, "encoder has both static and model"),
        ({"encoder": {"lora": {"rank": 2}}}, "encoder.lora needs encoder.model"),
        ({"encoder": {"max_tokens": 5}}, "a static encoder has encoder.static.max_tokens"),
        ({"encoder": {"model": "x", "lora": {"rang": 2}}},
         'encoder.lora has no key "rang" (did you mean "rank"?)'),
        ({"encoder": {"model": "x", "lora": {"rank": 0}}}, "encoder.lora: lora.rank is 0"),
        ({"weighting": {"name": "progresive"}}, "weighting has the name 'prog"),
        ({"weighting": {"name": "focal", "gama": 1}}, "weighting 'focal' has no field"),
        ({"negatives": {"mode": "sometimes"}}, "negatives.mode is 'sometimes'; give one of"),
        ({"negatives": {"numnegatives": 3}},
         'negatives has no key "numnegatives" (did you mean "num_negatives"?)'),
        ({"negatives": {"file": "a", "mode": "static"}}, 'negatives has no key "mode"'),
        ({"negatives": 3}, "negatives is 3; give a mapping with keys of: mode"),
        ({"batches": {"name": "homogenous"}}, "batches has the name 'homogenous'"),
        ({"evaluation": {"holdout": 0.1, "path": "x"}}, "evaluation has both holdout and path"),
        (
            {"evaluation": {"holdout": 0.1, "ignore_identical_ids": True}},
            "evaluation.ignore_identical_ids is for a split of a BEIR folder",
        ),
        ({"evaluation": {"keep": "first"}}, "evaluation.keep is 'first'; give one of best, last"),
        ({"output": {"folder": ""}}, "output.folder is ''; give a text"),
        ({"output": {"folder": "x", "keep_checkpoints": 0}}, "output.keep_checkpoints is 0"),
        ({"adapter": {"kind": "big"}}, "adapter.kind is 'big'; give one of linear"),
        ({"adapter": {"query_embeddings": "q.npy"}}, "adapter.corpus_embeddings is missing"),
        ({"schedule": {"preset": "adapter"}},
         "schedule.preset is adapter, but no adapter is trained; add the section adapter, or name"),
        ({"encoder": "x", "adapter": {}, "schedule": {"preset": "base"}},
         "schedule.preset is base, whose learning rate is not for an adapter; name adapter"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_said(sections, message):
    assert message in told(sections)


def test_a_configuration_that_is_none_is_called_so():
    with pytest.raises(ValueError, match="the configuration is None; give a mapping"):
        Config.from_dict(None)


def test_sections_built_in_python_check_themselves():
    with pytest.raises(TypeError, match=r"schedule\.batch_size is 'many'"):
        SchedulePart(batch_size="many")


def test_the_preset_adapter_is_what_an_adapter_is_trained_with():
    least = {**LEAST, "encoder": "x", "adapter": {}}
    wanted, usual = AdapterRecipe(), PRESETS["adapter"]
    assert (wanted.schedule.epochs, wanted.schedule.learning_rate) == (10, 1e-3)
    assert usual == {"batch_size": 1024, "epochs": 10, "learning_rate": 1e-3}
    assert Config.from_dict(least).adapter_recipe() == wanted
    schedule = {"preset": "adapter", "epochs": 3}
    named = Config.from_dict({**least, "schedule": schedule}).adapter_recipe()
    assert named == wanted.with_options(epochs=3)


def test_differences_name_paths():
    one = Config.from_dict(LEAST).to_dict()
    other = Config.from_dict(
        {**LEAST, "training": {"epochs": 3}, "weighting": "constant"}
    ).to_dict()
    assert set(differences(one, other)) == {
        "schedule.epochs (not given, now 3)",
        "weighting (not given, now {'name': 'constant', 'value': 1.0})",
    }
    assert differences(one, one) == []


def test_a_model_is_trained_with_the_prompts_it_is_used_with():
    def made(known, **sections):
        config = Config.from_dict({**LEAST, **sections})
        return config.task_prompts({**known, **config.default_prompts()})

    own = {"query": "q: ", "passage": "p: "}
    assert made({}) is None
    assert made(own).default == ("q: ", "p: ")
    assert made(own, prompts={"query": "", "document": ""}) is None
    assert made(own, prompts={"query": "ask: "}).default == ("ask: ", "p: ")
    several = [{"path": "a", "prompts": {"query": "a: "}}, "b"]
    found = made(own, data=several)
    assert (found.query("a"), found.query("b"), found.document("a")) == ("a: ", "q: ", "p: ")

"""A late-interaction model as a teacher: MaxSim of its own tokens, by name and as an object."""

from __future__ import annotations

import json

import numpy as np
import pytest

library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from small_transformers import tiny

from stope.data import Pairs
from stope.encoders import load_encoder
from stope.mining import late_interaction as module
from stope.mining import load_teacher, mine, teacher_scores

pytestmark = pytest.mark.skipif(
    not hasattr(library, "MultiVectorEncoder"), reason="sentence-transformers 6 has it"
)
DOCUMENTS = [f"w{i} w{i + 1} w{2 * i} w{30 - i}" for i in range(12)]
PAIRS = Pairs.from_texts([f"w{i} w{i + 3}" for i in range(8)], DOCUMENTS[:8], DOCUMENTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("late")
    tiny(place / "bert")
    model = library.MultiVectorEncoder(str(place / "bert"), device="cpu")
    model.prompts = {"query": "w50 ", "document": "w51 "}
    model.save(str(place / "model"))
    return place / "model"


def mined():
    rows = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    return mine(PAIRS, query_embeddings=rows[:8], corpus_embeddings=rows[8:], num_negatives=4)


def expected(model, query, document, mean):
    """Of the model's own token embeddings, in float64, token by token."""
    asked, told = (
        np.asarray(encode([text])[0], np.float64)
        for encode, text in ((model.encode_query, query), (model.encode_document, document))
    )
    best = [max(float(a @ b) for b in told) for a in asked]
    return sum(best) / (len(best) if mean else 1)


@pytest.mark.parametrize("similarity", ["maxsim", "meanmaxsim"])
@pytest.mark.parametrize("by_name", [True, False])
def test_scores_are_sums_of_best_tokens(folder, similarity, by_name):
    model = library.MultiVectorEncoder(str(folder), device="cpu")
    model.similarity_fn_name = similarity
    teacher = model
    if by_name:
        teacher = load_teacher(folder)
        assert type(teacher) is module.LateInteraction
        teacher.model.similarity_fn_name = similarity
    scored, chosen = teacher_scores(mined(), teacher, batch_size=5), mined().result.ids
    for query in range(8):
        told = [scored.positive_scores[query], *scored.negative_scores[query]]
        rows = [PAIRS.positives.ids[query], *chosen[query]]
        wanted = [
            expected(model, PAIRS.query_texts[query], DOCUMENTS[row], similarity != "maxsim")
            for row in rows
        ]
        np.testing.assert_allclose(told, wanted, rtol=1e-5)


def test_each_text_is_embedded_once_and_scores_are_kept(folder, tmp_path, monkeypatch):
    teacher, asked = load_teacher(folder), []
    encode = teacher.model.encode_document

    def noted(texts, **options):
        asked.extend(texts)
        return encode(texts, **options)

    monkeypatch.setattr(teacher.model, "encode_document", noted)
    first = teacher_scores(mined(), teacher, batch_size=3, folder=tmp_path)
    assert sorted(asked) == sorted(set(asked))
    again = teacher_scores(mined(), load_teacher(folder), folder=tmp_path)
    assert np.array_equal(again.negative_scores, first.negative_scores)
    seen = len(asked)
    teacher_scores(mined(), teacher, folder=tmp_path)  # from the folder
    assert len(asked) == seen
    teacher.model.similarity_fn_name = "meanmaxsim"  # another teacher
    other = teacher_scores(mined(), teacher, folder=tmp_path)
    assert (other.negative_scores < first.negative_scores).all()


def test_the_oldest_vectors_go(folder, monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 30)
    teacher, whole = load_teacher(folder), load_teacher(folder)
    pairs = [(query, text) for query in PAIRS.query_texts for text in DOCUMENTS]
    scores = np.concatenate([teacher.predict(pairs[row : row + 8]) for row in range(0, 96, 8)])
    assert sum(map(len, teacher._kept.values())) <= 30
    np.testing.assert_allclose(scores, whole.predict(pairs), rtol=1e-6)


@pytest.mark.parametrize(
    "files",
    [
        {"config_sentence_transformers.json": {"model_type": "ColBERT"}},
        {"config_sentence_transformers.json": {"similarity_fn_name": "MaxSim"}, "modules.json": []},
        {"config.json": {"architectures": ["HF_ColBERT"]}},
    ],
    ids=str,
)
def test_what_other_programs_wrote(tmp_path, monkeypatch, files):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cannot be loaded as a late-interaction model"):
        load_teacher(tmp_path)
    monkeypatch.delattr(library, "MultiVectorEncoder")
    with pytest.raises(ValueError, match=r"cannot load; install version 6, or give a file"):
        load_teacher(tmp_path)


def test_no_encoder_is_made_of_one(folder):
    with pytest.raises(ValueError, match="holds a MultiVectorEncoder, not an encoder"):
        load_encoder(folder)

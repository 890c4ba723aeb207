"""The student of a teacher: its formula, its tokens, what it gives for unknown texts, its files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from encoders import Counting, HashEncoder
from stope.encoders import (
    EmbeddingCache,
    load_encoder,
    save_encoder,
    static_encoder,
    static_student,
)

WORDS = [
    "iron",
    "ore",
    "copper",
    "pit",
    "deep",
    "rock",
    "mine",
    "shaft",
    "coal",
    "seam",
    "lamp",
    "wagon",
    "drift",
    "stope",
    "adit",
]


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(count)]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def grams_of(token):
    word = f" {token} "
    return [word[start : start + n] for n in (3, 4) for start in range(len(word) - n + 1)]


def dense(student, texts, rows, ridge):
    """W by loops and a dense solver in float64, in the primal form."""
    tokenizer = student[0].tokenizer
    tokens = [tokenizer.id_to_token(t) for t in range(tokenizer.get_vocab_size())]
    names = sorted({gram for token in tokens for gram in grams_of(token)})
    counts = np.zeros((len(texts), len(tokens)))
    for row, text in enumerate(texts):
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            counts[row, token] += token != 0
    grams = np.zeros((len(tokens), len(names)))
    for row, token in enumerate(tokens):
        for gram in grams_of(token):
            grams[row, names.index(gram)] += 1

    def idf(matrix):
        return np.log((len(texts) + 1) / ((matrix > 0).sum(axis=0) + 0.5)).clip(0.05)

    features = np.hstack([np.diag(idf(counts)), grams * idf(counts @ grams)])
    inputs = unit(counts @ features)
    normal = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    vectors = features @ np.linalg.solve(normal, inputs.T @ unit(rows.astype(np.float64)))
    return vectors / np.sqrt(np.mean(vectors[1:] ** 2))


@pytest.mark.parametrize("dense_texts", [8192, 0])
def test_vectors_are_those_of_a_dense_solver_in_float64(dense_texts, monkeypatch):
    monkeypatch.setattr("stope.encoders.student._DENSE", dense_texts)
    texts = sentences(40)
    rows = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    student = static_student(texts, rows, ridge=0.5)
    vectors = student[0].embedding.weight.detach().numpy()
    expected = dense(student, texts, rows, 0.5)
    np.testing.assert_allclose(vectors[1:], expected[1:], atol=0.01)
    assert np.abs(expected).max() > 1
    assert not vectors[0].any()


def test_it_repeats_its_teacher_on_texts_it_has_not_seen():
    teacher, new = HashEncoder(16), sentences(50, seed=9)
    student = static_student(sentences(300), teacher, query_texts=sentences(20, seed=3))
    rows = student.encode(new)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (rows * unit(np.asarray(teacher.encode(new)))).sum(axis=1).min() > 0.97


def test_words_are_tokens_and_new_words_fall_into_pieces():
    student = static_student(sentences(60), HashEncoder(8))
    tokenizer = student[0].tokenizer
    assert tokenizer.encode("Stope, adit", add_special_tokens=False).tokens == ["stope", "adit"]
    pieces = tokenizer.encode("stopewagon", add_special_tokens=False).tokens
    assert len(pieces) > 1
    assert "".join(pieces) == "stopewagon"
    few = static_student(sentences(60), HashEncoder(8), max_words=0, vocab_size=24)
    assert few[0].tokenizer.get_vocab_size() <= 24


def test_a_new_form_of_a_word_is_near_the_word():
    """By shared n-grams, without which a word that no text holds could be anywhere."""
    texts = [f"{word} {word}s" for word in ("crusher", "conveyor", "furnace", "dynamite")]
    student = static_student([*texts, "winze", "adit", "lamp"], HashEncoder(32))
    near, far = student.encode(["crushers conveyors"]), student.encode(["dynamites furnaces"])
    word = student.encode(["conveyor"])
    assert (near @ word.T).item() > (far @ word.T).item() + 0.2


def test_unknown_tokens_of_the_texts_count_for_nothing():
    texts = [f"{text} [UNK]" for text in sentences(40)]
    rows = np.random.default_rng(4).standard_normal((40, 6)).astype(np.float32)
    student = static_student(texts, rows)
    tokenizer, vectors = student[0].tokenizer, student[0].embedding.weight.detach().numpy()
    assert 0 in tokenizer.encode(texts[0], add_special_tokens=False).ids
    assert not vectors[0].any()
    np.testing.assert_allclose(vectors[1:], dense(student, texts, rows, 0.1)[1:], atol=0.01)


def test_more_characters_than_tokens():
    texts = [chr(0x4E00 + row) * 2 for row in range(40)]
    for make in (
        static_encoder,
        lambda texts, **sizes: static_student(texts, HashEncoder(8), **sizes),
    ):
        with pytest.raises(
            ValueError, match="vocab_size is 16, but texts have up to 40 characters"
        ):
            make(texts, vocab_size=16)


@pytest.mark.parametrize("unknown", ["", "!?", "龍虎"])
def test_a_text_without_known_tokens_is_zero(unknown):
    student = static_student(sentences(30), HashEncoder(8))
    assert not student.encode([unknown]).any()


def test_scripts_without_blanks():
    texts = ["鉄鉱石を掘る坑夫", "銅の精錬所の歴史", "石炭の鉱床と地層", "深い坑道の照明"]
    student = static_student(texts, HashEncoder(64))
    queries = student.encode(["銅の歴史", "石炭の地層"])
    assert (queries @ student.encode(texts).T).argmax(axis=1).tolist() == [1, 2]


def test_identifiers_are_split_for_program_text():
    texts = ["def read_file(path)", "def sendMail(to)", "class HTTPServer"] * 3
    tokens = static_student(texts, HashEncoder(8), code=True)[0].tokenizer.get_vocab()
    assert {"read", "file", "send", "mail", "http", "server"} <= set(tokens)


def test_its_folder_loads_without_stope(tmp_path):
    student = static_student(sentences(30), HashEncoder(8))
    save_encoder(student, tmp_path / "student")
    modules = json.loads((tmp_path / "student" / "modules.json").read_text())
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    loaded = load_encoder(tmp_path / "student")
    np.testing.assert_array_equal(loaded.encode(WORDS), student.encode(WORDS))


def test_the_same_texts_give_the_same_bits_in_another_process():
    code = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from test_static_student import sentences
from encoders import HashEncoder
from stope.encoders import static_student
student = static_student(sentences(30), HashEncoder(8))
print(hashlib.sha256(student[0].embedding.weight.detach().numpy().tobytes()).hexdigest())
"""
    paths = [path for path in sys.path if path]
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, *paths],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_a_teacher_that_fails_is_gone_on_with(tmp_path):
    def fail(count):
        if count > 32:
            raise RuntimeError("the teacher fell")

    texts, cache = sentences(40), EmbeddingCache(tmp_path, shard_size=16)
    teacher = Counting(before=fail)
    with pytest.raises(RuntimeError, match="fell"):
        static_student(texts, teacher, cache=cache, batch_size=16)
    again, told = Counting(), []
    student = static_student(
        texts,
        again,
        cache=cache,
        batch_size=16,
        progress=lambda done, all: told.append((done, all)),
    )
    assert len(again.asked) == 8
    assert told[-1] == (40, 40)
    alone = static_student(texts, Counting())
    np.testing.assert_array_equal(student.encode(texts), alone.encode(texts))


class TwoSpaces(HashEncoder):
    def encode_query(self, texts):
        return self.encode(texts)[:, :4]


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"teacher": np.ones((3, 2), np.float32)}, ValueError, r"shape \(3, 2\) for 30 texts"),
        ({"teacher": np.ones((30, 2))}, TypeError, r"float64; write teacher.astype\(np.float32\)"),
        ({"teacher": np.zeros((30, 2), np.float32)}, ValueError, "embedding of text 0 is zero"),
        ({"teacher": np.full((30, 2), np.nan, np.float32)}, ValueError, "NaN or infinite"),
        ({"teacher": "MiniLM"}, TypeError, "teacher is str, which has no encode method"),
        ({"teacher": TwoSpaces(8), "query_texts": ["ore"]}, ValueError, "dim 4 and documents of"),
        ({"ridge": 0.0}, ValueError, "ridge is 0.0; it must be finite and above 0"),
        ({"corpus_texts": ["!"] * 30}, ValueError, "no letter or digit"),
        ({"max_words": -1}, ValueError, "max_words is -1"),
    ],
)
def test_what_it_refuses(changes, kind, said):
    arguments = {"corpus_texts": sentences(30), "teacher": HashEncoder(8), **changes}
    with pytest.raises(kind, match=said):
        static_student(**arguments)

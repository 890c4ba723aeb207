"""Each text is tokenized once, and nothing else changes."""

import numpy as np
import pytest

from stope.encoders import encode_corpus, encode_queries, static_encoder
from stope.encoders.tokens import TokenIds, tokens_once

torch = pytest.importorskip("torch")
TEXTS = ["iron melts", "", "gold", "iron melts", "https://ore.org/pit.jpg", "rock \U0001f48e"]


@pytest.fixture
def encoder():
    return static_encoder(["red ore", "iron melts", "gold in rock", "a pit"] * 9, dim=8)


@pytest.mark.parametrize("prompt", [None, "ask: "])
def test_features_are_the_librarys(encoder, prompt):
    options = {} if prompt is None else {"prompt": prompt}
    readers = [encoder.preprocess, encoder[0].preprocess]
    plain = [read(list(TEXTS), **options) for read in readers]
    with tokens_once(encoder):
        kept = [part.preprocess(list(TEXTS), **options) for part in (encoder, encoder[0])]
        again = encoder.preprocess(list(TEXTS), **options)
    for ours in (*kept, again):
        for library in plain:
            assert ours.keys() == library.keys()
            assert all(torch.equal(library[name], ours[name]) for name in library)
    assert all("preprocess" not in vars(part) for part in (encoder, encoder[0]))


def test_embeddings_are_the_same_and_no_text_is_tokenized_twice(encoder):
    encoder.prompts = {"query": "ask: ", "document": ""}
    plain = encode_queries(encoder, TEXTS), encode_corpus(encoder, TEXTS)
    counted = Counting(encoder[0].tokenizer)
    with tokens_once(encoder, TokenIds(counted)):
        for _ in range(2):
            assert np.array_equal(encode_queries(encoder, TEXTS, batch_size=2), plain[0])
            assert np.array_equal(encode_corpus(encoder, TEXTS), plain[1])
        with tokens_once(encoder):  # the outer one stays
            encode_corpus(encoder, TEXTS)
        assert "preprocess" in vars(encoder)
    assert sorted(counted.texts) == sorted({*TEXTS, *(f"ask: {text}" for text in TEXTS)})


def test_what_is_no_text_is_refused_as_before(encoder):
    with pytest.raises(Exception) as plain:  # noqa: PT011 - the library's, whichever it is
        encoder.preprocess([{"image": 1}])
    with tokens_once(encoder), pytest.raises(type(plain.value)) as kept:
        encoder.preprocess([{"image": 1}])
    assert str(kept.value) == str(plain.value)


class Counting:
    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, []

    def encode_batch(self, texts, **options):
        self.texts += texts
        return self.tokenizer.encode_batch(texts, **options)

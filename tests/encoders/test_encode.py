"""Encoders of one's own: what they may give, and the sentences for what they may not."""

from __future__ import annotations

import numpy as np
import pytest

from stope.encoders import encode_corpus, encode_queries

TEXTS = ["ore", "coal", "a pit"]


class Encoder:
    """Gives what it was made with, for each batch."""

    def __init__(self, *batches):
        self.batches = list(batches)
        self.seen = []

    def encode(self, texts):
        self.seen.append(list(texts))
        return self.batches.pop(0)


@pytest.mark.parametrize("encode", [encode_queries, encode_corpus])
@pytest.mark.parametrize(
    ("batches", "kind", "said"),
    [
        (
            [{"embeddings": np.ones((3, 2))}],
            TypeError,
            r"Encoder.encode gave a dict; .* \(3, dim\)",
        ),
        ([[[1, 2], [3], [4]]], ValueError, "rows of different widths for 3 texts"),
        ([np.ones((2, 2))], ValueError, r"shape \(2, 2\) and type float64 for 3 texts"),
        ([np.ones(3)], ValueError, r"shape \(3,\)"),
        ([np.array([["a"], ["b"], ["c"]])], ValueError, "it must give numbers of shape"),
        ([None], ValueError, "it must give numbers of shape"),
    ],
)
def test_what_an_encoder_may_not_give(encode, batches, kind, said):
    with pytest.raises(kind, match=said):
        encode(Encoder(*batches), TEXTS)


def test_what_encodes_all_may_not_give():
    encoder = Encoder()
    encoder.encode_all = lambda texts, role, prompt, batch_size, progress: np.ones((2, 4))
    with pytest.raises(ValueError, match=r"shape \(2, 4\) and type float64 for 3 texts"):
        encode_queries(encoder, TEXTS)


def test_batches_must_have_one_width():
    encoder = Encoder(np.ones((2, 4)), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"3 columns for text 2 of corpus but 4 before"):
        encode_corpus(encoder, TEXTS, batch_size=2)


@pytest.mark.parametrize(
    ("texts", "kind", "said"),
    [
        ("ore", TypeError, "texts is one string"),
        ([1], TypeError, r"texts\[0\] is int, not a string"),
        ([], ValueError, "texts is empty"),
        ({"ore": 1}, TypeError, "texts is {'ore': 1}; give a list of strings"),
        (None, TypeError, "texts is None; give a list of strings"),
    ],
)
def test_texts_are_lists_of_strings(texts, kind, said):
    with pytest.raises(kind, match=said):
        encode_queries(Encoder(np.ones((1, 2))), texts)


def test_a_prompt_is_put_before_texts_and_progress_is_told():
    encoder, told = Encoder(np.ones((2, 2), np.int64), np.ones((1, 2), np.int64)), []
    rows = encode_queries(
        encoder, TEXTS, prompt="q: ", batch_size=2, progress=lambda *at: told.append(at)
    )
    assert rows.dtype == np.float32
    assert encoder.seen == [["q: ore", "q: coal"], ["q: a pit"]]
    assert told == [(2, 3), (3, 3)]


def test_the_same_texts_give_the_same_tokens_where_many_characters_are_rare():
    """The trainer scores characters that stand in no piece in the order of a hash map."""
    from stope.encoders import static_encoder

    texts = [f"word{row:02d} ask{row:02d}" for row in range(30)] * 4
    first, *others = (static_encoder(texts, dim=4) for _ in range(4))
    for other in others:
        assert other.tokenizer.to_str() == first.tokenizer.to_str()
        assert (other.encode(texts) == first.encode(texts)).all()

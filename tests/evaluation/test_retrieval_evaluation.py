"""Retrieval of held-out queries: what is asked of an encoder, and what is known already."""

from __future__ import annotations

import numpy as np
import pytest

from stope.evaluation import RetrievalEvaluation

TEXTS = ["ore", "pit", "sea"]


class Encoder:
    """Embeds texts by their place, turned by a state, and counts what it is asked."""

    def __init__(self, state=0):
        self.state, self.asked = state, 0

    def encode(self, texts, **options):
        self.asked += len(texts)
        rows = np.eye(3, dtype=np.float32)
        return np.stack([np.roll(rows[TEXTS.index(text)], self.state) for text in texts])


class Named(Encoder):
    def fingerprint(self):
        return f"state {self.state}"


def judge():
    return RetrievalEvaluation(["q"], ["ore"], ["a", "b", "c"], TEXTS, {"q": {"a": 1}})


def test_an_encoder_that_did_not_change_is_not_asked_again():
    judged, encoder = judge(), Named()
    first = judged.evaluate(encoder)
    assert encoder.asked == 4
    assert judged.evaluate(encoder) is first
    assert judged(encoder) == first.mean
    assert encoder.asked == 4
    encoder.state = 1
    assert judged.evaluate(encoder) is not first
    assert encoder.asked == 8
    encoder.state = 0
    assert judged.evaluate(encoder) is first  # a guard goes back
    assert encoder.asked == 8
    assert judge().evaluate(encoder) == first
    assert encoder.asked == 12


def test_few_evaluations_are_remembered():
    judged, encoder = judge(), Named()
    for encoder.state in range(5):
        judged.evaluate(encoder)
    encoder.state, encoder.asked = 0, 0
    judged.evaluate(encoder)
    assert encoder.asked == 4


def test_an_encoder_of_which_nobody_knows_whether_it_changed_is_asked_each_time():
    judged, encoder = judge(), Encoder()
    judged.evaluate(encoder)
    judged.evaluate(encoder)
    assert encoder.asked == 8


def test_the_querys_own_document_is_left_out():
    """As BEIR does: k others are retrieved, whether or not the own one is among the best."""
    texts, names = ["ore", "pit", "sea"], ["a", "b", "c"]
    qrels = {"a": {"b": 1}, "x": {"c": 1}}
    judged = {
        ignored: RetrievalEvaluation(
            ["a", "x"], ["ore", "ore"], names, texts, qrels, ("RR", "NumRet"), k=1,
            ignore_identical_ids=ignored,
        )
        for ignored in (False, True)
    }  # fmt: skip
    found = judged[False].evaluate(Encoder()).per_query
    assert found == {"RR": {"a": 0.0, "x": 0.0}, "NumRet": {"a": 1.0, "x": 1.0}}
    found = judged[True].evaluate(Encoder())
    assert found.per_query == {"RR": {"a": 1.0, "x": 0.0}, "NumRet": {"a": 1.0, "x": 1.0}}
    assert found.num_identical == 1
    assert judged[True].fingerprint() != judged[False].fingerprint()
    with pytest.raises(TypeError, match="ignore_identical_ids is 1"):
        RetrievalEvaluation(["q"], ["ore"], names, texts, qrels, ignore_identical_ids=1)


def test_a_model_that_learned_is_asked_again():
    torch = pytest.importorskip("torch", reason="the model is torch's")
    static_encoder = pytest.importorskip("stope.encoders").static_encoder
    model = static_encoder(TEXTS * 5, dim=4)
    judged = RetrievalEvaluation(["q"], ["ore"], ["a", "b"], ["ore", "pit"], {"q": {"a": 1}})
    before = judged.evaluate(model)
    with torch.no_grad():
        model[0].embedding.weight.uniform_()
    assert judged.evaluate(model) is not before

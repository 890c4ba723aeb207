"""The searches over embeddings against the library's own, on the same inputs."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from library_cases import LIBRARY, FixedModel
from sentence_transformers import util

from stope.encoders import static_encoder
from stope.integrations.sentence_transformers import (
    community_detection,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    retrieval,
    semantic_search,
)

FUNCTIONS = [util.cos_sim, util.dot_score, util.euclidean_sim]


def rows(count, dim=24, seed=0, clusters=0):
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((count, dim)).astype(np.float32)
    if clusters:
        centres = 4 * rng.standard_normal((clusters, dim)).astype(np.float32)
        made += centres[rng.integers(0, clusters, count)]
    return torch.from_numpy(made)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("top_k", [1, 10, 500])
def test_semantic_search(function, top_k):
    options = {"top_k": top_k, "score_function": function}
    queries, corpus = rows(9), rows(300, seed=1)
    ours = semantic_search(queries, corpus, **options)
    theirs = util.semantic_search(queries, corpus, corpus_chunk_size=70, **options)
    assert [[hit["corpus_id"] for hit in hits] for hits in ours] == [
        [hit["corpus_id"] for hit in hits] for hits in theirs
    ]
    for mine, wanted in zip(ours, theirs, strict=True):
        assert [hit["score"] for hit in mine] == pytest.approx(
            [hit["score"] for hit in wanted], rel=1e-5, abs=1e-5
        )


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x.numpy(),
        lambda x: x.double(),
        lambda x: x.tolist(),
        lambda x: list(x),
        lambda x: list(x.numpy()),
        lambda x: x.mT.contiguous().mT,
    ],
)
@pytest.mark.filterwarnings("error")
def test_kinds_of_embeddings(kind):
    queries, corpus = rows(3), rows(50, seed=1)
    wanted = semantic_search(queries, corpus, top_k=4)
    assert semantic_search(kind(queries), kind(corpus), top_k=4) == wanted
    assert semantic_search(kind(queries)[0], corpus, top_k=4) == wanted[:1]


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_a_model_s_own_similarity_is_a_score_function(name):
    """A method in version 6, the library's function in version 5."""
    model = static_encoder(["iron ore"], dim=4)
    model.similarity_fn_name = name
    queries, corpus = rows(3), rows(50, seed=1)
    if name == "manhattan":
        with pytest.raises(ValueError, match=r"manhattan.*which stope does not compute"):
            semantic_search(queries, corpus, score_function=model.similarity)
        return
    function = dict(zip(("cosine", "dot", "euclidean"), FUNCTIONS, strict=True))[name]
    wanted = semantic_search(queries, corpus, score_function=function)
    assert semantic_search(queries, corpus, score_function=model.similarity) == wanted


def test_equal_scores_are_in_the_order_of_rows():
    corpus = rows(1).repeat(40, 1)
    hits = semantic_search(rows(1, seed=3), corpus, top_k=6)
    assert [hit["corpus_id"] for hit in hits[0]] == list(range(6))


def test_nothing_to_search():
    assert semantic_search(rows(2), rows(0)) == [[], []]
    assert semantic_search(rows(0), rows(3)) == []


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("max_pairs", "top_k"), [(50, 100), (10**6, 3), (7, 2), (10**6, 10**6)])
def test_paraphrase_mining(function, max_pairs, top_k):
    embeddings = rows(120, clusters=9)
    options = {"max_pairs": max_pairs, "top_k": top_k, "score_function": function}
    ours = paraphrase_mining_embeddings(embeddings, **options)
    scores = function(embeddings.double(), embeddings.double()).fill_diagonal_(-torch.inf)
    near = scores.topk(min(top_k, 119)).indices.tolist()
    wanted = {(min(i, j), max(i, j)): float(scores[i, j]) for i in range(120) for j in near[i]}
    best = sorted(wanted, key=wanted.get, reverse=True)[:max_pairs]
    assert as_pairs(ours) == pytest.approx(
        {pair: wanted[pair] for pair in best}, rel=4e-5, abs=5e-5
    )
    assert len(ours) == len(best)
    assert ours == sorted(ours, key=lambda pair: (-pair[0], *pair[1:]))
    theirs = util.paraphrase_mining_embeddings(embeddings, **options)
    if LIBRARY == 5 and function is not util.cos_sim:
        return  # it drops scores up to -1, and takes each row for its own nearest
    assert as_pairs(ours[: len(theirs)]) == pytest.approx(as_pairs(theirs), rel=4e-5, abs=5e-5)
    assert len(theirs) == len(ours) or (LIBRARY == 5 and len(theirs) >= max_pairs // 3)


def as_pairs(listed):
    return {(i, j): score for score, i, j in listed}


@pytest.mark.parametrize("most", [1, 300, 4_000, 24_000, 30_000])
def test_the_best_pairs_alone_are_those_of_the_graph(most, monkeypatch):
    """Rows with more near ones than top_k, ties and copies among them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 16)).astype(np.float32)
    crowds = rng.choice(60, 4_500, p=np.arange(1, 61) / 1830)
    embeddings = centres[crowds] + 0.3 * rng.standard_normal((4_500, 16)).astype(np.float32)
    embeddings[100:150] = embeddings[:50]
    asked, best = [], retrieval._best_pairs

    def watched(*arguments):
        asked.append(best(*arguments))
        return asked[-1]

    monkeypatch.setattr(retrieval, "_best_pairs", watched)
    ours = paraphrase_mining_embeddings(embeddings, max_pairs=most, top_k=20)
    monkeypatch.setattr(retrieval, "_best_pairs", lambda *_: None)
    assert ours == paraphrase_mining_embeddings(embeddings, max_pairs=most, top_k=20)
    assert len(ours) == most
    assert (asked[0] is None) == (most == 30_000)  # where a pair is left out for its rows' sake


def test_copies_are_pairs_in_order():
    embeddings = rows(1).repeat(5, 1)
    pairs = paraphrase_mining_embeddings(embeddings, max_pairs=4)
    assert [pair[1:] for pair in pairs] == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert paraphrase_mining_embeddings(rows(1)) == []


def test_paraphrase_mining_encodes():
    texts = [f"w{i % 5} w{i % 3} w{i}" for i in range(30)]
    model = FixedModel()
    model.encode = lambda texts, **options: (
        model.asked.append(options),
        torch.from_numpy(FixedModel().encode(texts)),
    )[1]
    ours = paraphrase_mining(model, texts, batch_size=7, prompt="say: ")
    assert model.asked[0] | {"batch_size": 7, "prompt": "say: "} == model.asked[0]
    theirs = util.paraphrase_mining(model, texts)
    assert [pair[1:] for pair in ours] == [pair[1:] for pair in theirs]


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_community_detection(size, threshold):
    embeddings = rows(400, clusters=25)
    ours = community_detection(embeddings, threshold, size)
    scores = util.cos_sim(embeddings.double(), embeddings.double()).numpy()
    communities = [
        [row, *(other for other in np.argsort(-line) if other != row and line[other] >= threshold)]
        for row, line in enumerate(scores)
    ]
    wanted, taken = [], set()
    for community in sorted(communities, key=len, reverse=True):
        left = [row for row in community if row not in taken]
        if community[0] not in taken and len(left) >= size:
            wanted.append(left)
            taken.update(left)
    assert ours == sorted(wanted, key=len, reverse=True)
    assert (threshold, size) == (0.9, 12) or len(ours) > 0
    if LIBRARY > 5 or threshold == 0.8:  # 5 keeps what is left of one whose centre is taken
        assert ours == util.community_detection(embeddings, threshold, size)


def test_communities_of_copies_and_of_nothing():
    copies = torch.ones(200, 16)
    assert community_detection(copies, threshold=1.0, min_community_size=30) == [list(range(200))]
    assert community_detection(rows(0)) == []
    assert community_detection(rows(3), min_community_size=10) == []
    zeros = torch.zeros(20, 4)
    assert community_detection(zeros, min_community_size=2) == []


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: semantic_search(rows(2), rows(3).to_sparse()),
            TypeError,
            "corpus_embeddings is a sparse",
        ),
        (lambda: semantic_search(rows(2), rows(3), top_k=0), ValueError, "top_k is 0"),
        (
            lambda: semantic_search(rows(2), rows(3), score_function=util.manhattan_sim),
            ValueError,
            "score_function is .*util.cos_sim",
        ),
        (
            lambda: semantic_search(rows(2), rows(3), score_function=lambda a, b: a @ b.T),
            ValueError,
            "score_function is",
        ),
        (lambda: semantic_search("x", rows(3)), TypeError, "query_embeddings is 'x'"),
        (lambda: semantic_search(rows(2) / 0, rows(3)), ValueError, "queries has"),
        (
            lambda: paraphrase_mining_embeddings(rows(3), max_pairs=-1),
            ValueError,
            "max_pairs is -1",
        ),
        (lambda: community_detection(rows(30), "much"), TypeError, "threshold is 'much'"),
    ],
)
def test_wrong_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "function",
    [semantic_search, paraphrase_mining, paraphrase_mining_embeddings, community_detection],
)
def test_signatures_are_the_librarys(function):
    theirs = inspect.signature(getattr(util, function.__name__)).parameters
    ours = inspect.signature(function).parameters
    assert list(ours) == list(theirs)
    for name in set(ours) - {"score_function"}:
        assert ours[name].default == theirs[name].default

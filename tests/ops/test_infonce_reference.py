"""The contrastive loss's oracle: published numbers, autograd, sentence-transformers."""

from __future__ import annotations

from itertools import combinations

import infonce_cases as cases
import numpy as np
import pytest
import reference_infonce as oracle

TWO = np.array([[0.9, 0.1], [0.2, 0.8]])  # docs/methods.md, H4, H9, E4, E5
PAIRS = np.array([[1, 0], [0.6, 0.8]]), np.array([[0.8, 0.6], [0, 1]])  # C6, C7


def of_scores(scores, **options):
    """(InfoNCE, Gradients) of a matrix of scores: queries are its rows, documents the axes."""
    scores = np.asarray(scores, np.float64)
    return oracle.evaluate(scores, np.eye(scores.shape[1]), metric="dot", **options)


def close(got, expected, digits=6):
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.51 * 10.0**-digits)


# --- the numbers of docs/methods.md --------------------------------------------------------------


def test_plain_and_symmetric_h4():
    forward, gradients = of_scores(TWO, temperature=0.1)
    close(forward.losses, [0.000335, 0.002476])
    close(forward.losses.mean(), 0.00140555, 8)
    close(gradients.scores, [[-0.001677, 0.001677], [0.012363, -0.012363]])
    close(gradients.temperature * -0.1, -0.00875927, 8)  # dL/dlog s = -tau dL/dtau
    options = {"directions": (oracle.QD, oracle.DQ), "partition": "per_direction"}
    close(of_scores(TWO, temperature=0.1, **options)[0].losses.mean(), 0.00115851, 8)


def test_sigmoid_h9():
    forward, gradients = of_scores(TWO, temperature=0.1, objective="sigmoid", bias=-10)
    close(forward.losses, [1.313262 + 0.000123, 0.000335 + 2.126928], 5.9)
    close(forward.losses.mean(), 1.720324)
    close(gradients.scores / 10, [[-0.365529, 0.000062], [0.000168, -0.440399]])
    close(gradients.temperature * -0.01, -0.681255)  # dL/ds = -tau^2 dL/dtau
    close(gradients.bias, -0.805698)


def test_qwen3_c6():
    options = {"directions": (oracle.QD, oracle.QQ, oracle.DD), "absolute_margin": -0.1}
    forward, _ = oracle.evaluate(*PAIRS, temperature=0.1, **options)
    close(forward.losses, [0.239809, 0.239545])
    np.testing.assert_array_equal(forward.negatives, [3, 2])  # .96 > .8 + .1 is dropped


def test_gte_c7():
    forward, _ = oracle.evaluate(*PAIRS, temperature=0.1, directions=cases.ALL)
    close(forward.losses, [1.977414, 1.977414])


def test_star_b1():
    scores = [[2, 1, 1.5, 0], [0.5, 1.5, 0.5, 1]]
    forward, _ = of_scores(scores, temperature=1.0, objective="pairwise")
    close(forward.losses, [0.313262 + 0.474077 + 0.126928, 0.313262 + 0.313262 + 0.474077], 5.8)
    close(forward.losses.sum() / forward.negatives.sum(), 0.335811)


def test_many_to_many_d10():
    options = {"positives": [[0, 1]], "temperature": 1.0}
    forward, _ = of_scores([[2, 1, 0]], **options)
    close(forward.losses, [0.907606])
    close(forward.log_sum_exp, [2.407606])
    close(of_scores([[2, 1, 0]], objective="in", **options)[0].losses, [0.094344])


def test_own_hard_negative_d18():
    """log alpha multiplies the own hard negative's exponential by alpha, and no other one's."""
    options = {"hard_negatives": [[2], [3]], "hard_negative_log_weight": np.log(3)}
    scores = np.array([[0.9, 0.1, 0.3, 0.2], [0.2, 0.8, 0.4, 0.6]])
    e = np.exp(10 * scores)
    rest = e[0, 1] + 3 * e[0, 2] + e[0, 3], e[1, 0] + e[1, 2] + 3 * e[1, 3]
    forward, _ = of_scores(scores, temperature=0.1, **options)
    np.testing.assert_allclose(forward.losses, np.log1p(rest / e[[0, 1], [0, 1]]), rtol=1e-12)


def test_hardness_e3():
    options = {"temperature": 0.5, "objective": "hardness"}
    scores = [[0.8, 0.6, -0.2]]
    close(of_scores(scores, beta=1.0, positive_prior=0.1, **options)[0].losses, [0.726423])
    close(of_scores(scores, **options)[0].losses, [0.590924])
    close(of_scores(scores, temperature=0.5)[0].losses, [0.590924])
    ng = np.expm1(of_scores(scores, beta=1.0, positive_prior=0.1, **options)[0].losses)
    close(ng * np.exp(1.6), [5.288214])


def test_decoupled_e4_and_focal_e5():
    close(of_scores(TWO, temperature=0.1, objective="decoupled")[0].losses, [-8, -6])
    forward, _ = of_scores(TWO, temperature=0.05, focal_margin=0.3)
    np.testing.assert_allclose(forward.losses, np.log1p(np.exp([0.8 - 16.2, 2 - 12.8])), atol=1e-13)


# --- a second, independent route -----------------------------------------------------------------


@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
@pytest.mark.parametrize("name", cases.NAMES)
def test_loops_and_autograd_agree(name, objective):
    torch = pytest.importorskip("torch")
    from infonce_loops import by_loops

    number = cases.NAMES.index(name)
    rng, queries, documents = cases.problem(number)
    options = {"objective": objective, **cases.options(name, rng, 5, 9)}
    if objective in ("hardness", "pairwise") and name in cases.SEVERAL:
        return  # they need a single positive per query
    temperature = 0.5
    if objective == "hardness":
        prior = (0.0, 0.02, 0.4)[number % 3]  # .4 of a near positive is clamped
        options.update(beta=0.8, positive_prior=prior, detach_hardness=number % 2 == 0)
    q = torch.tensor(queries, dtype=torch.float64, requires_grad=True)
    d = torch.tensor(documents, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    losses = by_loops(q, d, 1 / tau, bias, options)
    upstream = rng.uniform(-1, 2, 5)
    (losses @ torch.from_numpy(upstream)).backward()
    forward, gradients = oracle.evaluate(
        queries, documents, upstream, temperature=temperature, bias=-0.4, **options
    )
    np.testing.assert_allclose(forward.losses, losses.detach().numpy(), rtol=1e-10, atol=1e-12)
    for got, expected in ((gradients.queries, q), (gradients.documents, d)):
        np.testing.assert_allclose(got, expected.grad.numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(gradients.temperature, tau.grad.item(), rtol=1e-9, atol=1e-11)
    expected = 0.0 if bias.grad is None else bias.grad.item()
    np.testing.assert_allclose(gradients.bias, expected, rtol=1e-9, atol=1e-11)


# --- sentence-transformers 6 -------------------------------------------------------------------


def st_problem(torch, blocks, seed=0, rows=6, dim=5):
    """Anchors and `blocks` documents per anchor as tensors; stacked documents; options of ours."""
    rng = np.random.default_rng(seed)
    columns = [rng.standard_normal((rows, dim)) for _ in range(1 + blocks)]
    tensors = [torch.tensor(column, requires_grad=True) for column in columns]
    hard = [[rows * (block + 1) + i for block in range(blocks - 1)] for i in range(rows)]
    return tensors, columns[0], np.concatenate(columns[1:]), hard


def same_as(loss, tensors, forward, gradients):
    loss.backward()
    np.testing.assert_allclose(forward.losses.mean(), loss.item(), rtol=1e-10)
    documents = np.concatenate([tensor.grad.numpy() for tensor in tensors[1:]])
    np.testing.assert_allclose(gradients.queries, tensors[0].grad.numpy(), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(gradients.documents, documents, rtol=1e-8, atol=1e-12)


DIRECTIONS = {
    oracle.QD: "query_to_doc", oracle.QQ: "query_to_query",
    oracle.DQ: "doc_to_query", oracle.DD: "doc_to_doc",
}  # fmt: skip


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize(
    "hardness", [None, "in_batch_negatives", "hard_negatives", "all_negatives"]
)
def test_multiple_negatives_ranking_loss(blocks, hardness):
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    ways = [[oracle.QD, *rest] for k in range(4) for rest in combinations(cases.ALL[1:], k)]
    ways = [(way, "joint") for way in ways]
    ways += [([oracle.QD], "per_direction"), ([oracle.QD, oracle.DQ], "per_direction")]
    for way, partition in ways:
        tensors, queries, documents, hard = st_problem(torch, blocks)
        theirs = losses.MultipleNegativesRankingLoss(
            torch.nn.Identity(),
            scale=8.0,
            directions=tuple(DIRECTIONS[name] for name in way),
            partition_mode=partition,
            hardness_mode=hardness,
            hardness_strength=3.0,
        )
        options = {
            "temperature": 1 / 8,
            "directions": tuple(way),
            "partition": partition,
            "hard_negatives": hard if blocks > 1 else None,
            "hardness": hardness,
            "hardness_strength": 3.0,
        }
        loss = theirs.compute_loss_from_embeddings(tensors, None)
        same_as(loss, tensors, *oracle.evaluate(queries, documents, **options))


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("anchors", [False, True])
@pytest.mark.parametrize("positives", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_gist_embed_loss(strategy, anchors, positives, blocks):
    """Anchors against anchors is query to query; positives against positives, without the rest."""
    torch = pytest.importorskip("torch")
    gist = pytest.importorskip("sentence_transformers.sentence_transformer.losses.gist_embed")
    for margin in (0.0, 0.1):
        tensors, queries, documents, hard = st_problem(torch, blocks)
        guides, guide_queries, guide_documents, _ = st_problem(torch, blocks, seed=1, dim=3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gist, "embed_columns", lambda model, features: model)
            patch.setattr(gist.GISTEmbedLoss, "__init__", torch.nn.Module.__init__)
            theirs = gist.GISTEmbedLoss()
            theirs.__dict__.update(
                model=tensors,
                guide=guides,
                must_retokenize=False,
                temperature=0.1,
                margin_strategy=strategy,
                margin=margin,
                contrast_anchors=anchors,
                contrast_positives=positives,
                gather_across_devices=False,
                similarity_fct=torch.nn.CosineSimilarity(dim=-1),
                cross_entropy_loss=torch.nn.CrossEntropyLoss(),
            )
            loss = theirs([], None)
        way = (oracle.QD,) + (oracle.QQ,) * anchors + (oracle.DD,) * positives
        options = {
            "temperature": 0.1,
            "directions": way,
            f"{strategy}_margin": margin,
            "guide_queries": guide_queries,
            "guide_documents": guide_documents,
            "hard_negatives": hard if blocks > 1 else None,
            "documents_see_hard_negatives": False,
        }
        same_as(loss, tensors, *oracle.evaluate(queries, documents, **options))

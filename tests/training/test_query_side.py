"""The query-side loss (ADORE, docs/methods.md, B2): its numbers, its gradient, its documents."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from small_transformers import WORDS, tiny
from torch.nn import functional

import stope
import torch
from stope.data import Pairs
from stope.torch.ranking import lambda_mrr
from stope.training import NegativeRefresh, QuerySideLoss, query_document_model


class Given(torch.nn.Module):
    """Query embeddings are its weights: those of the rows that the features name."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(rows, dtype=torch.float32))

    def forward(self, features):
        return {"sentence_embedding": self.rows[features["which"]]}


def batch(rows, **labels):
    rows = torch.as_tensor(rows)
    return [{"which": rows}, {"never": "read"}], {"rows": rows, **labels}


def line(positives, documents=4):
    """One query; documents on a line, the first the best."""
    texts = [f"d{i}" for i in range(documents)]
    pairs = Pairs.from_texts(["q"], [[texts[row] for row in positives]], texts)
    return pairs, np.arange(documents - 1, -1, -1, dtype=np.float32)[:, None]


def random_case(seed=0, queries=6, documents=50, dim=8):
    random = np.random.default_rng(seed)
    texts = [f"d{i}" for i in range(documents)]
    answers = [
        [texts[row] for row in random.choice(documents, random.integers(1, 4), replace=False)]
        for _ in range(queries)
    ]
    pairs = Pairs.from_texts([f"q{i}" for i in range(queries)], answers, texts)
    corpus = random.standard_normal((documents, dim)).astype(np.float32)
    model = Given(random.standard_normal((queries, dim)))
    query_of = np.repeat(np.arange(queries), np.diff(pairs.positives[0]))
    return pairs, corpus, model, query_of


def own(pairs, query):
    offsets, rows = pairs.positives
    return set(rows[offsets[query] : offsets[query + 1]].tolist())


@pytest.mark.parametrize(("metric_cut", "expected"), [(100, 0.246858), (2, 0.292242)])
def test_the_numbers_of_the_reference(metric_cut, expected):
    pairs, corpus = line([1])
    loss = QuerySideLoss(
        Given([[1.0]]), pairs, corpus, metric="dot", temperature=1, metric_cut=metric_cut
    )
    assert loss(*batch([0])).item() == pytest.approx(expected, abs=1e-6)
    assert loss.observed["mrr@10"] == 0.5
    assert loss.observed["recall@10"] == 1.0


def test_missing_positives_are_appended_without_gain():
    pairs, corpus = line([3])
    loss = QuerySideLoss(Given([[1.0]]), pairs, corpus, k=2, metric="dot", temperature=1)
    scores, relevant = torch.tensor([[3.0, 2, 0]]), torch.tensor([[0, 0, 1]])
    expected = lambda_mrr(scores, relevant, ranks=torch.tensor([1, 2, 3]), metric_cut=2)
    assert loss(*batch([0])).item() == pytest.approx(expected.item(), abs=1e-6)
    assert loss.observed["recall@10"] == 0.0


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("name", ["lambda_mrr", "infonce"])
def test_against_all_scores_in_float64(name, metric):
    pairs, corpus, model, query_of = random_case()
    rows, k, temperature = np.array([0, 3, 5, 3]), 10, 0.5
    loss = QuerySideLoss(
        model, pairs, corpus, k=k, loss=name, metric=metric, temperature=temperature
    )
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0])
    loss(*batch(rows, weights=weights)).backward()
    found = model.rows.grad.clone()
    assert found.any()
    exact = model.rows.detach().double()[torch.from_numpy(rows)].requires_grad_()
    documents = torch.from_numpy(corpus).double()
    queries = exact[:, None]
    if metric == "cosine":
        documents, queries = (functional.normalize(x, dim=-1) for x in (documents, queries))
    scores = (queries @ documents.T)[:, 0] / temperature
    total = 0.0
    for place, row in enumerate(rows):
        order = scores[place].detach().argsort(descending=True)[:k].tolist()
        right = own(pairs, query_of[row])
        if not right & set(order):
            order += sorted(right)
        x = scores[place, order]
        y = torch.tensor([document in right for document in order])
        if name == "lambda_mrr":
            ranks = torch.arange(1, len(order) + 1)
            one = lambda_mrr(x[None], y[None].long(), ranks=ranks, metric_cut=k)
        else:
            each = [torch.cat([x[p][None], x[~y]]).logsumexp(0) - x[p] for p in y.nonzero()[:, 0]]
            one = torch.stack(each).mean()
        total = total + weights[place] * one / weights.sum()
    total.backward()
    assert loss.observed["loss"] == pytest.approx(total.item(), rel=1e-5)
    wanted = torch.zeros_like(found, dtype=torch.float64)
    wanted.index_add_(0, torch.from_numpy(rows), exact.grad)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)


def test_rows_are_mapped_to_queries():
    """Row 1 of the pairs is the first query's second positive."""
    pairs = Pairs.from_texts(["q", "r"], [["a", "b"], ["c"]], ["a", "b", "c", "d"])

    class Rows(Given):
        def forward(self, features):
            return {"sentence_embedding": self.rows[torch.tensor([0, 0, 1])[features["which"]]]}

    corpus = np.eye(4, dtype=np.float32)
    model = Rows([[4.0, 3, 2, 1], [1.0, 2, 3, 4]])
    loss = QuerySideLoss(model, pairs, corpus, k=4, metric="dot", temperature=1)
    loss(*batch([1]))
    assert loss.observed["mrr@10"] == 1.0
    loss(*batch([2]))
    assert loss.observed["mrr@10"] == 0.5


def test_a_copy_of_the_query_is_not_retrieved():
    pairs = Pairs.from_texts(["q"], ["a"], ["q", "a", "b"])
    corpus = np.array([[3], [2], [1]], np.float32)
    loss = QuerySideLoss(Given([[1.0]]), pairs, corpus, metric="dot", temperature=1)
    loss(*batch([0]))
    assert loss.observed["mrr@10"] == 1.0


def test_search_is_measured_as_a_share_of_the_step():
    pairs, corpus, model, _ = random_case()
    loss = QuerySideLoss(model, pairs, corpus)
    loss(*batch([0, 1]))
    assert loss.observed["search_seconds"] > 0
    assert "search_share" not in loss.observed
    loss(*batch([0, 1]))
    assert 0 < loss.observed["search_share"] < 1


def test_training_improves_the_ranking():
    pairs, corpus, model, query_of = random_case(seed=1)
    loss = QuerySideLoss(model, pairs, corpus, k=50)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    rows = np.arange(len(query_of))
    which = torch.from_numpy(query_of)
    before = None
    for _ in range(60):
        value = loss([{"which": which}], {"rows": torch.from_numpy(rows)})
        before = before or dict(loss.observed)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert loss.observed["mrr@10"] > before["mrr@10"]
    assert loss.observed["loss"] < before["loss"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"metric": "euclidean"}, "metric is 'euclidean'"),
        ({"temperature": 0}, "temperature is 0"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_bad_options(options, words):
    pairs, corpus = line([1])
    with pytest.raises(ValueError, match=words):
        QuerySideLoss(Given([[1.0]]), pairs, corpus, **options)


def test_bad_rows():
    pairs, corpus = line([1])
    with pytest.raises(ValueError, match="3 rows for 4 documents"):
        QuerySideLoss(Given([[1.0]]), pairs, corpus[:3])
    loss = QuerySideLoss(Given([[1.0]]), pairs, corpus)
    with pytest.raises(ValueError, match="rows of a batch"):
        loss([{"which": torch.tensor([0])}], None)
    with pytest.raises(ValueError, match="rows from 1 to 1, but the pairs have 1"):
        loss([{"which": torch.tensor([0])}], {"rows": torch.tensor([1])})


# --- with a transformer ------------------------------------------------------------------------


def transformer_case(folder):
    texts = [" ".join(WORDS[i : i + 3]) for i in range(30)]
    pairs = Pairs.from_texts([WORDS[i] for i in range(10)], texts[:10], texts)
    return pairs, tiny(folder)


def test_refresh_in_query_side_mode(tmp_path):
    pairs, model = transformer_case(tmp_path / "model")
    model.train()
    run = NegativeRefresh("query_side", pool=7).start(pairs, model, folder=tmp_path / "run")
    assert model.training
    assert not run.due(0)
    assert not run.due(100, epoch_ended=True)
    assert run.negatives is None
    expected = model.encode(pairs.corpus_texts)
    model.train()
    np.testing.assert_allclose(run.corpus_embeddings, expected, atol=1e-5)
    loss = run.loss(model, loss="infonce")
    assert loss.get_config_dict()["k"] == 7
    read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    loss([read(pairs.query_texts)], {"rows": torch.arange(10)}).backward()
    assert model[0].auto_model.embeddings.word_embeddings.weight.grad.any()
    run.save(tmp_path / "saved")
    NegativeRefresh("query_side", pool=7).start(pairs, model).load(tmp_path / "saved")
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.add_(1)
    other = NegativeRefresh("query_side", pool=7).start(pairs, model, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="other document embeddings"):
        other.load(tmp_path / "saved")
    with pytest.raises(ValueError, match="searches in every step"):
        run.run(model, 1)


def test_one_model_of_two_sides(tmp_path):
    pairs, model = transformer_case(tmp_path / "model")
    first = copy.deepcopy(model)
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.mul_(0.5)
    joined = query_document_model(model, first)
    joined.save(str(tmp_path / "joined"))
    loaded = type(joined)(str(tmp_path / "joined"), device="cpu")
    for made in (joined, loaded):
        texts = pairs.query_texts
        np.testing.assert_allclose(made.encode_query(texts), model.encode(texts), atol=1e-5)
        np.testing.assert_allclose(made.encode_document(texts), first.encode(texts), atol=1e-5)
    with pytest.raises(ValueError, match="share their weights"):
        query_document_model(model, model)
    with pytest.raises(TypeError, match="Given"):
        query_document_model(model, Given([[1.0]]))


def test_search_is_the_exact_one():
    pairs, corpus, model, _ = random_case(documents=300)
    loss = QuerySideLoss(model, pairs, corpus, k=20)
    found = loss._retrieve(model.rows, np.arange(6)).ids[:, :20].numpy()
    exact = stope.topk(model.rows.detach().numpy(), corpus, 20, metric="cosine")
    np.testing.assert_array_equal(found, exact.ids)

"""Live negatives, known positives, prompts and several processes in the loss of training."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from gloo_processes import together
from training_loss_cases import (
    PAIRS,
    POSITIVES,
    TABLE,
    Live,
    Prompts,
    T,
    batch_of,
    measured,
    new_encoder,
    oracle,
    pair_masks,
    pair_rows,
    rows_of,
    same,
    texts_of,
)

from stope import weighting as w
from stope.integrations.sentence_transformers import Clock
from stope.integrations.sentence_transformers.columns import check_columns
from stope.integrations.sentence_transformers.row_table import RowTable, text_numbers
from stope.torch.distributed import average_gradients
from stope.training import contrastive_loss


@pytest.fixture
def encoder():
    return new_encoder()


# --- live negatives ----------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_no_positive_of_the_query_is_a_negative(encoder, live, symmetric):
    rows = pair_rows(range(16))
    columns = texts_of(rows)
    negatives = Live() if live else None
    if live:
        chosen = negatives.table[TABLE.query_of[:16]]
        columns += [negatives.texts(ids) for ids in chosen.T]
    masks = pair_masks(columns, rows)
    assert masks.sum() > 16 + 4
    loss = contrastive_loss(
        encoder, temperature=T, weighting=w.Focal(), negatives=negatives, table=TABLE,
        symmetric=symmetric,
    )  # fmt: skip
    found = measured(encoder, loss, *batch_of(encoder, rows, TABLE))
    # Rows 0 and 1 are of one query; row 3's query has the document of row 0 as a positive, too.
    assert masks[0, 1]
    assert masks[3, 0]
    assert not masks[1, 3]
    same(found, oracle(encoder, columns, "focal", masks=masks, symmetric=symmetric))


def test_live_negatives_are_negatives_like_any(encoder):
    rows, live = pair_rows(), Live()
    loss = contrastive_loss(
        encoder, temperature=T, weighting="progressive", clock=Clock(7, 10), negatives=live,
        table=TABLE,
    )  # fmt: skip
    found = measured(encoder, loss, *batch_of(encoder, rows, TABLE))
    queries = TABLE.query_of[:14]
    assert live.asked == [(queries.tolist(), 7)]
    columns = [live.texts(ids) for ids in live.table[queries].T]
    fixed = [
        {**row, "negative_1": a, "negative_2": b} for row, a, b in zip(rows, *columns, strict=True)
    ]
    given = contrastive_loss(
        encoder, temperature=T, weighting="progressive", clock=Clock(7, 10), table=TABLE
    )
    expected = measured(encoder, given, *batch_of(encoder, fixed, TABLE))
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    ((told, ids, scores),) = live.told
    assert told.tolist() == queries.tolist()
    assert np.array_equal(ids, live.table[queries])
    assert scores.dtype == np.float32
    with torch.no_grad():
        left, *right = (encoder.encode(texts) for texts in (texts_of(rows)[0], *columns))
    exact = np.stack([(left * one).sum(1) for one in right], 1)
    np.testing.assert_allclose(scores, exact, atol=1e-5)
    assert loss.observed["negatives_version"] == 3


def test_prompts_come_before_texts(encoder):
    rows, live = [row | {"source": "a"} for row in pair_rows()], Live(1)
    seen = []
    real = encoder[0].preprocess if hasattr(encoder[0], "preprocess") else encoder[0].tokenize
    name = "preprocess" if hasattr(encoder[0], "preprocess") else "tokenize"

    def spy(inputs, *args, **options):
        seen.append(list(inputs))
        return real(inputs, *args, **options)

    encoder[0].__dict__[name] = spy
    loss = contrastive_loss(encoder, temperature=T, negatives=live, table=TABLE, prompts=Prompts())
    features, labels = batch_of(encoder, rows, TABLE, Prompts())
    value = float(loss(features, labels).detach())
    assert seen[0] == [f"find a: {text}" for text in texts_of(rows)[0]]
    assert seen[1] == [f"text a: {text}" for text in texts_of(rows)[1]]
    live_texts = live.texts(live.table[TABLE.query_of[:14]][:, 0])
    assert seen[2] == [f"text a: {text}" for text in live_texts]
    assert labels["document_ids"].tolist() == TABLE.positive_numbers[:14].tolist()
    assert labels["sources"] == ["a"] * 14
    plain = contrastive_loss(encoder, temperature=T, negatives=Live(1), table=TABLE)
    assert float(plain(features, labels).detach()) != value


# --- rows --------------------------------------------------------------------------------------


def test_columns_by_what_they_are():
    datasets = pytest.importorskip("datasets")
    columns = {
        "weight": [1.0, 2.0], "query": ["a", "b"], "positive": ["x", "y"], "easiness": [0.5, 1.0],
        "source": ["s", "t"], "row": [1, 0], "negative": ["y", "x"], "bm25": [3, 4],
    }  # fmt: skip
    found = check_columns(datasets.Dataset.from_dict(columns))
    assert found.texts == ("query", "positive", "negative")
    assert found.signals == ("easiness", "bm25")
    assert found.weight
    assert found.row
    assert found.source
    for name, values, said in [
        ("weight", [1.0, -1.0], 'has -1.0 in row 1 of the column "weight"; give a number of'),
        ("easiness", [0.5, float("nan")], 'has nan in row 1 of the column "easiness"; a signal'),
        ("easiness", [0.5, None], 'has None in row 1 of the column "easiness"; a signal'),
        ("positive", ["x", None], 'has None in row 1 of the column "positive"; give a text'),
        ("source", [0.5, 1.5], 'has 0.5 in row 0 of the column "source"; give words'),
    ]:
        with pytest.raises(ValueError, match=said):
            check_columns(datasets.Dataset.from_dict({**columns, name: values}))
    with pytest.raises(ValueError, match=r"only the text column \['query'\]"):
        check_columns(datasets.Dataset.from_dict({"query": ["a"], "easiness": [0.5]}))


def test_the_table_of_rows():
    assert TABLE.query_of.tolist() == np.repeat(np.arange(14), np.diff(PAIRS.positives[0])).tolist()
    named = RowTable.of_pairs(PAIRS, ["b", "a"] * 7)
    assert named.source_names == ("a", "b")
    assert named.sources.tolist() == [1 - q % 2 for q in TABLE.query_of.tolist()]
    with pytest.raises(ValueError, match="sources has 2 names for 14 queries"):
        RowTable.of_pairs(PAIRS, ["a", "b"])
    numbers = TABLE.document_numbers([POSITIVES[3], "never seen", POSITIVES[0], "never seen"])
    assert PAIRS.corpus_texts[numbers[0]] == POSITIVES[3]
    assert numbers[1] == numbers[3] > 2**62
    assert len(set(text_numbers([f"text {i}" for i in range(5000)]).tolist())) == 5000


def test_columns_of_positives_against_a_loop():
    random = np.random.default_rng(0)
    offsets, ids = PAIRS.positives
    for _ in range(20):
        rows = random.integers(0, 16, random.integers(0, 9))
        documents = random.integers(0, len(PAIRS.corpus_texts), random.integers(0, 40))
        ends, columns = TABLE.columns_of_positives(rows, documents)
        for i, row in enumerate(rows):
            query = TABLE.query_of[row]
            own = ids[offsets[query] : offsets[query + 1]]
            expected = np.flatnonzero(np.isin(documents, own)).tolist()
            assert sorted(columns[ends[i] : ends[i + 1]].tolist()) == expected
        assert len(ends) == len(rows) + 1


# --- two processes -----------------------------------------------------------------------------

PARTS = (range(9), range(9, 14))  # of different size


def two_cases():
    return {
        "progressive": {"weighting": "progressive"},
        "dynamic": {"weighting": w.Dynamic(temperature=0.4), "symmetric": True},
        "plain": {},
        "dims": {"weighting": w.Focal(), "matryoshka_dims": (24, 8)},
        "listwise": {"distillation": "listwise", "weighting": "progressive"},
        "margin_mse": {"distillation": {"objective": "margin_mse", "weight": 0.1}},
        "lambda_mrr": {"distillation": {"objective": "lambda_mrr", "contrastive": 0.0}},
    }


def runs():
    """Names of cases, and whether there are live negatives: a teacher's scores are of these."""
    options = two_cases()
    return [
        (c, live) for c in options for live in (0, 1) if live or "distillation" not in options[c]
    ]


class Scores:
    """A teacher's scores, but of some documents that are nobody's positive."""

    def scores(self, queries, documents):
        values = np.sin(queries[:, None] * 7.0 + documents * 3.0).astype(np.float32)
        unknown = np.isin(documents, Live().table[2::5]) & ~np.isin(
            documents, TABLE.positive_numbers
        )
        return np.where(unknown, np.float32(-np.inf), values)


def step(case, rows, live):
    encoder = new_encoder()
    negatives = Live() if live else None
    loss = contrastive_loss(
        encoder, temperature=T, clock=Clock(8, 10), negatives=negatives, table=TABLE,
        **two_cases()[case],
    )  # fmt: skip
    if loss.distillation is not None:
        loss.attach(teacher=Scores())
    weighted = [row | {"weight": 1.0 + row["row"] % 3} for row in pair_rows(rows)]
    value = loss(*batch_of(encoder, weighted, TABLE))
    value.backward()
    average_gradients(encoder.parameters())
    gradient = torch.cat([p.grad.ravel() for p in encoder.parameters()])
    return {"loss": value.detach(), "gradient": gradient, "observed": loss.observed}


def worker(here, count, folder):
    found = {f"{case} {live}": step(case, PARTS[here], live) for case, live in runs()}
    # Without ids and rows, and with texts that are the same in both processes.
    encoder = new_encoder()
    loss = contrastive_loss(encoder, temperature=T)
    rows = [rows_of(0)[i] for i in ((0, 1, 2), (3, 4, 0))[here]]
    found["copies"] = {"loss": loss(*batch_of(encoder, rows)).detach()}
    zero = [row | {"weight": 0.0} for row in rows]
    found["zero"] = {"loss": loss(*batch_of(encoder, zero)).detach()}
    return found


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return together(__file__, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(("case", "live"), runs())
def test_two_processes_are_one_with_the_whole_batch(processes, case, live):
    whole = step(case, range(14), live)
    found = [process[f"{case} {live}"] for process in processes]
    mean = float(sum(one["loss"] for one in found)) / 2
    assert mean == pytest.approx(float(whole["loss"]), rel=1e-5)
    scale = float(whole["gradient"].abs().max())
    assert scale > 0 or (case == "lambda_mrr" and not live)  # which has no lists, and nothing else
    for one in found:
        np.testing.assert_allclose(one["gradient"], whole["gradient"], atol=2e-5 * scale)


def test_identity_across_processes(processes):
    encoder = new_encoder()
    rows = [rows_of(0)[i] for i in (0, 1, 2, 3, 4, 0)]
    exact = contrastive_loss(encoder, temperature=T)(*batch_of(encoder, rows))
    found = [process["copies"]["loss"] for process in processes]
    assert float(sum(found)) / 2 == pytest.approx(float(exact.detach()), rel=1e-5)
    assert [float(process["zero"]["loss"]) for process in processes] == [0.0, 0.0]

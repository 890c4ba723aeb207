"""A teacher's scores in the loss of training: each objective against float64; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from small_transformers import tiny
from training_loss_cases import (
    PAIRS,
    TABLE,
    WORDS,
    Live,
    T,
    batch_of,
    measured,
    new_encoder,
    pair_masks,
    pair_rows,
    read,
    rows_of,
    same,
    texts_of,
)

from stope.data import Pairs
from stope.encoders.versions import part
from stope.integrations.sentence_transformers.distillation import Distillation
from stope.training import Recipe, contrastive_loss, pairs_dataset, train
from stope.weighting import teacher_confidence

OBJECTIVES = ["listwise", "margin_mse", "stabilised", "lambda_mrr"]
NONE = -math.inf


def teacher_of(rows, width, seed=0):
    """Scores of the lists; every third row lacks its last, one row has its positive alone."""
    scores = np.random.default_rng(seed).normal(size=(rows, width)).round(3) * 2
    scores[::3, -1] = NONE
    scores[4, 1:] = NONE
    return scores.tolist()


def list_loss(objective, x, y, outside):
    """L_i of one row by its definition: x, y of the list, outside the x of other documents."""
    p = torch.softmax(y, 0)
    if objective == "listwise":
        return (p * (p.log() - x.log_softmax(0))).sum()
    if objective == "margin_mse":
        return torch.stack(
            [((x[0] - a) - (y[0] - b)) ** 2 for a, b in zip(x[1:], y[1:], strict=True)]
        ).mean()
    if objective == "stabilised":
        order = [0, *(1 + y[1:].argsort(descending=True)).tolist()]
        terms = []
        for rank, k in enumerate(order):
            seen = torch.cat([x[order[rank:]], outside])
            terms.append(p[k] * (seen.logsumexp(0) - x[k]))
        return torch.stack(terms).sum()
    ranks = {int(k): place + 1 for place, k in enumerate(x.argsort(descending=True))}
    pairs = [(k, j) for k in range(len(x)) for j in range(len(x)) if y[k] > y[j]]
    return torch.stack(
        [
            abs(1 / ranks[k] - 1 / ranks[j]) * torch.nn.functional.softplus(x[j] - x[k])
            for k, j in pairs
        ]
    ).mean()


def expected(model, columns, teacher, objective, masks, *, mix, temperatures, dims=None, data=None):
    """(value, gradient) of the whole loss, every pair's score in float64."""
    model.zero_grad()
    embedded = [model(read(model, texts))["sentence_embedding"].double() for texts in columns]
    rows, width = len(columns[0]), len(columns) - 1
    weights = torch.ones(rows).double() if data is None else torch.tensor(data).double()
    total = 0.0
    for dim in dims or [embedded[0].shape[1]]:
        queries, *documents = (
            torch.nn.functional.normalize(each[:, :dim], dim=1) for each in embedded
        )
        scores = queries @ torch.cat(documents).T
        hidden = torch.as_tensor(masks) & ~torch.eye(rows, scores.shape[1], dtype=torch.bool)
        logits = (scores / T).masked_fill(hidden, NONE)
        each = logits.logsumexp(1) - logits.diagonal()
        contrastive = (weights * each).sum() / weights.sum()
        losses, counted = [], []
        for i in range(rows):
            places = [i + k * rows for k in range(width)]
            here = [k for k in range(width) if teacher[i][k] > NONE and not hidden[i, places[k]]]
            if len(here) < 2:
                continue
            columns_of_list = [places[k] for k in here]
            listed = {columns[1 + k][i] for k in here}
            texts = [text for column in columns[1:] for text in column]
            outside = [
                j for j in range(scores.shape[1])
                if j not in columns_of_list and not hidden[i, j] and texts[j] not in listed
            ]  # fmt: skip
            x = scores[i] / temperatures[0]
            y = torch.tensor([teacher[i][k] for k in here]).double() / temperatures[1]
            losses.append(list_loss(objective, x[columns_of_list], y, x[outside]))
            counted.append(weights[i])
        share = torch.stack(counted)
        taught = (share * torch.stack(losses)).sum() / share.sum()
        total = total + mix[0] * contrastive + mix[1] * taught
    total.backward()
    gradients = [p.grad.ravel().clone() for p in model.parameters() if p.grad is not None]
    return float(total.detach()), torch.cat(gradients).numpy()


def usual(objective):
    return 1.0 if objective == "margin_mse" else T


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mix", [(1.0, 1.0), (0.0, 1.0), (0.25, 3.0)])
def test_value_and_gradient_are_those_of_the_formula(objective, mix):
    encoder, teacher = new_encoder(), teacher_of(14, 3)
    rows = rows_of(2, teacher_scores=teacher, weight=[float(1 + i % 4) for i in range(14)])
    rows[6]["negative_1"] = rows[6]["positive"]  # an answer is in no list
    columns = texts_of(rows)
    texts = [text for column in columns[1:] for text in column]
    masks = np.array([[text == columns[1][i] for text in texts] for i in range(14)])
    asked = Distillation(objective, contrastive=mix[0], weight=mix[1], teacher_temperature=0.7)
    loss = contrastive_loss(encoder, temperature=T, distillation=asked)
    found = measured(encoder, loss, *batch_of(encoder, rows))
    data = [row["weight"] for row in rows]
    same(
        found,
        expected(
            encoder, columns, teacher, objective, masks, mix=mix,
            temperatures=(usual(objective), 0.7), data=data,
        ),
    )  # fmt: skip
    assert loss.observed["lists"] == pytest.approx(12 / 14)  # not rows 4 and 6
    both = mix[0] * loss.observed["contrastive"] + mix[1] * loss.observed["distillation"]
    assert loss.observed["loss"] == pytest.approx(both, rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_shorter_embeddings_have_both_terms(objective):
    encoder, teacher = new_encoder(), teacher_of(14, 3, seed=1)
    rows = rows_of(2, teacher_scores=teacher)
    loss = contrastive_loss(
        encoder, temperature=T, matryoshka_dims=(24, 8), distillation={"objective": objective}
    )
    found = measured(encoder, loss, *batch_of(encoder, rows))
    masks = np.zeros((14, 42), bool)
    same(
        found,
        expected(
            encoder, texts_of(rows), teacher, objective, masks, mix=(1, 1),
            temperatures=(usual(objective), 1.0), dims=(24, 8),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("objective", ["listwise", "stabilised"])
def test_mini_batches_change_nothing(objective, tmp_path):
    encoder = tiny(tmp_path, words=[*WORDS, "what", "is", "no", "was", "found", "a", "lies", "in"])
    rows = rows_of(2, teacher_scores=teacher_of(14, 3))
    found = [
        measured(
            encoder,
            contrastive_loss(encoder, temperature=T, distillation=objective, **options),
            *batch_of(encoder, rows),
        )
        for options in ({}, {"mini_batch_size": 5})
    ]
    same(found[1], found[0])


class Told:
    """A teacher's table by query and document; documents 20 and 21 were not scored."""

    def scores(self, queries, documents):
        values = np.sin(queries[:, None] * 7.0 + documents * 3.0).astype(np.float32)
        return np.where((documents == 20) | (documents == 21), np.float32(NONE), values)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_live_negatives_are_looked_up(objective):
    encoder, live, rows = new_encoder(), Live(), pair_rows()
    queries = TABLE.query_of[:14]
    live.table[queries[2]], live.table[queries[5]] = (20, 22), (20, 21)
    chosen = live.table[queries]
    columns = texts_of(rows) + [live.texts(ids) for ids in chosen.T]
    teacher = Told().scores(queries, np.column_stack([TABLE.positive_numbers[:14], chosen]))
    loss = contrastive_loss(
        encoder, temperature=T, negatives=live, table=TABLE, distillation=objective
    )
    loss.attach(teacher=Told())
    found = measured(encoder, loss, *batch_of(encoder, rows, TABLE))
    masks = pair_masks(columns, rows)
    same(
        found,
        expected(
            encoder, columns, teacher.tolist(), objective, masks, mix=(1, 1),
            temperatures=(usual(objective), 1.0),
        ),
    )  # fmt: skip
    assert loss.observed["lists"] < 1


# --- through train: the oracles of docs/methods.md -----------------------------------------------


def planned_encoder(vectors):
    """An encoder of one word per text, with these embeddings."""
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vectors)}, unk_token="q0"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.array(list(vectors.values()), np.float32)
    static = part("models").StaticEmbedding(raw, embedding_weights=weights)
    return SentenceTransformer(modules=[static], device="cpu")


def rows_with(cosines, far):
    """Two rows whose lists have these cosines; far: the second's documents are minus query one."""
    vectors, rows = {}, []
    for i, own in enumerate(cosines):
        vectors[f"q{i}"] = np.eye(8)[i]
        names = [f"d{i}{k}" for k in range(len(own))]
        for k, (name, c) in enumerate(zip(names, own, strict=True)):
            vectors[name] = c * np.eye(8)[i] + math.sqrt(1 - c * c) * np.eye(8)[2 + k]
            if far and i:
                vectors[name] = -np.eye(8)[0]
        rows.append((f"q{i}", *names))
    return planned_encoder(vectors), rows


@pytest.mark.parametrize(
    ("objective", "student", "teacher", "value"),
    [
        ("stabilised", [2, 1, 0], [3, 1, 0], 0.379709),  # D2
        ("listwise", [2, 1, 0], [3, 1, 0], 0.081555),  # D2 without stabilisation, D3, D4
        ("margin_mse", [2, 1], [5, 1], 9.0),  # D5
        ("lambda_mrr", [0.2, 1.0, 0.5], [1, 1 / 2, 1 / 3], 0.386722),  # D1
    ],
)
def test_a_step_has_the_loss_of_the_oracle(objective, student, teacher, value):
    """The second row weighs nothing, and its documents score -100 where they are compared with."""
    encoder, rows = rows_with([[x / 100 for x in student]] * 2, far=True)
    report = train(
        encoder, rows, columns={"teacher_scores": [teacher] * 2, "weight": [1, 0]},
        epochs=1, batch_size=2, threads=1,
        distillation={"objective": objective, "contrastive": 0, "temperature": 0.01},
    )  # fmt: skip
    assert report.losses == [pytest.approx(value, rel=2e-5)]


def test_the_pairs_of_tas_b():
    """C5's own pairs: margins 1 and 1 where the teacher has 5 and 4, (16 + 9) / 2."""
    encoder, rows = rows_with([[0.3, 0.2], [0.2, 0.1]], far=False)
    report = train(
        encoder, rows, columns={"teacher_scores": [[5, 0], [5, 1]]}, epochs=1, batch_size=2,
        distillation={"objective": "margin_mse", "contrastive": 0, "temperature": 0.1},
    )  # fmt: skip
    assert report.losses == [pytest.approx(12.5, rel=2e-5)]


def test_both_losses_add_up():
    teacher, values = [[2, 1, 0], [1, None, 3]], {}
    for mix in ((1, 0), (0, 1), (0.5, 2)):
        encoder, rows = rows_with([[0.3, 0.2, 0.1], [0.5, 0.4, 0.6]], far=False)
        asked = {"contrastive": mix[0], "weight": mix[1]}
        report = train(
            encoder, rows, columns={"teacher_scores": teacher}, epochs=1, batch_size=2,
            distillation=asked,
        )  # fmt: skip
        values[mix] = report.losses[0]
    plain = train(rows_with([[0.3, 0.2, 0.1], [0.5, 0.4, 0.6]], far=False)[0], rows, epochs=1)
    assert values[1, 0] == plain.losses[0]
    assert values[0.5, 2] == pytest.approx(0.5 * values[1, 0] + 2 * values[0, 1], rel=1e-6)


def test_a_student_comes_to_order_as_its_teacher():
    """Distillation alone; the teacher prefers the second document where labels say the first."""
    encoder, rows = rows_with([[0.5, 0.2, 0.1], [0.5, 0.2, 0.1]], far=False)
    train(
        encoder, rows, columns={"teacher_scores": [[0, 3, -3]] * 2}, epochs=60, batch_size=2,
        learning_rate=0.05, distillation={"contrastive": 0, "temperature": 0.2},
    )  # fmt: skip
    for query, *documents in rows:
        scores = encoder.encode(query) @ encoder.encode(documents).T
        assert scores.argsort().tolist() == [2, 0, 1]


def test_the_confidence_of_lists_is_a_signal():
    from training_loss_cases import Spy

    Spy.seen.clear()
    teacher = teacher_of(14, 3)
    loss = contrastive_loss(new_encoder(), weighting=Spy(), distillation={"teacher_temperature": 2})
    loss(*batch_of(loss.model, rows_of(2, teacher_scores=teacher)))
    ((signals, _),) = Spy.seen
    scores = np.array(teacher)
    confidence = teacher_confidence(scores[:, 0], scores[:, 1:], temperature=2.0)
    np.testing.assert_allclose(signals["teacher_confidence"], confidence, rtol=1e-6)
    weighted = train(
        new_encoder(), rows_with_columns(teacher), weighting="teacher", epochs=1, batch_size=14
    )
    assert (
        weighted.losses
        != train(new_encoder(), rows_with_columns(None), epochs=1, batch_size=14).losses
    )


def rows_with_columns(teacher):
    import datasets

    return datasets.Dataset.from_list(
        rows_of(2, **({} if teacher is None else {"teacher_scores": teacher}))
    )


# --- sentences ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"objective": "kl"}, ValueError, r"distillation.objective is 'kl'; give one of listwise"),
        (
            {"weight": -1},
            ValueError,
            "distillation.weight is -1.0; it must be finite and at least 0",
        ),
        ({"weight": "1"}, TypeError, "distillation.weight is '1'; give a number"),
        (
            {"temperature": 0},
            ValueError,
            "distillation.temperature is 0.0; it must be finite and above",
        ),
        ({"weight": 0, "contrastive": 0}, ValueError, "are both 0, which leaves nothing to learn"),
        ({"wait": 1}, ValueError, r'distillation has no key "wait" \(did you mean "weight"\?\)'),
    ],
)
def test_wrong_options(options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        Recipe(distillation=options)


def test_a_recipe_reads_and_writes_it():
    recipe = Recipe(distillation="stabilised").with_options(distillation={"weight": 0.5})
    assert recipe.distillation == Distillation(weight=0.5)
    assert Recipe.read(recipe.to_dict()) == recipe
    assert "distillation" in Recipe.model_json_schema()["properties"]


ROWS = [(f"what is {word}", f"{word} lies", f"no {word}") for word in WORDS]


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        (None, {"distillation": "listwise"}, "distillation was given, but no scores of a teacher"),
        ([[1, 2]] * 14, {}, r'examples has "teacher_scores", but nothing uses it; give'),
        ([[1]] * 14, {"distillation": {}}, r"\[1\] in row 0 .*give the teacher's 2 scores"),
        ([[None, 1]] * 14, {"distillation": {}}, r"in row 0 of the column \"teacher_scores\""),
        ([[1, math.nan]] * 14, {"distillation": {}}, "in row 0 of the column"),
        ([[1, 2]] * 14, {"distillation": {}, "teacher": len}, "keep one of them"),
        ([[1, 2]] * 14, {"distillation": {"contrastive": 0}, "learnable_temperature": True},
         "nothing would teach the temperature"),
    ],
)  # fmt: skip
def test_wrong_scores(columns, options, sentence):
    told = None if columns is None else {"teacher_scores": columns}
    with pytest.raises(ValueError, match=sentence):
        train(new_encoder(), ROWS, columns=told, **options)


def test_rows_without_negatives_have_no_lists():
    with pytest.raises(ValueError, match="the rows have no negatives, mined or of their own"):
        train(new_encoder(), [row[:2] for row in ROWS], teacher=len, distillation="listwise")


def test_a_batch_without_scores():
    loss = contrastive_loss(new_encoder(), distillation="listwise")
    with pytest.raises(ValueError, match="but the batch has no scores of a teacher"):
        loss(*batch_of(loss.model, rows_of(2)))


def test_lists_of_the_rows_of_pairs():
    """`TeacherScores.lists` is the column of `pairs_dataset`; a filled place is not scored."""
    ids = np.array([[3], [-1], *([[5]] * (len(PAIRS.query_ids) - 2))])
    rows = pairs_dataset(PAIRS, ids)
    scores = np.where(ids[PAIRS.positives.owners] >= 0, 0.5, NONE)
    lists = np.column_stack([np.ones(len(scores)), scores]).astype(np.float32)
    report = train(
        new_encoder(), rows, columns={"teacher_scores": lists}, epochs=1, distillation="listwise"
    )
    assert np.isfinite(report.losses).all()


def test_pairs_of_texts_are_scored_before_the_first_step():
    """A teacher of rows with negatives of their own is the same as the column of its scores."""
    asked = []

    def teacher(both):
        asked.extend(both)
        return [float(len(document) - len(query)) for query, document in both]

    lists = [teacher([(query, text) for text in texts]) for query, *texts in ROWS]
    asked.clear()
    options = {"epochs": 2, "batch_size": 7, "distillation": "listwise", "threads": 1}
    given = train(new_encoder(), ROWS, columns={"teacher_scores": lists}, **options)
    found = train(new_encoder(), ROWS, teacher=teacher, **options)
    assert found.losses == given.losses
    assert len(asked) == len(set(asked)) == 2 * len(ROWS)


def test_pairs_need_negatives():
    assert isinstance(PAIRS, Pairs)
    with pytest.raises(ValueError, match="the rows have no negatives, mined or of their own"):
        train(new_encoder(), PAIRS, teacher=len, distillation="listwise")

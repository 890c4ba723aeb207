"""mine_hard_negatives against the library's own function, on the same inputs."""

from __future__ import annotations

import inspect
import random
import re

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
pytest.importorskip("datasets", reason='needs pip install "stope[train]"')

from library_cases import FixedCrossEncoder, FixedModel, a_corpus, a_dataset, unit
from sentence_transformers import util

from stope.integrations.sentence_transformers import mine_hard_negatives
from stope.integrations.sentence_transformers.mining_arguments import FORMATS

LIMITS = [
    {},
    {"relative_margin": 0.1},
    {"absolute_margin": 0.05, "num_negatives": 5},
    {"max_score": 0.4, "range_min": 2},
    {"min_score": 0.1, "range_max": 20, "num_negatives": 4},
    {"relative_margin": 0.05, "range_min": 1, "range_max": 20, "num_negatives": 2},
    {"absolute_margin": -0.1},
    {"sampling_strategy": "random", "range_max": 30},
    {"sampling_strategy": "random", "relative_margin": 0.2},
]


def both(capsys, dataset, *, model=FixedModel, cross=None, **options):
    """The rows of the library's function and of ours as it does, and what each prints."""
    made = []
    for function, more in (
        (util.mine_hard_negatives, {}),
        (mine_hard_negatives, {"range_counts": "window"}),
    ):
        encoder = None if cross is None else cross()
        random.seed(3)
        capsys.readouterr()
        result = function(dataset, model(), cross_encoder=encoder, **options, **more)
        made.append((result, capsys.readouterr().out.splitlines()))
    return made


def same_rows(ours, theirs):
    assert ours.column_names == theirs.column_names
    assert len(ours) == len(theirs)
    for name in theirs.column_names:
        for mine, wanted in zip(ours[name], theirs[name], strict=True):
            if name in ("score", "scores"):
                assert mine == pytest.approx(wanted, abs=2e-6)
            else:
                assert mine == wanted
    if len(theirs):
        assert ours.features == theirs.features


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_the_window_gives_the_librarys_rows_and_words(capsys, limits, format, scores):
    dataset = a_dataset()
    options = {"corpus": a_corpus(), "output_format": format, "output_scores": scores, **limits}
    (theirs, wanted), (ours, said) = both(capsys, dataset, **options)
    assert len(theirs) > 0
    same_rows(ours, theirs)
    if "min_score" in limits:  # the library counts what is already out once more
        wanted, said = (
            [line for line in lines if "min_score of" not in line] for lines in (wanted, said)
        )
    assert said == wanted


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_other_similarities(capsys, similarity):
    options = {"output_scores": True, "absolute_margin": 0.01}
    made = both(capsys, a_dataset(), model=lambda: FixedModel(similarity), **options)
    same_rows(made[1][0], made[0][0])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "limits",
    [
        {"max_score": 0.8},
        {"relative_margin": 0.1},
        {"min_score": 0.3, "max_score": 1.0, "range_min": 1},
    ],
    ids=str,
)
def test_a_cross_encoder_gives_the_librarys_rows(capsys, limits, format):
    options = {"corpus": a_corpus(), "output_format": format, "output_scores": True, **limits}
    (theirs, _), (ours, _) = both(capsys, a_dataset(), cross=FixedCrossEncoder, **options)
    assert len(theirs) > 0
    same_rows(ours, theirs)


def test_min_score_alone_is_of_the_cross_encoders_scores():
    """As in version 6 of the library; version 5 takes the model's then."""
    alone, beside = (
        mine_hard_negatives(
            a_dataset(),
            FixedModel(),
            cross_encoder=FixedCrossEncoder(),
            min_score=0.3,
            verbose=False,
            **more,
        )
        for more in ({}, {"max_score": 1.0})
    )
    assert len(alone) > 0
    same_rows(alone, beside)


def test_a_cross_encoder_is_asked_once_for_each_pair_in_full_calls():
    encoder = FixedCrossEncoder()
    mine_hard_negatives(
        a_dataset(), FixedModel(), cross_encoder=encoder, max_score=0.9, verbose=False
    )
    pairs = [pair for call in encoder.calls for pair in call]
    assert len(set(pairs)) == len(pairs) > 30 * 10
    assert len(encoder.calls) == 1
    lengths = [sum(map(len, pair)) for pair in pairs]
    assert lengths == sorted(lengths, reverse=True)


def test_a_cross_encoder_without_limits_is_told_of(caplog):
    encoder = FixedCrossEncoder()
    mine_hard_negatives(a_dataset(), FixedModel(), cross_encoder=encoder, verbose=False)
    assert encoder.calls == []
    assert "cross_encoder is not used" in caplog.text


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("limits", [{}, {"relative_margin": 0.1}], ids=str)
def test_positives_may_be_found(capsys, limits, most):
    options = {"include_positives": True, "num_negatives": 6, "output_scores": True, **limits}
    made = both(capsys, a_dataset(most_positives=most), **options)
    assert len(made[0][0]) > 0
    same_rows(made[1][0], made[0][0])


def eligible(dataset, corpus, margin, count):
    """{query: its negatives} by all scores in float64."""
    answers = {}
    for query, answer in zip(dataset["question"], dataset["answer"], strict=True):
        answers.setdefault(query, []).append(answer)
    texts = list(dict.fromkeys([*corpus, *dataset["answer"]]))
    rows = np.stack([unit(text) for text in texts]).astype(np.float64)
    wanted = {}
    for query, positives in answers.items():
        scores = rows @ unit(query).astype(np.float64)
        lowest = min(scores[texts.index(text)] for text in positives)
        order = np.argsort(-scores, kind="stable")
        kept = [
            texts[i]
            for i in order
            if texts[i] not in positives and scores[i] <= lowest - abs(lowest) * margin
        ]
        wanted[query] = kept[:count]
    return wanted


def test_by_default_no_query_starves(capsys):
    dataset, corpus = a_dataset(), a_corpus(400)
    options = {"corpus": corpus, "relative_margin": 0.3, "num_negatives": 3}
    ours = mine_hard_negatives(dataset, FixedModel(), **options)
    said = capsys.readouterr().out
    theirs = util.mine_hard_negatives(dataset, FixedModel(), **options, verbose=False)
    wanted = eligible(dataset, corpus, 0.3, 3)
    found = {}
    for row in ours:
        texts = found.setdefault(row["question"], [])
        if row["negative"] not in texts:
            texts.append(row["negative"])
    assert found == {query: texts for query, texts in wanted.items() if texts}
    assert len(theirs) < len(ours) == sum(len(wanted[query]) for query in dataset["question"])
    share = re.search(
        r"Skipped ([\d,]+) potential negatives \(([\d.]+)%\) due to the relative", said
    )
    assert 0 < float(share[2]) < 100


def test_random_negatives_follow_pythons_random():
    def rows(seed):
        random.seed(seed)
        options = {"sampling_strategy": "random", "range_max": 40, "verbose": False}
        return mine_hard_negatives(a_dataset(), FixedModel(), **options)["negative"][:]

    assert rows(1) == rows(1) != rows(2)


def test_a_cache_knows_the_model(tmp_path, capsys):
    def mined(mark, **options):
        model = FixedModel(mark=mark)
        rows = mine_hard_negatives(a_dataset(), model, cache_folder=str(tmp_path), **options)
        return rows.to_list(), model.asked, capsys.readouterr().out

    first, asked, said = mined("one")
    assert len(asked) == 2
    assert all(options["normalize_embeddings"] for _, options in asked)
    assert said.count("[Cache] Saved") == 2
    again, asked, said = mined("one")
    assert (again, asked) == (first, [])
    assert said.count("[Cache] Loaded") == 2
    assert len(mined("two")[1]) == 2  # other weights under the same name
    assert [texts[0] for texts, _ in mined("one", query_prompt="ask: ")[1]] == [
        a_dataset()["question"][0]
    ]
    model = FixedModel()
    model.fingerprint = None
    with pytest.raises(ValueError, match="no weights that can be read"):
        mine_hard_negatives(a_dataset(), model, cache_folder=str(tmp_path))


def test_signature_and_defaults_are_the_librarys():
    ours = list(inspect.signature(mine_hard_negatives).parameters.values())
    theirs = inspect.signature(util.mine_hard_negatives).parameters
    assert [p.name for p in ours[: len(theirs)]] == list(theirs)
    for parameter in ours[: len(theirs)]:
        assert parameter.default == theirs[parameter.name].default, parameter.name
        assert parameter.kind == theirs[parameter.name].kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got num_negatives=0"),
        ({"range_min": -1}, "range_min must be non-negative, got range_min=-1"),
        ({"range_min": 3, "range_max": 3}, "range_min must be smaller than range_max"),
        ({"range_max": 2}, "Cannot mine 3 negatives per query: only 2 candidates remain"),
        ({"output_format": "quartet"}, "output_format is 'quartet'"),
        ({"sampling_strategy": "best"}, "sampling_strategy is 'best'"),
        ({"range_counts": "raw"}, "range_counts is 'raw'"),
        ({"anchor_column_name": "query"}, "anchor_column_name is 'query'.*question"),
        ({"faiss_batch_size": 0}, "faiss_batch_size is 0"),
        ({"max_score": 0.1, "min_score": 0.2}, "min_score is 0.2, above max_score=0.1"),
    ],
    ids=str,
)
def test_wrong_values(options, message):
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(a_dataset(4), FixedModel(), verbose=False, **options)


def test_a_dataset_without_rows_or_with_one_column_and_a_foreign_similarity():
    with pytest.raises(ValueError, match="dataset is empty"):
        mine_hard_negatives(a_dataset().select([]), FixedModel())
    with pytest.raises(ValueError, match="at least two"):
        mine_hard_negatives(a_dataset().select_columns(["answer"]), FixedModel())
    with pytest.raises(ValueError, match="similarity_fn_name is 'manhattan'"):
        mine_hard_negatives(a_dataset(), FixedModel("manhattan"))
    with pytest.raises(TypeError, match="question"):
        mine_hard_negatives(
            a_dataset().map(lambda row: {"question": None}), FixedModel(), verbose=False
        )


def test_nothing_found_leaves_a_dataset_with_its_columns(capsys):
    mined = mine_hard_negatives(a_dataset(5), FixedModel(), max_score=-1.0)
    assert (len(mined), mined.column_names) == (0, ["question", "answer", "negative"])
    assert "Could not find enough negatives" in capsys.readouterr().out

"""A teacher while training runs: what it scores, filters and teaches; each pair is scored once."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

import small_transformers

from stope.data import Pairs
from stope.encoders import encode_corpus, encode_queries, static_encoder
from stope.evaluation import Evaluation
from stope.mining.pair_scores import PairScores, ScoredPairs
from stope.training import NegativeRefresh, train

QUERIES, DOCUMENTS = small_transformers.texts(0, 40), small_transformers.texts(1, 60)
PAIRS = Pairs.from_texts(QUERIES, [[DOCUMENTS[i], DOCUMENTS[i + 9]] for i in range(40)], DOCUMENTS)
REFRESH = {"every": 4, "num_negatives": 2, "pool": 6, "relative_margin": None}
OPTIONS = {
    "batch_size": 10, "max_steps": 12, "threads": 1, "seed": 3, "learning_rate": 0.05,
    "refresh": REFRESH, "distillation": "listwise",
}  # fmt: skip


def new_encoder():
    return static_encoder([*QUERIES, *DOCUMENTS], dim=8, vocab_size=64)


class Teacher:
    """Shared words; notes what it was asked, and may be stopped."""

    def __init__(self, stop_after=None):
        self.asked, self.stop_after = [], stop_after

    def fingerprint(self):
        return "shared words"

    def __call__(self, both):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += both
        return [self.of(*pair) for pair in both]

    @staticmethod
    def of(query, document):
        return len(set(query.split()) & set(document.split())) - 0.01 * len(document)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_each_pair_is_scored_once_over_all_refreshes():
    teacher = Teacher()
    report = train(new_encoder(), PAIRS, teacher=teacher, **OPTIONS)
    assert len(report.refreshes) == 3
    assert report.refreshes[1]["changed"] > 0
    assert len(teacher.asked) == len(set(teacher.asked))
    first = Teacher()
    once = {**OPTIONS, "refresh": {**REFRESH, "mode": "static", "every": None}}
    train(new_encoder(), PAIRS, teacher=first, **once)
    assert len(first.asked) < len(teacher.asked) < 2 * len(first.asked)
    assert set(first.asked) < set(teacher.asked)


@pytest.mark.parametrize("bm25", [0, 1])
def test_what_is_known_is_what_the_teacher_says(bm25):
    quotas = {"dense": 2 - bm25, "bm25": bm25}
    run = NegativeRefresh(**REFRESH, quotas=quotas).start(
        PAIRS, new_encoder(), teacher=PairScores(Teacher())
    )
    run.run(new_encoder(), 0)
    other = static_encoder([*QUERIES, *DOCUMENTS], dim=8, vocab_size=64, seed=9)
    run.run(other, 4)  # BM25's are those of the first
    for table in (run.negatives.candidates, run.negatives.lexical):
        scores = run.taught.scores(np.arange(40), table)
        assert (scores[table >= 0] > -np.inf).all()
        for query, place in zip(*np.nonzero(table >= 0), strict=True):
            text = PAIRS.corpus_texts[table[query, place]]
            assert scores[query, place] == np.float32(Teacher.of(PAIRS.query_texts[query], text))
    offsets, ids = PAIRS.positives
    lowest = [
        min(Teacher.of(PAIRS.query_texts[q], PAIRS.corpus_texts[d]) for d in ids[a:b])
        for q, (a, b) in enumerate(itertools.pairwise(offsets))
    ]
    np.testing.assert_array_equal(run.taught.lowest_positive_scores(), np.float32(lowest))
    unknown = run.taught.scores(np.array([0, 0]), np.array([[-1], [59]]))
    assert (unknown == -np.inf).all() or 59 in run.negatives.candidates[0]


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_what_the_teacher_takes_for_an_answer_is_no_negative(margin):
    options = {**REFRESH, "pool": 30, "quotas": {"dense": 1, "bm25": 1}}
    plain, filtered = (
        NegativeRefresh(**options, teacher_margin=m).start(
            PAIRS, new_encoder(), teacher=PairScores(Teacher())
        )
        for m in (None, margin)
    )
    model = new_encoder()
    shortfalls = [run.run(model, 0).shortfalls for run in (plain, filtered)]
    lowest = plain.taught.lowest_positive_scores().astype(np.float64)
    assert (lowest < 0).any()
    ceiling = lowest - np.abs(lowest) * margin
    dropped = 0
    for name in ("candidates", "lexical"):
        for query, rows in enumerate(getattr(plain.negatives, name)):
            rows = rows[rows >= 0]
            scores = plain.taught.scores(np.array([query]), rows[None])[0]
            kept = getattr(filtered.negatives, name)[query]
            assert kept[kept >= 0].tolist() == rows[scores <= ceiling[query]].tolist()
            dropped += int((scores > ceiling[query]).sum())
    assert dropped > 40
    assert shortfalls[0] <= shortfalls[1]


@pytest.mark.parametrize("mode", ["periodic", "stale"])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, mode):
    more = {"refresh": {**REFRESH, "mode": mode, "teacher_margin": 0.1}, "checkpoint_every": 3}
    options = {**OPTIONS, **more, "weighting": "teacher"}
    whole = new_encoder()
    expected = train(whole, PAIRS, teacher=Teacher(), output=tmp_path / "whole", **options)
    count = len(Teacher().asked)
    asked = []
    for stop in ("teacher", "step", None):
        teacher, model = Teacher(stop_after=64 if stop == "teacher" else None), new_encoder()

        def progress(step, total, stop=stop):
            if stop == "step" and step == 8:
                raise KeyboardInterrupt

        try:
            report = train(
                model, PAIRS, teacher=teacher, output=tmp_path / "stopped", resume=True,
                progress=progress, **options,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert stop is not None
        asked += teacher.asked
    assert report.losses == expected.losses
    assert same(weights(model), weights(whole))
    assert count == 0
    repeated = len(asked) - len(set(asked))
    assert repeated <= 64  # the shard that the first was stopped in


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path):
    options = {**OPTIONS, "max_steps": 4, "checkpoint_every": 2}
    train(new_encoder(), PAIRS, teacher=Teacher(), output=tmp_path / "run", **options)
    other = Teacher()
    other.fingerprint = lambda: "another"
    with pytest.raises(ValueError, match="is of another run: teacher"):
        train(new_encoder(), PAIRS, teacher=other, output=tmp_path / "run", resume=True, **options)
    options["distillation"] = "margin_mse"
    with pytest.raises(ValueError, match="is of another run: distillation"):
        train(
            new_encoder(), PAIRS, teacher=Teacher(), output=tmp_path / "run", resume=True, **options
        )


def test_an_encoder_teaches_by_its_cosines():
    expert = static_encoder([*QUERIES, *DOCUMENTS], dim=16, vocab_size=64, seed=5)

    def cosines(both):
        sides = [encode_queries(expert, [q for q, _ in both])]
        sides.append(encode_corpus(expert, [d for _, d in both]))
        sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        return np.einsum("qd,qd->q", *sides)

    found = train(new_encoder(), PAIRS, teacher=expert, temperature=0.1, **OPTIONS)
    options = {**OPTIONS, "distillation": {"teacher_temperature": 0.1}}
    given = train(new_encoder(), PAIRS, teacher=cosines, temperature=0.1, **options)
    assert found.losses == pytest.approx(given.losses, rel=1e-4)
    flat = train(
        new_encoder(), PAIRS, teacher=expert, temperature=0.1,
        **{**OPTIONS, "distillation": {"teacher_temperature": 1.0}},
    )  # fmt: skip
    assert flat.losses[0] != pytest.approx(found.losses[0], rel=1e-3)
    expert.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match="teacher has the similarity euclidean"):
        train(new_encoder(), PAIRS, teacher=expert, **OPTIONS)


def written(path, leave_out=()):
    """All scores of the teacher in a file."""
    rows = [
        {"query_id": q, "document_id": d, "score": Teacher.of(a, b)}
        for q, a in zip(PAIRS.query_ids, PAIRS.query_texts, strict=True)
        for d, b in zip(PAIRS.corpus_ids, PAIRS.corpus_texts, strict=True)
        if (q, d) not in leave_out
    ]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".run":
        lines = [f"{r['query_id']} Q0 {r['document_id']} 1 {r['score']!r} t\n" for r in rows]
        path.write_text("".join(lines))
    elif path.suffix == ".tsv":
        lines = [f"{r['query_id']}\t{r['document_id']}\t{r['score']!r}\n" for r in rows]
        path.write_text("query_id\tdocument_id\tscore\n" + "".join(lines))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".run", ".tsv", ".parquet"])
def test_a_file_of_scores_is_a_teacher(tmp_path, ending):
    options = {**OPTIONS, "max_steps": 2}
    found = train(new_encoder(), PAIRS, teacher=str(written(tmp_path / f"s{ending}")), **options)
    assert found.losses == train(new_encoder(), PAIRS, teacher=Teacher(), **options).losses


def test_a_file_without_a_pair_is_refused_with_counts(tmp_path):
    asked = Teacher()
    options = {**OPTIONS, "max_steps": 2}
    train(new_encoder(), PAIRS, teacher=asked, **options)
    names = dict(zip(PAIRS.query_texts, PAIRS.query_ids, strict=True))
    documents = dict(zip(PAIRS.corpus_texts, PAIRS.corpus_ids, strict=True))
    gone = [(names[q], documents[d]) for q, d in asked.asked[:3]]
    path = written(tmp_path / "s.jsonl", leave_out=gone)
    told = rf"has no score for 3 of {len(asked.asked)} pairs of a query with a positive or a mined"
    with pytest.raises(ValueError, match=told) as caught:
        train(new_encoder(), PAIRS, teacher=str(path), **options)
    assert any(f"'{q}' with '{d}'" in str(caught.value) for q, d in gone)
    assert "lower negatives.pool" in str(caught.value)


def test_a_file_is_for_ids(tmp_path):
    path = str(written(tmp_path / "s.jsonl"))
    rows = [(q, DOCUMENTS[0], DOCUMENTS[1]) for q in QUERIES]
    with pytest.raises(ValueError, match="teacher has scores by id, but the rows have texts alone"):
        train(new_encoder(), rows, teacher=path, distillation="listwise")


class Scripted:
    """An evaluation that says what each query got at the ends of both stages."""

    def __init__(self, gain):
        self.next = iter([[0.5] * 20, [0.5 + gain + 0.01 * (n % 2) for n in range(20)]])

    def __call__(self, model):
        return {"made up": 0.5}

    def evaluate(self, model):
        values = next(self.next)
        queries = {f"q{n}": value for n, value in enumerate(values)}
        return Evaluation({"made up": float(np.mean(values))}, {"made up": queries})


@pytest.mark.parametrize("gain", [-0.1, 0.1])
def test_a_guard_lets_it_enter_in_the_second_stage(gain, tmp_path):
    options = {**OPTIONS, "guard": True, "output": tmp_path / "run"}
    teacher, model, said = Teacher(), new_encoder(), []
    report = train(
        model, PAIRS, teacher=teacher, evaluation=Scripted(gain), say=said.append, **options
    )
    assert said[-1].startswith("going on with negatives and distillation brought")
    plain = new_encoder()
    bare = {k: v for k, v in OPTIONS.items() if k not in ("refresh", "distillation")}
    first = train(plain, PAIRS, **bare)
    assert report.losses[: first.steps] == first.losses
    assert report.steps == 18
    assert same(weights(model), weights(plain)) == (gain < 0)
    assert report.guard["kept"] == (gain > 0)
    assert len(teacher.asked) == len(set(teacher.asked)) > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"refresh": {**REFRESH, "teacher_margin": 0.1}}, "teacher_margin is 0.1, but there is no"),
        ({"teacher": len, "refresh": REFRESH}, "teacher was given, but nothing uses it; give dist"),
        ({"teacher": len, "refresh": REFRESH, "weighting": "focal"}, "but nothing uses it"),
        ({"teacher": len, "refresh": "query_side", "distillation": {}}, "'query_side', which sear"),
        ({"distillation": {}, "refresh": "query_side"}, "'query_side', which searches in"),
        ({"refresh": {"mode": "query_side", "teacher_margin": 0.1}}, "which no teacher can follow"),
        ({"refresh": {"teacher_margin": -0.1}}, "teacher_margin is -0.1; give a number of"),
        ({"teacher": "nowhere/x", "refresh": REFRESH, "distillation": {}}, "neither a file, nor"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(new_encoder(), PAIRS, **options)


def test_losses_of_others_take_no_teacher():
    library = pytest.importorskip("sentence_transformers.losses")
    model = new_encoder()
    rows = [(q, DOCUMENTS[0], DOCUMENTS[1]) for q in QUERIES]
    with pytest.raises(ValueError, match="distillation was given, which is for stope's own losses"):
        train(
            model, rows, teacher=Teacher(), distillation="listwise",
            loss=library.MultipleNegativesRankingLoss(model),
        )  # fmt: skip


def test_scores_are_kept_by_text_whatever_else_is_in_the_list(tmp_path):
    """Other pairs, other rows, the same texts: the folder knows them, also in a new process."""
    first, second = Teacher(), Teacher()
    scored = PairScores(first, folder=tmp_path)
    rows = np.arange(30)
    scored.of(PAIRS, rows, rows)
    taken = PAIRS.take(range(10, 40)).renumbered()
    again = PairScores(second, folder=tmp_path)
    found = again.of(taken, np.arange(30), np.arange(10, 40))
    assert len(second.asked) == 10
    expected = [
        Teacher.of(PAIRS.query_texts[row], PAIRS.corpus_texts[row]) for row in range(10, 40)
    ]
    np.testing.assert_array_equal(found, np.float32(expected))
    assert ScoredPairs(again, PAIRS).teacher is again

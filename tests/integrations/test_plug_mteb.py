"""stope's searches in mteb: the scores of mteb's own, on tasks made here and on a real one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

mteb = pytest.importorskip("mteb", reason='needs pip install "stope[mteb]"')

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.models.search_wrappers import SearchEncoderWrapper
from mteb.results import TaskResult
from mteb.similarity_functions import cos_sim, dot_score, euclidean_sim

import torch
from encoders import HashEncoder, some_texts
from stope.integrations.mteb import StopeSearch, StopeSearchIndex

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "scifact"
SIMILARITIES = {"cosine": cos_sim, "dot": dot_score, "euclidean": euclidean_sim}


class Model:
    """An encoder of mteb's that hashes words."""

    def __init__(self, similarity=cos_sim, dtype=np.float32, dim=48):
        self.similarity = self.similarity_pairwise = similarity
        self.words, self.dtype, self.chunks = HashEncoder(dim), dtype, []
        meta = {"name": "stope/words", "revision": "1", "modalities": ["text"]}
        self.mteb_model_meta = mteb.models.ModelMeta.create_empty(meta)

    def encode(self, inputs, *, prompt_type=None, **options):
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is not None and prompt_type.value == "document":
            self.chunks.append(len(texts))
        rows = self.words.encode(texts)
        return torch.from_numpy(rows).to(self.dtype) if self.dtype is torch.bfloat16 else rows


def task_of(corpus, queries, qrels, top_ranked=None):
    """A retrieval task of mteb's without a download."""
    mock = mteb.mocks.ALL_MOCK_TASK_TEST_GRID
    metadata = next(t.metadata for t in mock if t.metadata.name == "MockRetrievalTask")
    kind = "Retrieval" if top_ranked is None else "Reranking"

    class Local(AbsTaskRetrieval):
        def load_data(self, **options):
            def table(texts):
                return Dataset.from_dict({"id": list(texts), "text": list(texts.values())})

            split = RetrievalSplitData(
                corpus=table(corpus),
                queries=table(queries),
                relevant_docs=qrels,
                top_ranked=top_ranked,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    Local.metadata = metadata.model_copy(
        update={"name": f"Local{kind}", "type": kind, "eval_splits": ["test"]}
    )
    return Local()


def made_task(documents=90, queries=25, *, ranked=False):
    corpus = {f"d{i}": text for i, text in enumerate(some_texts(documents, 1))}
    asked = {f"q{i}": text for i, text in enumerate(some_texts(queries, 2))}
    rng = np.random.default_rng(0)
    qrels = {name: {f"d{d}": 1 for d in rng.integers(documents, size=3)} for name in asked}
    lists = {name: [f"d{d}" for d in rng.permutation(documents)[: 5 + 2 * row]]
             for row, name in enumerate(asked)}  # fmt: skip
    return task_of(corpus, asked, qrels, lists if ranked else None)


def scores_of(model, task):
    result = mteb.evaluate(
        model, task, cache=None, encode_kwargs={"batch_size": 16}, show_progress_bar=False
    )
    return result.task_results[0].scores["test"][0]


def run_of(search, task, top_k=10, **options):
    task.load_data()
    split = task.dataset["default"]["test"]
    about = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    about["encode_kwargs"] = {"batch_size": 16}
    search.index(split["corpus"], **about)
    ranked = {"top_ranked": split["top_ranked"]}
    return search.search(split["queries"], top_k=top_k, **about, **ranked, **options)


def assert_same_run(ours, theirs):
    """The same scores, and the same documents but for equal scores at the last place."""
    assert ours.keys() == theirs.keys()
    for name, scores in theirs.items():
        wanted = sorted(scores.values(), reverse=True)
        np.testing.assert_allclose(list(ours[name].values()), wanted, rtol=2e-6, atol=2e-5)
        clear = {doc for doc, score in scores.items() if score > wanted[-1] + 1e-4}
        assert clear <= ours[name].keys()


@pytest.mark.parametrize("ranked", [False, True], ids=["retrieval", "reranking"])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_searches_score_as_mteb_does(name, ranked):
    task, model = made_task(ranked=ranked), Model(SIMILARITIES[name])
    theirs = run_of(SearchEncoderWrapper(model), task)
    assert_same_run(run_of(StopeSearch(model, corpus_chunk_size=32), task), theirs)
    wrapped = SearchEncoderWrapper(model, index_backend=StopeSearchIndex())
    for ours in (run_of(wrapped, task), run_of(wrapped, task)):  # mteb clears it between
        in_order = {q: dict(sorted(s.items(), key=lambda x: -x[1])) for q, s in ours.items()}
        assert_same_run(in_order, theirs)


@pytest.mark.parametrize("ranked", [False, True], ids=["retrieval", "reranking"])
def test_evaluation_gives_the_same_metrics(ranked):
    task, model = made_task(ranked=ranked), Model()
    ours, theirs = (scores_of(m, task) for m in (StopeSearch(model, corpus_chunk_size=7), model))
    assert {key for key in theirs if key.startswith("ndcg")} <= ours.keys()
    for key, value in theirs.items():
        if isinstance(value, float):
            assert ours[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key


def test_mteb_s_own_checks_pass():
    """`mteb.mock_run` runs all of mteb's mock tasks that a search can be given."""
    results = mteb.mock_run(StopeSearch(Model()))
    ran = {name: status for name, status in results.items() if status is not None}
    assert len(ran) >= 5, list(ran)
    assert all(isinstance(status, TaskResult) for status in ran.values()), ran


def test_the_corpus_comes_in_chunks_and_their_size_changes_nothing():
    task = made_task()
    runs = []
    for size in (1000, 40, 1):
        model = Model()
        runs.append(run_of(StopeSearch(model, corpus_chunk_size=size), task))
        assert max(model.chunks) <= size
        assert sum(model.chunks) == 90
    assert runs[0] == runs[1] == runs[2]
    assert [list(scores) for scores in runs[0].values()] == [list(s) for s in runs[2].values()]


def test_bfloat16_is_scored_in_float32():
    """mteb#4932: scores rounded to bfloat16 tie, and ties flip rankings."""
    task, model = made_task(), Model(dtype=torch.bfloat16)
    theirs = run_of(SearchEncoderWrapper(model), task)
    assert_same_run(run_of(StopeSearch(model), task), theirs)


def test_more_is_asked_than_there_is():
    task = made_task(documents=6)
    for search in (StopeSearch(Model(), corpus_chunk_size=4),
                   SearchEncoderWrapper(Model(), index_backend=StopeSearchIndex())):  # fmt: skip
        assert {len(scores) for scores in run_of(search, task, top_k=50).values()} == {6}


@pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning")  # mteb's own
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension`:FutureWarning")
def test_a_sentence_transformer_is_wrapped():
    from stope.encoders import static_encoder

    texts = some_texts(200, 5)
    model = static_encoder(texts, dim=32, vocab_size=64)
    task = made_task()
    theirs = run_of(SearchEncoderWrapper(mteb.SentenceTransformerEncoderWrapper(model)), task)
    assert_same_run(run_of(StopeSearch(model), task), theirs)
    assert StopeSearch(model).mteb_model_meta is not None


def test_wrong_use_is_refused():
    task, model = made_task(), Model(lambda a, b: np.ones((len(a), len(b))))
    with pytest.raises(ValueError, match="similarity is none of dot, cosine, euclidean"):
        run_of(StopeSearch(model), task)
    with pytest.raises(TypeError, match=r"model is 'x'; give mteb\.get_model"):
        StopeSearch("x")
    with pytest.raises(ValueError, match="corpus_chunk_size is 0"):
        StopeSearch(Model(), corpus_chunk_size=0)
    with pytest.raises(ValueError, match="no corpus yet"):
        StopeSearch(Model()).search(
            [],
            task_metadata=task.metadata,
            hf_split="test",
            hf_subset="",
            top_k=1,
            encode_kwargs={},
        )
    twice = Dataset.from_dict({"id": ["a", "a"], "text": ["x", "y"]})
    with pytest.raises(ValueError, match="corpus ids"):
        StopeSearch(Model()).index(twice)
    strange = task_of({"d1": "x"}, {"q": "x"}, {"q": {"d1": 1}}, {"q": ["d1", "d7"]})
    with pytest.raises(ValueError, match="top_ranked names 'd7'"):
        run_of(StopeSearch(Model()), strange)

    class Broken(Model):
        def encode(self, inputs, **options):
            rows = super().encode(inputs, **options)
            if len(rows) == 10:  # the last chunk
                rows[4, 0] = np.nan
            return rows

    with pytest.raises(ValueError, match=r"begins at id 80: .*row 4"):
        run_of(StopeSearch(Broken(), corpus_chunk_size=40), task)
    empty = StopeSearchIndex()
    with pytest.raises(ValueError, match="idxs has 1 entries for 2 embeddings"):
        empty.add_documents(np.ones((2, 4), np.float32), ["a"])
    with pytest.raises(ValueError, match="no documents yet"):
        empty.search(np.ones((1, 4), np.float32), 1, cos_sim)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/scifact is not there")
def test_a_real_task_from_local_data():
    """SciFact's test split, 5,183 documents, with hashed words as embeddings."""

    def lines(name):
        with gzip.open(REAL / name, "rt", encoding="utf-8") as file:
            return {row["_id"]: row for row in map(json.loads, file)}

    qrels = {}
    with (REAL / "qrels/test.tsv").open() as file:
        for line in list(file)[1:]:
            query, document, grade = line.split("\t")
            qrels.setdefault(query, {})[document] = int(grade)
    qrels = dict(list(qrels.items())[:100])
    documents = lines("corpus.jsonl.gz")
    corpus = {name: f"{row['title']} {row['text']}"[:300] for name, row in documents.items()}
    queries = {
        name: row["text"] for name, row in lines("queries.jsonl.gz").items() if name in qrels
    }
    task, model = task_of(corpus, queries, qrels), Model(dim=256)
    ours, theirs = (scores_of(m, task) for m in (StopeSearch(model, corpus_chunk_size=2000), model))
    assert theirs["ndcg_at_10"] > 0.08
    for key in ("ndcg_at_10", "recall_at_100", "map_at_1000", "mrr_at_10"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key

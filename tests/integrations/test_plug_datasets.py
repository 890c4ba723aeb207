"""A stope index in a data set, in the place of faiss's flat one."""

from __future__ import annotations

import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason='needs pip install "stope[train]"')

from datasets import Dataset, Features, IterableDataset, List, Value

import stope
import torch
from stope.integrations.datasets import StopeIndex, add_stope_index, index_column

X = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
FIXED = Features({"v": List(Value("float32"), length=12), "text": Value("string")})


def table(features=None):
    return Dataset.from_dict({"v": list(X), "text": [f"t{i}" for i in range(300)]}, features)


@pytest.mark.parametrize("features", [None, FIXED], ids=["lists", "fixed-size lists"])
def test_it_answers_as_faiss(features):
    faiss = pytest.importorskip("faiss", reason="its flat index is the oracle")
    ours, theirs = add_stope_index(table(features), "v"), table(features).with_format("numpy")
    theirs.add_faiss_index("v", metric_type=faiss.METRIC_INNER_PRODUCT)
    expected = theirs.get_nearest_examples_batch("v", X[:20], k=7)
    found = ours.get_nearest_examples_batch("v", X[:20], k=7)
    np.testing.assert_allclose(found.total_scores, expected.total_scores, rtol=1e-5)
    for a, b in zip(found.total_examples, expected.total_examples, strict=True):
        assert a["text"] == list(b["text"])
    single = ours.get_nearest_examples("v", X[3], k=7)
    assert single.examples["text"] == found.total_examples[3]["text"]
    assert ours.list_indexes() == ["v"]


def test_rows_are_those_of_topk_and_options_pass():
    data = add_stope_index(table(), "v", index_name="near", metric="cosine", batch_size=37)
    best = stope.topk(X[:5], X, 4, metric="cosine")
    answer = data.search_batch("near", X[:5].astype(float), k=4)
    assert answer.total_indices == best.ids.tolist()
    assert answer.total_scores == best.scores.tolist()
    without = data.search_batch("near", X[:5], k=3, exclude=best.ids[:, :1])
    assert without.total_indices == best.ids[:, 1:].tolist()
    more = data.get_nearest_examples_batch("near", X[:2], k=500)
    assert [len(scores) for scores in more.total_scores] == [300, 300]
    data.drop_index("near")
    assert data.list_indexes() == []


def test_a_stream_is_packed_batch_by_batch():
    def rows():
        for i, row in enumerate(X):
            yield {"v": row, "text": f"t{i}"}

    told = []
    stream = IterableDataset.from_generator(rows, features=FIXED)
    for source in (stream, table().to_iterable_dataset(num_shards=3)):
        index = index_column(source, "v", batch_size=64, progress=lambda *done: told.append(done))
        best, whole = index.search(X[:9], 5), stope.topk(X[:9], X, 5)
        assert best.ids.tolist() == whole.ids.tolist()
    assert told[-1] == (300, 300)


def test_it_is_saved_and_loaded(tmp_path):
    index = StopeIndex(index_column(table(), "v", storage="float16"))
    index.save(tmp_path / "rows.stope")
    again = StopeIndex.load(tmp_path / "rows.stope")
    assert again.index.dtype == "float16"
    assert again.search_batch(X[:3].astype(np.float16), 4) == index.search_batch(
        X[:3].astype(np.float16), 4
    )


def test_wrong_columns_are_refused():
    data = table()
    with pytest.raises(ValueError, match='no column "w", but v, text; name one'):
        add_stope_index(data, "w")
    with pytest.raises(
        TypeError, match=r'"text" from row 0 on is of type string; cast it to lists'
    ):
        add_stope_index(data, "text")
    doubles = Dataset.from_dict({"v": X.astype(float).tolist()})
    with pytest.raises(TypeError, match=r"double>; cast it to lists of float32"):
        add_stope_index(doubles, "v")
    gap = Dataset.from_dict({"v": [[1.0], None]}, Features({"v": List(Value("float32"))}))
    with pytest.raises(ValueError, match=r"row 1 \(from 0\) has no list"):
        add_stope_index(gap, "v")
    with pytest.raises(ValueError, match="dataset is empty"):
        add_stope_index(data.select([]), "v")
    with pytest.raises(TypeError, match="dataset is a list; give a datasets"):
        add_stope_index([1], "v")
    with pytest.raises(TypeError, match=r"IterableDataset.*search the answer of index_column"):
        add_stope_index(data.to_iterable_dataset(), "v")
    with pytest.raises(ValueError, match="k is 0"):
        add_stope_index(table(), "v").search("v", X[0], k=0)
    numbers = Dataset.from_dict({"v": [[1, 2]]}, Features({"v": List(Value("int64"))}))
    with pytest.raises(TypeError, match='"v" holds int64; cast it'):
        add_stope_index(numbers, "v")
    assert data.list_indexes() == []


def test_a_query_is_one_vector():
    data, dim = add_stope_index(table(), "v"), X.shape[1]
    for same in (X[:1], X[0].tolist(), torch.tensor(X[0], dtype=torch.float64, requires_grad=True)):
        assert data.search("v", same, k=2) == data.search("v", X[0], k=2)
    with pytest.raises(ValueError, match=rf"shape \(2, {dim // 2}\); give one vector of {dim}"):
        data.search("v", X[0].reshape(2, -1), k=2)

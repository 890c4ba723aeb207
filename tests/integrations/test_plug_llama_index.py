"""LlamaIndex's vector store and retriever on stope: as its own simple store, filters and all."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason='needs pip install "stope[llama-index]"')

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    ExactMatchFilter,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from stope.integrations.llama_index import StopeRetriever, StopeVectorStore
from stope.retrieval import Bm25

X = np.random.default_rng(0).standard_normal((60, 10))


def nodes(rows=X):
    return [
        TextNode(
            id_=f"n{i:02}",
            text=f"text {i}",
            metadata={"n": i, "kind": "even" if i % 2 == 0 else "odd"},
            embedding=row.tolist(),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i // 10}")},
        )
        for i, row in enumerate(rows)
    ]


@pytest.fixture
def stores():
    made = [StopeVectorStore(), SimpleVectorStore()]
    for store in made:
        store.add(nodes())
        store.delete("doc2")
        store.delete_nodes(["n05", "nowhere"])
        store.add(nodes(X[::-1])[:2])  # n00 and n01 anew
    return made


EVEN = MetadataFilters(filters=[ExactMatchFilter(key="kind", value="even")])
FEW = MetadataFilters(filters=[MetadataFilter(key="n", value=8, operator=FilterOperator.LT)])
QUERIES = {
    "plain": {},
    "many": {"similarity_top_k": 500},
    "filters": {"filters": EVEN},
    "filters and ids": {"filters": EVEN, "node_ids": ["n00", "n01", "n02", "n99"]},
    "range": {"filters": FEW},
}


@pytest.mark.parametrize("name", QUERIES)
def test_it_answers_as_the_simple_store(stores, name):
    how = {"similarity_top_k": 6, **QUERIES[name]}
    query = VectorStoreQuery(query_embedding=X[7].tolist(), **how)
    ours, theirs = (store.query(query) for store in stores)
    assert ours.ids == list(theirs.ids)
    np.testing.assert_allclose(ours.similarities, theirs.similarities, atol=1e-6)
    assert [node.node_id for node in ours.nodes] == ours.ids
    assert all(node.embedding is None for node in ours.nodes)


def test_nodes_of_documents(stores):
    store = stores[0]
    every = VectorStoreQuery(query_embedding=X[7].tolist(), similarity_top_k=99, node_ids=[])
    assert len(store.query(every).ids) == 49  # so an index of LlamaIndex's names none
    query = VectorStoreQuery(query_embedding=X[7].tolist(), similarity_top_k=99, doc_ids=["doc1"])
    assert sorted(store.query(query).ids) == [f"n{i}" for i in range(10, 20)]
    assert {node.node_id for node in store.get_nodes(filters=FEW)} == {
        f"n0{i}" for i in (0, 1, 2, 3, 4, 6, 7)
    }
    store.delete_nodes(filters=EVEN)
    assert {node.metadata["kind"] for node in store.get_nodes()} == {"odd"}
    store.clear()
    assert store.query(query).ids == []
    assert store.client is None


class Letters(BaseEmbedding):
    """Counts letters."""

    def _get_text_embedding(self, text):
        return [float(text.count(letter)) for letter in "abcdeginorstvwl "]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


def test_an_index_of_llama_index_runs_on_it():
    texts = ["iron ore", "pine wood", "silver ore in a mine"]
    plain = [TextNode(id_=f"t{i}", text=text) for i, text in enumerate(texts)]
    store, model = StopeVectorStore(metric="dot"), Letters()
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(plain, storage_context=context, embed_model=model)
    index = VectorStoreIndex.from_vector_store(store, embed_model=model)
    found = index.as_retriever(similarity_top_k=2).retrieve("wind")
    rows = np.array([model._get_text_embedding(text) for text in (*texts, "wind")])
    expected = np.argsort(-rows[:3] @ rows[3], kind="stable")
    assert [hit.node.get_content() for hit in found] == [texts[i] for i in expected[:2]]


def test_stope_s_retrievers_are_llama_index_s():
    texts = ["iron ore", "pine wood", "silver ore in a mine"]
    plain = [TextNode(id_=f"t{i}", text=text) for i, text in enumerate(texts)]
    found = StopeRetriever(Bm25(texts), plain, similarity_top_k=9).retrieve("silver ore")
    assert [hit.node.node_id for hit in found] == ["t2", "t0"]
    assert found[0].score > found[1].score > 0


def test_postprocessors_do_not_change_what_is_kept():
    """Many of LlamaIndex's write into the nodes that they are given."""
    plain = nodes(np.eye(3))
    for node in plain:
        node.metadata |= {"window": f"{node.text} and what stands around", "tags": ["new"]}
    store, before = StopeVectorStore(), [node.model_copy(deep=True) for node in plain]
    store.add(plain)
    plain[0].metadata["tags"].append("late")
    query = VectorStoreQuery(query_embedding=[1.0, 0.5, 0.2], similarity_top_k=3)
    retriever = StopeRetriever(Bm25([node.text for node in before]), before, similarity_top_k=3)
    window = MetadataReplacementPostProcessor(target_metadata_key="window")
    for ask in (
        lambda: store.query(query).nodes,
        store.get_nodes,
        lambda: [hit.node for hit in retriever.retrieve("text")],
    ):
        for _ in range(2):
            hits = [NodeWithScore(node=node, score=1.0) for node in ask()]
            assert sorted(hit.node.text for hit in hits) == ["text 0", "text 1", "text 2"]
            assert all(hit.node.metadata["tags"] == ["new"] for hit in hits)
            for hit in window.postprocess_nodes(hits):
                assert hit.node.text.endswith("around")
                hit.node.metadata["tags"].append("read")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store))])
def test_copies_hold_the_nodes(stores, again):
    store, query = stores[0], VectorStoreQuery(query_embedding=X[0].tolist(), similarity_top_k=5)
    other = again(store)
    assert other.query(query).ids == store.query(query).ids
    assert len(other.query(query).nodes) == 5
    other.clear()
    assert len(store.query(query).nodes) == 5


def test_what_it_cannot_do_is_refused(stores, tmp_path):
    store = stores[0]
    wrong = VectorStoreQuery(query_embedding=X[0].tolist(), mode=VectorStoreQueryMode.MMR)
    with pytest.raises(ValueError, match="mode is 'mmr'; StopeVectorStore has default alone"):
        store.query(wrong)
    with pytest.raises(ValueError, match="query has no embedding"):
        store.query(VectorStoreQuery(similarity_top_k=1))
    with pytest.raises(ValueError, match="dim 3 but"):
        store.add([TextNode(id_="odd", embedding=[1.0, 2.0, 3.0])])
    assert store.get_nodes(["odd"]) == []
    with pytest.raises(ValueError, match=r"persist_path is .*; keep it by pickling"):
        StorageContext.from_defaults(vector_store=store).persist(str(tmp_path))
    with pytest.raises(ValueError, match="metric"):
        StopeVectorStore(metric="jaccard")

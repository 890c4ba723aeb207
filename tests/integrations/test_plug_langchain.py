"""LangChain's vector store and retriever on stope answer as its own store in memory does."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason='needs pip install "stope[langchain]"')

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from stope.integrations.langchain import StopeRetriever, StopeVectorStore
from stope.retrieval import Bm25

EMBEDDING = DeterministicFakeEmbedding(size=16)
TEXTS = [f"text {i}" for i in range(60)]
ABOUT = [{"even": i % 2 == 0, "n": i} for i in range(60)]
IDS = [f"id{i:02}" for i in range(60)]


@pytest.fixture
def stores():
    made = [kind.from_texts(TEXTS, EMBEDDING, ABOUT, ids=IDS)
            for kind in (StopeVectorStore, InMemoryVectorStore)]  # fmt: skip
    for store in made:
        store.delete(["id03", "nowhere"])
        store.add_documents(
            [Document(page_content="changed", metadata={"even": True})], ids=["id04"]
        )
    return made


def same(ours, theirs):
    assert [document for document, _ in ours] == [document for document, _ in theirs]
    np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-6)


@pytest.mark.parametrize("query", ["text 7", "changed", "other"])
def test_it_answers_as_the_store_in_memory(stores, query):
    ours, theirs = stores
    same(*(store.similarity_search_with_score(query, k=9) for store in stores))
    for how in ({"k": 5}, {"k": 100}, {"k": 4, "filter": lambda d: d.metadata["even"]},
                {"k": 3, "filter": lambda d: False}):  # fmt: skip
        assert ours.similarity_search(query, **how) == theirs.similarity_search(query, **how)
    vector = EMBEDDING.embed_query(query)
    plain = [store.similarity_search_by_vector(vector, k=5) for store in stores]
    assert plain[0] == plain[1]
    how = {"k": 5, "fetch_k": 15, "lambda_mult": 0.3}  # at 0.5 all tie with a query that is there
    mmr = [store.max_marginal_relevance_search_by_vector(vector, **how) for store in stores]
    assert mmr[0] == mmr[1]
    mmr = [store.max_marginal_relevance_search(query, **how) for store in stores]
    assert mmr[0] == mmr[1]
    assert asyncio.run(ours.asimilarity_search(query, k=6)) == ours.similarity_search(query, k=6)
    assert ours.get_by_ids(["id01", "nowhere", "id04"]) == theirs.get_by_ids(["id01", "id04"])


def test_retrievers_of_the_store(stores):
    ours = stores[0]
    assert ours.as_retriever(search_kwargs={"k": 3}).invoke("text 9")[0].page_content == "text 9"
    chosen = ours.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99, "k": 9}
    ).invoke("text 9")
    assert [document.page_content for document in chosen] == ["text 9"]
    pairs = StopeVectorStore.from_texts(
        ["a", "b"], EMBEDDING, metric="euclidean"
    ).similarity_search_with_relevance_scores("a")
    assert pairs[0][1] == pytest.approx(1)
    dots = StopeVectorStore.from_texts(["a"], EMBEDDING, metric="dot")
    with pytest.raises(ValueError, match="has no bounds"):
        dots.similarity_search_with_relevance_scores("a")


def test_stope_s_retrievers_are_langchain_s():
    texts = ["iron ore", "pine wood", "silver ore in a mine"]
    documents = [Document(page_content=text, metadata={"row": i}) for i, text in enumerate(texts)]
    retriever = StopeRetriever(retriever=Bm25(texts), documents=documents, k=9)
    found = retriever.invoke("silver ore")
    assert [document.metadata["row"] for document in found] == [2, 0]
    assert found[0].metadata["score"] > found[1].metadata["score"] > 0
    assert "score" not in documents[2].metadata
    assert len(retriever.invoke("silver ore", k=1)) == 1


def test_nobody_who_writes_to_a_document_changes_the_store():
    about = [{"row": row, "tags": ["new"]} for row in range(3)]
    store = StopeVectorStore.from_texts(TEXTS[:3], EMBEDDING, about, ids=IDS[:3])
    kept = [Document(id=IDS[row], page_content=TEXTS[row], metadata={"row": row, "tags": ["new"]})
            for row in range(3)]  # fmt: skip
    retriever = StopeRetriever(retriever=Bm25(TEXTS[:3]), documents=kept, k=3)
    vector = EMBEDDING.embed_query(TEXTS[0])

    def alter(document):
        document.page_content = "altered"
        document.metadata["score"] = 1.0
        document.metadata["tags"].append("read")

    about[0]["tags"].append("late")
    for documents in (
        store.similarity_search(TEXTS[0], k=3),
        store.similarity_search_by_vector(vector, k=3),
        store.max_marginal_relevance_search(TEXTS[0], k=3),
        store.get_by_ids(IDS[:3]),
        retriever.invoke("text"),
    ):
        assert len(documents) == 3
        for document in documents:
            alter(document)
        assert store.get_by_ids(IDS[:3]) == kept
        assert [each.metadata for each in kept] == [{"row": r, "tags": ["new"]} for r in range(3)]


def test_changes_are_whole():
    store = StopeVectorStore(EMBEDDING)
    assert store.similarity_search("x") == []
    assert store.max_marginal_relevance_search("x") == []
    assert store.add_texts([]) == []
    names = store.add_texts(["a", "b"])
    assert len(set(names)) == 2
    assert store.add_texts(["old", "new"], ids=["x", "x"]) == ["x", "x"]
    assert store.get_by_ids(["x"])[0].page_content == "new"
    assert store.similarity_search("new", k=1)[0].id == "x"
    store.delete()
    assert store.similarity_search("a") == []
    with pytest.raises(ValueError, match="ids"):
        store.add_texts(["a"], ids=["x", "y"])

    class Broken(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            return [[float("nan")] * self.size for _ in texts]

    broken = StopeVectorStore(Broken(size=4))
    with pytest.raises(ValueError, match="row 0"):
        broken.add_texts(["a"], ids=["x"])
    assert broken.get_by_ids(["x"]) == []

    class Short(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            return super().embed_documents(texts[1:])

    short = StopeVectorStore(Short(size=4))
    with pytest.raises(ValueError, match="embeddings has 1 entries for 2 ids"):
        short.add_texts(["a", "b"], ids=["x", "y"])
    assert short.similarity_search("a") == short.get_by_ids(["x", "y"]) == []
    with pytest.raises(TypeError, match="embedding is a str; give LangChain Embeddings"):
        StopeVectorStore("x")
    with pytest.raises(ValueError, match="metric"):
        StopeVectorStore(EMBEDDING, metric="jaccard")


def test_no_document_is_lost_half_way_or_by_a_wrong_argument():
    store = StopeVectorStore.from_texts(TEXTS[:3], EMBEDDING, ids=["a", "b", "c"])
    with pytest.raises(ValueError, match="metadata"):
        store.add_texts(["x"], ["no dictionary"], ids=["x"])
    for call, message in (
        (lambda: store.add_texts(["x"], ids=[0]), "ids has 0; give strings"),
        (lambda: store.delete("abc"), "ids is 'abc'; give a list"),
        (lambda: store.similarity_search("x", filter={"n": 1}), "give a function of a document"),
        (lambda: store.similarity_search("x", fetch_k=9), "fetch_k is no option of a search"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert len(store.similarity_search("x", k=3)) == 3  # no row without its document


def test_others_may_add_while_a_filter_is_asked():
    store = StopeVectorStore.from_texts(TEXTS[:3], EMBEDDING, ids=["a", "b", "c"])
    best = store.similarity_search(
        TEXTS[0], k=9, filter=lambda document: bool(store.add_texts([document.page_content + "!"]))
    )
    assert {document.id for document in best} == {"a", "b", "c"}

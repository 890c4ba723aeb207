"""Haystack's document store on stope: Haystack's own tests of a store, and its store in memory."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # nobody is told of tests
pytest.importorskip("haystack", reason='needs pip install "stope[haystack]"')

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.testing import document_store as suite

from stope.integrations.haystack import StopeDocumentStore


class TestHaystacksOwn(
    suite.DocumentStoreBaseExtendedTests,
    suite.CountDocumentsByFilterTest,
    suite.CountUniqueMetadataByFilterTest,
    suite.GetMetadataFieldsInfoTest,
    suite.GetMetadataFieldMinMaxTest,
    suite.GetMetadataFieldUniqueValuesTest,
):
    """Haystack's tests of any document store."""

    @pytest.fixture
    def document_store(self):
        return StopeDocumentStore()

    def test_write_documents(self, document_store):
        """Haystack leaves to a store what it does without a policy: this one fails, as its own."""
        document = Document(content="x")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])


def documents(count=60, dim=8, seed=0):
    rng = random.Random(seed)
    return [
        Document(
            id=f"d{i:02}",
            content=f"text {i}",
            meta={"n": i},
            embedding=None if i % 10 == 9 else [rng.gauss(0, 1) for _ in range(dim)],
        )
        for i in range(count)
    ]


def test_documents_come_in_anything_that_haystack_takes():
    store = StopeDocumentStore()
    store.write_documents(documents(20))
    store.write_documents({each.id: each for each in documents(40)[20:]}.values())
    best = store.embedding_retrieval(documents(40)[33].embedding, top_k=1)
    assert [each.id for each in best] == ["d33"]


@pytest.fixture(params=["cosine", "dot_product"])
def stores(request):
    made = [kind(embedding_similarity_function=request.param)
            for kind in (StopeDocumentStore, InMemoryDocumentStore)]  # fmt: skip
    for store in made:
        store.write_documents(documents())
        store.delete_documents(["d03", "nowhere"])
        store.write_documents(documents(9, seed=5), DuplicatePolicy.OVERWRITE)
        store.write_documents(documents(30, seed=7), DuplicatePolicy.SKIP)
        store.write_documents([store.storage["d08"]], DuplicatePolicy.OVERWRITE)  # the same object
        store.delete_by_filter({"field": "meta.n", "operator": ">=", "value": 55})
        store.write_documents(
            [Document(id="d20", content="no embedding now")], DuplicatePolicy.OVERWRITE
        )
        seven = {"field": "meta.n", "operator": "==", "value": 7}
        assert store.update_by_filter(seven, {"n": 3}) == 1
    return made


@pytest.mark.parametrize("filters", [None, {"field": "meta.n", "operator": "<", "value": 12}])
@pytest.mark.parametrize("scale_score", [False, True])
def test_it_answers_as_the_store_in_memory(stores, filters, scale_score):
    query = documents(seed=9)[0].embedding
    for top_k in (1, 7, 100):
        ours, theirs = (
            store.embedding_retrieval(query, filters, top_k, scale_score, True) for store in stores
        )
        assert [(d.id, d.meta) for d in ours] == [(d.id, d.meta) for d in theirs]
        np.testing.assert_allclose([d.score for d in ours], [d.score for d in theirs], atol=1e-6)
        assert [d.embedding for d in ours] == [d.embedding for d in theirs]
        for ranked in (ours, theirs):  # as rankers do, to what nobody else holds
            ranked[0].meta["rank"] = 1
    hidden = stores[0].embedding_retrieval(query, filters, 3)
    assert all(d.embedding is None for d in hidden)
    assert stores[0].storage[hidden[0].id].score is None
    assert all("rank" not in d.meta for store in stores for d in store.storage.values())


def test_haystacks_retrievers_and_pipelines_take_it(stores, tmp_path):
    store, query = stores[0], documents(seed=9)[0].embedding
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=4))
    found = pipeline.run({"retriever": {"query_embedding": query}})["retriever"]["documents"]
    assert [d.id for d in found] == [d.id for d in store.embedding_retrieval(query, top_k=4)]
    store.save_to_disk(str(tmp_path / "store.json"))
    again = StopeDocumentStore.load_from_disk(str(tmp_path / "store.json"))
    assert [d.id for d in again.embedding_retrieval(query, top_k=4)] == [d.id for d in found]
    trusted = ["stope.integrations.haystack", "haystack.*"]
    pipeline = Pipeline.from_dict(pipeline.to_dict(), allowed_modules=trusted)
    assert isinstance(pipeline.get_component("retriever").document_store, StopeDocumentStore)
    store.delete_all_documents()
    assert store.embedding_retrieval(query) == []


def test_what_is_refused_changes_nothing():
    store = StopeDocumentStore()
    store.write_documents(documents(5))
    query = documents(1)[0].embedding
    before = store.embedding_retrieval(query)
    odd = Document(id="odd", content="x", embedding=[1.0, 2.0])
    broken = Document(id="nan", content="x", embedding=[float("nan")] * 8)
    for wrong in (odd, broken):
        with pytest.raises(ValueError, match=f"document '{wrong.id}' has an embedding of"):
            store.write_documents([Document(id="new", content="y", embedding=query), wrong])
    assert store.count_documents() == 5
    assert store.embedding_retrieval(query) == before
    with pytest.raises(DuplicateDocumentError):  # what came before the duplicate is there
        store.write_documents([Document(id="new", content="y", embedding=query), before[0]])
    assert store.embedding_retrieval(query, top_k=1)[0].id in {"d00", "new"}
    assert len(store.embedding_retrieval(query)) == 6
    with pytest.raises(ValueError, match="shared is True"):
        StopeDocumentStore(shared=True)

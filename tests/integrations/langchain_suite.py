"""LangChain's standard tests of vector stores and retrievers against stope's; run by hand, since
they bring seven plugins of pytest:

    pip install langchain-tests
    suite=tests/integrations/langchain_suite.py
    python -m pytest -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function $suite
"""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import RetrieversIntegrationTests
from langchain_tests.integration_tests import VectorStoreIntegrationTests as StoreTests

from stope.integrations.langchain import StopeRetriever, StopeVectorStore
from stope.retrieval import Bm25

TEXTS = ["iron ore", "silver ore", "ore", "lead ore", "ore and wood"]


class TestStopeVectorStore(StoreTests):
    @pytest.fixture
    def vectorstore(self):
        return StopeVectorStore(self.get_embeddings())


class TestStopeRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return StopeRetriever

    @property
    def retriever_constructor_params(self):
        documents = [Document(page_content=text) for text in TEXTS]
        return {"retriever": Bm25(TEXTS), "documents": documents}

    @property
    def retriever_query_example(self):
        return "ore"

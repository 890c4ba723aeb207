"""Valid calls of what connects stope with other libraries, as valid_calls.py has them."""

from __future__ import annotations

import datasets
import frameworks
import numpy as np
import pyarrow as pa

import stope


class MtebModel:
    """As much of an encoder of mteb's as is looked at before a task is run."""

    mteb_model_meta = None


class Embeddings:
    """As much of LangChain's embeddings as is looked at before a text comes."""

    embed_documents = None


def calls():
    """Name -> keyword arguments, of the frameworks that are here."""
    vectors = pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))
    table = datasets.Dataset.from_dict({"v": np.eye(3, dtype=np.float32)})
    every = {
        "stope.data.from_arrow": {"column": vectors},
        "stope.data.to_arrow": {"rows": np.ones((2, 2), np.float32)},
        "stope.integrations.datasets.StopeIndex": {"index": stope.FlatIndex(2)},
        "stope.integrations.datasets.add_stope_index": {"dataset": table, "column": "v"},
        "stope.integrations.datasets.index_column": {"dataset": table, "column": "v"},
        "stope.integrations.langchain.StopeVectorStore": {"embedding": Embeddings()},
        "stope.integrations.mteb.StopeSearch": {"model": MtebModel()},
        "stope.integrations.mteb.StopeSearchIndex": {},
    }
    there = ("stope.data", *frameworks.module_names())
    return {name: how for name, how in every.items() if name.rpartition(".")[0] in there}


# The constructors of these are the frameworks' own: pydantic's, or mirrored from a base class.
FOREIGN = {
    name
    for name in (
        "stope.integrations.haystack.StopeDocumentStore",
        "stope.integrations.langchain.StopeRetriever",
        "stope.integrations.llama_index.StopeRetriever",
        "stope.integrations.llama_index.StopeVectorStore",
        "stope.integrations.txtai.StopeANN",
        "stope.integrations.vicinity.StopeBackend",
    )
    if name.rpartition(".")[0] in frameworks.module_names()
}

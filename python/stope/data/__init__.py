"""Read and write: BEIR folders, JSON lines, Parquet, TREC files, datasets, mined negatives.

Readers stream where the source allows it and report a malformed line with file and line number.
Files are written to a temporary name and renamed, so that a file is there whole or not at all.
"""

from stope._files.atomic import AtomicFile, atomic_path, open_atomic
from stope.data.arrow import from_arrow, to_arrow
from stope.data.collection import Collection, Qrels, Run, Split
from stope.data.exclusions import Exclusions
from stope.data.joining import join_pairs
from stope.data.negatives import NegativeTable
from stope.data.pairs import Pairs, SourcePairs
from stope.data.raw_pairs import (
    RawPair,
    RawPairs,
    independent_crops,
    inverse_cloze,
    query_as_context,
    recurring_spans,
    title_to_body,
)
from stope.data.readers.beir import iter_beir_corpus, read_beir
from stope.data.readers.columns import Layout
from stope.data.readers.embeddings import embedding_blocks, read_embeddings
from stope.data.readers.examples import (
    TrainingExample,
    read_examples,
    read_flagembedding,
    read_pairs,
    read_tevatron,
)
from stope.data.readers.jsonl import read_jsonl
from stope.data.readers.negative_ids import read_exclusions, read_negative_ids
from stope.data.readers.tables import read_rows
from stope.data.readers.texts import Document, iter_documents, iter_texts, read_queries, read_texts
from stope.data.readers.trec import read_qrels, read_run
from stope.data.source_data import SourceData
from stope.data.sources import Source, read_source, read_sources
from stope.data.text_identity import normal_text, text_key
from stope.data.writers.beir import write_beir
from stope.data.writers.jsonl import write_jsonl
from stope.data.writers.negatives import (
    FORMATS,
    ExportSummary,
    NegativeRows,
    export_negatives,
    negative_rows,
    negatives_dataset,
)
from stope.data.writers.trec import write_qrels, write_run

__all__ = [
    "FORMATS", "AtomicFile", "Collection", "Document", "Exclusions", "ExportSummary", "Layout",
    "NegativeRows", "NegativeTable", "Pairs", "Qrels", "RawPair", "RawPairs", "Run", "Source",
    "SourceData", "SourcePairs", "Split", "TrainingExample", "atomic_path", "embedding_blocks",
    "export_negatives", "from_arrow", "independent_crops", "inverse_cloze", "iter_beir_corpus",
    "iter_documents", "iter_texts", "join_pairs", "negative_rows", "negatives_dataset",
    "normal_text", "open_atomic", "query_as_context", "read_beir", "read_embeddings",
    "read_examples", "read_exclusions", "read_flagembedding", "read_jsonl", "read_negative_ids",
    "read_pairs", "read_qrels", "read_queries", "read_rows", "read_run", "read_source",
    "read_sources", "read_tevatron", "read_texts", "recurring_spans", "text_key", "title_to_body",
    "to_arrow", "write_beir", "write_jsonl", "write_qrels", "write_run",
]  # fmt: skip

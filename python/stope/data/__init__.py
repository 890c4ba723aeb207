"""Read and write: BEIR folders, JSON lines, Parquet, TREC files, datasets, mined negatives.

Readers stream where the source allows it and report a malformed line with file and line number.
Files are written to a temporary name and renamed, so that a file is there whole or not at all.
"""

from stope._files.atomic import AtomicFile, atomic_path, open_atomic
from stope.data.collection import Collection, Qrels, Run, Split
from stope.data.negatives import NegativeTable
from stope.data.pairs import Pairs
from stope.data.raw_pairs import (
    RawPair,
    RawPairs,
    independent_crops,
    inverse_cloze,
    query_as_context,
    recurring_spans,
    title_to_body,
)
from stope.data.readers.beir import iter_beir_corpus, read_beir, write_beir
from stope.data.readers.jsonl import read_jsonl, write_jsonl
from stope.data.readers.tables import read_rows
from stope.data.readers.texts import iter_texts, read_pairs, read_texts
from stope.data.readers.training_rows import TrainingExample, read_flagembedding, read_tevatron
from stope.data.readers.trec import read_qrels, read_run, write_qrels, write_run
from stope.data.writers.negatives import (
    FORMATS,
    ExportSummary,
    NegativeRows,
    export_negatives,
    negative_rows,
    negatives_dataset,
)

__all__ = [
    "FORMATS",
    "AtomicFile",
    "Collection",
    "ExportSummary",
    "NegativeRows",
    "NegativeTable",
    "Pairs",
    "Qrels",
    "RawPair",
    "RawPairs",
    "Run",
    "Split",
    "TrainingExample",
    "atomic_path",
    "export_negatives",
    "independent_crops",
    "inverse_cloze",
    "iter_beir_corpus",
    "iter_texts",
    "negative_rows",
    "negatives_dataset",
    "open_atomic",
    "query_as_context",
    "read_beir",
    "read_flagembedding",
    "read_jsonl",
    "read_pairs",
    "read_qrels",
    "read_rows",
    "read_run",
    "read_tevatron",
    "read_texts",
    "recurring_spans",
    "title_to_body",
    "write_beir",
    "write_jsonl",
    "write_qrels",
    "write_run",
]

"""A job whose corpus is larger than the memory it may take mines as one that holds all texts."""

import subprocess
import sys
from pathlib import Path

import streamed_mining

from stope.data import Source, read_source

SCRIPT = Path(streamed_mining.__file__)


def test_a_corpus_larger_than_memory_is_mined_to_the_same_bytes(tmp_path):
    size, peaks = streamed_mining.files(tmp_path), {}
    for way in ("streamed", "whole"):
        child = [sys.executable, str(SCRIPT), str(tmp_path), way]
        told = subprocess.run(child, check=True, capture_output=True, text=True).stdout
        peaks[way] = int(told) << 10
    assert peaks["whole"] > 1.2 * size  # so the texts would show
    assert peaks["streamed"] < 0.5 * size
    names = [f"{name}{ending}" for name, ending in streamed_mining.FORMATS.items()]
    for name in ["negatives.parquet", "counts.parquet", *names]:
        streamed, whole = ((tmp_path / way / name).read_bytes() for way in peaks)
        assert streamed == whole, name
    rows = read_source(Source(tmp_path / "streamed" / "triplet.jsonl"))
    assert rows.negatives is not None
    assert len(rows.negatives) >= streamed_mining.QUERIES

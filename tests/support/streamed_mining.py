"""A mining job that measures its memory; test_mining_jobs_streamed.py runs it as a script.

python streamed_mining.py FOLDER streamed|whole    mines what `files` wrote, and prints KiB
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np

import stope
from stope.data import Source, read_source
from stope.mining import Limits, MiningJob, Sources

DOCUMENTS, WORDS, QUERIES = 12_000, 520, 300
FORMATS = {"triplet": ".jsonl", "labeled-list": ".jsonl", "tevatron": ".jsonl"}


class Hashed:
    """An encoder: digests of texts as rows."""

    def fingerprint(self) -> str:
        """Say that it never changes."""
        return "hashed"

    def encode(self, texts: list[str]) -> np.ndarray:
        """Numbers between -1 and 1."""
        raw = b"".join(hashlib.blake2b(text.encode(), digest_size=32).digest() for text in texts)
        return np.frombuffer(raw, np.uint8).reshape(len(texts), 32).astype(np.float32) / 127.5 - 1


def files(folder: Path) -> int:
    """Write a corpus and pairs of some of its documents; how many bytes the corpus has."""
    words = [f"wort{number:04}" for number in np.random.default_rng(0).permutation(5000)]
    rng, before = np.random.default_rng(1), ""
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "pairs.jsonl").open("w") as pairs:
        for row in range(DOCUMENTS):
            text = " ".join(words[n] for n in rng.integers(5000, size=WORDS))
            if row % 1000 == 1:
                text = before.upper()  # the same text
            before = text
            title = f"Title {row}" if row % 3 == 0 else ""
            corpus.write(json.dumps({"_id": f"d{row}", "title": title, "text": text}) + "\n")
            if row % (DOCUMENTS // QUERIES) == 5:
                pairs.write(json.dumps({"query": f"question {row}?", "positive": f"d{row}"}) + "\n")
    return (folder / "corpus.jsonl").stat().st_size


def job(folder: Path, *, streams: bool) -> MiningJob:
    """The job of the files, with its texts on the disk or in memory."""
    name = "streamed" if streams else "whole"
    source = Source(folder / "pairs.jsonl", corpus=folder / "corpus.jsonl", positive_ids=True)
    pairs = read_source(source, folder=folder / name if streams else None).pairs
    run = {pairs.query_ids[0]: {"d11": 2.0, "nothing": 1.0}}
    return MiningJob(
        folder / name,
        pairs,
        Hashed(),
        limits=Limits(relative_margin=0.01),
        sources=Sources({"dense": 2, "run": 1, "random": 1}, run=run),
        near_positive=0.9,
    )


def export(mined: stope.mining.Mined, folder: Path) -> None:
    """All that stands in FORMATS."""
    for name, ending in FORMATS.items():
        mined.export(folder / f"{name}{ending}", name)


def _resident_kib(name: str) -> int:
    line = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1])


if __name__ == "__main__":
    import pyarrow
    import pyarrow.parquet

    # What libraries take once does not count.
    pyarrow.parquet.write_table(pyarrow.table({"a": ["b"] * 5000}), io.BytesIO())
    stope.set_num_threads(1)
    stope.topk(np.eye(64, dtype=np.float32), np.eye(64, dtype=np.float32), 2)
    before = _resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    place, streams = Path(sys.argv[1]), sys.argv[2] == "streamed"
    export(job(place, streams=streams).run(), place / sys.argv[2])
    print(_resident_kib("VmHWM") - before)

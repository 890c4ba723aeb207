"""Mining jobs that are killed anywhere end in the same bytes, and leave embeddings on the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables are Parquet")
pytest.importorskip("bm25s", reason="needs the extra retrieval")

import pyarrow.parquet

SUPPORT = Path(__file__).parents[1] / "support"
TABLES = ("negatives.parquet", "counts.parquet", "job.json")

MOMENTS = {
    "plain": [],
    "while texts are encoded": ["encode:1", "encode:4", "encode:9", "encode:5"],
    "while the teacher scores": ["teacher:1", "teacher:7", "teacher:12"],
    "between shards": ["shard:1", "shard:3", "state:2", "state:4", "state:11"],
    "while files are flushed": ["sync:1", "sync:5", "sync:13", "sync:27"],
    "while they are renamed": ["rename:1", "rename:4", "rename:11", "rename:31"],
    "at the end": ["table:1", "counts:1", "manifest:1", "temporary:2"],
    "at random": [f"after:{seconds:.3f}" for seconds in np.random.default_rng(2).random(6)],
}


def test_killed_and_resumed_is_the_same_to_the_byte(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "killed_mining.py"), str(tmp_path)],
        input=json.dumps(MOMENTS),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    for name, moment, end in ends:
        wanted = [0] if moment is None else ["killed", *([0] if "after" in moment else [])]
        assert end in wanted, (name, moment, end, done.stderr[-3000:])
    plain = {name: (tmp_path / "plain" / name).read_bytes() for name in TABLES}
    assert pyarrow.parquet.read_table(tmp_path / "plain" / TABLES[0]).num_rows > 500
    for name in MOMENTS:
        for table in TABLES:
            assert (tmp_path / name / table).read_bytes() == plain[table], (name, table)
        assert not list((tmp_path / name).glob(".*.tmp"))


MEMORY = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from memory import peak_mib
from stope.data import Pairs
from stope.mining import Limits, MiningJob, Sources
from stope.mining.jobs import job as jobs

jobs.SHARD_SIZE = 16

rows = np.load(sys.argv[1] + "/rows.npy", mmap_mode="r")
texts = [f"document {row}" for row in range(len(rows))]
pairs = Pairs.from_texts([f"query {row}" for row in range(64)], texts[:64], texts)
pairs.same_text_rows()
job = MiningJob(
    sys.argv[1] + "/job",
    pairs,
    query_embeddings=rows[:64],
    corpus_embeddings=rows,
    limits=Limits(relative_margin=0.1),
    sources=Sources({"dense": 4, "random": 1}),
    near_positive=0.9,
)
print(peak_mib(job.run))
"""


def test_embeddings_stay_on_the_disk(tmp_path):
    """300 MiB of them are mined with less than half of that, most of it candidates of the core."""
    rows = np.random.default_rng(0).standard_normal((100_000, 768), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    del rows
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(SUPPORT)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < 140, f"{done.stdout} MiB"

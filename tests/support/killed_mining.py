"""Mining jobs in children that kill themselves; test_mining_jobs_killed.py runs it as a script.

python killed_mining.py FOLDER  < jobs.json     the moments at which children die
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import kills

import stope
import stope.mining
from encoders import Counting, some_texts
from stope._files import atomic, shards
from stope.data import Pairs
from stope.encoders import EmbeddingCache
from stope.mining import Limits, MiningJob, Sources
from stope.mining.jobs import folder as job_folder
from stope.mining.jobs import job, miner

COUNT = 90


PLACES = {
    "encode": (Counting, "encode"),
    "teacher": (kills.Teacher, "__call__"),
    "shard": (miner.Miner, "records"),
    "sync": (os, "fsync"),
    "rename": (os, "replace"),
    "manifest": (job_folder, "open_atomic"),
    "state": (shards, "_write_manifest"),
    "table": (job, "write_documents"),
    "counts": (job, "write_counts"),
    "temporary": (atomic, "flush_to_disk"),
}


def a_job(folder, **changes):
    """A job of all sources, small and with many saves of embeddings."""
    texts = some_texts(COUNT * 3, seed=5)
    pairs = Pairs.from_texts(texts[:COUNT], texts[COUNT : 2 * COUNT], texts[COUNT:])
    names = pairs.corpus_ids
    options = {
        "limits": Limits(relative_margin=0.02),
        "sources": Sources(
            {"dense": 3, "bm25": 1, "run": 1, "siblings": 1, "random": 1},
            run={q: {n: float(len(n)) for n in names[7:30]} for q in pairs.query_ids},
            groups={name: place % 5 for place, name in enumerate(names)},
        ),
        "cache": EmbeddingCache(folder / "embeddings", shard_size=40),
        "teacher": kills.Teacher(),
        "teacher_margin": 0.3,
        "near_positive": 0.99,
        "batch_size": 16,
    }
    return MiningJob(folder, pairs, Counting(), **{**options, **changes})


def run(folder, name, moment):
    """One child, which dies at the moment."""
    stope.set_num_threads(1)
    what, _, number = (moment or "").partition(":")
    if what == "after":
        kills.die_after(float(number))
    elif what:
        kills.kill_at_call(*PLACES[what], int(number))
    job.SHARD_SIZE = 20
    a_job(folder / name).run()


if __name__ == "__main__":
    kills.lives_and_deaths(lambda name, moment: run(Path(sys.argv[1]), name, moment))

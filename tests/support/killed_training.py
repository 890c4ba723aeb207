"""Train in child processes that kill themselves; run by test_training_killed.py as a script.

Libraries are imported once and nothing is computed before the children are forked, so that a child
costs a fraction of a second and inherits no threads.

    python killed_training.py FOLDER NAME  < jobs.json     the moments at which children die
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
sys.path.insert(0, str(Path(__file__).parent))

import kills
import numpy as np
import small_transformers

import stope
import stope.training.library_trainer
import torch
from stope._files import shards
from stope.data import Pairs
from stope.encoders import static_encoder
from stope.evaluation import RetrievalEvaluation
from stope.training import train
from stope.training.callbacks import checkpoint
from stope.training.negatives import refresh_run

WORDS = small_transformers.WORDS
TEXTS = small_transformers.texts(0, 120), small_transformers.texts(1, 120)


def start(kind, folder):
    """The model that training begins with, and the options of the run."""
    options = {
        "batch_size": 16,
        "seed": 3,
        "evaluation": RetrievalEvaluation(
            [f"q{row}" for row in range(20)],
            TEXTS[0][:20],
            [f"d{row}" for row in range(120)],
            TEXTS[1],
            {f"q{row}": {f"d{row}": 1} for row in range(20)},
        ),
        "evaluate_every": 5,
        "keep": "best",
        "weighting": {"name": "progressive", "first": -0.5, "last": 0.5},
    }
    if kind == "transformer":
        folder.mkdir(exist_ok=True)
        model = small_transformers.tiny(folder / f"start-{os.getpid()}", dropout=0.2)
        options |= {"epochs": 2, "learning_rate": 1e-3, "scheduler": "cosine"}
    else:
        model = static_encoder([*TEXTS[0], *TEXTS[1]], dim=16, vocab_size=64)
        options |= {"epochs": 3, "prompts": None}
        options["refresh"] = {"every": 6, "num_negatives": 2, "pool": 10, "batch_size": 32}
        options["guard"] = kind == "guarded"
        if kind == "taught":
            options["refresh"] |= {"teacher_margin": 0.05}
            options |= {"teacher": kills.Teacher(), "distillation": "stabilised"}
    return model, Pairs.from_texts(*TEXTS), options


def run(kind, folder, name, moment):
    """One child: train, dying at the moment; at the end keep weights and losses."""
    torch.set_num_threads(1)
    stope.set_num_threads(1)
    model, pairs, options = start(kind, folder / "models")
    progress = arm(moment)
    report = train(
        model,
        pairs,
        **options,
        output=folder / name,
        checkpoint_every=4,
        resume=True,
        progress=progress,
    )
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    np.savez(folder / f"{name}.npz", **weights)
    numbers = {"losses": report.losses, "evaluations": report.evaluations}
    numbers |= {"steps": report.evaluation_steps, "best": report.best_step, "guard": report.guard}
    (folder / f"{name}.json").write_text(json.dumps(numbers))


def arm(moment):
    """Arrange for death; return the progress callback."""
    what, _, number = (moment or "").partition(":")
    if what == "after":  # so many seconds
        kills.die_after(float(number))
    elif what in PLACES:
        module, function = PLACES[what]
        kills.kill_at_call(module, function, int(number))

    def progress(step, total):
        if what == "step" and step == int(number):
            kills.die()

    return progress


PLACES = {
    "tensors": (checkpoint, "write_tensors"),
    "json": (checkpoint, "write_json"),
    "sync": (os, "fsync"),
    "rename": (os, "replace"),
    "removal": (checkpoint.shutil, "rmtree"),
    "shard": (shards, "_write_manifest"),
    "mine": (refresh_run, "mine_by_source"),
    "teacher": (kills.Teacher, "__call__"),
}


def main(folder, kind):
    """Run each list of moments: a child for every moment, and a last one that lives."""
    kills.lives_and_deaths(lambda name, moment: run(kind, folder, name, moment))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

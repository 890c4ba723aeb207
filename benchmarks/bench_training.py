"""Which way of training is worth its seconds: `python benchmarks/bench_training.py`.

Every collection is cut to a size that two cores train on, and keeps the share of documents that no
query answers. For each kind of model and seed all recipes begin with the same start and train on
the training split. The dev split makes every choice: what a recipe decides by itself, and the
learning rate where several are tried. The test split is read once, by what was chosen.

A recipe is compared with in-batch training query by query. Queries are averaged over the seeds
first, so that an interval is that of the collection's queries. What was trained is kept: a
benchmark that was stopped goes on, and another recipe costs its own time alone.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import inputs
from stope.training.guard import Verdict
from stope.training.recipe import GuardPart
from trained import METRIC, against, averaged, change, evaluation_of, print_with_machine, write_json
from training_data import facts, held_out_anew, queries_by_answers, read
from training_kinds import IN_BATCH, KINDS, Kind, Recipe, Settings
from training_negatives import Made, balanced, by_exposure, log_q, of_pairs, once
from training_teachers import TAUGHT

COLLECTIONS = (
    "medquad",
    "stackexchange_small",
    "python_doc2code",
    "nl2bash",
    "tldr_pages",
    "arcd",
    "scifact",
    "metatool",
)
START, BASELINE, CONTROL = "start", "in-batch", "in-batch, then in-batch"
SIZES = (128, 1024, 8192, 32_768)  # pairs a step, up to PEG's tens of thousands
WEIGHTED = ", progressive"
NEVER_AGAIN = 1000  # passes until negatives are mined again
FEWEST = 30  # queries of a group that has an interval of its own


def mined(among: str, count: int = 5, **more: Any) -> dict[str, Any]:
    """Negatives mined anew in every epoch."""
    return {"negatives": {"num_negatives": count, "among": among, **more}}


def adapted(among: str, count: int = 5) -> dict[str, Any]:
    """The same for an adapter, which scores what the batch brings."""
    return {"num_documents": 1, "refresh_every": 1, "num_negatives": count, "among": among}


def corrected(adapter: Mapping[str, Any], log_weights: Made) -> dict[str, Any]:
    """With log-weights of documents, which are rows of the whole corpus."""
    return {**adapter, "among": "corpus", "log_weights": log_weights}


def weigh(log_weight: float) -> dict[str, Any]:
    """Hard negatives that count for less than random ones."""
    return {"hard_negative_log_weight": log_weight}


def margin(relative: float | None) -> dict[str, Any]:
    """How far negatives stay below the positive."""
    return {"relative_margin": relative}


def sized(size: int) -> dict[str, Recipe]:
    """In-batch and with five negatives, uniform and weighted, so many pairs a step.

    An encoder's are shuffled, as an adapter's always are: every pair is in one step of a pass.
    """
    return {
        f"{title}{words}, {size:,} a step": Recipe(
            {**options, **more, "batch_size": size, "batches": "shuffled"},
            {**adapter, **more, "batch_size": size},
        )
        for title, options, adapter in (
            (BASELINE, {}, dict(IN_BATCH.adapter or {})),
            ("5 among positives", mined("positives"), adapted("positives")),
        )
        for words, more in (("", {}), (WEIGHTED, {"weighting": "progressive"}))
    }


def library_loss(kind: Kind, model: Any) -> Any:
    """sentence-transformers' own loss, in float32."""
    from stope.encoders.versions import part

    return part("losses").MultipleNegativesRankingLoss(model, scale=20.0)


RECIPES = {
    START: Recipe(),
    BASELINE: IN_BATCH,
    "in-batch, half as long again": IN_BATCH._replace(stretch=1.5),
    "5 of the corpus": Recipe(mined("corpus"), adapted("corpus")),
    "5 among positives": Recipe(mined("positives"), adapted("positives")),
    "1 of the corpus": Recipe(mined("corpus", 1), adapted("corpus", 1)),
    "1 among positives": Recipe(mined("positives", 1), adapted("positives", 1)),
    "all documents": Recipe(None, {"among": "corpus"}),
    "all positives": Recipe(None, {"among": "positives"}),
    **{
        f"{title}, {words}": Recipe({**options, **more}, {**adapter, **more})
        for title, options, adapter in (
            (BASELINE, {}, IN_BATCH.adapter),
            ("5 among positives", mined("positives"), adapted("positives")),
        )
        for words, more in (
            ("temperature .02", {"temperature": 0.02}),
            ("temperature .1", {"temperature": 0.1}),
            ("progressive", {"weighting": "progressive"}),
        )
    },
    **{
        f"5 among positives, {words}": Recipe({**mined("positives", **how), **more}, adapter)
        for words, how, more, adapter in (
            ("log-weight -1", {}, weigh(-1), {**adapted("positives"), **weigh(-1)}),
            ("log-weight -2", {}, weigh(-2), {**adapted("positives"), **weigh(-2)}),
            ("the nearest 20", {"pool": 20}, {}, None),
            ("ranks 50 to 200", {"range_min": 50}, {}, None),
            ("margin .2", margin(0.2), {}, {**adapted("positives"), **margin(0.2)}),
            ("no margin", margin(None), {}, {**adapted("positives"), **margin(None)}),
        )
    },
    **{
        f"in-batch, then {title}": Recipe({}, then=options)
        for title, options in (
            (BASELINE, {}),
            ("5 among positives", mined("positives")),
            ("1 among positives", mined("positives", 1)),
            ("5 of the corpus", mined("corpus")),
        )
    },
    **{
        f"5 {source}, {words}": Recipe(mined(among, **how), {**adapted(among), **adapter})
        for among, source in (("corpus", "of the corpus"), ("positives", "among positives"))
        for words, how, adapter in (
            ("every 2nd pass", {"every_epochs": 2}, {"refresh_every": 2}),
            ("mined once", {"mode": "static"}, {"refresh_every": NEVER_AGAIN}),
        )
    },
    "5 balanced, mined once": Recipe(None, {"num_documents": 1, "negatives": balanced(5)}),
    **{
        f"{title}, queries moved": Recipe(None, {**adapter, "side": "queries"})
        for title, adapter in (
            (BASELINE, IN_BATCH.adapter),
            ("5 of the corpus", adapted("corpus")),
            ("5 among positives", adapted("positives")),
        )
    },
    "in-batch, 4 times as long": IN_BATCH._replace(stretch=4),
    "5 among positives, 4 times as long": Recipe(
        mined("positives"), adapted("positives"), stretch=4
    ),
    "in-batch, logQ": Recipe({"columns": of_pairs(log_q)}, corrected(IN_BATCH.adapter, log_q)),
    "in-batch, by exposure": Recipe(None, corrected(IN_BATCH.adapter, by_exposure)),
    **{
        f"{title}, by exposure": Recipe(None, corrected(adapter, by_exposure))
        for title, adapter in (
            ("5 of the corpus", adapted("corpus")),
            ("all documents", {"among": "corpus"}),
        )
    },
    **{
        f"in-batch, then 5 {source} mined once{words}": Recipe(
            {}, then={"examples": once(among, 5, margin)}
        )
        for among, source in (("corpus", "of the corpus"), ("positives", "among positives"))
        for words, margin in (("", None), (", denoised", 0.05), (", denoised more", 0.2))
    },
    "auto": Recipe({"negatives": "auto"}, {**adapted("positives"), "guard": True}),
    "auto, progressive": Recipe({"weighting": "progressive", "guard": True}),
    **{title: recipe for size in SIZES for title, recipe in sized(size).items()},
    "all positives, 1,024 pairs a step": Recipe(None, {"batch_size": 1024}),
    "all positives, default batch": Recipe(None, {"batch_size": None}),
    **{
        f"all positives, default batch, {words}": Recipe(
            None, {"batch_size": None, **more}, stretch
        )
        for words, more, stretch in (
            ("rate 3e-4", {"learning_rate": 3e-4}, 1.0),
            ("rate 3e-3", {"learning_rate": 3e-3}, 1.0),
            ("half as long", {}, 0.5),
            ("4 times as long", {}, 4.0),
        )
    },
    "in-batch, default batch": Recipe(None, {**IN_BATCH.adapter, "batch_size": None}),
    "in-batch, judged": Recipe(None, {**IN_BATCH.adapter, "judged": True}),
    "default": Recipe(None, {"judged": True, "batch_size": None}),
    "guarded": Recipe(None, {**adapted("positives"), "guard": True, "batch_size": None}),
    "student": Recipe(student=True),
    "student, then in-batch": Recipe({"learning_rate": 0.03}, student=True),
    **TAUGHT,
    "bfloat16": Recipe({"precision": "bfloat16"}, {**IN_BATCH.adapter, "precision": "bfloat16"}),
    "sentence-transformers' loss": Recipe({"loss": library_loss}),
}
USUAL = (
    START,
    BASELINE,
    "in-batch, half as long again",
    "5 of the corpus",
    "5 among positives",
    "5 among positives, progressive",
    "all documents",
    "all positives",
    "auto",
    "student",
    "student, then in-batch",
)


class Cells:
    """What every training came to, one file each, so that it is never done twice."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def get(self, key: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The cell of a key, made if it is not there."""
        described = json.dumps(key, sort_keys=True, default=lambda made: made.__name__)
        path = self.folder / f"{hashlib.sha256(described.encode()).hexdigest()[:24]}.json"
        if path.exists():
            cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cell
        cell = {"key": json.loads(described), **make()}
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(cell), encoding="utf-8")
        os.replace(temporary, path)
        return cell


def trained_cell(kind: Kind, recipe: Recipe, seed: int, rates: Iterable[float]) -> dict[str, Any]:
    """Train with each learning rate, choose by dev, and judge the chosen on the test split."""
    tried = {rate: kind.train(recipe, seed, rate) for rate in rates}
    dev = {rate: done.judge("dev") for rate, done in tried.items()}
    rate = max(dev, key=lambda one: dev[one].mean[METRIC])
    return {
        "rate": rate,
        "dev_by_rate": {str(tested): reached.mean[METRIC] for tested, reached in dev.items()},
        "dev": dev[rate].per_query[METRIC],
        "test": tried[rate].judge("test").per_query[METRIC],
        "seconds": tried[rate].seconds,
        "words": tried[rate].words,
    }


def measure(name: str, kinds: Iterable[str], cells: Cells, given: argparse.Namespace) -> list[Any]:
    """One row for every kind of model and recipe, of all seeds."""
    collection = read(given.data / name, given.queries, given.documents, given.judged)
    if given.holdout:
        collection = held_out_anew(collection, given.holdout)
    common, groups = {"collection": name, **facts(collection)}, queries_by_answers(collection)
    settings = Settings(given.cache, given.tokens)
    rows: list[dict[str, Any]] = []
    for model in kinds:
        kind = KINDS[model](collection, settings)
        cut = [name, given.queries, given.judged, given.documents, given.tokens, model]
        cut += [f"holdout {given.holdout}"] if given.holdout else []
        seeds: dict[str, list[dict[str, Any]]] = {}
        for title in given.recipes:
            recipe = RECIPES[title]
            if not recipe.suits(model):
                continue
            seeds[title] = []
            for seed in range(given.seeds):
                rates = (seeds[title][0]["rate"],) if seed else tuple(given.rates)
                key = {"cut": cut, "recipe": [title, *recipe], "seed": seed, "rates": rates}
                cell = cells.get(key, functools.partial(trained_cell, kind, recipe, seed, rates))
                seeds[title].append(cell)
                reached = np.mean(list(cell["test"].values()))
                said = f"{name} {model} seed {seed} {title}: {reached:.4f}, {cell['seconds']:.0f} s"
                print(said, file=sys.stderr, flush=True)
        seeds |= {
            f"{title}, if dev gains": guarded(seeds[BASELINE], cells_of)
            for title, cells_of in seeds.items()
            if RECIPES[title].then
        }
        rows += [
            {
                **common,
                "kind": model,
                "recipe": title,
                **compared(cells_of, seeds[BASELINE], groups),
                **beside(title, cells_of, seeds),
            }
            for title, cells_of in seeds.items()
        ]
    return rows


def guarded(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a guard leaves: the second stage where dev gains by more than a standard error."""
    cells = []
    for before, after in zip(first, second, strict=True):
        reached = (evaluation_of(cell["dev"]) for cell in (before, after))
        verdict = Verdict.of("this", *reached, errors=GuardPart().errors)
        stays = after if verdict.kept else before
        cells.append({**stays, "seconds": after["seconds"], "words": str(verdict)})
    return cells


def compared(
    cells: list[dict[str, Any]], baseline: list[dict[str, Any]], groups: dict[str, list[str]]
) -> dict[str, Any]:
    """What a row says of a recipe, beside in-batch training, also for groups of queries."""
    first, second = ([evaluation_of(cell["test"]) for cell in part] for part in (baseline, cells))
    before, after = averaged(first), averaged(second)
    return {
        **against(before, second, [cell["seconds"] for cell in cells]),
        "groups": {
            name: {"queries": len(queries), **change(before, after, queries)}
            for name, queries in groups.items()
            if len(queries) >= FEWEST
        },
        "dev": float(np.mean([np.mean(list(cell["dev"].values())) for cell in cells])),
        "rate": cells[0]["rate"],
        "words": [cell["words"] for cell in cells if cell["words"]],
    }


def beside(
    title: str, cells: list[dict[str, Any]], seeds: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The difference to what a recipe adds to, where that is not in-batch training alone.

    A second stage adds to one of in-batch training of equal steps, weights and negatives to the
    same recipe without them.
    """
    others = {"beside_control": CONTROL if title.startswith(f"{BASELINE}, then ") else title}
    others["beside_uniform"] = title.replace(WEIGHTED, "")
    others["beside_in_batch"] = title.replace("5 among positives", BASELINE)
    after = averaged([evaluation_of(cell["test"]) for cell in cells])
    return {
        name: change(
            averaged([evaluation_of(cell["test"]) for cell in seeds[other]]),
            after,
            list(after.per_query[METRIC]),
        )
        for name, other in others.items()
        if other in seeds and other not in (title, BASELINE)
    }


def table_of(rows: list[dict[str, Any]], kind: str) -> Table:
    """In-batch training as it is, the others as differences to it: a column per collection."""
    here = [row for row in rows if row["kind"] == kind]
    names = list(dict.fromkeys(row["collection"] for row in here))
    table = Table(title=f"{kind}: {METRIC} on the test split", title_justify="left")
    for heading in ("recipe", *names, "mean", "better : worse", "seconds"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for title in dict.fromkeys(row["recipe"] for row in here):
        of = {row["collection"]: row for row in here if row["recipe"] == title}
        values = [row["mean" if title == BASELINE else "difference"] for row in of.values()]
        better = sum(row["difference_interval"][0] > 0 for row in of.values())
        worse = sum(row["difference_interval"][1] < 0 for row in of.values())
        table.add_row(
            title,
            *(cell_text(of[name]) for name in names),
            f"{np.mean(values):.4f}" if title == BASELINE else f"{np.mean(values):+.4f}",
            "" if title == BASELINE else f"{better} : {worse}",
            f"{np.mean([row['seconds'] for row in of.values()]):.1f}",
        )
    return table


def cell_text(row: dict[str, Any]) -> str:
    """A figure, or a difference with its interval."""
    if row["recipe"] == BASELINE:
        return f"{row['mean']:.4f}"
    low, high = row["difference_interval"]
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=inputs.COLLECTIONS, help="folder of BEIR folders")
    add("--collections", nargs="+", default=list(COLLECTIONS), help="folders in it")
    add("--kinds", nargs="+", default=["static", "adapter"], choices=list(KINDS))
    add(
        "--recipes",
        nargs="+",
        default=list(USUAL),
        choices=list(RECIPES),
        metavar="RECIPE",
        help=f"{'; '.join(RECIPES)}. Default: {'; '.join(USUAL)}",
    )
    add("--seeds", type=int, default=3, help="how many")
    add("--queries", type=int, default=1000, help="of the training split at most; 0: all")
    add("--judged", type=int, default=None, help="of dev and test; default: four tenths of that")
    add("--documents", type=int, default=1500, help="that answer no query at most; 0: their share")
    add("--holdout", type=float, default=0.0, help="share of train and dev to draw dev anew from")
    add("--tokens", type=int, default=64, help="of a text for MiniLM; a static encoder reads twice")
    add("--rates", nargs="+", type=float, default=[1.0], help="times the usual rate; dev chooses")
    add("--cache", type=Path, default=inputs.CACHE, help="for MiniLM's embeddings")
    add("--cells", type=Path, default=inputs.CACHE / "trained", help="for what was trained")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    given = parser.parse_args()
    given.queries, given.documents = given.queries or None, given.documents or None
    if BASELINE not in given.recipes:
        parser.error(f'--recipes needs "{BASELINE}", to which the others are compared')
    missing = [name for name in given.collections if not (given.data / name).is_dir()]
    if missing:
        parser.error(f"{given.data} has no {', '.join(missing)}; name the folder with --data")
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    began, cells = time.perf_counter(), Cells(given.cells)
    rows: list[dict[str, Any]] = []
    for name in given.collections:
        rows += measure(name, given.kinds, cells, given)
        if given.json:  # what was measured stays if the next is stopped
            write_json(given.json, rows, command, time.perf_counter() - began)
    for kind in given.kinds:
        print_with_machine(table_of(rows, kind))
    print("seconds: processor time of one training, mean over collections and seeds")


if __name__ == "__main__":
    main()

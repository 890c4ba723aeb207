"""`stope plan`: what a search will take, here or on many machines, and what limits it."""

from __future__ import annotations

import dataclasses
import json
import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from stope._checks import real, shown
from stope.cli import options, terminal
from stope.cli.options import option, switch
from stope.cli.terminal import reported
from stope.scale.plan import MACHINES, Machine, Plan, Search, gib, predict

_HERE = "this"
_RATES, _WORKERS = "Rates, instead of measured or assumed ones", "Simulation"
_POWERS = {"": 1, **{u: 10 ** (3 * n) for n, u in enumerate("kMGT", start=1)}, "K": 1000}
_BINARY = {f"{u}i": 2 ** (10 * n) for n, u in enumerate("KMGT", start=1)}
_QUANTITY = re.compile(
    r"\s*(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[kKMGT]?i?)(?P<b>B?)\s*"
)


class Dtype(str, Enum):
    """Types of embeddings."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


_ITEMSIZE = {Dtype.float32: 4, Dtype.float16: 2, Dtype.bfloat16: 2, Dtype.int8: 1}


def quantity(text: str, name: str, *, in_bytes: bool = False) -> int:
    """A count such as 100e6, 10M or 250k, or bytes such as 64GiB or 2GB.

    >>> quantity("100e6", "--queries"), quantity("10M", "--corpus")
    (100000000, 10000000)
    >>> quantity("16GiB", "--memory", in_bytes=True)
    17179869184
    >>> quantity("1.5", "--queries")
    Traceback (most recent call last):
        ...
    ValueError: --queries is '1.5'; give a whole number, such as 250000, 100e6 or 10M
    """
    match = _QUANTITY.fullmatch(text)
    units = {**_POWERS, **_BINARY} if in_bytes else _POWERS
    value = 0.0
    if match and match["unit"] in units and (in_bytes or not match["b"]):
        value = float(match["number"]) * units[match["unit"]]
    if not 1 <= value < 2**53 or (value != int(value) and not in_bytes):
        example = "bytes, such as 64GiB or 2GB"
        if not in_bytes:
            example = "a whole number, such as 250000, 100e6 or 10M"
        raise ValueError(f"{name} is {shown(text)}; give {example}")
    return int(value)


@reported
def plan(
    context: typer.Context,
    queries: Annotated[str, option("How many: 250000, 100e6, 10M.", default=False)],
    corpus: Annotated[str, option("Documents, likewise.", default=False)],
    dim: Annotated[int, option("Of the embeddings.", default=False, min=1)],
    k: Annotated[int, option("Documents per query.", "--k", "-k", min=1)] = 20,
    dtype: Annotated[Dtype, option("Of the embeddings.")] = Dtype.float32,
    machine: Annotated[
        str, option(f"A worker: {_HERE} (measured, in seconds), {', '.join(MACHINES)}.")
    ] = _HERE,
    workers: Annotated[int, option("How many of it.", min=1)] = 1,
    block_rows: Annotated[
        str | None, option("Queries of a block.", default="by memory and workers")
    ] = None,
    encoder: Annotated[
        str | None,
        option("Count encoding too: a model, measured here on --texts.", metavar="PATH"),
    ] = None,
    texts: Annotated[
        Path | None, option("Some texts as long as yours; the first are encoded.")
    ] = None,
    folder: Annotated[Path, option("Its disk is measured.")] = Path("."),
    memory: Annotated[str | None, option("Of a worker: 64GiB.", panel=_RATES)] = None,
    disk: Annotated[str | None, option("Bytes a second: 2GB.", panel=_RATES)] = None,
    network: Annotated[str | None, option("Bytes a second.", panel=_RATES)] = None,
    texts_per_second: Annotated[
        float | None, option("Count encoding too, at this rate of a worker.", panel=_RATES)
    ] = None,
    simulate: Annotated[
        bool, switch("--simulate", "Slow and failing workers, by size of block.", _WORKERS)
    ] = False,
    spread: Annotated[
        float, option("Standard deviation of the logarithm of a task's time.", panel=_WORKERS)
    ] = 0.3,
    failures: Annotated[float, option("Of a worker in an hour.", panel=_WORKERS)] = 0.01,
    overhead: Annotated[float, option("Seconds of a task beside work.", panel=_WORKERS)] = 1.0,
    restart: Annotated[
        float, option("Seconds until a failed worker is back.", panel=_WORKERS)
    ] = 60.0,
    runs: Annotated[int, option("Of each size and policy.", min=1, panel=_WORKERS)] = 5,
    seed: Annotated[int, option("Of the first run.", min=0, panel=_WORKERS)] = 0,
    picture: Annotated[
        Path | None, option("Also draw it: .png or .svg (extra pictures).", panel=_WORKERS)
    ] = None,
    as_json: Annotated[bool, switch("--json", "Print JSON.")] = False,
    threads: options.Threads = None,
    debug: options.Debug = False,
) -> None:
    """Predict hours, memory and bytes of an exact search, how it is cut, and what limits it.

    A model, not a promise: nothing is assumed to overlap, no worker to fail (but see --simulate).

    [b]Example:[/b] stope plan --queries 100e6 --corpus 10e6 --dim 768 --machine h200 --workers 8
    """
    conditions = ("spread", "failures", "overhead", "restart", "runs", "seed", "picture")
    if not simulate:
        options.without_effect(context, conditions, "it is of the simulation; add --simulate")
    elif picture is not None:
        from stope.cli.picture import need_matplotlib

        options.check_outputs([texts], [(picture, (".png", ".svg"))])
        need_matplotlib()
    if machine != _HERE:
        options.without_effect(
            context, ["folder", "threads"], f"it is of this machine, not of {machine}"
        )
    options.set_threads(threads)
    work = Search(
        quantity(queries, "--queries"),
        quantity(corpus, "--corpus"),
        dim,
        k,
        _ITEMSIZE[dtype],
    )
    if encoder is None and texts is not None:
        options.without_effect(context, ["texts"], "it is for --encoder, and there is none")
    rate = _encoding(machine, encoder, texts, texts_per_second)
    worker = _worker(machine, work, folder, memory, disk, network)
    worker = dataclasses.replace(worker, texts=rate)
    made = predict(
        work,
        worker,
        workers=workers,
        block_rows=None if block_rows is None else quantity(block_rows, "--block-rows"),
        encode=worker.texts is not None,
    )
    rows: list[Any] = []
    if simulate:
        from stope.scale.simulation import Conditions, sweep

        behaviour = Conditions(spread, failures, overhead, restart)
        rows = sweep(made, behaviour, runs=runs, seed=seed)
    if as_json:
        told = made.as_dict()
        if simulate:
            told["simulation"] = [row._asdict() for row in rows]
        typer.echo(json.dumps(told, indent=1))
    else:
        _show(made)
        if simulate:
            _show_simulation(rows)
    if picture is not None:
        from stope.cli.picture import draw_completion

        draw_completion(picture, rows)
        terminal.say(f"the picture is {picture}.")


def _worker(
    name: str,
    work: Search,
    folder: Path,
    memory: str | None,
    disk: str | None,
    network: str | None,
) -> Machine:
    """The machine of this name with what was given in place of its rates."""
    stated: dict[str, Any] = {}
    if memory is not None:
        stated["memory"] = quantity(memory, "--memory", in_bytes=True)
    if disk is not None:
        stated["disk_read"] = stated["disk_write"] = quantity(disk, "--disk", in_bytes=True)
    if network is not None:
        stated["network"] = quantity(network, "--network", in_bytes=True)
    if name == _HERE:
        from stope.scale.rates import measure

        worker = measure(
            work.dim, work.k, itemsize=work.itemsize, folder=folder, memory=stated.get("memory")
        )
    elif name in MACHINES:
        worker = MACHINES[name]
    else:
        known = ", ".join((_HERE, *MACHINES))
        raise ValueError(f"--machine is {shown(name)}; give one of {known}")
    if not stated:
        return worker
    names = ", ".join(f"--{each.partition('_')[0]}" for each in stated if each != "disk_write")
    return dataclasses.replace(worker, **stated, source=f"{worker.source}; but {names}: as given")


def _encoding(
    machine: str, encoder: str | None, texts: Path | None, rate: float | None
) -> float | None:
    """Texts a second, as given or measured; None where nothing is encoded."""
    if rate is not None and encoder is not None:
        raise ValueError("--encoder and --texts-per-second are both given; leave one out")
    if encoder is None:
        return None if rate is None else real(rate, "--texts-per-second", 0, above=True)
    if machine != _HERE:
        raise ValueError(
            f"--encoder is measured on this machine, not on {machine}; give --texts-per-second"
        )
    if texts is None:
        raise ValueError(
            "--texts is missing: how fast an encoder is depends on the texts; name a file of some"
        )
    from stope.data import read_texts
    from stope.scale.rates import texts_per_second

    _, sample = read_texts(texts)
    return texts_per_second(options.load_encoder(encoder), sample)


def _show(made: Plan) -> None:
    """The plan as tables, with where its numbers come from."""
    work, cut, worker = made.search, made.layout, made.machine
    terminal.tell(
        f"{work.queries:,} queries x {work.corpus:,} documents x {work.dim}, k {work.k}, "
        f"on {made.workers:,} x {worker.name}"
    )
    counts: dict[str, int | str] = {
        "time": duration(made.total_seconds),
        **{
            f"- {name}": f"{duration(seconds)} ({seconds / made.total_seconds:.1%})"
            for name, seconds in made.seconds.items()
            if seconds
        },
        "limit": made.limit,
        "tasks": f"{cut.tasks:,} of {duration(made.task_seconds)}",
        "- shards": f"{cut.shards:,} of {cut.shard_rows:,} documents",
        "- blocks": f"{cut.blocks:,} of {cut.block_rows:,} queries",
        "memory of a worker": f"{gib(cut.memory)} of {gib(worker.memory)}",
        "memory of all": gib(cut.memory * made.workers),
        "read from disks": gib(made.read),
        "written": gib(made.written),
        "over the network": gib(made.moved),
    }
    terminal.show_counts("Plan", counts)
    terminal.tell(str(cut))
    rates = [
        ("multiply-adds of the search", f"{worker.products / 1e9:,.0f} G/s"),
        ("corpus read from memory", f"{gib(worker.pass_bytes)}/s"),
        ("disk, reading and writing", f"{gib(worker.disk_read)}/s, {gib(worker.disk_write)}/s"),
    ]
    if made.workers > 1:
        rates.append(("network", f"{gib(worker.network)}/s"))
    if worker.texts is not None:
        rates.append(("texts encoded", f"{worker.texts:,.0f}/s"))
    terminal.show_table(f"A worker ({worker.name})", ["", ""], rates, named=False)
    terminal.tell(f"{worker.name}: {worker.source}")


def _show_simulation(rows: list[Any]) -> None:
    cells = [
        (
            f"{row.block_rows:,}",
            f"{row.tasks:,}",
            duration(row.task_seconds),
            row.policy,
            duration(row.seconds),
            f"{duration(row.low)} to {duration(row.high)}",
            f"{row.seconds / row.ideal:.2f}",
            f"{row.failed:.1f}",
            f"{row.lost:.1%}",
        )
        for row in rows
    ]
    header = ["block", "tasks", "a task", "policy", "time", "90% of runs"]
    header += ["of ideal", "failures", "lost"]
    terminal.show_table("Slow and failing workers", header, cells, words=0)
    best = min(rows, key=lambda row: row.seconds)
    terminal.tell(
        f"Shortest: --block-rows {best.block_rows}, policy {best.policy}, {duration(best.seconds)}"
    )


def duration(seconds: float) -> str:
    """Seconds for a person.

    >>> [duration(s) for s in (0.0034, 12, 300, 9000, 10**6)]
    ['3.4 ms', '12 s', '5.0 min', '2.5 h', '11.6 days']
    """
    for least, size, unit in ((172800, 86400, "days"), (5400, 3600, "h"), (120, 60, "min")):
        if seconds >= least:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"

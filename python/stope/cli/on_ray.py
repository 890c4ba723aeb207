"""`--ray`: what a command encodes and searches on a Ray cluster, to the same files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import stope
from stope.cli import options, terminal
from stope.cli.options import option, without_effect

_PANEL = "On a Ray cluster"
_GIB = 1 << 30
_OPERATIONS = "stope.scale.ray"  # of a context's meta

Ray = Annotated[
    str | None,
    option(
        "Search on a Ray cluster: its address, or none for RAY_ADDRESS, one that runs on this "
        "machine, or a new one. The files that are written are the same.",
        "--ray",
        metavar="[ADDRESS]",
        default="in this process",
        panel=_PANEL,
    ),
]
Workers = Annotated[
    int | None, option("Workers on it.", default="as its CPUs allow", panel=_PANEL, min=1)
]
WorkerCpus = Annotated[int, option("CPUs and threads of a worker.", panel=_PANEL, min=1)]
WorkerMemory = Annotated[
    float | None,
    option(
        "GiB that a worker may fill; a corpus that does not fit is searched in shards.",
        default="the cluster's over its workers",
        panel=_PANEL,
        min=0.25,
    ),
]
WorkerGpus = Annotated[int, option("GPUs of a worker, for the encoder.", panel=_PANEL, min=0)]


def of_cluster(
    *,
    ray: Ray = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1,
    worker_memory: WorkerMemory = None,
    worker_gpus: WorkerGpus = 0,
) -> None:
    """The options of what searches on a cluster, for `options.shared`."""


class Command(TyperCommand):
    """A command whose option --ray may stand alone, which typer does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a lone --ray an empty address."""
        end = args.index("--") if "--" in args else len(args)
        for place in range(end):
            followed = place + 1 < end and not args[place + 1].startswith("-")
            if args[place] == "--ray" and not followed:
                args = [*args[:place], "--ray=", *args[place + 1 :]]
        rest = super().parse_args(ctx, args)
        if "ray" in ctx.params and not ctx.resilient_parsing:
            _refuse_idle(ctx)
        return rest


def _refuse_idle(context: typer.Context) -> None:
    """Refuse options of a cluster without one, and of this process with one."""
    if context.params["ray"] is None:
        of_ray = ["workers", "worker_cpus", "worker_memory", "worker_gpus"]
        without_effect(context, of_ray, "it has no effect without --ray")
    else:
        without_effect(context, ["threads"], "with --ray, --worker-cpus says how many a worker has")


@contextmanager
def operations(context: typer.Context, output: Path, here: Any = stope) -> Iterator[Any]:
    """Who computes: in this process `here` or, with --ray, `stope.scale.ray.Operations`.

    Its jobs have folders in one beside the output, from which a command that was stopped goes on;
    they are removed when the block ends well.
    """
    chosen = context.params
    if chosen["ray"] is None:
        yield here
        return
    from stope.scale.ray import Cluster, Operations

    memory = chosen["worker_memory"]
    cluster = Cluster(
        chosen["ray"] or None,
        workers=chosen["workers"],
        num_cpus=chosen["worker_cpus"],
        memory=None if memory is None else int(memory * _GIB),
        num_gpus=chosen["worker_gpus"],
    )
    folder = output.with_name(f"{output.name}.ray")
    with Operations.at(folder, cluster) as made:
        context.meta[_OPERATIONS] = made
        yield made
    if not chosen["quiet"]:
        for plan in dict.fromkeys(made.plans):
            terminal.say(f"--ray: {plan}.")
    for job in made.folders:
        shutil.rmtree(job, ignore_errors=True)
    with suppress(OSError):  # something else is in it
        folder.rmdir()


def load_encoder(context: typer.Context, name: str) -> Any:
    """Load the model that --encoder names; within `operations` of a cluster, its workers encode."""
    model = options.load_encoder(name)
    if (made := context.meta.get(_OPERATIONS)) is not None:
        made.share(model, options.model_path(name))
    return model

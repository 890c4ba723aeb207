"""How a search is cut over workers, and what it will take: a model, not a promise.

`layout` is the one rule of how a search is cut, which Ray's jobs follow; `predict` adds up what it
costs, as if nothing overlapped, all workers were alike and none failed (`simulation` has those).

    arithmetic  queries corpus (dim + 16) + 50 dim candidates, in multiply-adds of the scan;
                candidates = queries shards k (1 + ln(shard rows / k)): those that enter the list of
                the best k on the way, in any order of rows that is random, and are rescored
    memory      a shard is read and packed once for each group of queries of a block
    disk        corpus, queries, partial results, results; the network moves the same, unless there
                is one worker
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from stope._checks import counted, flag, integer, real, size, text
from stope._kinds import a, kinds

__all__ = ["MACHINES", "Layout", "Machine", "Plan", "Search", "layout", "predict"]

_MIB = 2**20
WORKER_BYTES = 256 * _MIB  # interpreter, stope, Ray, Arrow
SEARCH_BYTES = 66 * _MIB  # workspace of topk beside what it takes for each query of a group
_BLOCK_BYTES = 64 * _MIB  # of a block's queries and results
_BLOCKS_EACH = 16  # blocks of queries for a worker, that they end together
_FULL_RATE = 2048  # queries from which on packing the corpus once more costs a scan nothing
_LEAST = 1024  # rows of a shard
_RESULT_BYTES = 12  # a score and an id
_GROUP_BYTES = 32 * _MIB  # of candidates: topk's queries go in groups that fit,
_MANY_QUERIES, _FEW_QUERIES = 2048, 64  # or twice that where these would not, but so many always
_SCORE_DIMS = 16  # what selecting costs a score, as dimensions
_RESCORED = 50  # how many times a scan's multiply-add one of a candidate costs
_MOST = 2**53  # counts that float64 holds


@dataclass(frozen=True)
class Search:
    """The best k of so many rows for so many queries.

    Attributes:
        queries, corpus: how many rows each has.
        dim: of both.
        k: documents a query.
        itemsize: bytes of an element: 4 (float32), 2 (float16, bfloat16) or 1 (int8).

    Raises:
        TypeError, ValueError: no integers, or numbers below 1; k above the corpus.

    >>> Search(queries=10**8, corpus=10**7, dim=768, k=20).corpus_bytes
    30720000000
    """

    queries: int
    corpus: int
    dim: int
    k: int
    itemsize: int = 4

    def __post_init__(self) -> None:
        for name in ("queries", "corpus"):
            integer(getattr(self, name), name, 1, _MOST)
        size(self.dim, "dim")
        integer(self.k, "k", 1, self.corpus)
        if integer(self.itemsize, "itemsize", 1, 4) == 3:
            raise ValueError("itemsize is 3; give the bytes of an element: 4, 2 or 1")

    @property
    def corpus_bytes(self) -> int:
        """Bytes of the corpus."""
        return self.corpus * self.dim * self.itemsize

    @property
    def query_bytes(self) -> int:
        """Bytes of a query and of its results: a worker's, those it merges with, and the merged."""
        return self.dim * self.itemsize + 3 * _RESULT_BYTES * self.k

    @property
    def group(self) -> int:
        """Queries that topk answers in one pass over the corpus."""
        list_bytes = 36 * self.k + 7680
        many = min(_MANY_QUERIES, 2 * _GROUP_BYTES // list_bytes)
        return max(_GROUP_BYTES // list_bytes, many, _FEW_QUERIES)


@dataclass(frozen=True)
class Layout:
    """How a search is cut into tasks: a block of queries against a shard of the corpus each.

    Attributes:
        strategy: ``"replicate"``: every worker has the whole corpus; ``"shards"``: each task has a
            shard, and the results of a block's tasks are merged.
        shards, shard_rows: shard s is rows ``[s * shard_rows, (s + 1) * shard_rows)``, the last
            one perhaps shorter.
        blocks, block_rows: of the queries, likewise.
        memory: bytes that a worker needs at its peak, the shard's mapped pages included.
        why: the reason, as a sentence.
    """

    strategy: Literal["replicate", "shards"]
    shards: int
    shard_rows: int
    blocks: int
    block_rows: int
    memory: int
    why: str

    @property
    def tasks(self) -> int:
        """Blocks times shards."""
        return self.shards * self.blocks

    def __str__(self) -> str:
        return f"{self.strategy}: {self.why}"


@kinds(work=a(Search), workers=size)
def layout(work: Search, *, memory: int, workers: int = 1, block_rows: int | None = None) -> Layout:
    """Choose how a search is cut: by what a worker's memory holds, and so that all have work.

    A worker needs ``256 MiB + shard + workspace of topk + block``; where the whole corpus fits so,
    it is the only shard. Otherwise it is cut into the fewest equal shards that fit, as many times
    the workers where it is cut into more than there are; and so it is where queries make fewer
    blocks than there are workers.

    Args:
        work: the search.
        memory: bytes that a worker may have.
        workers: how many there are.
        block_rows: queries of a block. Default: at most 64 MiB of queries and results, 16 blocks a
            worker, and at least 2,048, from which on a scan runs at its full rate; whole groups
            of those that topk answers in one pass, where there is more than one.

    Returns:
        A `Layout`. Any cut has the same answer, bit for bit.

    Raises:
        TypeError: an argument of another kind.
        ValueError: the memory does not hold 1,024 rows of the corpus beside what a worker needs.

    >>> work = Search(queries=10**8, corpus=10**7, dim=768, k=20)
    >>> cut = layout(work, memory=64 * 2**30, workers=100)
    >>> cut.strategy, cut.shards, cut.blocks, cut.block_rows
    ('replicate', 1, 6260, 15976)
    >>> print(layout(work, memory=16 * 2**30, workers=100))
    shards: 28.6 GiB of corpus do not fit 16.0 GiB a worker; 2 shards of 5,000,000 rows do
    """
    integer(memory, "memory", 1, _MOST)
    if block_rows is None:
        by_memory = max(1, _BLOCK_BYTES // work.query_bytes)
        by_workers = max(_FULL_RATE, -(-work.queries // (_BLOCKS_EACH * workers)))
        block_rows = min(by_memory, by_workers)
        if block_rows > work.group:  # no group is cut, as each costs a pass over the shard
            block_rows -= block_rows % work.group
    block_rows = min(integer(block_rows, "block_rows", 1, _MOST), work.queries)
    blocks = -(-work.queries // block_rows)
    group = min(work.group, block_rows)
    beside = WORKER_BYTES + SEARCH_BYTES + 5 * work.dim * group + block_rows * work.query_bytes
    row_bytes = work.dim * work.itemsize
    least = beside + min(work.corpus, _LEAST) * row_bytes
    if memory < least:
        raise ValueError(
            f"memory is {gib(memory)}; a worker needs {gib(least)} at least (stope, a block of "
            f"{counted(block_rows, 'queries')}, 1,024 rows); give more, or a smaller block_rows"
        )
    fitting = -(-work.corpus // ((memory - beside) // row_bytes))
    shards = min(max(fitting, -(-workers // blocks)), work.corpus)
    if shards > workers:
        shards = min(-(-shards // workers) * workers, work.corpus)
    shard_rows = -(-work.corpus // shards)
    shards = -(-work.corpus // shard_rows)  # rows that do not divide may fill fewer
    corpus, cut = gib(work.corpus_bytes), f"{counted(shards, 'shards')} of {shard_rows:,} rows"
    if shards == 1:
        why = f"{corpus} of corpus fit {gib(memory)} a worker"
    elif fitting > 1:
        why = f"{corpus} of corpus do not fit {gib(memory)} a worker; {cut} do"
    else:
        why = (
            f"{counted(blocks, 'blocks')} of queries leave some of {counted(workers, 'workers')} "
            f"idle; {cut} do not"
        )
    return Layout(
        "replicate" if shards == 1 else "shards",
        shards,
        shard_rows,
        blocks,
        block_rows,
        beside + shard_rows * row_bytes,
        why,
    )


@dataclass(frozen=True)
class Machine:
    """A worker: one machine with all its cores, or one GPU, and what it does in a second.

    Attributes:
        name: of the machine.
        products: multiply-adds of the search.
        pass_bytes: bytes of the corpus that are read from memory and packed.
        memory: bytes that a worker may have; of a GPU, the device's.
        disk_read, disk_write: bytes.
        network: bytes.
        source: where these numbers come from; what is assumed says so.
        texts: texts encoded, where something is.
    """

    name: str
    products: float
    pass_bytes: float
    memory: int
    disk_read: float = 2e9
    disk_write: float = 1e9
    network: float = 3e9
    source: str = "given"
    texts: float | None = None

    def __post_init__(self) -> None:
        text(self.name, "name"), text(self.source, "source")
        integer(self.memory, "memory", 1, _MOST)
        for name in ("products", "pass_bytes", "disk_read", "disk_write", "network"):
            real(getattr(self, name), name, 0, above=True)
        if self.texts is not None:
            real(self.texts, "texts", 0, above=True)


_STORE = "disk and network: assumed"
_GPU = (
    "assumed, never measured by us: 12% of the vendor's peak (bf16, dense), what a time comes to "
    "that Flash-KNN's authors publish for an exact search on H200 (8,192 x 200,000 x 256, k 24); "
    f"{_STORE}"
)
_MANY = f", times its cores and 0.7 for sharing memory: assumed, never measured by us; {_STORE}"
_ZEN4 = "measured on 2 cores of an EPYC (Zen 4), benchmarks/results/topk_dims.txt"
_AMX = "measured on 2 cores of a Xeon with AMX, benchmarks/results/topk_amx_dims.txt"
MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine("zen4-2", 4.0e11, 1.5e10, 24 << 30, source=f"{_ZEN4}; {_STORE}"),
        Machine("zen4-64", 9.0e12, 1.5e11, 256 << 30, source=_ZEN4 + _MANY),
        Machine("amx-2", 1.8e12, 1.5e10, 24 << 30, source=f"{_AMX}; {_STORE}"),
        Machine("amx-32", 2.0e13, 1.5e11, 256 << 30, source=_AMX + _MANY),
        Machine("a100", 1.9e13, 1.2e12, 66 << 30, source=_GPU),
        Machine("h100", 5.9e13, 2.0e12, 66 << 30, source=_GPU),
        Machine("h200", 5.9e13, 2.9e12, 118 << 30, source=_GPU),
    )
}
"""Machines by name; their sources say what is assumed. `stope.scale.rates.measure` makes one."""


@dataclass(frozen=True)
class Plan:
    """What a search will take.

    Attributes:
        search, machine, workers, layout: what it is of.
        seconds: by resource: arithmetic, memory, disk, network, encoding.
        read, written: bytes from and to disks, of all workers.
        moved: bytes over the network, of all workers.
    """

    search: Search
    machine: Machine
    workers: int
    layout: Layout
    seconds: dict[str, float]
    read: int
    written: int
    moved: int

    @property
    def total_seconds(self) -> float:
        """All resources one after another: nothing is assumed to overlap."""
        return sum(self.seconds.values())

    @property
    def task_seconds(self) -> float:
        """What a task takes its worker, encoding left out."""
        alone = self.total_seconds - self.seconds["encoding"]
        return alone * self.workers / self.layout.tasks

    @property
    def limit(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            **dataclasses.asdict(self),
            "total_seconds": self.total_seconds,
            "task_seconds": self.task_seconds,
            "tasks": self.layout.tasks,
            "memory_per_worker": self.layout.memory,
            "memory_total": self.layout.memory * self.workers,
            "limit": self.limit,
        }


@kinds(machine=a(Machine), encode=flag)
def predict(
    work: Search,
    machine: Machine,
    *,
    workers: int = 1,
    block_rows: int | None = None,
    encode: bool = False,
) -> Plan:
    """Add up what a search takes on so many workers of a kind, cut by `layout`.

    Args:
        work: the search.
        machine: a worker, from `MACHINES` or measured.
        workers: how many.
        block_rows: as of `layout`.
        encode: count the encoding of queries and corpus too, at ``machine.texts``.

    Returns:
        A `Plan`; the module's head has the formula. Mapped corpora are read from disk once for
        each shard that a worker goes through, queries once for each shard.

    Raises:
        TypeError: an argument of another kind.
        ValueError: as `layout`; encoding where the machine's rate of texts is not known.

    Source: the terms of dim, of candidates and of passes are fitted on two cores of a Zen 4;
    benchmarks/results/plan.txt has predicted times beside measured ones.

    >>> made = predict(Search(10**8, 10**7, 768, 20), MACHINES["h200"], workers=8)
    >>> made.limit, round(made.total_seconds / 3600, 1), made.layout.strategy
    ('arithmetic', 0.5, 'replicate')
    """
    cut = layout(work, memory=machine.memory, workers=workers, block_rows=block_rows)
    if encode and machine.texts is None:
        raise ValueError(f"encode is True but {machine.name} has no rate of texts; give its texts")
    last = work.queries - (cut.blocks - 1) * cut.block_rows
    groups = [-(-rows // work.group) for rows in (cut.block_rows, last)]
    passes = (cut.blocks - 1) * groups[0] + groups[1]
    loads = max(cut.shards, workers) * cut.shard_rows * work.dim * work.itemsize
    results = work.queries * work.k * _RESULT_BYTES
    partial = results * cut.shards if cut.shards > 1 else 0
    asked = work.queries * work.dim * work.itemsize * cut.shards
    read, written = loads + asked + partial, results + partial
    moved = read + written if workers > 1 else 0
    seconds = {
        "arithmetic": products(work, cut.shards) / machine.products,
        "memory": passes * work.corpus_bytes / machine.pass_bytes,
        "disk": read / machine.disk_read + written / machine.disk_write,
        "network": moved / machine.network,
        "encoding": (work.queries + work.corpus) / machine.texts
        if encode and machine.texts
        else 0.0,
    }
    shared = {name: value / workers for name, value in seconds.items()}
    return Plan(work, machine, workers, cut, shared, read, written, moved)


def products(work: Search, shards: int = 1) -> float:
    """Multiply-adds that a search counts as: those of its scores, and of its candidates."""
    rows = max(work.corpus / shards, work.k)
    candidates = work.queries * shards * work.k * (1 + math.log(rows / work.k))
    scores = float(work.queries) * work.corpus
    return scores * (work.dim + _SCORE_DIMS) + _RESCORED * work.dim * candidates


def gib(count: float) -> str:
    """Bytes for a person.

    >>> gib(2**30 * 1.5), gib(3000), gib(2**51)
    ('1.5 GiB', '2.9 KiB', '2,048.0 TiB')
    """
    power = min(max(int(math.log2(max(count, 1)) // 10), 0), 4)
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count / 2 ** (10 * power):,.{1 if power else 0}f} {unit}"

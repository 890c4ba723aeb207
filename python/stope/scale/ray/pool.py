"""Workers on a Ray cluster: actors that compute blocks of an answer, and what replaces dead ones.

A block of rows is asked of every shard of the corpus, a call each, and the answers are merged eight
at a time, by the actors, until one is left. An actor has a description of the matrices and maps the
files that it needs; nothing of a corpus passes through Ray. At most two calls wait at an actor.
A block of which a dead actor or node has taken something with it is asked anew of those that live:
answers do not depend on who gives them.

Ray's own restarts (max_restarts, max_task_retries, ray.util.ActorPool) would not do: the calls of
an actor whose node is gone wait for room for it elsewhere, for ever where others have all CPUs.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple, Protocol

import ray
from ray import exceptions

import stope
from stope._checks import counted, shown
from stope._kinds import at_least, kinds, maybe, string

_WAITING = 2  # calls at an actor: the one that runs and the one after it
_MERGED = 8  # answers of one merge
_HELD_BYTES = 1 << 30  # of answers that wait for those of other shards
# What a call ends with where answers were lost or an operation failed; all else is of its worker.
_OF_ANSWERS = exceptions.ObjectLostError, exceptions.RayTaskError


@kinds(
    address=maybe(string),
    **dict.fromkeys(("workers", "memory"), maybe(at_least(1))),
    **dict.fromkeys(("num_cpus", "patience"), at_least(1)),
    **dict.fromkeys(("num_gpus", "retries"), at_least(0)),
)
@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster works, and what each worker may take of it.

    Attributes:
        address: as `ray.init` takes it: "auto", "host:6379", or "local" for a new one on this
            machine, which ends with the job. None: the one that this process is connected to or, as
            Ray has it, RAY_ADDRESS, one that runs here, or a new one.
        workers: actors; None for as many as the CPUs (and GPUs) of the cluster allow.
        num_cpus: CPUs of a worker, and the threads that it computes with.
        memory: bytes that a worker may fill, mapped files included; declared to Ray. A corpus that
            fits is mapped whole by every worker, a larger one in shards. None: a node's memory over
            the workers that fit it, of the node where that is least.
        num_gpus: GPUs of a worker, for encoders.
        retries: how often a block may be lost, and how many workers in a row fail to start.
        patience: seconds to wait while no worker lives.
    """

    address: str | None = None
    workers: int | None = None
    num_cpus: int = 1
    memory: int | None = None
    num_gpus: int = 0
    retries: int = 20
    patience: int = 300

    @contextmanager
    def connected(self) -> Iterator[Cluster]:
        """Connect, unless this process is, and fill in workers and memory."""
        connects = not ray.is_initialized()
        if connects:
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR)
        elif self.address not in (None, "auto", ray.get_runtime_context().gcs_address):
            raise ValueError(
                f"address is {shown(self.address)}, but this process is connected to "
                f"{ray.get_runtime_context().gcs_address}; call ray.shutdown() first, or leave the "
                "address out"
            )
        try:
            yield self._fitted([node["Resources"] for node in ray.nodes() if node["Alive"]])
        finally:
            if connects:
                ray.shutdown()

    def _fitted(self, nodes: Sequence[Mapping[str, float]]) -> Cluster:
        room = [node.get("CPU", 0) // self.num_cpus for node in nodes]
        if self.num_gpus:
            gpus = [node.get("GPU", 0) // self.num_gpus for node in nodes]
            room = [min(both) for both in zip(room, gpus, strict=True)]
        most = int(sum(room))
        if most < (self.workers or 1):
            raise ValueError(
                f"{counted(self.workers or 1, 'workers')} with num_cpus={self.num_cpus} and "
                f"num_gpus={self.num_gpus} do not fit the cluster, which has room for {most}; ask "
                "for less"
            )
        free = [node["memory"] / many for node, many in zip(nodes, room, strict=True) if many]
        return dataclasses.replace(
            self, workers=self.workers or most, memory=self.memory or int(min(free))
        )


class Operation(Protocol):
    """What workers compute; it goes to each of them once, and must be small."""

    def part(self, shard: Any, *told: Any) -> Any:
        """What one shard of the corpus answers to a block."""

    def merge(self, parts: Sequence[Any]) -> Any:
        """What several shards answer together; in any order, of any of them merged before."""


class Peak(NamedTuple):
    """What a worker took: the peak of its memory, that of its own (no mapped files), CPU time."""

    node: str
    process: int
    peak_bytes: int
    own_bytes: int
    cpu_seconds: float


class _Worker:
    """The actor."""

    def __init__(self, operation: Any, threads: int) -> None:
        stope.set_num_threads(threads)
        self.operation, self.own_bytes = operation, 0

    def peak(self) -> Peak:
        """Its memory until now."""
        node = ray.get_runtime_context().get_node_id()
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = used.ru_utime + used.ru_stime
        return Peak(node, os.getpid(), used.ru_maxrss << 10, self.own_bytes, seconds)

    def part(self, *asked: Any) -> tuple[Any, None]:
        """The answer of a shard, and that it is there: to know that, nobody fetches the answer."""
        answer = self.operation.part(*asked)
        with suppress(OSError), open("/proc/self/status") as file:
            now = next((int(line.split()[1]) for line in file if line.startswith("RssAnon")), 0)
            self.own_bytes = max(self.own_bytes, now << 10)
        return answer, None

    def merge(self, *parts: Any) -> tuple[Any, None]:
        """The answer of several shards, likewise."""
        return self.operation.merge(parts), None


class _Call(NamedTuple):
    """A part that a shard has to answer, or parts to merge, in an attempt at a block."""

    number: int
    attempt: int
    shard: int | None
    parts: tuple[Any, ...] = ()


@dataclass
class _Block:
    """How far a block is: the answers that there are, and how many calls are to come."""

    shards: int
    told: tuple[Any, ...] | None = None
    attempt: int = -1
    missing: int = 0
    parts: list[Any] = field(default_factory=list)

    def calls(self, number: int) -> list[_Call]:
        """Begin, or begin anew: what came of earlier calls no longer counts."""
        self.attempt, self.missing, self.parts = self.attempt + 1, self.shards, []
        return [_Call(number, self.attempt, shard) for shard in range(self.shards)]

    def merge(self, call: _Call, answer: Any) -> _Call | None:
        """Take the answer to a call; return a merge that is due."""
        self.missing -= 1
        self.parts.append(answer)
        if len(self.parts) < (2 if self.missing == 0 else _MERGED):
            return None
        due, self.parts, self.missing = tuple(self.parts), [], self.missing + 1
        return call._replace(shard=None, parts=due)


class Pool:
    """The workers of one job, from the beginning of a `with` block to its end."""

    def __init__(self, cluster: Cluster, operation: Operation, memory: int) -> None:
        self.cluster, self.peaks = cluster, list[Peak]()
        self._make = ray.remote(_Worker).options(
            num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, memory=memory, max_restarts=0
        )
        self._operation = ray.put(operation)
        self._live: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._load: Counter[Any] = Counter()
        self._failed, self._since = 0, monotonic()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            self._ask_peaks()
        self.close()

    def close(self) -> None:
        """Let the workers go."""
        for actor in [*self._live, *self._starting.values()]:
            ray.kill(actor)

    def answers(
        self,
        numbers: Sequence[int],
        tell: Callable[[int], tuple[Any, ...]],
        shards: Sequence[Any] = (None,),
        answer_bytes: int = 1,
    ) -> Iterator[tuple[int, Any, tuple[Any, ...]]]:
        """Each block's number, its whole answer and what was told of it, as they are done.

        Args:
            numbers: of the blocks.
            tell: by number, what `Operation.part` is told of a block beside the shard; called once
                for each, in order, when its turn comes.
            shards: what it is told of each shard; by default there is one.
            answer_bytes: of a block's answer. With more shards than workers, a worker goes through
                as many blocks as may wait before it turns to its next shard.

        Raises:
            RuntimeError: a block is lost too often, or no worker lives for too long.
            Exception: whatever `Operation` raises in a worker.
        """
        todo = {number: _Block(len(shards)) for number in numbers}
        self._load.clear()  # of calls that nobody waited for, where the last asking was given up
        self._since = monotonic()
        waiting = deque(self._in_order(todo, answer_bytes, len(shards)))
        flying: dict[Any, tuple[_Call, Any, Any]] = {}
        while todo:
            while waiting and (actor := self._free(waiting[0].shard, len(shards))) is not None:
                call = waiting.popleft()
                block = todo.get(call.number)
                if block is None or block.attempt != call.attempt:
                    continue
                if call.shard is None:
                    answer, done = actor.merge.options(num_returns=2).remote(*call.parts)
                else:
                    if block.told is None:
                        block.told = tell(call.number)
                    asked = (shards[call.shard], *block.told)
                    answer, done = actor.part.options(num_returns=2).remote(*asked)
                flying[done] = call, answer, actor
                self._load[actor] += 1
            for done in self._ready(flying):
                call, answer, actor = flying.pop(done)
                self._load[actor] -= 1
                block = todo.get(call.number)
                if block is None or block.attempt != call.attempt:
                    continue
                try:
                    ray.get(done)
                    if (merge := block.merge(call, answer)) is not None:
                        waiting.appendleft(merge)
                    if block.missing:
                        continue
                    whole = ray.get(answer)
                except exceptions.RayError as error:
                    self._lose(error, block.attempt + 1, "a block was lost")
                    if actor in self._live and not isinstance(error, _OF_ANSWERS):
                        self._live.remove(actor)
                        ray.kill(actor)  # where its node is only out of reach
                    waiting.extendleft(reversed(block.calls(call.number)))
                    continue
                told = block.told
                del todo[call.number], answer, block
                yield call.number, whole, told or ()
                del whole

    def _in_order(
        self, todo: Mapping[int, _Block], answer_bytes: int, shards: int
    ) -> Iterator[_Call]:
        """All calls, a wave of blocks after the other, in it as many shards as workers."""
        wave, width = max(_HELD_BYTES // (answer_bytes * shards), 1), self.cluster.workers or 1
        numbers = list(todo)
        for at in range(0, len(numbers), wave):
            calls = [todo[number].calls(number) for number in numbers[at : at + wave]]
            for turn in range(0, shards, width):
                for of_block in calls:
                    yield from of_block[turn : turn + width]

    def _free(self, shard: int | None, shards: int) -> Any:
        """Who may be asked of the shard: one of those that have mapped it, with room for a call."""
        if not self._live:
            return None
        fit = self._live
        if shard is not None and shards > 1:
            fit = fit[shard % len(fit) :: max(min(shards, len(fit)), 1)]
        actor = min(fit, key=self._load.__getitem__)
        return actor if shard is None or self._load[actor] < _WAITING else None

    def _ready(self, flying: Mapping[Any, Any]) -> list[Any]:
        """The calls that have ended, perhaps badly; meanwhile workers start."""
        while len(self._live) + len(self._starting) < (self.cluster.workers or 1):
            actor: Any = self._make.remote(self._operation, self.cluster.num_cpus)
            self._starting[actor.peak.remote()] = actor
        done, _ = ray.wait([*flying, *self._starting], num_returns=1, timeout=1, fetch_local=False)
        for ref in [ref for ref in done if ref in self._starting]:
            actor = self._starting.pop(ref)
            try:
                ray.get(ref)
                self._live.append(actor)
                self._failed = 0
            except exceptions.RayError as error:
                self._failed += 1
                self._lose(error, self._failed, "workers failed to start")
        if self._live:
            self._since = monotonic()
        elif monotonic() - self._since > self.cluster.patience:
            raise RuntimeError(
                f"no worker has started in patience={self.cluster.patience} seconds: the cluster "
                f"has {_resources()}, and a worker takes {self.cluster.num_cpus} CPUs, "
                f"{self.cluster.num_gpus} GPUs and memory={self.cluster.memory}; free some, or ask "
                "for less"
            )
        return [ref for ref in done if ref in flying]

    def _lose(self, error: exceptions.RayError, times: int, what: str) -> None:
        """Raise what the operation itself raises, and after too many losses."""
        cause = getattr(error, "cause", None)
        if isinstance(error, exceptions.RayTaskError) and not isinstance(
            cause, exceptions.RayError
        ):
            raise (cause or error) from None
        if getattr(error, "actor_init_failed", False):
            said = str(error).strip().splitlines()[-1]
            raise RuntimeError(f"workers cannot start: {said}") from error
        if times > self.cluster.retries:
            raise RuntimeError(
                f"{what} {times} times, more than retries={self.cluster.retries} "
                f"({str(error).splitlines()[0]}); if workers run out of memory, give them less to "
                "hold: memory"
            ) from error

    def _ask_peaks(self) -> None:
        """The peaks of the workers that answer in time."""
        asked = [actor.peak.remote() for actor in self._live]
        for ref in ray.wait(asked, num_returns=len(asked), timeout=30)[0] if asked else ():
            with suppress(exceptions.RayError):
                self.peaks.append(ray.get(ref))


def _resources() -> str:
    there: dict[str, float] = ray.available_resources()
    free = {name: there.get(name, 0) for name in ("CPU", "GPU", "memory")}
    return ", ".join(f"{amount:g} {name}" for name, amount in free.items()) + " free"

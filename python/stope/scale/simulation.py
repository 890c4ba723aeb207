"""Workers that are slow now and then, and fail: how long a job of equal tasks takes all the same.

A task takes ``overhead + seconds * exp(spread * z)``, z normal and new for each attempt: a
log-normal with the median ``seconds`` and the mean ``seconds * exp(spread^2 / 2)``. A worker that
works fails after an exponential time; its attempt is lost, the task goes to the front of the queue,
and the worker is back after ``restart``. (That idle workers fail too is left out.) Finished tasks
stay: their results are files. With the policy "retry" a task runs in one place at a time; with
"speculate" idle workers run copies, once nothing waits, of the tasks that have run longest, two at
most of each; what ends first counts, and the other is stopped.

The loop is an event queue of the standard library: workers are alike, so that counting the idle
ones is all that a simulation library's processes would do here.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from stope._checks import choice, real, size
from stope._kinds import a, at_least, kinds, maybe
from stope.scale.plan import Plan, predict

__all__ = ["Completion", "Conditions", "Sweep", "simulate", "sweep"]

Policy = Literal["retry", "speculate"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
_MOST_TASKS = 200_000  # of a sweep's simulation
_FEWEST_QUERIES = 64  # of a sweep's block


@dataclass(frozen=True)
class Conditions:
    """How workers behave.

    Attributes:
        spread: standard deviation of the logarithm of a task's time; at 0.3 one in twenty takes
            more than 1.6 times the median.
        failures: of a worker in an hour.
        overhead: seconds that a task takes beside its work: to start it, to write its file.
        restart: seconds until a failed worker is back.

    Raises:
        TypeError, ValueError: no numbers, negative ones, a spread above 3.
    """

    spread: float = 0.3
    failures: float = 0.01
    overhead: float = 1.0
    restart: float = 60.0

    def __post_init__(self) -> None:
        real(self.spread, "spread", 0, 3)
        for name in ("failures", "overhead", "restart"):
            real(getattr(self, name), name, 0)


class Completion(NamedTuple):
    """How a job ended: seconds until the last task; attempts, those that failed; seconds lost.

    ``lost`` are worker-seconds of attempts that failed or were stopped.
    """

    seconds: float
    attempts: int
    failed: int
    lost: float


@kinds(tasks=size, workers=size, conditions=maybe(a(Conditions)), seed=at_least(0))
def simulate(
    tasks: int,
    workers: int,
    seconds: float,
    conditions: Conditions | None = None,
    *,
    policy: Policy = "retry",
    seed: int = 0,
) -> Completion:
    """Simulate one job of equal tasks on workers that are slow and fail; the module says how.

    Without spread and failures it takes ``ceil(tasks / workers) (overhead + seconds)``; a worker
    with failures at the rate f and tasks of d seconds alone takes ``(1/f + restart)(exp(f d) - 1)``
    a task, on average.

    Args:
        tasks: how many.
        workers: how many work at once.
        seconds: median of a task's work.
        conditions: default: ``Conditions()``.
        policy: "retry" or "speculate".
        seed: equal seeds, equal jobs.

    Raises:
        TypeError: an argument of another kind.
        ValueError: numbers below their limits; tasks so long that hardly any would ever end (a
            hundred failures expected in each).

    Memory: O(tasks + workers). Time: a few microseconds an attempt.

    >>> simulate(10, 4, 60, Conditions(spread=0, failures=0, overhead=2)).seconds
    186.0
    """
    real(seconds, "seconds", 0, above=True)
    conditions = conditions or Conditions()
    choice(policy, "policy", POLICIES)
    rate = conditions.failures / 3600
    if rate * (seconds + conditions.overhead) > 100:
        raise ValueError(
            f"seconds is {seconds:g}: at {conditions.failures:g} failures an hour hardly any task "
            "would end; make tasks shorter, or failures rarer"
        )
    random = np.random.default_rng(seed)
    waiting, idle, left = deque(range(tasks)), workers, tasks
    alone: dict[int, None] = {}  # tasks that run once, longest first
    places: dict[int, list[int]] = {}  # the attempts that a task runs in
    live: dict[int, tuple[int, float]] = {}  # attempt: its task, when it began
    events: list[tuple[float, int, bool]] = []  # when, attempt (-1: a worker is back), failed
    now = lost = 0.0
    attempts = failed = 0
    while left:
        while idle and (waiting or (policy == "speculate" and alone)):
            task = waiting.popleft() if waiting else next(iter(alone))
            spent = conditions.overhead + seconds * math.exp(
                conditions.spread * random.standard_normal()
            )
            until = random.exponential(1 / rate) if rate else math.inf
            heapq.heappush(events, (now + min(spent, until), attempts, until < spent))
            live[attempts] = task, now
            places.setdefault(task, []).append(attempts)
            if len(places[task]) == 1:
                alone[task] = None
            else:
                alone.pop(task)
            attempts, idle = attempts + 1, idle - 1
        now, attempt, has_failed = heapq.heappop(events)
        if attempt < 0:
            idle += 1
        elif attempt in live:
            task, began = live.pop(attempt)
            places[task].remove(attempt)
            if has_failed:
                failed, lost = failed + 1, lost + now - began
                heapq.heappush(events, (now + conditions.restart, -1, False))
                if places[task]:
                    alone[task] = None
                else:
                    alone.pop(task)
                    waiting.appendleft(task)
                continue
            left, idle = left - 1, idle + 1
            alone.pop(task, None)
            for other in places.pop(task):
                lost, idle = lost + now - live.pop(other)[1], idle + 1
    return Completion(now, attempts, failed, lost)


class Sweep(NamedTuple):
    """A block size and a policy: seconds on average, of the 5th and 95th percentile of the runs.

    ``lost`` is the share of the workers' time that went to attempts that failed or were stopped,
    ``ideal`` what the plan takes on workers that never wait, fail or are slow.
    """

    block_rows: int
    tasks: int
    task_seconds: float
    policy: str
    seconds: float
    low: float
    high: float
    failed: float
    lost: float
    ideal: float


@kinds(plan=a(Plan), conditions=maybe(a(Conditions)), runs=size, seed=at_least(0))
def sweep(
    plan: Plan, conditions: Conditions | None = None, *, runs: int = 5, seed: int = 0
) -> list[Sweep]:
    """Simulate a plan with blocks of other sizes, under both policies.

    Sizes are those of the plan times powers of four, as far as a worker's memory holds them, of at
    least 64 queries and at most 200,000 tasks; what a task takes is predicted for each.

    Args:
        plan: of :func:`stope.scale.plan.predict`.
        conditions: as of `simulate`.
        runs: simulations of each.
        seed: of the first run; each size and policy has the same seeds.

    Raises:
        TypeError: an argument of another kind.
        ValueError: the plan's own blocks make more than 200,000 tasks, or as `simulate`.

    >>> from stope.scale.plan import MACHINES, Search, predict
    >>> made = predict(Search(10**7, 10**6, 384, 20), MACHINES["zen4-2"], workers=50)
    >>> rows = sweep(made, Conditions(spread=0.5), runs=1)
    >>> sorted({row.block_rows for row in rows})
    [187, 748, 2995, 11982, 47928, 191712, 766848]
    """
    if plan.layout.tasks > _MOST_TASKS:
        raise ValueError(
            f"plan has {plan.layout.tasks:,} tasks; at most {_MOST_TASKS:,} are simulated: plan "
            "fewer workers, or larger block_rows"
        )
    rows = []
    for power in range(-3, 4):
        block_rows = int(plan.layout.block_rows * 4.0**power)
        try:
            cut = predict(plan.search, plan.machine, workers=plan.workers, block_rows=block_rows)
        except ValueError:  # more than a worker's memory holds, or less than a query
            continue
        small = block_rows < min(_FEWEST_QUERIES, plan.layout.block_rows)
        if small or block_rows >= 4 * plan.search.queries or cut.layout.tasks > _MOST_TASKS:
            continue
        for policy in POLICIES:
            jobs = [
                simulate(
                    cut.layout.tasks,
                    plan.workers,
                    cut.task_seconds,
                    conditions,
                    policy=policy,
                    seed=seed + run,
                )
                for run in range(runs)
            ]
            ends = np.array([job.seconds for job in jobs])
            low, high = np.quantile(ends, (0.05, 0.95)).tolist()
            rows.append(
                Sweep(
                    cut.layout.block_rows,
                    cut.layout.tasks,
                    cut.task_seconds,
                    policy,
                    float(ends.mean()),
                    low,
                    high,
                    float(np.mean([job.failed for job in jobs])),
                    float(np.mean([job.lost / (job.seconds * plan.workers) for job in jobs])),
                    cut.task_seconds * cut.layout.tasks / plan.workers,
                )
            )
    return rows

"""Simulated jobs against closed forms, and what must hold of every one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stope.scale.plan import MACHINES, Search, predict
from stope.scale.simulation import POLICIES, Conditions, simulate, sweep

CALM = Conditions(spread=0, failures=0, overhead=0, restart=0)
policies = st.sampled_from(POLICIES)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 1000), st.integers(0, 9), policies)
def test_equal_tasks_without_failures_go_in_rounds(tasks, workers, seconds, overhead, policy):
    calm = Conditions(spread=0, failures=0, overhead=overhead)
    job = simulate(tasks, workers, seconds, calm, policy=policy)
    rounds = math.ceil(tasks / workers)
    assert job.seconds == pytest.approx(rounds * (seconds + overhead), rel=1e-12)
    assert job.failed == 0
    spare = rounds * workers - tasks  # idle in the last round: they run copies
    copies = min(spare, tasks - (rounds - 1) * workers) if policy == "speculate" else 0
    assert job.attempts >= tasks + copies  # and copies of what ends at the same moment
    assert policy == "speculate" or job.attempts == tasks
    assert job.lost == pytest.approx(copies * (seconds + overhead))


@pytest.mark.parametrize(("hourly", "restart"), [(30.0, 0.0), (60.0, 20.0), (120.0, 5.0)])
def test_expected_time_and_attempts_of_one_worker_that_fails(hourly, restart):
    seconds, tasks = 60.0, 4000
    conditions = Conditions(spread=0, failures=hourly, overhead=0, restart=restart)
    job = simulate(tasks, 1, seconds, conditions, seed=3)
    rate = hourly / 3600
    wasted = math.expm1(rate * seconds)  # failures a task, geometric
    error = math.sqrt(wasted * (1 + wasted) / tasks)
    assert abs(job.failed / tasks - wasted) < 4 * error
    assert job.attempts == tasks + job.failed
    assert job.seconds / tasks == pytest.approx((1 / rate + restart) * wasted, rel=5 * error)
    useful = job.seconds - job.lost - restart * job.failed
    assert useful == pytest.approx(tasks * seconds, rel=1e-9)


def test_times_are_log_normal():
    conditions = Conditions(spread=0.5, failures=0, overhead=1)
    ends = np.log([simulate(1, 1, 10, conditions, seed=seed).seconds - 1 for seed in range(3000)])
    assert ends.mean() == pytest.approx(math.log(10), abs=4 * 0.5 / math.sqrt(3000))
    assert ends.std() == pytest.approx(0.5, rel=4 / math.sqrt(2 * 3000))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 50),
    st.builds(
        Conditions,
        spread=st.floats(0, 1),
        failures=st.floats(0, 100),
        overhead=st.floats(0, 5),
        restart=st.floats(0, 100),
    ),
    policies,
    st.integers(0, 5),
)
def test_a_job_is_reproducible_and_adds_up(tasks, workers, conditions, policy, seed):
    job = simulate(tasks, workers, 20, conditions, policy=policy, seed=seed)
    assert job == simulate(tasks, workers, 20, conditions, policy=policy, seed=seed)
    assert job.attempts >= tasks + job.failed * (policy == "retry")
    assert 0 <= job.lost <= workers * job.seconds * (1 + 1e-9)
    if policy == "retry":
        assert job.attempts == tasks + job.failed
    if not conditions.failures:
        assert job.failed == 0


def test_copies_of_slow_tasks_help_and_cost():
    conditions = Conditions(spread=1.0, failures=0, overhead=0)
    ends = {
        policy: np.array(
            [simulate(400, 100, 10, conditions, policy=policy, seed=s)[::3] for s in range(40)]
        )
        for policy in POLICIES
    }
    seconds = {policy: each[:, 0].mean() for policy, each in ends.items()}
    assert seconds["speculate"] < 0.85 * seconds["retry"]
    assert ends["retry"][:, 1].max() == 0
    assert ends["speculate"][:, 1].min() > 0


def test_a_sweep_simulates_what_the_plan_predicts():
    plan = predict(Search(10**6, 10**6, 384, 20), MACHINES["zen4-2"], workers=10)
    rows = sweep(plan, CALM, runs=2)
    assert {row.policy for row in rows} == set(POLICIES)
    for row in rows:
        rounds = math.ceil(row.tasks / 10)
        assert row.seconds == pytest.approx(rounds * row.task_seconds)
        assert row.low == row.high == pytest.approx(row.seconds)
        assert row.tasks >= 10  # the layout leaves nobody idle
        assert row.ideal <= row.seconds
    assert sweep(plan, runs=2, seed=1) == sweep(plan, runs=2, seed=1)
    assert sweep(plan, runs=2, seed=1) != sweep(plan, runs=2, seed=2)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match="hardly any task would end"):
        simulate(10, 2, 1e6, Conditions(failures=1))
    with pytest.raises(ValueError, match="spread is nan"):
        Conditions(spread=float("nan"))
    plan = predict(Search(10**9, 10**6, 8, 1), MACHINES["h200"], block_rows=1000)
    with pytest.raises(ValueError, match="1,000,000 tasks; at most 200,000"):
        sweep(plan)
